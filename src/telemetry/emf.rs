//! Metrics as log lines in CloudWatch's embedded metric format, for Lambda and wherever `/metrics` is not scraped:
//! <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>.
//!
//! Counters are written as deltas since the previous flush, gauges as their value, summaries as values with counts (as
//! AWS's OpenTelemetry exporter does), from which CloudWatch computes percentiles. CloudWatch bills each combination of
//! dimensions as a metric, so most labels are dropped and their series summed.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Write},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use chrono::Utc;
use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use metrics_util::registry::{Registry, Storage};
use serde_json::{Map, Value, json};

use super::metrics::{Metric, registry};

/// The labels that become dimensions.
const DIMENSIONS: [&str; 7] = ["outcome", "kind", "reason", "pool", "operation", "server", "certificate"];
/// Metrics that repeat others under HikariCP's names.
const DUPLICATES: &str = "hikaricp_";
/// CloudWatch's limit of metrics in a line and of values of a metric.
const LIMIT: usize = 100;
/// The ratio of neighbouring buckets of a distribution, as in the CloudWatch agent.
const BUCKET_RATIO: f64 = 1.1;

static STATE: OnceLock<State> = OnceLock::new();

/// Names and values, sorted by name.
type Dimensions = Vec<(String, String)>;
type Samples = BTreeMap<&'static str, (Unit, Sample)>;

struct State {
    series: Arc<Registry<Key, SeriesStorage>>,
    /// The totals of counters at the previous flush.
    flushed: Mutex<HashMap<Key, u64>>,
}

struct EmfRecorder(Arc<Registry<Key, SeriesStorage>>);

/// The recorder that [`flush`] reads from, to be installed.
pub(crate) fn recorder() -> impl Recorder + Send + Sync + 'static {
    EmfRecorder(STATE.get_or_init(State::new).series.clone())
}

/// Writes a line for each combination of dimensions to standard output, if the recorder is installed.
pub fn flush(namespace: &str) -> io::Result<()> {
    let Some(state) = STATE.get() else { return Ok(()) };
    let mut out = io::stdout().lock();
    for line in state.lines(namespace, Utc::now().timestamp_millis()) {
        writeln!(out, "{line}")?;
    }
    out.flush()
}

impl State {
    fn new() -> Self {
        Self { series: Arc::new(Registry::new(SeriesStorage)), flushed: Mutex::default() }
    }

    fn lines(&self, namespace: &str, timestamp: i64) -> Vec<Value> {
        let mut groups: BTreeMap<Dimensions, Samples> = BTreeMap::new();
        let mut add = |key: &Key, sample: Sample| {
            let Some(metric) = metric_of(key) else { return };
            let mut dimensions: Dimensions = key
                .labels()
                .filter(|label| DIMENSIONS.contains(&label.key()) && !label.value().is_empty())
                .map(|label| (label.key().to_owned(), label.value().to_owned()))
                .collect();
            dimensions.sort();
            let samples = groups.entry(dimensions).or_default();
            samples.entry(metric.name).or_insert((metric.unit, sample.zero())).1.add(sample);
        };
        let mut flushed = lock(&self.flushed);
        self.series.visit_counters(|key, counter| {
            let total = counter.load(Ordering::Acquire);
            let before = flushed.insert(key.clone(), total).unwrap_or(0);
            #[expect(clippy::cast_precision_loss, reason = "a count for a graph")]
            add(key, Sample::Number(total.saturating_sub(before) as f64));
        });
        drop(flushed);
        self.series.visit_gauges(|key, gauge| add(key, Sample::Number(f64::from_bits(gauge.load(Ordering::Acquire)))));
        self.series.visit_histograms(|key, histogram| {
            let distribution = std::mem::take(&mut *lock(&histogram.0));
            // CloudWatch rejects an empty distribution.
            if distribution.count > 0 {
                add(key, Sample::Distribution(distribution));
            }
        });
        groups
            .iter()
            .flat_map(|(dimensions, samples)| format_lines(namespace, timestamp, dimensions, samples))
            .collect()
    }
}

fn metric_of(key: &Key) -> Option<&'static Metric> {
    let name = key.name();
    registry().iter().find(|metric| metric.name == name && !name.starts_with(DUPLICATES))
}

