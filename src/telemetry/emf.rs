//! Metrics as log lines that CloudWatch reads: its embedded metric format,
//! <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>.
//!
//! For Lambda, and wherever nobody scrapes `/metrics`. Counts are what was added since the line before, levels are what they
//! are, distributions go as values with their counts (as the OpenTelemetry exporter of AWS writes them), so that CloudWatch
//! can tell percentiles. CloudWatch bills each combination of labels as a metric, so most labels are left out and their series
//! added up.

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
/// Other names for what is told already.
const TWICE: &str = "hikaricp_";
/// The most metrics of a line, and the most values of a metric.
const MOST: usize = 100;
/// How far neighbouring values of a distribution are apart: a tenth, as in the CloudWatch agent.
const STEP: f64 = 1.1;

static COLLECTED: OnceLock<Collected> = OnceLock::new();

/// Names and values, by name.
type Dimensions = Vec<(String, String)>;
/// What each metric comes to.
type Points = BTreeMap<&'static str, (Unit, Point)>;

/// What has been measured since the lines before.
struct Collected {
    series: Arc<Registry<Key, Series>>,
    /// Where each count stood then.
    told: Mutex<HashMap<Key, u64>>,
}

/// Collects what is measured, beside the recorder of `/metrics`.
struct Collector(Arc<Registry<Key, Series>>);

/// Begins to collect: what this answers has to become a recorder of the process.
pub(crate) fn recorder() -> impl Recorder + Send + Sync + 'static {
    let collected = COLLECTED.get_or_init(Collected::new);
    Collector(collected.series.clone())
}

/// Writes a line for each combination of dimensions to standard output, if metrics are collected for that.
///
/// # Errors
/// Nobody reads standard output any more.
pub fn flush(namespace: &str) -> io::Result<()> {
    let Some(collected) = COLLECTED.get() else { return Ok(()) };
    let mut out = io::stdout().lock();
    for line in collected.lines(namespace, Utc::now().timestamp_millis()) {
        writeln!(out, "{line}")?;
    }
    out.flush()
}

impl Collected {
    fn new() -> Self {
        Self { series: Arc::new(Registry::new(Series)), told: Mutex::default() }
    }

    fn lines(&self, namespace: &str, timestamp: i64) -> Vec<Value> {
        let mut groups: BTreeMap<Dimensions, Points> = BTreeMap::new();
        let mut add = |key: &Key, point: Point| {
            let Some(metric) = wanted(key) else { return };
            let mut dimensions: Dimensions = key
                .labels()
                .filter(|label| DIMENSIONS.contains(&label.key()) && !label.value().is_empty())
                .map(|label| (label.key().to_owned(), label.value().to_owned()))
                .collect();
            dimensions.sort();
            let group = groups.entry(dimensions).or_default();
            group.entry(metric.name).or_insert((metric.unit, Point::nothing_like(&point))).1.add(point);
        };
        let mut told = lock(&self.told);
        self.series.visit_counters(|key, count| {
            let now = count.load(Ordering::Acquire);
            let before = told.insert(key.clone(), now).unwrap_or(0);
            #[expect(clippy::cast_precision_loss, reason = "a count for a graph")]
            add(key, Point::Number(now.saturating_sub(before) as f64));
        });
        drop(told);
        self.series.visit_gauges(|key, level| add(key, Point::Number(f64::from_bits(level.load(Ordering::Acquire)))));
        self.series.visit_histograms(|key, values| {
            let sketch = std::mem::take(&mut *lock(&values.0));
            // CloudWatch knows no distribution of nothing.
            if sketch.count > 0 {
                add(key, Point::Distribution(sketch));
            }
        });
        groups.iter().flat_map(|(dimensions, points)| lines_of(namespace, timestamp, dimensions, points)).collect()
    }
}

/// The metric of a series, unless it is told under another name.
fn wanted(key: &Key) -> Option<&'static Metric> {
    let name = key.name();
    registry().iter().find(|metric| metric.name == name && !name.starts_with(TWICE))
}

