//! The life of a service: it runs until told to stop, and drains.

pub mod systemd;

use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    app::{App, AppState},
    config::Front,
    db, http, jobs,
    read_model::SEEN_HOLDS,
    server::{Drain, Listener, Socket},
    telemetry,
};

/// How often metrics are told as log lines: CloudWatch's own resolution.
const TELL_METRICS: Duration = Duration::from_mins(1);
/// How often the schema is looked at until it is up to date.
const SCHEMA: Duration = Duration::from_secs(15);
/// How far the read model may be behind before pages are read from the database, and how often that is looked at.
const LONGEST_LAG: Duration = Duration::from_secs(30);
const LOOK_AT_LAG: Duration = Duration::from_secs(5);
/// How long an operator's last look may take.
const LAST_LOOK: Duration = Duration::from_secs(1);
/// What is left of the drain's time for the last steps.
const LAST_STEPS: Duration = Duration::from_secs(3);

/// Runs everything until told to stop, then drains: for the lame-duck time requests are still taken, then what is under
/// way ends, within the drain's deadline.
///
/// # Errors
/// A critical task ended by itself.
pub async fn run(
    app: AppState,
    listener: Option<Socket>,
    operations: Socket,
    works: bool,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    if let Some(collector) = &app.config.telemetry.otlp {
        telemetry::spans::start(collector)?;
    }
    raise_descriptor_limit();
    let tasks = TaskTracker::new();
    let drain =
        Drain { draining: app.draining.clone(), closing: app.closing.clone(), deadline: app.config.http.drain_timeout };
    // Operators may look until the very end.
    let looking = CancellationToken::new();
    let looked_at = Listener {
        socket: operations,
        front: Front::default(),
        limits: watch::Sender::new(app.config.limits.clone()).subscribe(),
        tls: None,
    };
    let until_the_end = Drain { draining: looking.clone(), closing: looking.clone(), deadline: LAST_LOOK };
    let operations = tokio::spawn(looked_at.serve(http::operations::router(app.clone()), until_the_end));
    let mut background = tend(&app);
    background.extend([
        tokio::spawn(adapt_admission(app.clone())),
        tokio::spawn(keep_telling(app.clone())),
        tokio::spawn(systemd::heartbeat()),
    ]);
    let lame_duck = listener.as_ref().map_or(Duration::ZERO, |_| app.config.http.lame_duck);
    if let Some(socket) = listener {
        let (front, limits, tls) = (app.config.http.front.clone(), app.limits.subscribe(), app.tls.clone());
        let listener = Listener { socket, front, limits, tls };
        tasks.spawn(listener.serve(http::router(app.clone()), drain.clone()));
    }
    if works {
        jobs::start(&app, &tasks);
    }
    tasks.close();
    systemd::ready();
    let ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        () = tasks.wait() => Err(anyhow::anyhow!("a critical task ended by itself")),
    };
    tracing::info!(?lame_duck, "stopping: requests are still taken for a while, then what is under way ends");
    systemd::stopping(lame_duck + drain.deadline + 3 * LAST_STEPS);
    app.draining.cancel();
    tokio::select! {
        () = tokio::time::sleep(lame_duck) => {}
        () = tasks.wait() => {}
    }
    app.closing.cancel();
    systemd::status("draining: what is under way ends");
    if tokio::time::timeout(drain.deadline + LAST_STEPS, tasks.wait()).await.is_err() {
        tracing::warn!("jobs that were still under way come back when their leases end");
    }
    background.iter().for_each(JoinHandle::abort);
    looking.cancel();
    let _ = operations.await;
    // A statement that waits for a lock, or for a server that is gone, may take longer than we have.
    if tokio::time::timeout(LAST_STEPS, app.db.close()).await.is_err() {
        tracing::warn!("statements that were still under way are left to the database");
    }
    telemetry::spans::finish(LAST_STEPS).await;
    tell_metrics(&app);
    tracing::info!("stopped");
    ended
}

/// Begins what goes on beside requests and jobs for as long as the process lives.
pub fn tend(app: &AppState) -> Vec<JoinHandle<()>> {
    vec![
        tokio::spawn(http::routes::events::poll_followed(app.clone())),
        tokio::spawn(maintain_rate_limits(app.clone())),
        tokio::spawn(refresh_keys(app.clone())),
        tokio::spawn(app.db.clone().keep()),
        tokio::spawn(upkeep()),
        tokio::spawn(look_at_schema(app.clone())),
        tokio::spawn(watch_read_model(app.clone())),
    ]
}

/// Cancelled by SIGINT or SIGTERM; a second one ends the process at once.
///
/// # Errors
/// Signals can't be caught.
pub fn stop_signal() -> anyhow::Result<CancellationToken> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let token = CancellationToken::new();
    let told = token.clone();
    tokio::spawn(async move {
        for again in [false, true] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if again {
                tracing::warn!("told twice: ending at once");
                std::process::exit(1);
            }
            told.cancel();
        }
    });
    Ok(token)
}

/// Each connection takes a descriptor, and the limit that a process starts with is that of `select`, 1024.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

async fn adapt_admission(app: AppState) {
    app.admission.adapt(app.limits.subscribe(), || app.db.shortest_wait()).await;
}

async fn maintain_rate_limits(app: AppState) {
    app.rate_limits.maintain(app.limits.subscribe()).await;
}

async fn refresh_keys(app: AppState) {
    loop {
        app.verifier.refresh().await;
        tokio::time::sleep(app.config.identity.refresh).await;
    }
}

/// A program that is newer than the schema fails where it needs what is missing; this says why, until somebody migrates.
async fn look_at_schema(app: AppState) {
    loop {
        match db::migrations::check(&app.db).await {
            Ok(level) if level.pending.is_empty() => return,
            Ok(level) => {
                tracing::error!(
                    pending = level.pending.len(),
                    "the schema is older than this program: run `darkroom migrate`"
                );
            }
            Err(error) => tracing::debug!(%error, "whether the schema is up to date is not known yet"),
        }
        tokio::time::sleep(SCHEMA).await;
    }
}

/// While changes wait for too long to be projected, the database answers. When it can't even tell that, what is old is better
/// than nothing.
async fn watch_read_model(app: AppState) {
    let Some(model) = &app.read_model else { return };
    loop {
        let begun = Instant::now();
        let look = async { db::read_model::lag(&mut app.db.session().await?).await };
        let lag: db::Result<f64> = look.await;
        if begun.elapsed() > SEEN_HOLDS {
            // A function was frozen in the middle of it: this is how things were then.
            continue;
        }
        model.set_behind(lag.is_ok_and(|lag| lag > LONGEST_LAG.as_secs_f64()));
        tokio::time::sleep(LOOK_AT_LAG).await;
    }
}

/// Old samples of summaries are let go.
async fn upkeep() {
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        telemetry::recorder::handle().run_upkeep();
    }
}

/// Metrics as log lines, where they are wanted; the first ones when there is something to tell.
async fn keep_telling(app: AppState) {
    loop {
        tokio::time::sleep(TELL_METRICS).await;
        tell_metrics(&app);
    }
}

/// Tells what was measured as log lines, where these are wanted.
pub fn tell_metrics(app: &App) {
    app.measure();
    if let Err(error) = telemetry::emf::flush(&app.config.telemetry.emf_namespace) {
        tracing::debug!(%error, "metrics can't be told");
    }
}