fn format_lines(namespace: &str, timestamp: i64, dimensions: &Dimensions, samples: &Samples) -> Vec<Value> {
    let names: Vec<&String> = dimensions.iter().map(|(name, _)| name).collect();
    // JSON has no NaN and no infinity.
    let samples: Vec<_> = samples.iter().filter(|(_, (_, sample))| sample.is_finite()).collect();
    let line = |samples: &[(&&'static str, &(Unit, Sample))]| {
        let metrics: Vec<Value> =
            samples.iter().map(|(name, (unit, _))| json!({ "Name": name, "Unit": cloudwatch_unit(*unit) })).collect();
        let directive = json!({ "Namespace": namespace, "Dimensions": [names], "Metrics": metrics });
        let mut line = Map::new();
        line.insert("_aws".to_owned(), json!({ "Timestamp": timestamp, "CloudWatchMetrics": [directive] }));
        line.extend(dimensions.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))));
        line.extend(samples.iter().map(|(name, (_, sample))| ((**name).to_owned(), sample.to_json())));
        Value::Object(line)
    };
    samples.chunks(LIMIT).map(line).collect()
}

fn cloudwatch_unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Count => "Count",
        Unit::Seconds => "Seconds",
        Unit::Bytes => "Bytes",
        _ => "None",
    }
}

/// The value of a metric at a flush.
enum Sample {
    Number(f64),
    Distribution(Distribution),
}

impl Sample {
    /// The neutral sample of the same kind.
    fn zero(&self) -> Self {
        match self {
            Self::Number(_) => Self::Number(0.0),
            Self::Distribution(_) => Self::Distribution(Distribution::default()),
        }
    }

    fn add(&mut self, other: Self) {
        match (self, other) {
            (Self::Number(sum), Self::Number(number)) => *sum += number,
            (Self::Distribution(sum), Self::Distribution(distribution)) => sum.merge(&distribution),
            // All series of a metric are of one kind.
            _ => {}
        }
    }

    fn is_finite(&self) -> bool {
        match self {
            Self::Number(number) => number.is_finite(),
            Self::Distribution(distribution) => distribution.sum.is_finite(),
        }
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Number(number) => json!(number),
            Self::Distribution(distribution) => distribution.to_json(),
        }
    }
}

/// Counts of values in exponential buckets, each right to a twentieth.
#[derive(Debug, Default)]
struct Distribution {
    buckets: BTreeMap<i32, u64>,
    min: f64,
    max: f64,
    sum: f64,
    count: u64,
}

impl Distribution {
    fn record(&mut self, value: f64) {
        // Values are not negative; 0 is counted in the lowest bucket.
        #[expect(clippy::cast_possible_truncation, reason = "some thousands at most")]
        let bucket = value.max(f64::MIN_POSITIVE).log(BUCKET_RATIO).floor() as i32;
        *self.buckets.entry(bucket).or_default() += 1;
        self.extend(value, value, value, 1);
    }

    fn merge(&mut self, other: &Self) {
        other.buckets.iter().for_each(|(bucket, count)| *self.buckets.entry(*bucket).or_default() += count);
        self.extend(other.min, other.max, other.sum, other.count);
    }

    fn extend(&mut self, min: f64, max: f64, sum: f64, count: u64) {
        let first = self.count == 0;
        self.min = if first { min } else { self.min.min(min) };
        self.max = if first { max } else { self.max.max(max) };
        self.sum += sum;
        self.count += count;
    }

    /// Widens buckets until there are at most [`LIMIT`].
    fn to_json(&self) -> Value {
        let widths = (0..i32::BITS - 1).map(|power| 1_i32 << power);
        let width = widths.into_iter().find(|width| self.widened(*width).len() <= LIMIT).unwrap_or(i32::MAX);
        let buckets = self.widened(width);
        let middle =
            |bucket: &i32| BUCKET_RATIO.powf((f64::from(*bucket) + 0.5) * f64::from(width)).clamp(self.min, self.max);
        json!({
            "Values": buckets.keys().map(middle).collect::<Vec<f64>>(),
            "Counts": buckets.values().copied().collect::<Vec<u64>>(),
            "Min": self.min,
            "Max": self.max,
            "Sum": self.sum,
            "Count": self.count,
        })
    }

    fn widened(&self, width: i32) -> BTreeMap<i32, u64> {
        let mut widened = BTreeMap::new();
        self.buckets.iter().for_each(|(bucket, count)| *widened.entry(bucket.div_euclid(width)).or_default() += count);
        widened
    }
}

struct SharedDistribution(Mutex<Distribution>);

