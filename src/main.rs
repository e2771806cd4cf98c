//! The command line.

#![forbid(unsafe_code)]

use std::{io::Write, net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand};
use darkroom::{
    aws, client,
    commands::{self, JobsCommand},
    dev::{self, database::ServerChoice, identity::Identity},
    lambda, sandbox,
};
use secrecy::SecretString;

/// `EX_USAGE` of sysexits.h: a bad command line or configuration.
const EX_USAGE: u8 = 64;

/// How long calls of the system that are still under way are waited for at the end.
const LAST_CALLS: std::time::Duration = std::time::Duration::from_secs(1);

/// Photo sharing for events.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    /// The configuration file (TOML); variables DARKROOM_* go before it
    #[arg(long, global = true, env = "DARKROOM_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the API, and work too unless worker.enabled is false
    Serve,
    /// Work: develop photos, announce events, sweep
    Work,
    /// Run everything on this machine, with a private database server
    Dev {
        /// Address and port of the API; port 0 takes a free one
        #[arg(long, default_value = "127.0.0.1:8080")]
        listen: SocketAddr,
        /// The folder that everything lives in
        #[arg(long, default_value = "darkroom-data")]
        data: PathBuf,
        /// The database server: auto, mysql or mariadb
        #[arg(long, default_value = "auto")]
        server: ServerChoice,
    },
    /// Bring the database's schema up to date
    Migrate {
        /// Only tell whether it is; exit 1 when it is not
        #[arg(long)]
        check: bool,
    },
    /// Try every configured dependency; exit 1 when one fails
    Check,
    /// Print the OpenAPI 3.1 document
    Openapi {
        /// As API Gateway imports it, for deploy/stacks/gateway.yaml
        #[arg(long)]
        gateway: bool,
    },
    /// Upload photos to an album
    Upload(Upload),
    /// Print a JWT that `darkroom dev` with the same folder accepts
    Token {
        /// The folder of `darkroom dev`
        #[arg(long, default_value = "darkroom-data")]
        data: PathBuf,
        /// The user
        #[arg(long)]
        subject: String,
    },
    /// List jobs, put dead ones back, or drop them
    Jobs {
        #[command(subcommand)]
        command: JobsCommand,
    },
    /// Bring the read model up to date
    Project {
        /// Write everything anew, and remove what has no row; the service may run meanwhile
        #[arg(long)]
        rebuild: bool,
    },
    /// What the decoding processes run
    #[command(name = "__decoder", hide = true)]
    Decoder,
    /// Write man pages and completions, for the packages
    #[command(name = "__manual", hide = true)]
    Manual { folder: PathBuf },
}

#[derive(clap::Args)]
struct Upload {
    /// Where the service is
    #[arg(long, env = "DARKROOM_URL", default_value = "http://127.0.0.1:8080")]
    server: url::Url,
    /// A JWT or an invite token
    #[arg(long, env = "DARKROOM_TOKEN", hide_env_values = true)]
    token: SecretString,
    /// The album
    #[arg(long)]
    album: uuid::Uuid,
    /// Your name, as guests see it
    #[arg(long)]
    name: Option<String>,
    /// Uploads at a time
    #[arg(long, default_value_t = 4, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=64))]
    parallel: usize,
    /// Wait until the photos are ready
    #[arg(long)]
    wait: bool,
    /// Photos, or folders of photos
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

fn main() -> ExitCode {
    if lambda::is_bootstrap() {
        return end_of(async { lambda::run().await.map(|()| true) });
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EX_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    // Before the runtime has threads: this process closes itself off from the system.
    if matches!(cli.command, Command::Decoder) {
        return sandbox::child();
    }
    end_of(run(cli))
}

/// Does the work on a runtime of its own, and says how it ended.
fn end_of(work: impl Future<Output = anyhow::Result<bool>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("darkroom: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(work);
    // A file call that hangs must not keep the process.
    runtime.shutdown_timeout(LAST_CALLS);
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("darkroom: {}", aws::with_hint(&error));
            if commands::is_usage(&error) || error.is::<lambda::UnknownHandler>() {
                ExitCode::from(EX_USAGE)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// Whether all went well.
async fn run(cli: Cli) -> anyhow::Result<bool> {
    let file = cli.config.as_deref();
    match cli.command {
        Command::Serve => commands::serve(file).await.map(|()| true),
        Command::Work => commands::work(file).await.map(|()| true),
        Command::Dev { listen, data, server } => dev::run(dev::Options { listen, data, server }).await.map(|()| true),
        Command::Migrate { check } => commands::migrate(file, check).await,
        // Boxed: what looks at everything is a large future.
        Command::Check => Box::pin(commands::check(file)).await,
        Command::Openapi { gateway } => print(&commands::openapi(gateway)?),
        Command::Upload(upload) => client::upload(upload.into()).await,
        Command::Token { data, subject } => print(&Identity::read(&data.join("identity"))?.token(&subject)?),
        Command::Jobs { command } => commands::jobs(file, command).await,
        Command::Project { rebuild } => commands::project(file, rebuild).await.map(|()| true),
        Command::Manual { folder } => Ok(commands::manual(Cli::command(), &folder).map(|()| true)?),
        Command::Decoder => unreachable!("handled before the runtime starts"),
    }
}

/// Prints a line; a reader that has seen enough, such as `head`, is no failure.
fn print(text: &str) -> anyhow::Result<bool> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(true),
    }
}

impl From<Upload> for client::Options {
    fn from(upload: Upload) -> Self {
        Self {
            server: upload.server,
            token: upload.token,
            album: upload.album,
            files: upload.files,
            guest_name: upload.name,
            parallel: upload.parallel,
            wait: upload.wait,
        }
    }
}
