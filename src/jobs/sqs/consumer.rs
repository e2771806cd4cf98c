//! Sends due jobs to SQS, and acts on the messages that SQS delivers.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{
    sync::{Semaphore, mpsc},
    time::Instant,
};
use tokio_util::task::TaskTracker;

use super::{
    client::{BATCH, Message, Sqs},
    message::{self, Content},
};
use crate::{
    app::{App, AppState},
    config::Place,
    db::{
        self,
        jobs::{ClaimOutcome, Queue, RENDER_PHOTO},
    },
    domain::PhotoId,
    jobs::{
        retry::{NextAttempt, backoff},
        runner::{self, ERROR_PAUSE, JobOutcome},
    },
    services::uploads,
    telemetry::metrics,
};

/// How long a job is reserved for this process to send it. If the process is killed, the job is delayed by this.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a finished message waits for others to be deleted in the same call.
const DELETE_BATCH_DELAY: Duration = Duration::from_millis(200);

/// What becomes of a message. Of several results for one message the greatest applies.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MessageOutcome {
    Delete,
    /// Moved to the dead-letter queue, with the reason.
    DeadLetter(String),
    /// Visible again after the delay.
    RetryAfter(Duration),
}

/// Sends due jobs until the app drains.
pub(crate) async fn send_jobs(app: AppState, sqs: Sqs) {
    while !app.draining.is_cancelled() {
        let pause = match send_due_jobs(&app, &sqs).await {
            Ok(count) if count == BATCH => continue,
            Ok(_) => app.config.worker.poll_interval,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "sending jobs to SQS failed");
                ERROR_PAUSE
            }
        };
        tokio::select! {
            () = app.draining.cancelled() => {}
            () = app.db.wakeups().wait_for_job(Queue::Default) => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Sends one batch of due jobs and returns how many were due. Rows stay until a message's attempt completes them, so an
/// error loses nothing.
pub async fn send_due_jobs(app: &App, sqs: &Sqs) -> anyhow::Result<usize> {
    let due = db::jobs::reserve_unsent(&app.db, Queue::Default, BATCH, SEND_TIMEOUT).await?;
    if due.is_empty() {
        return Ok(0);
    }
    let bodies: Vec<String> = due.iter().map(|job| message::write(job.id, &job.kind, job.subject)).collect();
    let sent = Box::pin(sqs.send(&bodies)).await?;
    let ids: Vec<_> = sent.iter().filter_map(|index| due.get(*index)).map(|job| job.id).collect();
    let mut session = app.db.session().await?;
    db::jobs::record_sent(&mut session, &ids, sqs.redelivery_delay()).await?;
    Ok(due.len())
}

/// Receives messages and acts on them until the app drains, on as many at a time as can be decoded.
pub(crate) async fn consume(app: AppState, sqs: Sqs, tasks: TaskTracker) {
    let slots = Arc::new(Semaphore::new(app.config.worker.concurrency));
    let (finished, to_delete) = mpsc::channel(4 * BATCH);
    tasks.spawn(delete_messages(sqs.clone(), to_delete));
    while !app.draining.is_cancelled() {
        let free = tokio::select! {
            () = app.draining.cancelled() => return,
            free = wait_for_capacity(&app, &slots) => free,
        };
        // Never cancelled, not even when the app drains: messages that a cancelled call receives stay hidden.
        match Box::pin(sqs.receive(free, app.config.worker.visibility_timeout)).await {
            Ok(messages) if app.draining.is_cancelled() => {
                for message in messages {
                    if let Err(error) = Box::pin(sqs.hide(&message, Duration::ZERO)).await {
                        tracing::warn!(error = error.with_hint(), "returning a message to SQS failed");
                    }
                }
            }
            Ok(messages) => {
                for message in messages {
                    let slot = slots.clone().acquire_owned().await.expect("never closed");
                    let (app, sqs, finished) = (app.clone(), sqs.clone(), finished.clone());
                    tasks.spawn(async move {
                        if process(&app, &sqs, &message).await {
                            let _ = finished.send(message.receipt).await;
                        }
                        drop(slot);
                    });
                }
            }
            Err(error) => {
                tracing::warn!(error = error.with_hint(), "receiving messages from SQS failed");
                tokio::select! {
                    () = app.draining.cancelled() => {}
                    () = tokio::time::sleep(ERROR_PAUSE) => {}
                }
            }
        }
    }
}

/// Waits until a message can be acted on at once, and returns how many can. More would be hidden from other workers.
async fn wait_for_capacity(app: &App, slots: &Semaphore) -> usize {
    app.sandbox.wait_for_capacity().await;
    let first = slots.acquire().await.expect("never closed");
    let free = 1 + slots.available_permits();
    drop(first);
    free
}

/// Acts on a message, which stays hidden until then. Returns whether the caller must delete it.
pub async fn process(app: &AppState, sqs: &Sqs, message: &Message) -> bool {
    let outcome = tokio::select! {
        outcome = Box::pin(handle(app, &message.body, message.receives)) => outcome,
        never = keep_hidden(app, sqs, message) => never,
    };
    let result = match &outcome {
        MessageOutcome::Delete => Ok(true),
        MessageOutcome::RetryAfter(delay) => Box::pin(sqs.hide(message, *delay)).await.map(|()| false),
        MessageOutcome::DeadLetter(reason) => Box::pin(sqs.dead_letter(&message.body, reason)).await.map(|()| true),
    };
    result.unwrap_or_else(|error| {
        tracing::warn!(error = error.with_hint(), ?outcome, "SQS call failed; the message will be received again");
        false
    })
}

async fn keep_hidden(app: &App, sqs: &Sqs, message: &Message) -> MessageOutcome {
    loop {
        tokio::time::sleep(app.config.worker.visibility_timeout / 3).await;
        if let Err(error) = Box::pin(sqs.hide(message, app.config.worker.visibility_timeout)).await {
            // Another worker may receive it, and finds the job under a lease.
            tracing::debug!(%error, "keeping a message hidden failed");
        }
    }
}

/// Deletes finished messages in batches. One that is deleted too late is received again, which does no harm.
async fn delete_messages(sqs: Sqs, mut finished: mpsc::Receiver<String>) {
    while let Some(first) = finished.recv().await {
        let (mut receipts, deadline) = (vec![first], Instant::now() + DELETE_BATCH_DELAY);
        while receipts.len() < BATCH
            && let Ok(Some(next)) = tokio::time::timeout_at(deadline, finished.recv()).await
        {
            receipts.push(next);
        }
        if let Err(error) = Box::pin(sqs.delete(&receipts)).await {
            tracing::warn!(error = error.with_hint(), "deleting messages failed; they will be received again");
        }
    }
}

/// Acts on the body of a message that was received `receives` times.
pub async fn handle(app: &AppState, body: &str, receives: u32) -> MessageOutcome {
    let outcome = match message::read(body, bucket(app)) {
        Err(reason) => {
            tracing::error!(reason, "unreadable message goes to the dead-letter queue");
            MessageOutcome::DeadLetter(reason)
        }
        Ok(content) => act_on(app, content).await.unwrap_or_else(|error| {
            tracing::warn!(error = format!("{error:#}"), receives, "message failed and will be retried");
            MessageOutcome::RetryAfter(backoff(receives, &app.config.worker))
        }),
    };
    let label = match &outcome {
        MessageOutcome::Delete => "done",
        MessageOutcome::RetryAfter(_) => "retried",
        MessageOutcome::DeadLetter(_) => "dead",
    };
    metrics::SQS_MESSAGES.with(&[("outcome", label)]).increment(1);
    outcome
}

fn bucket(app: &App) -> Option<&str> {
    match &app.config.storage.place {
        Place::S3(s3) => Some(&s3.bucket),
        Place::Files(_) => None,
    }
}

async fn act_on(app: &AppState, content: Content) -> anyhow::Result<MessageOutcome> {
    match content {
        Content::Job { kind, subject, .. } => {
            let (kind, lease) = (&kind, app.config.worker.visibility_timeout);
            let claimed = app
                .db
                .transaction(|mut tx| async move {
                    let claimed = db::jobs::claim_one(tx.session(), kind, subject, lease).await?;
                    Ok::<_, db::Error>(tx.done(claimed))
                })
                .await?;
            Ok(run_claimed(app, claimed).await)
        }
        Content::Uploaded(ids) => {
            let mut outcome = MessageOutcome::Delete;
            for id in ids {
                let claimed = accept_upload(app, id).await?;
                outcome = outcome.max(run_claimed(app, claimed).await);
            }
            Ok(outcome)
        }
    }
}

/// Runs a job that could be claimed. The message of a job under another worker's lease is retried when the lease would
/// expire: it may be the job's only message, and the other attempt may fail.
async fn run_claimed(app: &AppState, claimed: ClaimOutcome) -> MessageOutcome {
    let claim = match claimed {
        ClaimOutcome::Claimed(claim) => claim,
        ClaimOutcome::Leased => return MessageOutcome::RetryAfter(app.config.worker.visibility_timeout),
        ClaimOutcome::Gone => return MessageOutcome::Delete,
    };
    match runner::run_claimed(app, &claim).await {
        JobOutcome::Idle
        | JobOutcome::Done
        | JobOutcome::LeaseLost
        | JobOutcome::Failed(NextAttempt::UncountedAfter(_)) => MessageOutcome::Delete,
        JobOutcome::Released => MessageOutcome::RetryAfter(Duration::ZERO),
        JobOutcome::Failed(NextAttempt::After(delay)) => MessageOutcome::RetryAfter(delay),
        JobOutcome::Failed(NextAttempt::DeadLetter) => {
            MessageOutcome::DeadLetter(format!("job {}: the last attempt failed", claim.id))
        }
    }
}

/// Accepts an uploaded original that matches its declaration, and claims the job that renders it.
async fn accept_upload(app: &App, id: PhotoId) -> anyhow::Result<ClaimOutcome> {
    let lease = app.config.worker.visibility_timeout;
    let mut session = app.db.session().await?;
    let photo = db::photos::get(&mut session, id).await?;
    drop(session);
    let Some(photo) = photo else {
        tracing::debug!(photo = %id, "upload of an unknown photo is left to the reconciler");
        return Ok(ClaimOutcome::Gone);
    };
    let found = if uploads::is_awaited(photo.state) {
        app.storage.stat_original(id).await.context("an upload can't be examined")?
    } else {
        None
    };
    let (claimed, is_wrong) = app
        .db
        .transaction(|mut tx| async move {
            let Some(photo) = db::photos::lock(tx.session(), id).await? else {
                return Ok::<_, db::Error>(tx.done((ClaimOutcome::Gone, false)));
            };
            if uploads::is_awaited(photo.state) {
                match found {
                    Some((bytes, digest)) if photo.matches_upload(bytes, digest) => {
                        uploads::record(&mut tx, &photo, digest.as_ref()).await?;
                    }
                    found => return Ok(tx.done((ClaimOutcome::Gone, found.is_some()))),
                }
            }
            let claimed = db::jobs::claim_one(tx.session(), RENDER_PHOTO.name, id.as_uuid(), lease).await?;
            Ok(tx.done((claimed, false)))
        })
        .await?;
    if is_wrong {
        // Uploads never overwrite, so a wrong one would keep the right one out.
        tracing::info!(photo = %id, "upload differs from its declaration and is removed");
        app.storage.remove(id).await.context("an upload can't be removed")?;
    }
    Ok(claimed)
}
