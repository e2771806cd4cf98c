//! Definitions of every metric, in one block; the doc comment of each is its help text. Latencies are summaries,
//! because the CloudWatch agent drops Prometheus histograms. Labels are route templates and short words, never ids.

use metrics::{SharedString, Unit, counter, gauge, histogram};

macro_rules! registry {
    ($(
        $(#[doc = $help:literal])+
        $name:ident: $kind:ident($metric:literal, $unit:ident $(, [$($label:literal),+])?);
    )+) => {
        $( $(#[doc = $help])+ pub static $name: $kind = $kind($metric); )+

        static REGISTRY: &[Metric] = &[
            $( Metric {
                name: $metric,
                kind: MetricKind::$kind,
                unit: Unit::$unit,
                help: concat!($($help),+).trim_ascii(),
                labels: &[$($($label),+)?],
            }, )+
        ];
    };
}

/// The definition of a metric.
#[derive(Debug)]
pub struct Metric {
    /// Ends in the unit, or in `_total` if it is a counter.
    pub name: &'static str,
    pub kind: MetricKind,
    /// Also appended to the help text, because Prometheus' text format has no line for it.
    pub unit: Unit,
    pub help: &'static str,
    /// The names of all labels; a series may lack some.
    pub labels: &'static [&'static str],
}

/// The type of a metric, in Prometheus' terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    Counter,
    Gauge,
    Summary,
}

impl Metric {
    /// Passes the help text and unit to the installed recorder.
    pub(crate) fn describe(&self) {
        let text = format!("{} [{}]", self.help, self.unit.as_str());
        match self.kind {
            MetricKind::Counter => metrics::describe_counter!(self.name, self.unit, text),
            MetricKind::Gauge => metrics::describe_gauge!(self.name, self.unit, text),
            MetricKind::Summary => metrics::describe_histogram!(self.name, self.unit, text),
        }
    }
}

/// All metrics, in the order of their definitions.
pub fn registry() -> &'static [Metric] {
    REGISTRY
}

