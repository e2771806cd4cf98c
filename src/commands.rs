//! The verbs that run the service, and those by which an operator looks after it.

mod check;
mod jobs;
mod man_pages;
mod read_model;
mod reload;

use std::path::Path;

use anyhow::Context;

pub use check::check;
pub use jobs::{JobsCommand, jobs};
pub use man_pages::manual;
pub use read_model::project;

use crate::{
    app::{App, AppState},
    aws,
    config::{self, Config, Mistakes, Source, Told},
    db, http, runtime,
    server::{self, Socket},
    telemetry,
};

/// Reads the configuration and starts logging.
///
/// # Errors
/// [`Mistakes`] in the configuration, and secrets that can't be read.
pub async fn configure(
    file: Option<&Path>,
    stream: telemetry::LogStream,
) -> anyhow::Result<(Config, telemetry::LogLevel)> {
    let config = load(file, &[]).await?;
    let level = telemetry::start_logging(&config.log, stream)?;
    config.log_deprecations();
    Ok((config, level))
}

/// Reads the file, if one is named, the environment, and the secrets that they leave to Secrets Manager, but for those that were
/// read before.
async fn load(file: Option<&Path>, before: &[Told]) -> Result<Config, Mistakes> {
    let mut source = Source::load(file, std::env::vars_os())?;
    // Boxed: the SDK's chain of credentials is a large future.
    Box::pin(aws::secrets::fetch(&mut source, before)).await;
    Config::read(source)
}

/// Whether an error is one of the command line or configuration: exit 64 (`EX_USAGE` of sysexits.h), after which nobody tries again.
#[must_use]
pub fn is_usage(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Mistakes>().is_some_and(Mistakes::will_stay)
}

/// `darkroom serve`: the API, and a worker unless switched off.
///
/// Sockets of systemd go before `http.listen` and `operations.listen`, in this order.
///
/// # Errors
/// An address is taken, the storage folder can't be used, or a critical task ended.
pub async fn serve(file: Option<&Path>) -> anyhow::Result<()> {
    let (config, level) = configure(file, telemetry::LogStream::Stdout).await?;
    let mut inherited = server::inherited()?.into_iter();
    let listener = or_bind(inherited.next(), config.http.listen).await?;
    let operations = or_bind(inherited.next(), config.operations.listen).await?;
    let works = config.worker.enabled;
    let app = App::build(config, Some(level)).await?;
    tracing::info!(listen = %listener.local_addr()?, operations = %operations.local_addr()?, version = env!("CARGO_PKG_VERSION"), "ready");
    run_as_service(app, file, Some(listener), operations, works).await
}

/// `darkroom work`: a worker alone.
///
/// # Errors
/// As [`serve`].
pub async fn work(file: Option<&Path>) -> anyhow::Result<()> {
    let (config, level) = configure(file, telemetry::LogStream::Stdout).await?;
    let operations = server::bind(config.operations.listen).await?;
    let app = App::build(config, Some(level)).await?;
    tracing::info!(operations = %operations.local_addr()?, version = env!("CARGO_PKG_VERSION"), "working");
    run_as_service(app, file, None, operations, true).await
}

async fn or_bind(inherited: Option<Socket>, address: std::net::SocketAddr) -> anyhow::Result<Socket> {
    match inherited {
        Some(socket) => Ok(socket),
        None => server::bind(address).await,
    }
}

/// Under a service manager or a shell: SIGHUP reloads.
async fn run_as_service(
    app: AppState,
    file: Option<&Path>,
    listener: Option<Socket>,
    operations: Socket,
    works: bool,
) -> anyhow::Result<()> {
    let stop = runtime::shutdown_signal()?;
    let reloads = tokio::spawn(reload::on_hangup(app.clone(), file.map(Path::to_owned))?);
    let ended = runtime::run(app, listener, operations, works, stop).await;
    reloads.abort();
    ended
}

/// `darkroom migrate`: brings the schema up to date, or only tells whether it is.
///
/// # Errors
/// The database does not answer, or a migration fails.
pub async fn migrate(file: Option<&Path>, check_only: bool) -> anyhow::Result<bool> {
    let (config, _) = configure(file, telemetry::LogStream::Stderr).await?;
    let level = if check_only {
        let database = config.database.for_migrations();
        let db = db::Db::new(&database);
        let level = db::migrations::check(&db).await;
        db.close().await;
        level.with_context(|| database.described())?
    } else {
        bring_up(&config.database).await?
    };
    println!("{} migrations applied, {} pending", level.applied, level.pending.len());
    for version in &level.pending {
        println!("pending: {version}");
    }
    Ok(level.pending.is_empty())
}

/// Makes the database and its users, where a master user is configured, and brings the schema up to date.
///
/// # Errors
/// The database does not answer, or a statement or migration fails. It may be run again.
pub async fn bring_up(config: &config::Database) -> anyhow::Result<db::migrations::SchemaStatus> {
    if let Some(there) = config.for_users() {
        let db = db::Db::new(&there);
        let made = db::users::create(&db, config).await;
        db.close().await;
        made.with_context(|| there.described())?;
    }
    let there = config.for_migrations();
    let db = db::Db::new(&there);
    let level = db::migrations::run(&db).await;
    db.close().await;
    level.with_context(|| there.described())
}

/// `darkroom openapi`: the document as pretty JSON, for clients or as API Gateway imports it.
///
/// # Errors
/// None in practice: our document is JSON.
pub fn openapi(for_gateway: bool) -> anyhow::Result<String> {
    if for_gateway {
        return Ok(format!("{:#}", http::gateway::document()));
    }
    http::openapi_document().to_pretty_json().context("the document is not JSON")
}
