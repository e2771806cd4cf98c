//! Work that comes by messages of SQS: what sends them, and what acts on them.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{
    sync::{Semaphore, mpsc},
    time::Instant,
};
use tokio_util::task::TaskTracker;

use crate::{
    app::{App, AppState},
    config::Place,
    db::{self, jobs::Found},
    domain::PhotoId,
    jobs::{
        queue::{self, Kind, Lane, Next},
        sqs::client::{BATCH, Message, Sqs},
        sqs::message::{self, Carried},
    },
    telemetry::metrics,
};
use crate::{
    jobs::{Outcome, PAUSE, do_job},
    services::uploads,
};

/// A job that is being sent is nobody else's for so long; a worker that dies over it holds it up for this.
const SENDING: Duration = Duration::from_secs(10);
/// How long a message that is done waits for others to be deleted with.
const GATHER: Duration = Duration::from_millis(200);

/// What becomes of a message; of several things in one, the last in this order.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It has nothing more to say.
    Done,
    /// It is laid aside, for this reason.
    Dead(String),
    /// It has to come again after this.
    Again(Duration),
}

/// How much later than its message a job is due by its row: never, where no message comes.
pub(crate) fn patience(app: &App, kind: Kind) -> Duration {
    let queue = app.queue.as_ref().filter(|_| kind.lane() == Lane::Work);
    queue.map_or(Duration::ZERO, Sqs::resend_after)
}

/// Sends what is due to the queue: the outbox of jobs. Ends once the app drains.
pub(crate) async fn relay(app: AppState, queue: Sqs) {
    while !app.draining.is_cancelled() {
        let rest = match send_due(&app, &queue).await {
            // There may be more.
            Ok(count) if count == BATCH => continue,
            Ok(_) => app.config.worker.poll_interval,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "jobs wait to be sent to the queue");
                PAUSE
            }
        };
        tokio::select! {
            () = app.draining.cancelled() => {}
            () = app.db.signals().next_job(Lane::Work) => {}
            () = tokio::time::sleep(rest) => {}
        }
    }
}

/// Sends some jobs that are due; answers how many were. A row stays what it is until somebody takes its message up, so
/// nothing is lost however this ends.
///
/// # Errors
/// The database's, or the queue's.
pub async fn send_due(app: &App, queue: &Sqs) -> anyhow::Result<usize> {
    let due = db::jobs::take_unsent(&app.db, Lane::Work, BATCH, SENDING).await?;
    if due.is_empty() {
        return Ok(0);
    }
    let bodies: Vec<String> = due.iter().map(|job| message::write(job.id, job.kind, job.subject)).collect();
    let taken = Box::pin(queue.send(&bodies)).await?;
    let ids: Vec<_> = taken.iter().filter_map(|n| due.get(*n)).map(|job| job.id).collect();
    let mut session = app.db.session().await?;
    db::jobs::note_sent(&mut session, &ids, queue.resend_after()).await?;
    Ok(due.len())
}

/// Takes messages in and acts on them, as many at a time as there is room to decode. Ends once the app drains.
pub(crate) async fn consume(app: AppState, queue: Sqs, tasks: TaskTracker) {
    let places = Arc::new(Semaphore::new(app.config.worker.concurrency));
    let (done, finished) = mpsc::channel(4 * BATCH);
    tasks.spawn(delete(queue.clone(), finished));
    while !app.draining.is_cancelled() {
        let most = tokio::select! {
            () = app.draining.cancelled() => return,
            most = room(&app, &places) => most,
        };
        // Waited for to its end, also when the app drains: what is given to a call that nobody waits for is hidden from all.
        match Box::pin(queue.receive(most, app.config.worker.lease)).await {
            Ok(messages) if app.draining.is_cancelled() => {
                for message in messages {
                    if let Err(error) = Box::pin(queue.hide(&message, Duration::ZERO)).await {
                        tracing::warn!(
                            error = error.advised(),
                            "a message that came late waits for its time to be over"
                        );
                    }
                }
            }
            Ok(messages) => {
                for message in messages {
                    let place = places.clone().acquire_owned().await.expect("never closed");
                    let (app, queue, done) = (app.clone(), queue.clone(), done.clone());
                    tasks.spawn(async move {
                        if act(&app, &queue, &message).await {
                            let _ = done.send(message.receipt).await;
                        }
                        drop(place);
                    });
                }
            }
            Err(error) => {
                tracing::warn!(error = error.advised(), "no work comes from the queue");
                tokio::select! {
                    () = app.draining.cancelled() => {}
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
        }
    }
}

/// Waits until something can be begun; how many can. What is taken in is hidden from others, so no more than that.
async fn room(app: &App, places: &Semaphore) -> usize {
    app.sandbox.room().await;
    let first = places.acquire().await.expect("never closed");
    let most = 1 + places.available_permits();
    drop(first);
    most
}

/// Acts on a message, which stays hidden meanwhile; whether it is to be deleted.
pub async fn act(app: &AppState, queue: &Sqs, message: &Message) -> bool {
    let fate = tokio::select! {
        fate = Box::pin(handle(app, &message.body, message.receives)) => fate,
        never = hide(app, queue, message) => never,
    };
    let outcome = match &fate {
        Fate::Done => Ok(true),
        Fate::Again(wait) => Box::pin(queue.hide(message, *wait)).await.map(|()| false),
        Fate::Dead(reason) => Box::pin(queue.bury(&message.body, reason)).await.map(|()| true),
    };
    outcome.unwrap_or_else(|error| {
        tracing::warn!(error = error.advised(), ?fate, "a message comes again by itself");
        false
    })
}

/// Keeps a message hidden while it is acted on, for ever.
async fn hide(app: &App, queue: &Sqs, message: &Message) -> Fate {
    loop {
        tokio::time::sleep(app.config.worker.lease / 3).await;
        if let Err(error) = Box::pin(queue.hide(message, app.config.worker.lease)).await {
            // Somebody else may be given it, and will find the job taken.
            tracing::debug!(%error, "a message does not stay hidden");
        }
    }
}

/// Deletes messages together, ten at a time or after a moment. One that is deleted too late comes again and does no harm.
async fn delete(queue: Sqs, mut finished: mpsc::Receiver<String>) {
    while let Some(first) = finished.recv().await {
        let (mut receipts, ends) = (vec![first], Instant::now() + GATHER);
        while receipts.len() < BATCH
            && let Ok(Some(next)) = tokio::time::timeout_at(ends, finished.recv()).await
        {
            receipts.push(next);
        }
        if let Err(error) = Box::pin(queue.delete(&receipts)).await {
            tracing::warn!(error = error.advised(), "messages that are done come again");
        }
    }
}

/// Does what a message calls for. `receives` is how often it was given to somebody.
pub async fn handle(app: &AppState, body: &str, receives: u32) -> Fate {
    let fate = match message::read(body, bucket(app)) {
        Err(why) => {
            tracing::error!(why, "a message that nobody can act on goes to the dead-letter queue");
            Fate::Dead(why)
        }
        Ok(carried) => match carry_out(app, carried).await {
            Ok(fate) => fate,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), receives, "a message has to come again");
                Fate::Again(queue::backoff(receives, &app.config.worker))
            }
        },
    };
    let word = match &fate {
        Fate::Done => "done",
        Fate::Again(_) => "again",
        Fate::Dead(_) => "dead",
    };
    metrics::SQS_MESSAGES.with(&[("outcome", word)]).increment(1);
    fate
}

