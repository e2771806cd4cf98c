//! The verbs that run the service, and those by which an operator looks after it.

mod check;
mod jobs;

use std::{path::Path, time::Duration};

use anyhow::Context;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use check::check;
pub use jobs::{JobsCommand, jobs};

use crate::{
    app::{App, AppState},
    config::{Config, Front, Mistakes},
    db, http, net, telemetry, worker,
};

/// What is left of the drain's time for the last steps.
const LAST_STEPS: Duration = Duration::from_secs(3);

/// Reads the configuration and starts logging.
///
/// # Errors
/// [`Mistakes`] in the configuration.
pub fn configure(file: Option<&Path>) -> anyhow::Result<(Config, telemetry::LogLevel)> {
    let config = Config::load(file)?;
    let level = telemetry::start_logging(&config.log)?;
    Ok((config, level))
}

/// Whether an error is one of the command line or configuration: exit 64 (`EX_USAGE` of sysexits.h).
#[must_use]
pub fn is_usage(error: &anyhow::Error) -> bool {
    error.is::<Mistakes>()
}

/// `darkroom serve`: the API, and a worker unless switched off.
///
/// # Errors
/// An address is taken, the storage folder can't be used, or a critical task ended.
pub async fn serve(file: Option<&Path>) -> anyhow::Result<()> {
    let (config, level) = configure(file)?;
    let listener = net::bind(config.http.listen).await?;
    let operations = net::bind(config.operations.listen).await?;
    let works = config.worker.enabled;
    let app = App::build(config, Some(level))?;
    tracing::info!(listen = %listener.local_addr()?, operations = %operations.local_addr()?, version = env!("CARGO_PKG_VERSION"), "ready");
    run(app, Some(listener), operations, works, stop_signal()?).await
}

/// `darkroom work`: a worker alone.
///
/// # Errors
/// As [`serve`].
pub async fn work(file: Option<&Path>) -> anyhow::Result<()> {
    let (config, level) = configure(file)?;
    let operations = net::bind(config.operations.listen).await?;
    let app = App::build(config, Some(level))?;
    tracing::info!(operations = %operations.local_addr()?, version = env!("CARGO_PKG_VERSION"), "working");
    run(app, None, operations, true, stop_signal()?).await
}

/// `darkroom migrate`: brings the schema up to date, or only tells whether it is.
///
/// # Errors
/// The database does not answer, or a migration fails.
pub async fn migrate(file: Option<&Path>, check_only: bool) -> anyhow::Result<bool> {
    let (config, _) = configure(file)?;
    let database = config.database.for_migrations();
    let db = db::Db::new(&database);
    let level =
        if check_only { db::migrations::check(&db).await.map_err(Into::into) } else { db::migrations::run(&db).await };
    db.close().await;
    let level = level.with_context(|| database.described())?;
    println!("{} migrations applied, {} pending", level.applied, level.pending.len());
    for version in &level.pending {
        println!("pending: {version}");
    }
    Ok(level.pending.is_empty())
}

/// Runs everything until told to stop, then drains.
///
/// # Errors
/// A critical task ended by itself.
pub async fn run(
    app: AppState,
    listener: Option<TcpListener>,
    operations: TcpListener,
    works: bool,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let _ = telemetry::metrics::install();
    let tasks = TaskTracker::new();
    let deadline = app.config.http.drain_timeout;
    // Operators may look until the very end.
    let looking = CancellationToken::new();
    let operations = tokio::spawn(net::serve(
        operations,
        Front::default(),
        http::operations::router(app.clone()),
        looking.clone(),
        Duration::ZERO,
    ));
    let background = [
        tokio::spawn(http::events::poll_followed(app.clone())),
        tokio::spawn(refresh_keys(app.clone())),
        tokio::spawn(app.db.clone().keep()),
        tokio::spawn(upkeep()),
    ];
    if let Some(listener) = listener {
        tasks.spawn(net::serve(
            listener,
            app.config.http.front.clone(),
            http::router(app.clone()),
            app.draining.clone(),
            deadline,
        ));
    }
    if works {
        worker::start(&app, &tasks);
    }
    tasks.close();
    let ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        () = tasks.wait() => Err(anyhow::anyhow!("a critical task ended by itself")),
    };
    tracing::info!("stopping: what is under way ends first");
    app.draining.cancel();
    if tokio::time::timeout(deadline + LAST_STEPS, tasks.wait()).await.is_err() {
        tracing::warn!("jobs that were still under way come back when their leases end");
    }
    background.iter().for_each(tokio::task::JoinHandle::abort);
    looking.cancel();
    let _ = operations.await;
    // A statement that waits for a lock, or for a server that is gone, may take longer than we have.
    if tokio::time::timeout(LAST_STEPS, app.db.close()).await.is_err() {
        tracing::warn!("statements that were still under way are left to the database");
    }
    tracing::info!("stopped");
    ended
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

async fn refresh_keys(app: AppState) {
    loop {
        app.verifier.refresh().await;
        tokio::time::sleep(app.config.identity.refresh).await;
    }
}

/// Old samples of summaries are let go.
async fn upkeep() {
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        telemetry::metrics::install().run_upkeep();
    }
}

/// `darkroom openapi`: the document as pretty JSON.
///
/// # Errors
/// None in practice: our document is JSON.
pub fn openapi() -> anyhow::Result<String> {
    http::openapi().to_pretty_json().context("the document is not JSON")
}
