//! `darkroom jobs`: what waits, what is dead, and putting it back.

use std::{collections::HashSet, path::Path, time::Duration};

use anyhow::Context;
use clap::Subcommand;
use uuid::Uuid;

use crate::{
    aws,
    config::Config,
    db::{self, Db, jobs as table},
    jobs::{
        self,
        sqs::client::{Message, Sqs},
        sqs::message::{self, Carried},
    },
    telemetry::Stream,
};

/// The most jobs that are listed.
const MOST: u32 = 1000;
/// How long dead messages are hidden from others while they are looked through.
const LOOK: Duration = Duration::from_secs(30);

/// What to do about jobs.
#[derive(Debug, Subcommand)]
pub enum JobsCommand {
    /// List jobs and dead messages, oldest first
    List {
        /// Only those that wait for an operator
        #[arg(long)]
        dead: bool,
    },
    /// Put dead jobs and dead messages back, one or all
    Retry {
        /// The id of the job or message; all dead ones when left out
        id: Option<Uuid>,
    },
    /// Remove a dead job or message for good; a photo that the job should have developed is rejected, an edit fails
    Drop {
        /// The id of the job or message
        id: Uuid,
    },
}

/// Runs a `darkroom jobs` command; false when there was no such job.
///
/// # Errors
/// The database's, or the queue's.
pub async fn jobs(file: Option<&Path>, command: JobsCommand) -> anyhow::Result<bool> {
    let (config, _) = super::configure(file, Stream::Error).await?;
    let db = Db::new(&config.database).projecting(config.read_model.table.is_some());
    let queue = queue(&config).await;
    let outcome = match command {
        JobsCommand::List { dead } => list(&db, &config, queue.as_ref(), dead).await.map(|()| true),
        JobsCommand::Retry { id } => retry(&db, &config, queue.as_ref(), id).await,
        JobsCommand::Drop { id } => forget(&db, &config, queue.as_ref(), id).await,
    };
    db.close().await;
    outcome
}

async fn queue(config: &Config) -> Option<Sqs> {
    let sdk = Box::pin(aws::for_parts_of(config)).await;
    config.queue.sqs.as_ref().zip(sdk).map(|(sqs, sdk)| Sqs::new(sqs, &sdk))
}

async fn session(db: &Db, config: &Config) -> anyhow::Result<db::Session> {
    db.session().await.with_context(|| config.database.described())
}

async fn list(db: &Db, config: &Config, queue: Option<&Sqs>, dead: bool) -> anyhow::Result<()> {
    let mut session = session(db, config).await?;
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
    drop(session);
    for message in dead_messages(queue).await? {
        // A job's row has been shown.
        if !is_of_job(&message) {
            let reason = message.reason.unwrap_or_else(|| "given up after too many tries".to_owned());
            println!("{}  dead  {:<12} {}  {reason}", message.id, "message", about(&message.body));
        }
    }
    Ok(())
}

/// Jobs go by their rows, and are sent again for being due; other messages go as they are.
async fn retry(db: &Db, config: &Config, queue: Option<&Sqs>, id: Option<Uuid>) -> anyhow::Result<bool> {
    let mut session = session(db, config).await?;
    let mut count = table::revive(&mut session, id).await?;
    drop(session);
    for message in dead_messages(queue).await? {
        let Some(queue) = queue else { break };
        let meant = id.is_none() || is(&message, id);
        if meant && !is_of_job(&message) {
            let taken = Box::pin(queue.send(std::slice::from_ref(&message.body))).await?;
            anyhow::ensure!(!taken.is_empty(), "the queue does not take the message {}", message.id);
            count += 1;
        }
        if meant {
            Box::pin(queue.delete_dead(&message)).await?;
        }
    }
    println!("{count} put back");
    Ok(id.is_none() || count > 0)
}

async fn forget(db: &Db, config: &Config, queue: Option<&Sqs>, id: Uuid) -> anyhow::Result<bool> {
    drop(session(db, config).await?);
    let mut dropped = jobs::give_up(db, id).await?;
    for message in dead_messages(queue).await? {
        if let Some(queue) = queue.filter(|_| is(&message, Some(id))) {
            Box::pin(queue.delete_dead(&message)).await?;
            dropped = true;
        }
    }
    println!("{}", if dropped { "dropped" } else { "there is no dead job or message of this id" });
    Ok(dropped)
}

/// The messages of the dead-letter queue, each once. They are others' to see again at once.
async fn dead_messages(queue: Option<&Sqs>) -> anyhow::Result<Vec<Message>> {
    let Some(queue) = queue else { return Ok(Vec::new()) };
    let (mut seen, mut all) = (HashSet::new(), Vec::new());
    loop {
        let some = Box::pin(queue.receive_dead(LOOK)).await?;
        let before = all.len();
        all.extend(some.into_iter().filter(|message| seen.insert(message.id.clone())));
        // All that the queue is spread over was asked.
        if all.len() == before || all.len() >= MOST as usize {
            break;
        }
    }
    for message in &all {
        if let Err(error) = Box::pin(queue.hide_dead(message, Duration::ZERO)).await {
            // Somebody has removed it meanwhile; else it is seen again a little later.
            tracing::debug!(%error, "a dead message stays hidden");
        }
    }
    Ok(all)
}

/// Whether it is the message of this id, or of the job of this id.
fn is(message: &Message, id: Option<Uuid>) -> bool {
    let job = match message::read(&message.body, None) {
        Ok(Carried::Job { id, .. }) => Some(id),
        _ => None,
    };
    id.is_some() && (message.id.parse().ok() == id || job == id)
}

fn is_of_job(message: &Message) -> bool {
    matches!(message::read(&message.body, None), Ok(Carried::Job { .. }))
}

/// What a message says, in one short line.
fn about(body: &str) -> String {
    const CHARS: usize = 120;
    let line: Vec<&str> = body.split_whitespace().collect();
    line.join(" ").chars().filter(|it| !it.is_control()).take(CHARS).collect()
}