fn bucket(app: &App) -> Option<&str> {
    match &app.config.storage.place {
        Place::S3(s3) => Some(&s3.bucket),
        Place::Files(_) => None,
    }
}

async fn carry_out(app: &AppState, carried: Carried) -> anyhow::Result<Fate> {
    match carried {
        Carried::Job { kind, subject, .. } => {
            let lease = app.config.worker.lease;
            let found = app
                .db
                .transaction(|mut tx| async move {
                    let found = db::jobs::claim_this(tx.session(), kind, subject, lease).await?;
                    Ok::<_, db::Error>(tx.done(found))
                })
                .await?;
            Ok(finish(app, found).await)
        }
        Carried::Uploaded(ids) => {
            let mut worst = Fate::Done;
            // In practice there is one.
            for id in ids {
                let found = accept(app, id).await?;
                worst = worst.max(finish(app, found).await);
            }
            Ok(worst)
        }
    }
}

/// Does a job that could be claimed. A message that finds it taken comes again when the other's lease would be over: it may be
/// the only one, and the other's try may fail.
async fn finish(app: &AppState, found: Found) -> Fate {
    let claim = match found {
        Found::Claimed(claim) => claim,
        Found::Taken => return Fate::Again(app.config.worker.lease),
        Found::Over => return Fate::Done,
    };
    match do_job(app, &claim).await {
        Outcome::Idle | Outcome::Done | Outcome::Lost | Outcome::Failed(Next::Later(_)) => Fate::Done,
        Outcome::GivenBack => Fate::Again(Duration::ZERO),
        Outcome::Failed(Next::Again(wait)) => Fate::Again(wait),
        Outcome::Failed(Next::Dead) => Fate::Dead(format!("job {}: every try failed", claim.id)),
    }
}

/// Notes that a photo's bytes are there, if they are those that were declared; claims the job that develops it.
async fn accept(app: &App, id: PhotoId) -> anyhow::Result<Found> {
    let lease = app.config.worker.lease;
    let mut session = app.db.session().await?;
    let known = db::photos::get(&mut session, id).await?;
    drop(session);
    let Some(known) = known else {
        tracing::debug!(photo = %id, "bytes of no photo are left to the sweep");
        return Ok(Found::Over);
    };
    let awaited = uploads::is_awaited(known.state);
    let found =
        if awaited { app.storage.measure_original(id).await.context("an upload can't be looked at")? } else { None };
    let (job, unfit) = app
        .db
        .transaction(|mut tx| async move {
            let Some(photo) = db::photos::lock(tx.session(), id).await? else {
                return Ok::<_, db::Error>(tx.done((Found::Over, false)));
            };
            if uploads::is_awaited(photo.state) {
                match found {
                    Some((bytes, digest)) if photo.fits(bytes, digest) => {
                        uploads::take_in(&mut tx, &photo, digest.as_ref()).await?;
                    }
                    found => return Ok(tx.done((Found::Over, found.is_some()))),
                }
            }
            let job = db::jobs::claim_this(tx.session(), Kind::Develop, id.as_uuid(), lease).await?;
            Ok(tx.done((job, false)))
        })
        .await?;
    if unfit {
        // Left there, it would keep the right bytes out: nothing is overwritten.
        tracing::info!(photo = %id, "an upload is not what was declared and is removed");
        app.storage.remove(id).await.context("an upload can't be removed")?;
    }
    Ok(job)
}
