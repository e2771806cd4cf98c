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

    /// Of one pool.
    pub fn of(&self, pool: &'static str) -> Counter {
        counter!(self.0, "pool" => pool)
    }
}

impl Level {
    fn describe(&self, unit: Unit, help: &'static str) {
        metrics::describe_gauge!(self.0, unit, help);
    }

    fn gauge(&self) -> Gauge {
        gauge!(self.0)
    }

    /// With labels.
    pub fn with(&self, labels: &[(&'static str, String)]) -> Gauge {
        gauge!(self.0, labels)
    }

    /// Of one pool.
    pub fn of(&self, pool: &'static str) -> Gauge {
        gauge!(self.0, "pool" => pool)
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

    /// Of one pool.
    pub fn of(&self, pool: &'static str) -> Histogram {
        histogram!(self.0, "pool" => pool)
    }
}

registry! {
    /// Connections that were not served, by reason.
    CONNECTIONS_REFUSED: Count("darkroom_connections_refused_total", Count);
    /// Connections that were cut because their client kept them waiting, by what did not come or go.
    CONNECTIONS_CUT: Count("darkroom_connections_cut_total", Count);
    /// Requests answered, by route template, method and status.
    HTTP_REQUESTS: Count("darkroom_http_requests_total", Count);
    /// Time from the head of a request to the head of its answer, by route template and method.
    HTTP_SECONDS: Summary("darkroom_http_request_seconds", Seconds);
    /// Requests under way.
    HTTP_IN_FLIGHT: Level("darkroom_http_requests_in_flight", Count);
    /// Requests that are worked on at a time, at most, as of now.
    HTTP_LIMIT: Level("darkroom_http_requests_limit", Count);
    /// Requests that were turned away because there were more than can be worked on.
    HTTP_SHED: Count("darkroom_http_requests_shed_total", Count);
    /// Requests that were turned away because their caller asks too often, by what tells callers apart.
    HTTP_LIMITED: Count("darkroom_http_requests_limited_total", Count);
    /// Database connections in use, by pool.
    POOL_ACTIVE: Level("darkroom_db_connections_active", Count);
    /// Database connections that wait to be used, by pool.
    POOL_IDLE: Level("darkroom_db_connections_idle", Count);
    /// Callers who wait for a database connection, by pool.
    POOL_PENDING: Level("darkroom_db_connections_pending", Count);
    /// The most database connections, by pool.
    POOL_MAX: Level("darkroom_db_connections_max", Count);
    /// Time to get a database connection from its pool.
    POOL_ACQUIRE: Summary("darkroom_db_connections_acquire_seconds", Seconds);
    /// Time to open a database connection, with TLS and login.
    POOL_CREATION: Summary("darkroom_db_connections_creation_seconds", Seconds);
    /// Time from getting a database connection to giving it back.
    POOL_USAGE: Summary("darkroom_db_connections_usage_seconds", Seconds);
    /// Callers who got no database connection in time, by pool.
    POOL_TIMEOUTS: Count("darkroom_db_connections_timeout_total", Count);
    /// As HikariCP: database connections, by pool.
    HIKARI_ALL: Level("hikaricp_connections", Count);
    /// As HikariCP: database connections in use, by pool.
    HIKARI_ACTIVE: Level("hikaricp_connections_active", Count);
    /// As HikariCP: database connections that wait to be used, by pool.
    HIKARI_IDLE: Level("hikaricp_connections_idle", Count);
    /// As HikariCP: callers who wait for a database connection, by pool.
    HIKARI_PENDING: Level("hikaricp_connections_pending", Count);
    /// As HikariCP: the most database connections, by pool.
    HIKARI_MAX: Level("hikaricp_connections_max", Count);
    /// As HikariCP: time to get a database connection from its pool.
    HIKARI_ACQUIRE: Summary("hikaricp_connections_acquire_seconds", Seconds);
    /// As HikariCP: time to open a database connection.
    HIKARI_CREATION: Summary("hikaricp_connections_creation_seconds", Seconds);
    /// As HikariCP: time from getting a database connection to giving it back.
    HIKARI_USAGE: Summary("hikaricp_connections_usage_seconds", Seconds);
    /// As HikariCP: callers who got no database connection in time, by pool.
    HIKARI_TIMEOUTS: Count("hikaricp_connections_timeout_total", Count);
    /// Age of the token or secret that new database connections sign in with, by pool.
    TOKEN_AGE: Level("darkroom_db_token_age_seconds", Seconds);
    /// How long it will go on being used, by pool.
    TOKEN_LEFT: Level("darkroom_db_token_expiry_seconds", Seconds);
    /// Tokens or secrets got, by pool.
    TOKEN_RENEWALS: Count("darkroom_db_token_renewals_total", Count);
    /// Failed tries to get one, by pool.
    TOKEN_FAILURES: Count("darkroom_db_token_failures_total", Count);
    /// Logins that the server refused, by pool.
    TOKEN_REFUSALS: Count("darkroom_db_token_refusals_total", Count);
    /// Guests' reads where there is a reader, by the server that answered, and why not the reader.
    DB_READS: Count("darkroom_db_reads_total", Count);
    /// Days until the first certificate on the way to the database ends, by what holds it.
    CERTIFICATE_DAYS: Level("darkroom_db_certificate_expiry_days", Count);
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
