//! Every metric of the service, in one block; the doc comment is the help text. Latencies are summaries, because
//! the CloudWatch agent drops Prometheus histograms. Labels are route templates and short words, never ids.

use std::sync::OnceLock;

use metrics::{Counter, Gauge, Histogram, Unit, counter, gauge, histogram};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

macro_rules! registry {
    ($( $(#[doc = $help:literal])+ $name:ident : $kind:ident($metric:literal, $unit:ident); )+) => {
        $( $(#[doc = $help])+ pub static $name: $kind = $kind($metric); )+

        fn describe() {
            $( $name.describe(Unit::$unit, concat!($($help),+).trim()); )+
        }
    };
}

/// A metric that only grows.
#[derive(Debug)]
pub struct Count(&'static str);

/// A metric that goes up and down.
#[derive(Debug)]
pub struct Level(&'static str);

/// A distribution.
#[derive(Debug)]
pub struct Summary(&'static str);

impl Count {
    fn describe(&self, unit: Unit, help: &'static str) {
        metrics::describe_counter!(self.0, unit, help);
    }

    /// Without labels.
    pub fn increment(&self, by: u64) {
        counter!(self.0).increment(by);
    }

    /// With labels.
    pub fn with(&self, labels: &[(&'static str, String)]) -> Counter {
        counter!(self.0, labels)
    }
}

impl Level {
    fn describe(&self, unit: Unit, help: &'static str) {
        metrics::describe_gauge!(self.0, unit, help);
    }

    fn gauge(&self) -> Gauge {
        gauge!(self.0)
    }

    /// Sets it.
    pub fn set(&self, value: f64) {
        self.gauge().set(value);
    }

    /// Up.
    pub fn increment(&self, by: f64) {
        self.gauge().increment(by);
    }

    /// Down.
    pub fn decrement(&self, by: f64) {
        self.gauge().decrement(by);
    }
}

impl Summary {
    fn describe(&self, unit: Unit, help: &'static str) {
        metrics::describe_histogram!(self.0, unit, help);
    }

    /// With labels.
    pub fn with(&self, labels: &[(&'static str, String)]) -> Histogram {
        histogram!(self.0, labels)
    }
}

registry! {
    /// Requests answered, by route template, method and status.
    HTTP_REQUESTS: Count("darkroom_http_requests_total", Count);
    /// Time from the head of a request to the head of its answer, by route template and method.
    HTTP_SECONDS: Summary("darkroom_http_request_seconds", Seconds);
    /// Requests under way.
    HTTP_IN_FLIGHT: Level("darkroom_http_requests_in_flight", Count);
    /// Database connections of this process.
    DB_CONNECTIONS: Level("darkroom_db_connections", Count);
    /// Database connections in use.
    DB_CONNECTIONS_ACTIVE: Level("darkroom_db_connections_active", Count);
    /// Jobs that wait or are at work.
    JOBS_DEPTH: Level("darkroom_jobs_depth", Count);
    /// Jobs that wait for an operator.
    JOBS_DEAD: Level("darkroom_jobs_dead", Count);
    /// How long the oldest due job has been waiting.
    JOBS_OLDEST_SECONDS: Level("darkroom_jobs_oldest_seconds", Seconds);
    /// Jobs that ended a try, by kind and outcome.
    JOBS: Count("darkroom_jobs_total", Count);
    /// Time of one try of a job, by kind.
    JOB_SECONDS: Summary("darkroom_job_seconds", Seconds);
    /// Photos that became ready.
    PHOTOS_READY: Count("darkroom_photos_ready_total", Count);
    /// Photos that were rejected, by reason.
    PHOTOS_REJECTED: Count("darkroom_photos_rejected_total", Count);
    /// Time to make all renditions of a photo in its process, with the wait for one.
    IMAGING_SECONDS: Summary("darkroom_imaging_seconds", Seconds);
    /// Events announced.
    ANNOUNCED: Count("darkroom_events_announced_total", Count);
    /// Announcements that failed and will be tried again.
    ANNOUNCE_FAILURES: Count("darkroom_announce_failures_total", Count);
    /// What the sweep set right, by kind.
    SWEPT: Count("darkroom_swept_total", Count);
    /// Failed readings of the issuer's key set.
    JWKS_FAILURES: Count("darkroom_jwks_failures_total", Count);
}

/// One answered request.
pub fn http_request(route: &str, method: &str, status: u16, seconds: f64) {
    let labels = [("route", route.to_owned()), ("method", method.to_owned())];
    HTTP_SECONDS.with(&labels).record(seconds);
    let [route, method] = labels;
    HTTP_REQUESTS.with(&[route, method, ("status", status.to_string())]).increment(1);
}

/// Starts collecting, once for the process.
///
/// # Panics
/// When another recorder has been installed, which is a mistake of ours.
pub fn install() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let handle = PrometheusBuilder::new().install_recorder().expect("the only recorder of the process");
        describe();
        handle
    })
}
