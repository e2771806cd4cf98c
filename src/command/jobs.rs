//! `darkroom jobs`: what waits, what is dead, and putting it back.

use std::path::Path;

use anyhow::Context;
use clap::Subcommand;
use uuid::Uuid;

use crate::{
    db::{self, jobs as table},
    telemetry::Stream,
    worker,
};

/// The most jobs that are listed.
const MOST: u32 = 1000;

/// What to do about jobs.
#[derive(Debug, Subcommand)]
pub enum JobsCommand {
    /// List jobs, oldest first
    List {
        /// Only those that wait for an operator
        #[arg(long)]
        dead: bool,
    },
    /// Put dead jobs back, one or all
    Retry {
        /// The job's id; all dead jobs when left out
        id: Option<Uuid>,
    },
    /// Remove a dead job for good; a photo that it should have developed is rejected
    Drop {
        /// The job's id
        id: Uuid,
    },
}

/// Runs a `darkroom jobs` command; false when there was no such job.
///
/// # Errors
/// The database's.
pub async fn jobs(file: Option<&Path>, command: JobsCommand) -> anyhow::Result<bool> {
    let (config, _) = super::configure(file, Stream::Error)?;
    let db = db::Db::new(&config.database);
    let mut session = db.session().await.with_context(|| config.database.described())?;
    let found = match command {
        JobsCommand::List { dead } => {
            for job in table::list(&mut session, dead, MOST).await? {
                let state = if job.dead { "dead" } else { "live" };
                let error = job.last_error.unwrap_or_default();
                println!(
                    "{}  {state}  {:<12} {}  {} tries  {}  {error}",
                    job.id,
                    job.kind,
                    job.subject,
                    job.attempts,
                    job.created_at.format("%FT%TZ")
                );
            }
            true
        }
        JobsCommand::Retry { id } => {
            let count = table::revive(&mut session, id).await?;
            println!("{count} put back");
            id.is_none() || count == 1
        }
        JobsCommand::Drop { id } => {
            let dropped = worker::develop::give_up(&db, id).await?;
            println!("{}", if dropped { "dropped" } else { "there is no dead job of this id" });
            dropped
        }
    };
    drop(session);
    db.close().await;
    Ok(found)
}
