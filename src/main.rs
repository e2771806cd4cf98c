//! Parses the command line, runs the command and returns its exit code.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use darkroom::cli::{Cli, Command, ReadModelCommand};
use darkroom::{client, commands, dev, lambda, sandbox};

fn main() -> ExitCode {
    if lambda::is_bootstrap() {
        return commands::exit_code(async { lambda::run().await.map(|()| true) });
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(commands::EX_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    // Before the runtime starts threads, because seccomp and rlimits must hold for the whole process.
    if matches!(cli.command, Command::Decoder) {
        return sandbox::child();
    }
    commands::exit_code(run(cli))
}

async fn run(cli: Cli) -> anyhow::Result<bool> {
    let file = cli.config.as_deref();
    match cli.command {
        Command::Serve => commands::serve(file).await.map(|()| true),
        Command::Worker => commands::worker(file).await.map(|()| true),
        Command::Dev { listen, data, server } => dev::run(dev::Options { listen, data, server }).await.map(|()| true),
        Command::Migrate { check } => commands::migrate(file, check).await,
        Command::Check => Box::pin(commands::check(file)).await,
        Command::Openapi { gateway } => commands::print_openapi(gateway),
        Command::Upload(arguments) => client::upload(arguments.into()).await,
        Command::Token { data, subject } => commands::print_token(&data, &subject),
        Command::Jobs(command) => commands::jobs(file, command).await,
        Command::Project(arguments) | Command::ReadModel(ReadModelCommand::Sync(arguments)) => {
            commands::sync_read_model(file, arguments.rebuild).await.map(|()| true)
        }
        Command::ManPages { folder } => commands::write_man_pages(Cli::command(), &folder),
        Command::Decoder => unreachable!("handled before the runtime starts"),
    }
}
