//! `darkroom jobs`: lists jobs, and retries or drops dead ones.

use std::{collections::HashSet, path::Path, time::Duration};

use anyhow::Context;
use clap::Subcommand;
use uuid::Uuid;

use crate::{
    app,
    config::Config,
    db::{self, Db},
    jobs::{
        self,
        sqs::client::{Message, Sqs},
        sqs::message::{self, Content},
    },
    runtime::startup,
    telemetry::LogStream,
};

/// The most jobs and the most messages that are listed.
const LIST_LIMIT: u32 = 1000;
/// How long dead messages are hidden from other consumers while all are received.
const VISIBILITY_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Subcommand)]
pub enum JobsCommand {
    /// List jobs and dead messages, oldest first
    List {
        /// List only dead ones
        #[arg(long)]
        dead: bool,
    },
    /// Retry a dead job or message, or all of them
    Retry {
        /// The id of the job or message; all dead ones if omitted
        id: Option<Uuid>,
    },
    /// Delete a dead job or message; its photo is rejected, its edit fails
    Drop {
        /// The id of the job or message
        id: Uuid,
    },
}

/// Runs a `darkroom jobs` command. Returns false when no job has the given id.
pub async fn jobs(file: Option<&Path>, command: JobsCommand) -> anyhow::Result<bool> {
    let (config, _) = startup::configure(file, LogStream::Stderr).await?;
    let db = Db::new(&config.database).with_read_model(config.read_model.table.is_some());
    let sdk = Box::pin(app::aws_sdk_config(&config)).await;
    let sqs = config.queue.sqs.as_ref().zip(sdk).map(|(sqs, sdk)| Sqs::new(sqs, &sdk));
    let outcome = match command {
        JobsCommand::List { dead } => list(&db, &config, sqs.as_ref(), dead).await.map(|()| true),
        JobsCommand::Retry { id } => retry(&db, &config, sqs.as_ref(), id).await,
        JobsCommand::Drop { id } => drop_dead(&db, &config, sqs.as_ref(), id).await,
    };
    db.close().await;
    outcome
}

async fn session(db: &Db, config: &Config) -> anyhow::Result<db::Session> {
    db.session().await.with_context(|| config.database.described())
}

async fn list(db: &Db, config: &Config, sqs: Option<&Sqs>, dead: bool) -> anyhow::Result<()> {
    let mut session = session(db, config).await?;
    for job in db::jobs::list(&mut session, dead, LIST_LIMIT).await? {
        let state = if job.dead { "dead" } else { "live" };
        let error = job.last_error.unwrap_or_default();
        println!(
            "{}  {state}  {:<15} {}  {} attempts  {}  {error}",
            job.id,
            job.kind,
            job.subject,
            job.attempts,
            job.created_at.format("%FT%TZ")
        );
    }
    drop(session);
    for message in dead_messages(sqs).await? {
        // A job was listed by its row.
        if !is_of_job(&message) {
            let reason = message.reason.unwrap_or_else(|| "received too many times".to_owned());
            println!("{}  dead  {:<15} {}  {reason}", message.id, "message", excerpt(&message.body));
        }
    }
    Ok(())
}

/// A job is sent again because its row is due; other messages are sent as they are.
async fn retry(db: &Db, config: &Config, sqs: Option<&Sqs>, id: Option<Uuid>) -> anyhow::Result<bool> {
    let mut session = session(db, config).await?;
    let mut count = db::jobs::retry_dead(&mut session, id).await?;
    drop(session);
    for message in dead_messages(sqs).await? {
        let Some(sqs) = sqs else { break };
        if id.is_some_and(|id| !has_id(&message, id)) {
            continue;
        }
        if !is_of_job(&message) {
            let accepted = Box::pin(sqs.send(std::slice::from_ref(&message.body))).await?;
            anyhow::ensure!(!accepted.is_empty(), "SQS refused the message {}", message.id);
            count += 1;
        }
        Box::pin(sqs.delete_dead(&message)).await?;
    }
    println!("{count} scheduled for retry");
    Ok(id.is_none() || count > 0)
}

async fn drop_dead(db: &Db, config: &Config, sqs: Option<&Sqs>, id: Uuid) -> anyhow::Result<bool> {
    drop(session(db, config).await?);
    let mut dropped = jobs::drop_dead_job(db, id).await?;
    for message in dead_messages(sqs).await? {
        if let Some(sqs) = sqs.filter(|_| has_id(&message, id)) {
            Box::pin(sqs.delete_dead(&message)).await?;
            dropped = true;
        }
    }
    println!("{}", if dropped { "dropped" } else { "no dead job or message has this id" });
    Ok(dropped)
}

/// The messages of the dead-letter queue, each once. They are visible to other consumers again afterwards.
async fn dead_messages(sqs: Option<&Sqs>) -> anyhow::Result<Vec<Message>> {
    let Some(sqs) = sqs else { return Ok(Vec::new()) };
    let (mut seen, mut all) = (HashSet::new(), Vec::new());
    loop {
        let some = Box::pin(sqs.receive_dead(VISIBILITY_TIMEOUT)).await?;
        let before = all.len();
        all.extend(some.into_iter().filter(|message| seen.insert(message.id.clone())));
        // A long poll queries all servers of SQS, so nothing new means that all were received.
        if all.len() == before || all.len() >= LIST_LIMIT as usize {
            break;
        }
    }
    for message in &all {
        if let Err(error) = Box::pin(sqs.hide_dead(message, Duration::ZERO)).await {
            // Deleted since; if not, it is visible again after the timeout.
            tracing::debug!(%error, "making a dead message visible failed");
        }
    }
    Ok(all)
}

/// Whether the id is that of the message or of its job.
fn has_id(message: &Message, wanted: Uuid) -> bool {
    message.id.parse() == Ok(wanted)
        || matches!(message::read(&message.body, None), Ok(Content::Job { id, .. }) if id == wanted)
}

fn is_of_job(message: &Message) -> bool {
    matches!(message::read(&message.body, None), Ok(Content::Job { .. }))
}

/// The beginning of a message, on one line.
fn excerpt(body: &str) -> String {
    const CHARS: usize = 120;
    let line: Vec<&str> = body.split_whitespace().collect();
    line.join(" ").chars().filter(|it| !it.is_control()).take(CHARS).collect()
}
