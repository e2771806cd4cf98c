//! What every job implements.

use anyhow::bail;
use uuid::Uuid;

use super::retry::Retry;
use crate::{
    app::{App, AppState},
    db::{
        self, Tx,
        jobs::{Claim, Queue},
    },
};

/// How a job ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Completion {
    Done,
    /// The lease was lost, so nothing was written.
    LeaseLost,
}

/// One kind of background work. It runs at least once and possibly twice at the same time, so it must be idempotent. It
/// ends in the transaction that writes its result, which also deletes the job ([`complete_in`]).
pub(crate) trait Job: 'static {
    /// The name in the jobs table, in SQS messages, logs and metrics.
    const NAME: &'static str;
    /// Names of earlier releases: their rows and messages may still be waiting.
    const FORMER_NAMES: &'static [&'static str] = &[];
    const QUEUE: Queue;
    const RETRY: Retry;
    /// Whether an attempt continues where the one before it was cut off. An attempt that does not, and that was cut off
    /// by the end of a Lambda invocation, counts: the next one would be cut off too.
    const RESUMES: bool = false;

    /// An error leads to another attempt, as [`Job::RETRY`] allows.
    fn run(app: &AppState, claim: &Claim) -> impl Future<Output = anyhow::Result<Completion>> + Send;

    /// Brings the subject to a final state when an operator drops the dead job. The transaction deletes the job. The
    /// default does nothing, for jobs that the reconciler enqueues again or whose work it does.
    fn abandon(_tx: &mut Tx, _subject: Uuid) -> impl Future<Output = db::Result<()>> + Send {
        async { Ok(()) }
    }

    /// Runs instead of [`Job::run`] when every attempt ended without a result, as when its process was killed. An error
    /// dead-letters the job.
    fn run_exhausted(_app: &AppState, _claim: &Claim) -> impl Future<Output = anyhow::Result<Completion>> + Send {
        async { bail!("every attempt ended without a result: the worker was killed or its lease expired") }
    }
}

/// Deletes the finished job in the transaction that writes its result. On [`Completion::LeaseLost`] the caller must not
/// commit anything else.
pub(crate) async fn complete_in(tx: &mut Tx, claim: &Claim) -> db::Result<Completion> {
    let is_ours = db::jobs::complete(tx.session(), claim).await?;
    Ok(if is_ours { Completion::Done } else { Completion::LeaseLost })
}

/// Deletes a finished job whose result needs no transaction.
pub(crate) async fn complete(app: &App, claim: &Claim) -> anyhow::Result<Completion> {
    let mut session = app.db.session().await?;
    let is_ours = db::jobs::complete(&mut session, claim).await?;
    Ok(if is_ours { Completion::Done } else { Completion::LeaseLost })
}
