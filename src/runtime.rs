//! The life of the process: start-up, background tasks, signals and shutdown.

pub mod startup;
pub mod systemd;

use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    app::{App, AppState},
    config::Front,
    db, http, jobs,
    read_model::LAG_TTL,
    server::{Drain, Listener, Socket},
    services, telemetry,
};

/// How often metrics are written as log lines: the resolution of `CloudWatch`.
const METRICS_INTERVAL: Duration = Duration::from_mins(1);
/// How often old samples of summaries are removed.
const METRICS_UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// How often the schema is checked until it is up to date.
const SCHEMA_CHECK_INTERVAL: Duration = Duration::from_secs(15);
/// How far the read model may lag before pages are read from the database, and how often the lag is measured.
const MAX_READ_MODEL_LAG: Duration = Duration::from_secs(30);
const LAG_CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Time for open requests to the operations listener when it closes.
const OPERATIONS_DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Time for each step after the drain.
const STEP_TIMEOUT: Duration = Duration::from_secs(3);

/// Runs the service until `shutdown` is cancelled, then drains it: during `http.shutdown_delay` it still accepts
/// requests, then running requests and jobs end, within `http.drain_timeout`. Fails when a critical task ends by
/// itself.
pub async fn run(
    app: AppState,
    listener: Option<Socket>,
    operations: Socket,
    runs_jobs: bool,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    if let Some(collector) = &app.config.telemetry.otlp {
        telemetry::spans::start_export(collector)?;
    }
    raise_descriptor_limit();
    let shutdown_delay = if listener.is_some() { app.config.http.shutdown_delay } else { Duration::ZERO };
    let (operations, close_operations) = serve_operations(&app, operations);
    let mut background = spawn_maintenance(&app);
    background.push(tokio::spawn(adapt_admission(app.clone())));
    background.push(tokio::spawn(write_metrics_regularly(app.clone())));
    background.push(tokio::spawn(systemd::notify_watchdog()));
    let critical = spawn_critical(&app, listener, runs_jobs);
    systemd::ready();
    let result = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        () = critical.wait() => Err(anyhow::anyhow!("a critical task ended by itself")),
    };
    drain(&app, &critical, shutdown_delay).await;
    background.iter().for_each(JoinHandle::abort);
    // Operators can observe the drain until its end.
    close_operations.cancel();
    let _ = operations.await;
    // A statement that waits for a lock or for a lost server may take longer than the shutdown may.
    if timeout(STEP_TIMEOUT, app.db.close()).await.is_err() {
        tracing::warn!("statements are still running: their connections are abandoned");
    }
    telemetry::spans::shutdown(STEP_TIMEOUT).await;
    write_metrics(&app);
    tracing::info!("stopped");
    result
}

/// The operations listener, which closes when the token is cancelled.
fn serve_operations(app: &AppState, socket: Socket) -> (JoinHandle<()>, CancellationToken) {
    let close = CancellationToken::new();
    let limits = watch::Sender::new(app.config.limits.clone()).subscribe();
    let listener = Listener { socket, front: Front::default(), limits, tls: None };
    let drain = Drain { draining: close.clone(), closing: close.clone(), timeout: OPERATIONS_DRAIN_TIMEOUT };
    (tokio::spawn(listener.serve(http::operations::router(app.clone()), drain)), close)
}

/// The tasks that end only in a drain: the main listener and the job runners.
fn spawn_critical(app: &AppState, listener: Option<Socket>, runs_jobs: bool) -> TaskTracker {
    let tasks = TaskTracker::new();
    if let Some(socket) = listener {
        let (front, limits, tls) = (app.config.http.front.clone(), app.limits.subscribe(), app.tls.clone());
        let (draining, closing) = (app.draining.clone(), app.closing.clone());
        let drain = Drain { draining, closing, timeout: app.config.http.drain_timeout };
        tasks.spawn(Listener { socket, front, limits, tls }.serve(http::router(app.clone()), drain));
    }
    if runs_jobs {
        jobs::start(app, &tasks);
    }
    tasks.close();
    tasks
}