impl HistogramFn for SharedDistribution {
    fn record(&self, value: f64) {
        if value.is_finite() {
            lock(&self.0).record(value);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct SeriesStorage;

impl<K> Storage<K> for SeriesStorage {
    type Counter = Arc<AtomicU64>;
    type Gauge = Arc<AtomicU64>;
    type Histogram = Arc<SharedDistribution>;

    fn counter(&self, _: &K) -> Self::Counter {
        Arc::default()
    }

    fn gauge(&self, _: &K) -> Self::Gauge {
        Arc::default()
    }

    fn histogram(&self, _: &K) -> Self::Histogram {
        Arc::new(SharedDistribution(Mutex::default()))
    }
}

impl Recorder for EmfRecorder {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.0.get_or_create_counter(key, |counter| counter.clone().into())
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.0.get_or_create_gauge(key, |gauge| gauge.clone().into())
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.0.get_or_create_histogram(key, |histogram| histogram.clone().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics as definitions;

    fn with_recorder(test: impl Fn(&State)) {
        let state = State::new();
        metrics::with_local_recorder(&EmfRecorder(state.series.clone()), || test(&state));
    }

    fn line<'a>(lines: &'a [Value], metric: &str) -> &'a Value {
        let mut with = lines.iter().filter(|line| !line[metric].is_null());
        let line = with.next().unwrap_or_else(|| panic!("no {metric}: {lines:?}"));
        assert!(with.next().is_none(), "{metric} is written twice: {lines:?}");
        line
    }

    #[test]
    fn sums_counters_over_dropped_labels() {
        with_recorder(|state| {
            let count = |route: &'static str, by| {
                let labels = [("route", route), ("method", "GET"), ("outcome", "ok")];
                definitions::HTTP_REQUESTS.with(&labels).increment(by);
            };
            count("/a", 3);
            count("/b", 4);
            definitions::HTTP_IN_FLIGHT.set(2.0);
            definitions::PROCESS_CPU.set_total(10);
            definitions::HIKARI_ALL.with(&[("pool", "writer")]).set(1.0);
            let lines = state.lines("Darkroom", 1_795_000_000_000);
            let requests = line(&lines, "darkroom_http_requests_total");
            let aws = json!({ "Timestamp": 1_795_000_000_000_i64, "CloudWatchMetrics": [{
                "Namespace": "Darkroom",
                "Dimensions": [["outcome"]],
                "Metrics": [{ "Name": "darkroom_http_requests_total", "Unit": "Count" }],
            }] });
            assert_eq!(*requests, json!({ "_aws": aws, "outcome": "ok", "darkroom_http_requests_total": 7.0 }));
            assert_eq!(line(&lines, "process_cpu_seconds_total")["darkroom_http_requests_in_flight"], 2.0);
            assert_eq!(lines.len(), 2, "no duplicates: {lines:?}");
            count("/a", 1);
            definitions::PROCESS_CPU.set_total(12);
            let lines = state.lines("Darkroom", 0);
            assert_eq!(line(&lines, "darkroom_http_requests_total")["darkroom_http_requests_total"], 1.0);
            assert_eq!(line(&lines, "process_cpu_seconds_total")["process_cpu_seconds_total"], 2.0);
        });
    }

    #[test]
    fn distributions_are_bounded_and_accurate() {
        with_recorder(|state| {
            let duration = &definitions::IMAGING_DURATION;
            duration.record(0.0);
            duration.record(f64::NAN);
            for thousandth in 1..=1000 {
                duration.record(f64::from(thousandth) / 1000.0);
            }
            let lines = state.lines("Darkroom", 0);
            let written = &line(&lines, "darkroom_imaging_duration_seconds")["darkroom_imaging_duration_seconds"];
            let numbers = |name: &str| -> Vec<f64> {
                written[name].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
            };
            let (values, counts) = (numbers("Values"), numbers("Counts"));
            assert!(values.len() == counts.len() && values.len() <= LIMIT, "{written}");
            assert!((counts.iter().sum::<f64>() - 1001.0).abs() < 0.5, "{written}");
            assert_eq!((&written["Count"], &written["Min"], &written["Max"]), (&json!(1001), &json!(0.0), &json!(1.0)));
            assert!((written["Sum"].as_f64().unwrap() - 500.5).abs() < 1e-9, "{written}");
            let mean = values.iter().zip(&counts).map(|(value, count)| value * count).sum::<f64>() / 1001.0;
            assert!((mean - 0.5).abs() < 0.05, "{mean}");
            assert!(state.lines("Darkroom", 0).is_empty(), "written once");
        });
    }

    #[test]
    fn widens_buckets_of_distant_values() {
        let mut distribution = Distribution::default();
        (-150..150).for_each(|power| distribution.record(10_f64.powi(power)));
        let written = distribution.to_json();
        assert!((50..=LIMIT).contains(&written["Values"].as_array().unwrap().len()), "{written}");
        let counts = written["Counts"].as_array().unwrap().iter();
        assert_eq!(counts.map(|count| count.as_u64().unwrap()).sum::<u64>(), 300);
    }
}
