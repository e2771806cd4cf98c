//! Background jobs. Each runs at least once and is idempotent.
//!
//! A job is a row of the jobs table from the transaction that enqueues it to the transaction that writes its result.
//! Workers find due rows by polling and by wake-ups. With SQS the rows of the default queue are sent as messages, and
//! the row stays authoritative: a message only triggers an attempt, so a duplicate, late or lost one does no harm.
//!
//! | module | contents |
//! |---|---|
//! | `job` | the [`Job`](job::Job) trait |
//! | `registry` | the list of all jobs |
//! | `kinds` | the jobs, one file each |
//! | [`runner`] | claims and runs jobs under a lease |
//! | [`retry`] | retry policy and backoff |
//! | [`sqs`] | sends jobs to SQS; acts on its messages and on S3 notifications |
//! | [`reconciler`] | repairs inconsistencies |
//! | [`gauges`] | queue depth and lag metrics |

pub mod gauges;
mod job;
pub mod kinds;
pub mod reconciler;
mod registry;
pub mod retry;
pub mod runner;
pub mod sqs;

use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::{
    app::AppState,
    db::{self, Db, jobs::Queue},
    jobs::sqs::consumer,
};

/// Workers of the outbox queue. An album's events are published by one of them at a time.
const OUTBOX_WORKERS: usize = 2;

/// Starts the workers and timers of this process; they end once the app drains.
pub fn start(app: &AppState, tasks: &TaskTracker) {
    if let Some(queue) = &app.queue {
        tasks.spawn(consumer::consume(app.clone(), queue.clone(), tasks.clone()));
        tasks.spawn(consumer::send_jobs(app.clone(), queue.clone()));
    } else {
        for _ in 0..app.config.worker.concurrency {
            tasks.spawn(runner::work(app.clone(), Queue::Default));
        }
    }
    for _ in 0..OUTBOX_WORKERS {
        tasks.spawn(runner::work(app.clone(), Queue::Outbox));
    }
    tasks.spawn(reconciler::run_periodically(app.clone()));
    tasks.spawn(gauges::record_periodically(app.clone()));
}

/// Drops a dead job and brings its subject to a final state. Returns false when no dead job has this id.
pub async fn drop_dead_job(db: &Db, id: Uuid) -> db::Result<bool> {
    db.transaction(|mut tx| async move {
        if let Some((kind, subject)) = db::jobs::get_dead(tx.session(), id).await?
            && let Some(job) = registry::find(&kind)
        {
            (job.abandon)(&mut tx, subject).await?;
        }
        let dropped = db::jobs::delete_dead(tx.session(), id).await?;
        Ok(tx.done(dropped))
    })
    .await
}