fn lines_of(namespace: &str, timestamp: i64, dimensions: &[(String, String)], points: &Points) -> Vec<Value> {
    let names: Vec<&String> = dimensions.iter().map(|(name, _)| name).collect();
    // A number that is none can't be written as JSON.
    let points: Vec<_> = points.iter().filter(|(_, (_, point))| point.is_finite()).collect();
    let line = |some: &[(&&'static str, &(Unit, Point))]| {
        let metrics: Vec<Value> =
            some.iter().map(|(name, (unit, _))| json!({ "Name": name, "Unit": word(*unit) })).collect();
        let directive = json!({ "Namespace": namespace, "Dimensions": [names], "Metrics": metrics });
        let mut line = Map::new();
        line.insert("_aws".to_owned(), json!({ "Timestamp": timestamp, "CloudWatchMetrics": [directive] }));
        line.extend(dimensions.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))));
        line.extend(some.iter().map(|(name, (_, point))| ((**name).to_owned(), point.value())));
        Value::Object(line)
    };
    points.chunks(MOST).map(line).collect()
}

/// A unit by CloudWatch's name.
fn word(unit: Unit) -> &'static str {
    match unit {
        Unit::Count => "Count",
        Unit::Percent => "Percent",
        Unit::Seconds => "Seconds",
        Unit::Milliseconds => "Milliseconds",
        Unit::Microseconds => "Microseconds",
        Unit::Bytes => "Bytes",
        Unit::CountPerSecond => "Count/Second",
        _ => "None",
    }
}

/// What a metric comes to.
enum Point {
    Number(f64),
    Distribution(Sketch),
}

impl Point {
    /// Nothing yet, of the same kind.
    fn nothing_like(other: &Self) -> Self {
        match other {
            Self::Number(_) => Self::Number(0.0),
            Self::Distribution(_) => Self::Distribution(Sketch::default()),
        }
    }

    fn add(&mut self, other: Self) {
        match (self, other) {
            (Self::Number(sum), Self::Number(number)) => *sum += number,
            (Self::Distribution(all), Self::Distribution(sketch)) => all.merge(&sketch),
            // A name has one kind.
            _ => {}
        }
    }

    fn is_finite(&self) -> bool {
        match self {
            Self::Number(number) => number.is_finite(),
            Self::Distribution(sketch) => sketch.sum.is_finite(),
        }
    }

    fn value(&self) -> Value {
        match self {
            Self::Number(number) => json!(number),
            Self::Distribution(sketch) => sketch.value(),
        }
    }
}

/// A distribution: how often which value came, to a twentieth.
#[derive(Debug, Default)]
struct Sketch {
    counts: BTreeMap<i32, u64>,
    min: f64,
    max: f64,
    sum: f64,
    count: u64,
}

impl Sketch {
    fn record(&mut self, value: f64) {
        // Nothing here is measured below 0, and what is 0 goes with the smallest.
        #[expect(clippy::cast_possible_truncation, reason = "some thousands at most")]
        let step = value.max(f64::MIN_POSITIVE).log(STEP).floor() as i32;
        *self.counts.entry(step).or_default() += 1;
        self.extend(value, value, value, 1);
    }

    fn merge(&mut self, other: &Self) {
        other.counts.iter().for_each(|(step, count)| *self.counts.entry(*step).or_default() += count);
        self.extend(other.min, other.max, other.sum, other.count);
    }

    fn extend(&mut self, min: f64, max: f64, sum: f64, count: u64) {
        let first = self.count == 0;
        self.min = if first { min } else { self.min.min(min) };
        self.max = if first { max } else { self.max.max(max) };
        self.sum += sum;
        self.count += count;
    }

    /// Steps are joined until there are no more than CloudWatch takes.
    fn value(&self) -> Value {
        let width = (0..i32::BITS - 1)
            .map(|power| 1_i32 << power)
            .find(|width| self.joined(*width).len() <= MOST)
            .unwrap_or(i32::MAX);
        let joined = self.joined(width);
        let middle = |step: &i32| STEP.powf((f64::from(*step) + 0.5) * f64::from(width)).clamp(self.min, self.max);
        let values: Vec<f64> = joined.keys().map(middle).collect();
        let counts: Vec<u64> = joined.values().copied().collect();
        json!({ "Values": values, "Counts": counts, "Min": self.min, "Max": self.max, "Sum": self.sum, "Count": self.count })
    }

    fn joined(&self, width: i32) -> BTreeMap<i32, u64> {
        let mut joined = BTreeMap::new();
        self.counts.iter().for_each(|(step, count)| *joined.entry(step.div_euclid(width)).or_default() += count);
        joined
    }
}

/// One distribution that many record into.
struct Values(Mutex<Sketch>);

