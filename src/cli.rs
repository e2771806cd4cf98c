//! The command line.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, builder::RangedU64ValueParser};
use secrecy::SecretString;
use url::Url;
use uuid::Uuid;

use crate::{client, commands::JobsCommand, dev::database::ServerChoice};

/// Photo sharing for events.
#[derive(Debug, Parser)]
#[command(name = "darkroom", version, arg_required_else_help = true)]
pub struct Cli {
    /// The configuration file (TOML); DARKROOM_* variables take precedence
    #[arg(long, global = true, env = "DARKROOM_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the API, and run jobs unless worker.enabled is false
    Serve,
    /// Run jobs: render photos, publish events, repair inconsistencies
    #[command(alias = "work")]
    Worker,
    /// Run the whole service on this machine, with a private database server
    Dev {
        /// Address and port of the API; port 0 selects a free one
        #[arg(long, default_value = "127.0.0.1:8080")]
        listen: SocketAddr,
        /// The folder of the database, the photos and the signing keys
        #[arg(long, default_value = "darkroom-data")]
        data: PathBuf,
        /// The database server: auto, mysql or mariadb
        #[arg(long, default_value = "auto")]
        server: ServerChoice,
    },
    /// Apply pending migrations of the database schema
    Migrate {
        /// List pending migrations without applying them; exit 1 if there are any
        #[arg(long)]
        check: bool,
    },
    /// Test the connection to every configured dependency; exit 1 if one fails
    Check,
    /// Print the OpenAPI 3.1 document
    Openapi {
        /// Print the document for API Gateway, as deploy/stacks/gateway.yaml imports it
        #[arg(long)]
        gateway: bool,
    },
    /// Upload photos to an album
    Upload(UploadArgs),
    /// Print a JWT for the server of `darkroom dev`
    Token {
        /// The data folder of `darkroom dev`
        #[arg(long, default_value = "darkroom-data")]
        data: PathBuf,
        /// The user
        #[arg(long)]
        subject: String,
    },
    /// List jobs, and retry or drop dead ones
    #[command(subcommand)]
    Jobs(JobsCommand),
    /// Maintain the read model in DynamoDB
    #[command(subcommand)]
    ReadModel(ReadModelCommand),
    /// Old name of `read-model sync`
    #[command(hide = true)]
    Project(SyncArgs),
    /// Decode photos; started by the worker
    #[command(name = "__decoder", hide = true)]
    Decoder,
    /// Write man pages and shell completions for the packages
    #[command(name = "__man-pages", hide = true)]
    ManPages { folder: PathBuf },
}

#[derive(Debug, Subcommand)]
pub enum ReadModelCommand {
    /// Write pending changes of albums to the read model
    Sync(SyncArgs),
}

#[derive(Debug, Args)]
pub struct SyncArgs {
    /// Write all albums and remove items that have no row; the service may run meanwhile
    #[arg(long)]
    pub rebuild: bool,
}

#[derive(Debug, Args)]
pub struct UploadArgs {
    /// The URL of the service
    #[arg(long, env = "DARKROOM_URL", default_value = "http://127.0.0.1:8080")]
    pub server: Url,
    /// A JWT or an invite token
    #[arg(long, env = "DARKROOM_TOKEN", hide_env_values = true)]
    pub token: SecretString,
    /// The id of the album
    #[arg(long)]
    pub album: Uuid,
    /// Your name, shown to other guests
    #[arg(long)]
    pub name: Option<String>,
    /// Concurrent uploads
    #[arg(long, default_value_t = 4, value_parser = RangedU64ValueParser::<usize>::new().range(1..=64))]
    pub parallel: usize,
    /// Wait until the photos are ready
    #[arg(long)]
    pub wait: bool,
    /// Photos, or folders of photos
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
}

impl From<UploadArgs> for client::Options {
    fn from(arguments: UploadArgs) -> Self {
        let UploadArgs { server, token, album, name, parallel, wait, files } = arguments;
        Self { server, token, album, files, guest_name: name, parallel, wait }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_verbs_still_work() {
        let command = |arguments: &[&str]| {
            Cli::try_parse_from([&["darkroom"], arguments].concat()).expect("a valid command line").command
        };
        assert!(matches!(command(&["work"]), Command::Worker));
        assert!(matches!(command(&["project"]), Command::Project(SyncArgs { rebuild: false })));
        assert!(matches!(command(&["project", "--rebuild"]), Command::Project(SyncArgs { rebuild: true })));
        let sync = command(&["read-model", "sync", "--rebuild"]);
        assert!(matches!(sync, Command::ReadModel(ReadModelCommand::Sync(SyncArgs { rebuild: true }))));
    }
}