/// A counter, by its name.
#[derive(Debug)]
pub struct Counter(&'static str);

/// A gauge, by its name.
#[derive(Debug)]
pub struct Gauge(&'static str);

/// A summary, by its name.
#[derive(Debug)]
pub struct Summary(&'static str);

impl Counter {
    /// Adds to the series without labels.
    pub fn increment(&self, by: u64) {
        counter!(self.0).increment(by);
    }

    /// Sets the series without labels to a total that the operating system or runtime counts.
    pub fn set_total(&self, total: u64) {
        counter!(self.0).absolute(total);
    }

    /// The series with these labels.
    pub fn with<V: Into<SharedString> + Clone>(&self, labels: &[(&'static str, V)]) -> metrics::Counter {
        counter!(self.0, labels)
    }
}

impl Gauge {
    /// Sets the series without labels.
    pub fn set(&self, value: f64) {
        gauge!(self.0).set(value);
    }

    /// Adds to the series without labels.
    pub fn increment(&self, by: f64) {
        gauge!(self.0).increment(by);
    }

    /// Subtracts from the series without labels.
    pub fn decrement(&self, by: f64) {
        gauge!(self.0).decrement(by);
    }

    /// The series with these labels.
    pub fn with<V: Into<SharedString> + Clone>(&self, labels: &[(&'static str, V)]) -> metrics::Gauge {
        gauge!(self.0, labels)
    }
}

impl Summary {
    /// Records a value in the series without labels.
    pub fn record(&self, value: f64) {
        histogram!(self.0).record(value);
    }

    /// The series with these labels.
    pub fn with<V: Into<SharedString> + Clone>(&self, labels: &[(&'static str, V)]) -> metrics::Histogram {
        histogram!(self.0, labels)
    }
}

registry! {
    /// Connections closed before their first request, by reason.
    CONNECTIONS_REFUSED: Counter("darkroom_connections_refused_total", Count, ["reason"]);
    /// Connections closed because the client was too slow, by what timed out: `header`, `body` or `write`.
    CONNECTION_TIMEOUTS: Counter("darkroom_connection_timeouts_total", Count, ["reason"]);
    /// Requests, by route template, method, status and outcome; the status is `none` if the client disconnected before
    /// the response.
    HTTP_REQUESTS: Counter("darkroom_http_requests_total", Count, ["route", "method", "status", "outcome"]);
    /// Time from receiving the request head to sending the response head, by route template, method and outcome.
    HTTP_REQUEST_DURATION: Summary("darkroom_http_request_duration_seconds", Seconds, ["route", "method", "outcome"]);
    /// Requests in flight.
    HTTP_IN_FLIGHT: Gauge("darkroom_http_requests_in_flight", Count);
    /// Current limit of requests processed concurrently.
    HTTP_CONCURRENCY_LIMIT: Gauge("darkroom_http_requests_concurrency_limit", Count);
    /// Requests rejected by a rate limit, by the key of the limit: `user`, `invite` or `address`.
    HTTP_RATE_LIMITED: Counter("darkroom_http_requests_rate_limited_total", Count, ["key"]);
    /// Database connections in use, by pool.
    POOL_ACTIVE: Gauge("darkroom_db_connections_active", Count, ["pool"]);
    /// Idle database connections, by pool.
    POOL_IDLE: Gauge("darkroom_db_connections_idle", Count, ["pool"]);
    /// Tasks waiting for a database connection, by pool.
    POOL_PENDING: Gauge("darkroom_db_connections_pending", Count, ["pool"]);
    /// Maximum number of database connections, by pool.
    POOL_MAX: Gauge("darkroom_db_connections_max", Count, ["pool"]);
    /// Time to get a database connection from its pool.
    POOL_ACQUIRE: Summary("darkroom_db_connections_acquire_seconds", Seconds, ["pool"]);
    /// Time to open a database connection, including TLS and login.
    POOL_CREATION: Summary("darkroom_db_connections_creation_seconds", Seconds, ["pool"]);
    /// Time between getting a database connection and returning it.
    POOL_USAGE: Summary("darkroom_db_connections_usage_seconds", Seconds, ["pool"]);
    /// Timeouts while waiting for a database connection, by pool.
    POOL_TIMEOUTS: Counter("darkroom_db_connections_timeout_total", Count, ["pool"]);
    /// HikariCP name for the number of open database connections, by pool.
    HIKARI_ALL: Gauge("hikaricp_connections", Count, ["pool"]);
    /// HikariCP name for `darkroom_db_connections_active`.
    HIKARI_ACTIVE: Gauge("hikaricp_connections_active", Count, ["pool"]);
    /// HikariCP name for `darkroom_db_connections_idle`.
    HIKARI_IDLE: Gauge("hikaricp_connections_idle", Count, ["pool"]);
    /// HikariCP name for `darkroom_db_connections_pending`.
    HIKARI_PENDING: Gauge("hikaricp_connections_pending", Count, ["pool"]);
    /// HikariCP name for `darkroom_db_connections_max`.
    HIKARI_MAX: Gauge("hikaricp_connections_max", Count, ["pool"]);
    /// HikariCP name for `darkroom_db_connections_acquire_seconds`.
    HIKARI_ACQUIRE: Summary("hikaricp_connections_acquire_seconds", Seconds, ["pool"]);
    /// HikariCP name for `darkroom_db_connections_creation_seconds`.
    HIKARI_CREATION: Summary("hikaricp_connections_creation_seconds", Seconds, ["pool"]);
    /// HikariCP name for `darkroom_db_connections_usage_seconds`.
    HIKARI_USAGE: Summary("hikaricp_connections_usage_seconds", Seconds, ["pool"]);
    /// HikariCP name for `darkroom_db_connections_timeout_total`.
    HIKARI_TIMEOUTS: Counter("hikaricp_connections_timeout_total", Count, ["pool"]);
    /// Age of the IAM token or secret used for new database connections, by pool.
    TOKEN_AGE: Gauge("darkroom_db_token_age_seconds", Seconds, ["pool"]);
    /// Time at which that token or secret expires, in seconds since the epoch, by pool.
    TOKEN_EXPIRY: Gauge("darkroom_db_token_expiry_timestamp_seconds", Seconds, ["pool"]);
    /// IAM tokens or secrets obtained, by pool.
    TOKEN_RENEWALS: Counter("darkroom_db_token_renewals_total", Count, ["pool"]);
    /// Failed attempts to obtain an IAM token or secret, by pool.
    TOKEN_RENEWAL_FAILURES: Counter("darkroom_db_token_renewal_failures_total", Count, ["pool"]);
    /// Logins that the database server denied, by pool.
    ACCESS_DENIED: Counter("darkroom_db_access_denied_total", Count, ["pool"]);
    /// Guests' reads where a read replica is configured, by the server that answered and the reason why the replica was
    /// not used.
    DB_READS: Counter("darkroom_db_reads_total", Count, ["server", "reason"]);
    /// Earliest expiry of the database certificates (`server`: the chain it sends, `ca_bundle`: the CA file), in
    /// seconds since the epoch.
    CERTIFICATE_EXPIRY: Gauge("darkroom_db_certificate_expiry_timestamp_seconds", Seconds, ["pool", "certificate"]);
    /// Jobs that are queued or running.
    JOB_QUEUE_DEPTH: Gauge("darkroom_job_queue_depth", Count);
    /// Dead-lettered jobs, which an operator has to retry or drop.
    JOBS_DEAD_LETTERED: Gauge("darkroom_jobs_dead_lettered", Count);
    /// Time that the oldest due job has been queued.
    JOB_QUEUE_OLDEST_AGE: Gauge("darkroom_job_queue_oldest_age_seconds", Seconds);
    /// Runs of jobs that ended, by kind and outcome.
    JOB_RUNS: Counter("darkroom_job_runs_total", Count, ["kind", "outcome"]);
    /// Duration of one run of a job, by kind.
    JOB_DURATION: Summary("darkroom_job_duration_seconds", Seconds, ["kind"]);
    /// Attempts until a job was done or dead-lettered, by kind.
    JOB_ATTEMPTS: Summary("darkroom_job_attempts", Count, ["kind"]);
    /// SQS messages handled, by outcome.
    SQS_MESSAGES: Counter("darkroom_sqs_messages_total", Count, ["outcome"]);
    /// Photos that became ready.
    PHOTOS_READY: Counter("darkroom_photos_ready_total", Count);
    /// Edits that became ready or failed, by outcome.
    EDITS: Counter("darkroom_edits_total", Count, ["outcome"]);
    /// Photos that were rejected, by reason.
    PHOTOS_REJECTED: Counter("darkroom_photos_rejected_total", Count, ["reason"]);
    /// Time to make all renditions of a photo, including the wait for a decoder process.
    IMAGING_DURATION: Summary("darkroom_imaging_duration_seconds", Seconds);
    /// Time to decode a photo at the size that its largest rendition needs.
    IMAGING_DECODE_DURATION: Summary("darkroom_imaging_decode_duration_seconds", Seconds);
    /// Time to resize a photo to all its renditions.
    IMAGING_RESIZE_DURATION: Summary("darkroom_imaging_resize_duration_seconds", Seconds);
    /// Time to encode all renditions of a photo.
    IMAGING_ENCODE_DURATION: Summary("darkroom_imaging_encode_duration_seconds", Seconds);
    /// Pixels decoded, in the dimensions of the originals.
    IMAGING_DECODED_PIXELS: Counter("darkroom_imaging_decoded_pixels_total", Count);
    /// Duration of a storage operation.
    STORAGE_OPERATION_DURATION: Summary("darkroom_storage_operation_duration_seconds", Seconds, ["operation"]);
    /// Bytes written to or read from storage, by operation.
    STORAGE_BYTES: Counter("darkroom_storage_bytes_total", Bytes, ["operation"]);
    /// Failed storage operations; a missing object is not a failure.
    STORAGE_OPERATION_FAILURES: Counter("darkroom_storage_operation_failures_total", Count, ["operation"]);
    /// Events published as notifications.
    NOTIFICATIONS_SENT: Counter("darkroom_notifications_sent_total", Count);
    /// Failed notifications, which are retried.
    NOTIFICATION_FAILURES: Counter("darkroom_notification_failures_total", Count);
    /// Age of the oldest event without a notification.
    OUTBOX_LAG: Gauge("darkroom_outbox_lag_seconds", Seconds);
    /// Reads of the read model, by outcome: `hit`, `miss`, or `fallback` to the database.
    READ_MODEL_READS: Counter("darkroom_read_model_reads_total", Count, ["outcome"]);
    /// Failed writes to the read model, which are retried.
    READ_MODEL_WRITE_FAILURES: Counter("darkroom_read_model_write_failures_total", Count);
    /// Age of the oldest change that is not in the read model.
    READ_MODEL_LAG: Gauge("darkroom_read_model_lag_seconds", Seconds);
    /// Inconsistencies that the reconciler repaired, by kind.
    RECONCILED: Counter("darkroom_reconciled_total", Count, ["kind"]);
    /// Failed attempts to read the identity provider's key set.
    JWKS_FETCH_FAILURES: Counter("darkroom_jwks_fetch_failures_total", Count);
    /// User and system CPU time of the process, in whole seconds.
    PROCESS_CPU: Counter("process_cpu_seconds_total", Seconds);
    /// Open file descriptors.
    PROCESS_OPEN_FDS: Gauge("process_open_fds", Count);
    /// Maximum number of open file descriptors; 0 if unlimited.
    PROCESS_MAX_FDS: Gauge("process_max_fds", Count);
    /// Virtual memory size.
    PROCESS_VIRTUAL_MEMORY: Gauge("process_virtual_memory_bytes", Bytes);
    /// Maximum virtual memory size; 0 if unlimited.
    PROCESS_VIRTUAL_MEMORY_MAX: Gauge("process_virtual_memory_max_bytes", Bytes);
    /// Resident memory size, without the decoder processes.
    PROCESS_RESIDENT_MEMORY: Gauge("process_resident_memory_bytes", Bytes);
    /// Start time of the process, in seconds since the epoch.
    PROCESS_START_TIME: Gauge("process_start_time_seconds", Seconds);
    /// Threads of the process.
    PROCESS_THREADS: Gauge("process_threads", Count);
    /// Worker threads of the Tokio runtime.
    TOKIO_WORKERS: Gauge("tokio_workers_count", Count);
    /// Live tasks of the Tokio runtime.
    TOKIO_LIVE_TASKS: Gauge("tokio_live_tasks_count", Count);
    /// Tasks in the global queue of the Tokio runtime.
    TOKIO_GLOBAL_QUEUE_DEPTH: Gauge("tokio_global_queue_depth", Count);
    /// Busy time of all Tokio worker threads together, in whole seconds.
    TOKIO_BUSY: Counter("tokio_busy_seconds_total", Seconds);
}
