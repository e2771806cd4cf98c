//! Every metric of the service, in one block; the doc comment is the help text. Latencies are summaries, because
//! the CloudWatch agent drops Prometheus histograms. Labels are route templates and short words, never ids.

use std::sync::OnceLock;

use metrics::{Counter, Gauge, Histogram, Unit, counter, gauge, histogram};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use metrics_util::layers::FanoutBuilder;

use super::emf;
use crate::config::Emf;

macro_rules! registry {
    ($( $(#[doc = $help:literal])+ $name:ident : $kind:ident($metric:literal, $unit:ident $(, [$($label:literal),+])?); )+) => {
        $( $(#[doc = $help])+ pub static $name: $kind = $kind($metric); )+

        static REGISTRY: &[Metric] = &[
            $( Metric {
                name: $metric,
                kind: $kind::KIND,
                unit: Unit::$unit,
                help: concat!($($help),+).trim_ascii(),
                labels: &[$($($label),+)?],
            }, )+
        ];
    };
}

/// What there is to know of a metric before anything was measured.
#[derive(Debug)]
pub struct Metric {
    /// Its name at `/metrics`; it ends in the unit, or in `_total` where it only grows.
    pub name: &'static str,
    /// What it measures.
    pub kind: Kind,
    /// Its unit, which also ends the help text, because Prometheus' text format has no line for it.
    pub unit: Unit,
    /// A sentence.
    pub help: &'static str,
    /// The names of its labels. A series may lack some, and has no others.
    pub labels: &'static [&'static str],
}

/// What a metric measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What only grows: Prometheus' `counter`.
    Counter,
    /// What goes up and down: Prometheus' `gauge`.
    Gauge,
    /// A distribution: Prometheus' `summary`.
    Summary,
}

impl Metric {
    fn describe(&self) {
        let text = format!("{} [{}]", self.help, self.unit.as_str());
        match self.kind {
            Kind::Counter => metrics::describe_counter!(self.name, self.unit, text),
            Kind::Gauge => metrics::describe_gauge!(self.name, self.unit, text),
            Kind::Summary => metrics::describe_histogram!(self.name, self.unit, text),
        }
    }
}

/// Every metric of the service, in the order of this file.
#[must_use]
pub fn registry() -> &'static [Metric] {
    REGISTRY
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
    const KIND: Kind = Kind::Counter;

    /// Without labels.
    pub fn increment(&self, by: u64) {
        counter!(self.0).increment(by);
    }

    /// With labels.
    pub fn with(&self, labels: &[(&'static str, String)]) -> Counter {
        counter!(self.0, labels)
    }

    /// Sets a count that the system keeps for us; it never goes down.
    pub fn reach(&self, total: u64) {
        counter!(self.0).absolute(total);
    }

    /// Of one pool.
    pub fn of(&self, pool: &'static str) -> Counter {
        counter!(self.0, "pool" => pool)
    }
}

impl Level {
    const KIND: Kind = Kind::Gauge;

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
    const KIND: Kind = Kind::Summary;

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
    CONNECTIONS_REFUSED: Count("darkroom_connections_refused_total", Count, ["reason"]);
    /// Connections that were cut because their client kept them waiting, by what did not come or go.
    CONNECTIONS_CUT: Count("darkroom_connections_cut_total", Count, ["reason"]);
    /// Requests answered, by route template, method, status and outcome; one whose client went away has the status `none`.
    HTTP_REQUESTS: Count("darkroom_http_requests_total", Count, ["route", "method", "status", "outcome"]);
    /// Time from the head of a request to the head of its answer, by route template, method and outcome.
    HTTP_SECONDS: Summary("darkroom_http_request_seconds", Seconds, ["route", "method", "outcome"]);
    /// Requests under way.
    HTTP_IN_FLIGHT: Level("darkroom_http_requests_in_flight", Count);
    /// Requests that are worked on at a time, at most, as of now.
    HTTP_LIMIT: Level("darkroom_http_requests_limit", Count);
    /// Requests that were turned away because their caller asks too often, by what tells callers apart.
    HTTP_LIMITED: Count("darkroom_http_requests_limited_total", Count, ["by"]);
    /// Database connections in use, by pool.
    POOL_ACTIVE: Level("darkroom_db_connections_active", Count, ["pool"]);
    /// Database connections that wait to be used, by pool.
    POOL_IDLE: Level("darkroom_db_connections_idle", Count, ["pool"]);
    /// Callers who wait for a database connection, by pool.
    POOL_PENDING: Level("darkroom_db_connections_pending", Count, ["pool"]);
    /// The most database connections, by pool.
    POOL_MAX: Level("darkroom_db_connections_max", Count, ["pool"]);
    /// Time to get a database connection from its pool.
    POOL_ACQUIRE: Summary("darkroom_db_connections_acquire_seconds", Seconds, ["pool"]);
    /// Time to open a database connection, with TLS and login.
    POOL_CREATION: Summary("darkroom_db_connections_creation_seconds", Seconds, ["pool"]);
    /// Time from getting a database connection to giving it back.
    POOL_USAGE: Summary("darkroom_db_connections_usage_seconds", Seconds, ["pool"]);
    /// Callers who got no database connection in time, by pool.
    POOL_TIMEOUTS: Count("darkroom_db_connections_timeout_total", Count, ["pool"]);
    /// As HikariCP: database connections, by pool.
    HIKARI_ALL: Level("hikaricp_connections", Count, ["pool"]);
    /// As HikariCP: database connections in use, by pool.
    HIKARI_ACTIVE: Level("hikaricp_connections_active", Count, ["pool"]);
    /// As HikariCP: database connections that wait to be used, by pool.
    HIKARI_IDLE: Level("hikaricp_connections_idle", Count, ["pool"]);
    /// As HikariCP: callers who wait for a database connection, by pool.
    HIKARI_PENDING: Level("hikaricp_connections_pending", Count, ["pool"]);
    /// As HikariCP: the most database connections, by pool.
    HIKARI_MAX: Level("hikaricp_connections_max", Count, ["pool"]);
    /// As HikariCP: time to get a database connection from its pool.
    HIKARI_ACQUIRE: Summary("hikaricp_connections_acquire_seconds", Seconds, ["pool"]);
    /// As HikariCP: time to open a database connection.
    HIKARI_CREATION: Summary("hikaricp_connections_creation_seconds", Seconds, ["pool"]);
    /// As HikariCP: time from getting a database connection to giving it back.
    HIKARI_USAGE: Summary("hikaricp_connections_usage_seconds", Seconds, ["pool"]);
    /// As HikariCP: callers who got no database connection in time, by pool.
    HIKARI_TIMEOUTS: Count("hikaricp_connections_timeout_total", Count, ["pool"]);
    /// Age of the token or secret that new database connections sign in with, by pool.
    TOKEN_AGE: Level("darkroom_db_token_age_seconds", Seconds, ["pool"]);
    /// How long it will go on being used, by pool.
    TOKEN_LEFT: Level("darkroom_db_token_expiry_seconds", Seconds, ["pool"]);
    /// Tokens or secrets got, by pool.
    TOKEN_RENEWALS: Count("darkroom_db_token_renewals_total", Count, ["pool"]);
    /// Failed tries to get one, by pool.
    TOKEN_FAILURES: Count("darkroom_db_token_failures_total", Count, ["pool"]);
    /// Logins that the server refused, by pool.
    TOKEN_REFUSALS: Count("darkroom_db_token_refusals_total", Count, ["pool"]);
    /// Guests' reads where there is a reader, by the server that answered, and why not the reader.
    DB_READS: Count("darkroom_db_reads_total", Count, ["from", "why"]);
    /// Days until the first certificate on the way to the database ends, by what holds it.
    CERTIFICATE_DAYS: Level("darkroom_db_certificate_expiry_days", Count, ["pool", "of"]);
    /// Jobs that wait or are at work.
    JOBS_DEPTH: Level("darkroom_jobs_depth", Count);
    /// Jobs that wait for an operator.
    JOBS_DEAD: Level("darkroom_jobs_dead", Count);
    /// How long the oldest due job has been waiting.
    JOBS_OLDEST_SECONDS: Level("darkroom_jobs_oldest_seconds", Seconds);
    /// Jobs that ended a try, by kind and outcome.
    JOBS: Count("darkroom_jobs_total", Count, ["kind", "outcome"]);
    /// Time of one try of a job, by kind.
    JOB_SECONDS: Summary("darkroom_job_seconds", Seconds, ["kind"]);
    /// Tries that a job took until it was done or dead, by kind.
    JOB_ATTEMPTS: Summary("darkroom_job_attempts", Count, ["kind"]);
    /// Messages of the queue that were acted on, by what became of them.
    MESSAGES: Count("darkroom_queue_messages_total", Count, ["outcome"]);
    /// Photos that became ready.
    PHOTOS_READY: Count("darkroom_photos_ready_total", Count);
    /// Edits that became ready or failed, by outcome.
    EDITS: Count("darkroom_edits_total", Count, ["outcome"]);
    /// Photos that were rejected, by reason.
    PHOTOS_REJECTED: Count("darkroom_photos_rejected_total", Count, ["reason"]);
    /// Time to make all renditions of a photo in its process, with the wait for one.
    IMAGING_SECONDS: Summary("darkroom_imaging_seconds", Seconds);
    /// Time to decode a photo to samples of the size that its largest rendition needs.
    IMAGING_DECODE_SECONDS: Summary("darkroom_imaging_decode_seconds", Seconds);
    /// Time to resize a photo to all its renditions.
    IMAGING_RESIZE_SECONDS: Summary("darkroom_imaging_resize_seconds", Seconds);
    /// Time to encode all renditions of a photo.
    IMAGING_ENCODE_SECONDS: Summary("darkroom_imaging_encode_seconds", Seconds);
    /// Pixels of the photos that were decoded, as their originals have them.
    IMAGING_PIXELS: Count("darkroom_imaging_pixels_total", Count);
    /// Time of an operation of storage.
    STORAGE_SECONDS: Summary("darkroom_storage_seconds", Seconds, ["operation"]);
    /// Bytes of the objects that went into storage or came out of it.
    STORAGE_BYTES: Count("darkroom_storage_bytes_total", Bytes, ["operation"]);
    /// Operations of storage that failed; that an object is not there is no failure.
    STORAGE_FAILURES: Count("darkroom_storage_failures_total", Count, ["operation"]);
    /// Events announced.
    ANNOUNCED: Count("darkroom_events_announced_total", Count);
    /// Announcements that failed and will be tried again.
    ANNOUNCE_FAILURES: Count("darkroom_announce_failures_total", Count);
    /// Age of the oldest event that is not announced yet.
    ANNOUNCE_LAG: Level("darkroom_announce_lag_seconds", Seconds);
    /// Reads of the read model, by outcome: it had an answer, it had none, or it did not answer in time and the database did.
    READ_MODEL_READS: Count("darkroom_read_model_reads_total", Count, ["outcome"]);
    /// Writes into the read model that failed and will be tried again.
    READ_MODEL_FAILURES: Count("darkroom_read_model_failures_total", Count);
    /// Age of the oldest change that is not in the read model yet.
    READ_MODEL_LAG: Level("darkroom_read_model_lag_seconds", Seconds);
    /// What the sweep set right, by kind.
    SWEPT: Count("darkroom_swept_total", Count, ["kind"]);
    /// Failed readings of the issuer's key set.
    JWKS_FAILURES: Count("darkroom_jwks_failures_total", Count);
    /// Memory of the process that is in use, without that of the processes that decode.
    PROCESS_MEMORY: Level("process_resident_memory_bytes", Bytes);
    /// Processor time of the process, in whole seconds.
    PROCESS_CPU: Count("process_cpu_seconds_total", Seconds);
    /// Open file descriptors of the process.
    PROCESS_FDS: Level("process_open_fds", Count);
    /// The most file descriptors that the process may open.
    PROCESS_MAX_FDS: Level("process_max_fds", Count);
    /// Threads of the process.
    PROCESS_THREADS: Level("process_threads", Count);
    /// When the process was started, since 1970.
    PROCESS_START: Level("process_start_time_seconds", Seconds);
    /// Threads of the runtime that run tasks.
    RUNTIME_WORKERS: Level("darkroom_runtime_workers", Count);
    /// Tasks of the runtime that have not ended.
    RUNTIME_TASKS: Level("darkroom_runtime_tasks_alive", Count);
    /// Tasks that wait for a thread of the runtime, in the queue that all its threads share.
    RUNTIME_QUEUE: Level("darkroom_runtime_queue_depth", Count);
    /// Time that the runtime's threads were busy, together, in whole seconds.
    RUNTIME_BUSY: Count("darkroom_runtime_busy_seconds_total", Seconds);
}

/// As [`start`], without log lines unless they have been started already.
pub fn install() -> &'static PrometheusHandle {
    start(Emf::Off)
}

/// Starts collecting, once for the process: for `/metrics`, and for log lines where these are wanted.
///
/// # Panics
/// When another recorder has been installed, which is a mistake of ours.
pub fn start(emf: Emf) -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let alone = match emf {
            Emf::Off => metrics::set_global_recorder(recorder).is_ok(),
            Emf::Stdout => {
                let both = FanoutBuilder::default().add_recorder(recorder).add_recorder(emf::collector());
                metrics::set_global_recorder(both.build()).is_ok()
            }
        };
        assert!(alone, "the only recorder of the process");
        registry().iter().for_each(Metric::describe);
        super::vitals::started();
        handle
    })
}
