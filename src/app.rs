//! Builds what a command needs, and owns the state that handlers and workers share.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Instant,
};

use aws_config::SdkConfig;
use imaging::Recipe;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    aws::{self, step_functions::StateMachine},
    config::{Config, Limits, Place},
    db::Db,
    health::{Components, DependencyHealth, HealthChecks},
    http::routes::objects::Receiving,
    identity::Verifier,
    jobs::sqs::client::Sqs,
    notifications::Notifier,
    overload::{admission::Admission, rate_limits::RateLimits},
    read_model::ReadModel,
    sandbox::{Sandbox, SandboxConfig},
    server::Tls,
    storage::Storage,
    telemetry::{self, LogLevel, SlowRequests},
};

/// How many photos one decoding process works on before a fresh one takes its place.
const RECYCLE_AFTER: u32 = 500;
/// How long a decoding process without work is kept.
const IDLE_EXIT: std::time::Duration = std::time::Duration::from_secs(30);

/// The shared state; cheap to clone.
pub type AppState = Arc<App>;

/// Everything that handlers and workers share.
pub struct App {
    /// What the operator has set.
    pub config: Config,
    /// The pool and its bells.
    pub db: Db,
    /// What viewers' pages are read from before the database, where it is on.
    pub read_model: Option<ReadModel>,
    /// Originals and renditions.
    pub storage: Storage,
    /// Judges JWTs.
    pub verifier: Verifier,
    /// The processes that decode pictures.
    pub sandbox: Sandbox,
    /// What carries jobs to workers, where that is not the table alone.
    pub queue: Option<Sqs>,
    /// Who leads edits through their steps, where that is not the worker.
    pub machine: Option<StateMachine>,
    /// Where events go.
    pub notifier: Notifier,
    /// The last requests that were slow or failed.
    pub slow_requests: Arc<SlowRequests>,
    /// Changes the log level; none in tests, where one process has many apps.
    pub log_level: Option<LogLevel>,
    /// What the main listener shows who it is with.
    pub tls: Option<Tls>,
    /// What this process takes on, as of now.
    pub limits: watch::Sender<Limits>,
    /// How many requests run at a time.
    pub admission: Admission,
    /// Health checks of the dependencies.
    pub health: HealthChecks,
    /// Uploads under way.
    pub receiving: Receiving,
    /// Rate limits per caller.
    pub rate_limits: RateLimits,
    /// Each setting in force with its value, secrets masked.
    pub effective: Mutex<BTreeMap<String, String>>,
    /// Cancelled when the process has been told to stop: no new jobs, no more waiting for events.
    pub draining: CancellationToken,
    /// Cancelled when the lame-duck time is over: no more requests.
    pub closing: CancellationToken,
    /// When this app was built.
    pub started: Instant,
}

/// The configuration of the AWS clients; none if no AWS service is configured, so that no credentials are looked for.
pub(crate) async fn aws_sdk_config(config: &Config) -> Option<SdkConfig> {
    let used = [
        matches!(config.storage.place, Place::S3(_)),
        config.queue.sqs.is_some(),
        config.notifications.topic.is_some(),
        config.read_model.table.is_some(),
        config.workflow.state_machine.is_some(),
    ];
    if !used.contains(&true) {
        return None;
    }
    Some(aws::sdk_config(config.aws.region.as_deref()?).await)
}

impl App {
    /// Builds the state. Nothing is connected yet but the storage folder is opened.
    ///
    /// # Errors
    /// The storage folder or the listener's certificate can't be used.
    pub async fn build(config: Config, log_level: Option<LogLevel>) -> anyhow::Result<AppState> {
        // Boxed: the SDK's chain of credentials is a large future.
        let sdk = Box::pin(aws_sdk_config(&config)).await;
        // The very program that runs, even after an update has put another in its place.
        Self::with(config, PathBuf::from("/proc/self/exe"), sdk.as_ref(), log_level)
    }

    /// The same with another program that decodes, and with what AWS's clients start from, as the tests do.
    ///
    /// # Errors
    /// As [`App::build`].
    pub fn with(
        config: Config,
        program: PathBuf,
        sdk: Option<&SdkConfig>,
        log_level: Option<LogLevel>,
    ) -> anyhow::Result<AppState> {
        // Before the pools, which keep handles of their metrics.
        let _ = telemetry::recorder::install(config.telemetry.emf);
        let db = Db::new(&config.database).with_read_model(config.read_model.table.is_some());
        let storage = Storage::open(&config.storage, &config.http, sdk)?;
        let sandbox = Sandbox::new(sandbox_config(&config), program);
        Ok(Arc::new(Self {
            verifier: Verifier::new(&config.identity),
            machine: config.workflow.state_machine.as_ref().zip(sdk).map(|(arn, sdk)| StateMachine::new(arn, sdk)),
            queue: config.queue.sqs.as_ref().zip(sdk).map(|(sqs, sdk)| Sqs::new(sqs, sdk)),
            notifier: Notifier::new(&config.notifications, sdk)?,
            read_model: ReadModel::new(&config.read_model, sdk)?,
            db,
            storage,
            sandbox,
            slow_requests: Arc::new(SlowRequests::new(config.log.slow_request_threshold)),
            log_level,
            tls: config.http.tls.as_ref().map(Tls::open).transpose()?,
            limits: watch::Sender::new(config.limits.clone()),
            admission: Admission::new(&config.limits, config.database.pool.max_connections),
            health: HealthChecks::default(),
            receiving: Receiving::default(),
            rate_limits: RateLimits::new(&config.limits),
            effective: Mutex::new(config.effective.clone()),
            draining: CancellationToken::new(),
            closing: CancellationToken::new(),
            started: Instant::now(),
            config,
        }))
    }

    pub(crate) async fn dependency_health(&self) -> BTreeMap<&'static str, DependencyHealth> {
        let components = Components {
            db: &self.db,
            storage: &self.storage,
            storage_location: self.config.storage.place.to_string(),
            verifier: &self.verifier,
            queue: self.queue.as_ref(),
            state_machine: self.machine.as_ref(),
            topic: self.notifier.topic(),
            read_model: self.read_model.as_ref(),
            listener_tls: self.tls.as_ref(),
        };
        self.health.results(&components).await
    }

    /// Sets the metrics that are levels of this process.
    pub fn measure(&self) {
        self.db.record_gauges();
        telemetry::recorder::record_process_metrics();
    }
}

fn sandbox_config(config: &Config) -> SandboxConfig {
    let imaging = &config.imaging;
    SandboxConfig {
        processes: imaging.processes,
        memory_bytes: imaging.memory_mib << 20,
        cpu_seconds: imaging.cpu_limit.as_secs().max(1),
        time_limit: imaging.time_limit,
        max_concurrent_pixels: u64::from(imaging.max_concurrent_megapixels) * 1_000_000,
        recycle_after: RECYCLE_AFTER,
        idle_timeout: IDLE_EXIT,
        recipe: Recipe {
            formats: imaging.formats.clone(),
            jpeg_quality: imaging.jpeg_quality,
            webp_quality: imaging.webp_quality,
            ..Recipe::default()
        },
        limits: imaging::Limits {
            max_pixels: u64::from(imaging.max_megapixels) * 1_000_000,
            ..imaging::Limits::default()
        },
    }
}
