//! The composition root: builds the components that handlers, jobs and commands share.

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
    identity::Verifier,
    jobs::sqs::client::Sqs,
    notifications::Notifier,
    overload::{admission::Admission, rate_limits::RateLimits},
    read_model::ReadModel,
    sandbox::{Sandbox, SandboxConfig},
    server::Tls,
    storage::{Storage, UploadsInProgress},
    telemetry::{self, LogLevel, SlowRequests},
};

/// How many photos a decoder process handles before it is replaced.
const RECYCLE_AFTER: u32 = 500;
/// How long an idle decoder process is kept.
const IDLE_EXIT: std::time::Duration = std::time::Duration::from_secs(30);

pub type AppState = Arc<App>;

/// The components of the process.
pub struct App {
    pub config: Config,
    pub db: Db,
    /// Serves viewers' pages without the database, if configured.
    pub read_model: Option<ReadModel>,
    /// Originals and renditions.
    pub storage: Storage,
    /// Verifies JWTs.
    pub verifier: Verifier,
    /// The decoder processes.
    pub sandbox: Sandbox,
    /// Delivers jobs to workers, if they do not poll the table.
    pub queue: Option<Sqs>,
    /// Runs the steps of edits, if the worker does not.
    pub machine: Option<StateMachine>,
    /// Publishes events.
    pub notifier: Notifier,
    /// The latest slow or failed requests.
    pub slow_requests: Arc<SlowRequests>,
    /// Changes the log level; none in tests, where one process has many apps.
    pub log_level: Option<LogLevel>,
    /// The certificate of the main listener.
    pub tls: Option<Tls>,
    /// The limits in force; a reload changes them.
    pub limits: watch::Sender<Limits>,
    /// How many requests run at a time.
    pub admission: Admission,
    /// Health checks of the dependencies.
    pub health: HealthChecks,
    pub uploads_in_progress: UploadsInProgress,
    /// Rate limits per caller.
    pub rate_limits: RateLimits,
    /// Each setting in force with its value, secrets masked.
    pub effective: Mutex<BTreeMap<String, String>>,
    /// Cancelled when the shutdown begins: no new jobs, no more long polls.
    pub draining: CancellationToken,
    /// Cancelled when the lame-duck time ends: no new requests.
    pub closing: CancellationToken,
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
    /// Opens the storage folder and the listener's certificate; connects to nothing yet.
    pub async fn build(config: Config, log_level: Option<LogLevel>) -> anyhow::Result<AppState> {
        // Boxed: the future of the SDK's credential chain is large.
        let sdk = Box::pin(aws_sdk_config(&config)).await;
        // This path leads to the running executable even after an update has replaced the file.
        Self::with(config, PathBuf::from("/proc/self/exe"), sdk.as_ref(), log_level)
    }

    /// As [`App::build`], with the executable of decoder processes and the AWS configuration as arguments.
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
            uploads_in_progress: UploadsInProgress::default(),
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

    /// Updates the gauges of this process.
    pub fn record_gauges(&self) {
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