impl HistogramFn for Values {
    fn record(&self, value: f64) {
        if value.is_finite() {
            lock(&self.0).record(value);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How series are kept.
struct Series;

impl<K> Storage<K> for Series {
    type Counter = Arc<AtomicU64>;
    type Gauge = Arc<AtomicU64>;
    type Histogram = Arc<Values>;

    fn counter(&self, _: &K) -> Self::Counter {
        Arc::default()
    }

    fn gauge(&self, _: &K) -> Self::Gauge {
        Arc::default()
    }

    fn histogram(&self, _: &K) -> Self::Histogram {
        Arc::new(Values(Mutex::default()))
    }
}

impl Recorder for Collector {
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
        self.0.get_or_create_histogram(key, |values| values.clone().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics as measured;

    fn collected(work: impl Fn(&Collected)) {
        let collected = Collected::new();
        metrics::with_local_recorder(&Collector(collected.series.clone()), || work(&collected));
    }

    fn line<'a>(lines: &'a [Value], metric: &str) -> &'a Value {
        let mut with = lines.iter().filter(|line| !line[metric].is_null());
        let found = with.next().unwrap_or_else(|| panic!("no {metric}: {lines:?}"));
        assert!(with.next().is_none(), "{metric} is told twice: {lines:?}");
        found
    }

    #[test]
    fn sums_counters_over_dropped_labels() {
        collected(|collected| {
            let count = |route: &str, by| {
                let labels = [("route", route.to_owned()), ("method", "GET".to_owned()), ("outcome", "ok".to_owned())];
                measured::HTTP_REQUESTS.with(&labels).increment(by);
            };
            count("/a", 3);
            count("/b", 4);
            measured::HTTP_IN_FLIGHT.set(2.0);
            measured::PROCESS_CPU.set_total(10);
            measured::HIKARI_ALL.with(&[("pool", "writer")]).set(1.0);
            let lines = collected.lines("Darkroom", 1_795_000_000_000);
            let requests = line(&lines, "darkroom_http_requests_total");
            let aws = json!({ "Timestamp": 1_795_000_000_000_i64, "CloudWatchMetrics": [{
                "Namespace": "Darkroom",
                "Dimensions": [["outcome"]],
                "Metrics": [{ "Name": "darkroom_http_requests_total", "Unit": "Count" }],
            }] });
            assert_eq!(*requests, json!({ "_aws": aws, "outcome": "ok", "darkroom_http_requests_total": 7.0 }));
            assert_eq!(line(&lines, "process_cpu_seconds_total")["darkroom_http_requests_in_flight"], 2.0);
            assert_eq!(lines.len(), 2, "no other name for the same: {lines:?}");
            count("/a", 1);
            measured::PROCESS_CPU.set_total(12);
            let lines = collected.lines("Darkroom", 0);
            assert_eq!(line(&lines, "darkroom_http_requests_total")["darkroom_http_requests_total"], 1.0);
            assert_eq!(line(&lines, "process_cpu_seconds_total")["process_cpu_seconds_total"], 2.0);
        });
    }

    #[test]
    fn distribution_has_at_most_100_values() {
        collected(|collected| {
            let seconds = &measured::IMAGING_DURATION;
            seconds.record(0.0);
            seconds.record(f64::NAN);
            for thousandth in 1..=1000 {
                seconds.record(f64::from(thousandth) / 1000.0);
            }
            let lines = collected.lines("Darkroom", 0);
            let told = &line(&lines, "darkroom_imaging_duration_seconds")["darkroom_imaging_duration_seconds"];
            let numbers = |name: &str| -> Vec<f64> {
                told[name].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
            };
            let (values, counts) = (numbers("Values"), numbers("Counts"));
            assert!(values.len() == counts.len() && values.len() <= MOST, "{told}");
            assert!((counts.iter().sum::<f64>() - 1001.0).abs() < 0.5, "{told}");
            assert_eq!((&told["Count"], &told["Min"], &told["Max"]), (&json!(1001), &json!(0.0), &json!(1.0)));
            assert!((told["Sum"].as_f64().unwrap() - 500.5).abs() < 1e-9, "{told}");
            let mean = values.iter().zip(&counts).map(|(value, count)| value * count).sum::<f64>() / 1001.0;
            assert!((mean - 0.5).abs() < 0.05, "{mean}");
            assert!(collected.lines("Darkroom", 0).is_empty(), "told once");
        });
    }

    #[test]
    fn merges_values_until_few_remain() {
        let mut sketch = Sketch::default();
        (-150..150).for_each(|power| sketch.record(10_f64.powi(power)));
        let told = sketch.value();
        assert!((50..=MOST).contains(&told["Values"].as_array().unwrap().len()), "{told}");
        assert_eq!(told["Counts"].as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).sum::<u64>(), 300);
    }
}
