//! The commands that run and administer the service.

mod check;
mod jobs;
mod man_pages;
mod read_model;
mod reload;

use std::{
    io::{ErrorKind, Write},
    net::SocketAddr,
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;

pub use check::check;
pub use jobs::{JobsCommand, jobs};
pub use man_pages::write_man_pages;
pub use read_model::sync_read_model;

use crate::{
    app::{App, AppState},
    aws,
    config::Mistakes,
    db::{self, Db},
    dev::identity::Identity,
    http,
    runtime::{self, startup},
    server::{self, Socket},
    telemetry::LogStream,
};

/// `EX_USAGE` of sysexits.h: a mistake in the command line or the configuration, after which a retry fails too.
pub const EX_USAGE: u8 = 64;
/// How long blocking calls may delay the end of the process.
const BLOCKING_CALLS_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs a command on a new runtime. The command returns whether it succeeded.
pub fn exit_code(command: impl Future<Output = anyhow::Result<bool>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("darkroom: the runtime did not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(command);
    // A file operation that hangs must not keep the process alive.
    runtime.shutdown_timeout(BLOCKING_CALLS_TIMEOUT);
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("darkroom: {}", aws::with_hint(&error));
            let usage = error.downcast_ref::<Mistakes>().is_some_and(Mistakes::will_stay);
            if usage { ExitCode::from(EX_USAGE) } else { ExitCode::FAILURE }
        }
    }
}

/// `darkroom serve`: the API, and a worker unless `worker.enabled` is false. Sockets that systemd passes take precedence
/// over `http.listen` and `operations.listen`, in this order.
pub async fn serve(file: Option<&Path>) -> anyhow::Result<()> {
    let (config, level) = startup::configure(file, LogStream::Stdout).await?;
    let mut inherited = server::inherited()?.into_iter();
    let listener = or_bind(inherited.next(), config.http.listen).await?;
    let operations = or_bind(inherited.next(), config.operations.listen).await?;
    let runs_jobs = config.worker.enabled;
    let app = App::build(config, Some(level)).await?;
    let (listen, operations_listen) = (listener.local_addr()?, operations.local_addr()?);
    tracing::info!(%listen, operations = %operations_listen, version = env!("CARGO_PKG_VERSION"), "ready");
    run_as_service(app, file, Some(listener), operations, runs_jobs).await
}

/// `darkroom worker`: a worker without the API.
pub async fn worker(file: Option<&Path>) -> anyhow::Result<()> {
    let (config, level) = startup::configure(file, LogStream::Stdout).await?;
    let operations = server::bind(config.operations.listen).await?;
    let app = App::build(config, Some(level)).await?;
    tracing::info!(operations = %operations.local_addr()?, version = env!("CARGO_PKG_VERSION"), "working");
    run_as_service(app, file, None, operations, true).await
}

async fn or_bind(inherited: Option<Socket>, address: SocketAddr) -> anyhow::Result<Socket> {
    match inherited {
        Some(socket) => Ok(socket),
        None => server::bind(address).await,
    }
}

/// Runs until SIGTERM or SIGINT; SIGHUP reloads the configuration.
async fn run_as_service(
    app: AppState,
    file: Option<&Path>,
    listener: Option<Socket>,
    operations: Socket,
    runs_jobs: bool,
) -> anyhow::Result<()> {
    let shutdown = runtime::shutdown_signal()?;
    let reload = tokio::spawn(reload::on_hangup(app.clone(), file.map(Path::to_owned))?);
    let result = runtime::run(app, listener, operations, runs_jobs, shutdown).await;
    reload.abort();
    result
}

/// `darkroom migrate`: applies pending migrations, or only lists them. Returns whether none are pending.
pub async fn migrate(file: Option<&Path>, check_only: bool) -> anyhow::Result<bool> {
    let (config, _) = startup::configure(file, LogStream::Stderr).await?;
    let level = if check_only {
        let settings = config.database.for_migrations();
        let db = Db::new(&settings);
        let level = db::migrations::check(&db).await;
        db.close().await;
        level.with_context(|| settings.described())?
    } else {
        startup::migrate(&config.database).await?
    };
    println!("{} migrations applied, {} pending", level.applied, level.pending.len());
    for version in &level.pending {
        println!("pending: {version}");
    }
    Ok(level.pending.is_empty())
}

/// `darkroom openapi`: prints the document as JSON, for clients or for an import by API Gateway.
pub fn print_openapi(for_gateway: bool) -> anyhow::Result<bool> {
    if for_gateway {
        return print(&format!("{:#}", http::gateway::document()));
    }
    print(&http::openapi_document().to_pretty_json().context("the OpenAPI document is not JSON")?)
}

/// `darkroom token`: prints a JWT for the server of `darkroom dev` with the same data folder.
pub fn print_token(data: &Path, subject: &str) -> anyhow::Result<bool> {
    print(&Identity::read(&data.join("identity"))?.token(subject)?)
}

/// Prints a line. A closed pipe, as of `darkroom openapi | head`, is no failure.
fn print(text: &str) -> anyhow::Result<bool> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(true),
    }
}
