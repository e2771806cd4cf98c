//! `darkroom dev`: everything on this machine, private database server and development identity included.
//!
//! All of it lives in one folder and ends with the process. Not for production: the identity signs for anybody.

pub mod database;
pub mod identity;
mod welcome;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use sqlx::mysql::MySqlConnectOptions;

use crate::{
    app::App,
    aws,
    config::{Config, Source, database::Place},
    db,
    runtime::{self, startup},
    server::{self, Socket},
    telemetry,
};
use database::{DirLock, PrivateServer, ServerChoice};
use identity::Identity;

/// The database inside the private server.
const DATABASE: &str = "darkroom";

/// How to run.
#[derive(Debug)]
pub struct Options {
    /// Address and port of the API; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The folder that everything lives in.
    pub data: PathBuf,
    /// Which server to run.
    pub server: ServerChoice,
}

/// Runs until told to stop.
///
/// # Errors
/// Says what is in the way: the port, the folder, or that no database server is found.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let stop = runtime::shutdown_signal()?;
    // What is most likely to be in the way comes first, before anything takes time.
    let listener = server::bind(options.listen).await?;
    let operations = server::bind(SocketAddr::new(options.listen.ip(), 0)).await?;
    let lock = DirLock::acquire(&options.data)?;
    let identity = Identity::open(&lock.dir().join("identity"))?;
    let mut config = configure(lock.dir(), &listener, &operations, &identity).await?;
    let level = telemetry::start_logging(&config.log, telemetry::LogStream::Stderr)?;
    config.log_deprecations();
    let mut server = tokio::select! {
        server = PrivateServer::start(&lock, options.server) => server?,
        () = stop.cancelled() => return Ok(()),
    };
    config.database.place = Place::Socket(server.socket().to_owned());
    DATABASE.clone_into(&mut config.database.name);
    tracing::info!(server = %server.flavour(), version = server.version(), "the database server runs");
    let outcome = tokio::select! {
        outcome = serve(server.options(), config, level, listener, operations, &identity, &lock, stop.clone()) => outcome,
        () = server.ended() => Err(anyhow::anyhow!("the database server ended; see {}", lock.dir().join("db.log").display())),
    };
    server.stop().await;
    outcome
}

#[expect(clippy::too_many_arguments, reason = "the parts that `run` has just made, named one by one")]
async fn serve(
    server: MySqlConnectOptions,
    config: Config,
    level: telemetry::LogLevel,
    listener: Socket,
    operations: Socket,
    identity: &Identity,
    lock: &DirLock,
    stop: tokio_util::sync::CancellationToken,
) -> anyhow::Result<()> {
    db::create_database(&server, DATABASE).await?;
    startup::migrate(&config.database).await?;
    let app = App::build(config, Some(level)).await?;
    let address = listener.local_addr()?;
    let looking = operations.local_addr()?;
    let welcome = welcome::prepare(&app, identity, lock.dir()).await?;
    let running = tokio::spawn(runtime::run(app, Some(listener), operations, true, stop));
    eprintln!("{welcome}\noperations: http://{looking}/health");
    println!("ready http://{address}");
    running.await?
}

/// The configuration of a development service; `DARKROOM_*` variables still go before it.
async fn configure(dir: &Path, listener: &Socket, operations: &Socket, identity: &Identity) -> anyhow::Result<Config> {
    let text = |value: &str| toml::Value::String(value.to_owned());
    let path = |path: PathBuf| toml::Value::String(path.to_string_lossy().into_owned());
    let listen = listener.local_addr()?;
    let section = |pairs: Vec<(&str, toml::Value)>| {
        toml::Value::Table(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
    };
    let origins = toml::Value::Array(vec![text("*")]);
    let table = toml::Table::from_iter([
        (
            "http".to_owned(),
            section(vec![
                ("listen", text(&listen.to_string())),
                ("public_url", text(&format!("http://{listen}"))),
                ("cors_origins", origins),
                // No load balancer in front has to notice the shutdown.
                ("shutdown_delay", text("0s")),
            ]),
        ),
        ("operations".to_owned(), section(vec![("listen", text(&operations.local_addr()?.to_string()))])),
        (
            "identity".to_owned(),
            section(vec![
                ("issuer", text(identity::ISSUER)),
                ("audience", text(identity::AUDIENCE)),
                ("jwks", path(identity.jwks_path())),
            ]),
        ),
        ("database".to_owned(), section(vec![("user", text("root"))])),
        (
            "storage".to_owned(),
            section(vec![("directory", path(dir.join("photos"))), ("signing_keys", text(identity.signing_secret()))]),
        ),
    ]);
    let mut source = Source::parse(&table.to_string(), std::env::vars_os())?;
    Box::pin(aws::secrets::fetch(&mut source, &[])).await;
    Ok(Config::read(source)?)
}