async fn drain(app: &App, critical: &TaskTracker, shutdown_delay: Duration) {
    let drain_timeout = app.config.http.drain_timeout;
    tracing::info!(?shutdown_delay, ?drain_timeout, "stopping: requests are accepted until the shutdown delay ends");
    systemd::stopping(shutdown_delay + drain_timeout + 3 * STEP_TIMEOUT);
    app.draining.cancel();
    let _ = timeout(shutdown_delay, critical.wait()).await;
    app.closing.cancel();
    systemd::status("stopping: running requests and jobs end");
    if timeout(drain_timeout + STEP_TIMEOUT, critical.wait()).await.is_err() {
        tracing::warn!("jobs are still running: they are retried when their leases expire");
    }
}

/// Starts the background tasks that every process with requests or jobs needs.
pub fn spawn_maintenance(app: &AppState) -> Vec<JoinHandle<()>> {
    vec![
        tokio::spawn(services::events::poll_followed_albums(app.clone())),
        tokio::spawn(maintain_rate_limits(app.clone())),
        tokio::spawn(refresh_key_set(app.clone())),
        tokio::spawn(app.db.clone().run_maintenance()),
        tokio::spawn(remove_old_samples()),
        tokio::spawn(check_schema(app.clone())),
        tokio::spawn(watch_read_model(app.clone())),
    ]
}

/// A token that SIGINT or SIGTERM cancels. The second signal exits the process immediately.
pub fn shutdown_signal() -> anyhow::Result<CancellationToken> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    tokio::spawn(async move {
        let mut received = async || {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        received().await;
        token.cancel();
        received().await;
        tracing::warn!("second signal received, exiting immediately");
        std::process::exit(1);
    });
    Ok(shutdown)
}

/// Each connection takes a file descriptor; the limit that a process inherits is usually 1024, for `select(2)`.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "failed to raise the limit of open files");
    }
}

async fn adapt_admission(app: AppState) {
    app.admission.adapt(app.limits.subscribe(), || app.db.take_shortest_wait()).await;
}

async fn maintain_rate_limits(app: AppState) {
    app.rate_limits.maintain(app.limits.subscribe()).await;
}

async fn refresh_key_set(app: AppState) {
    loop {
        app.verifier.refresh().await;
        sleep(app.config.identity.refresh).await;
    }
}

/// A program newer than the schema fails where it uses what is missing; this logs the reason until the schema is migrated.
async fn check_schema(app: AppState) {
    loop {
        match db::migrations::check(&app.db).await {
            Ok(level) if level.pending.is_empty() => return,
            Ok(level) => {
                let pending = level.pending.len();
                tracing::error!(pending, "the schema is older than this program: run `darkroom migrate`");
            }
            Err(error) => tracing::debug!(%error, "failed to check the schema"),
        }
        sleep(SCHEMA_CHECK_INTERVAL).await;
    }
}

/// While the read model lags, pages are read from the database. When the database can't even tell the lag, an old page
/// is better than none.
async fn watch_read_model(app: AppState) {
    let Some(model) = &app.read_model else { return };
    loop {
        let started = Instant::now();
        let measure = async { db::read_model::lag(&mut app.db.session().await?).await };
        let lag: db::Result<f64> = measure.await;
        // A Lambda function may have been frozen in between: then the lag is out of date.
        if started.elapsed() <= LAG_TTL {
            model.set_behind(lag.is_ok_and(|lag| lag > MAX_READ_MODEL_LAG.as_secs_f64()));
            sleep(LAG_CHECK_INTERVAL).await;
        }
    }
}

async fn remove_old_samples() {
    loop {
        sleep(METRICS_UPKEEP_INTERVAL).await;
        telemetry::recorder::handle().run_upkeep();
    }
}

async fn write_metrics_regularly(app: AppState) {
    loop {
        sleep(METRICS_INTERVAL).await;
        write_metrics(&app);
    }
}

/// Writes the metrics as log lines, where the configuration asks for them.
pub fn write_metrics(app: &App) {
    app.record_gauges();
    if let Err(error) = telemetry::emf::flush(&app.config.telemetry.emf_namespace) {
        tracing::debug!(%error, "failed to write metrics");
    }
}
