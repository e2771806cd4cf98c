//! Claims jobs, runs them under a renewed lease, and records failed attempts.

use std::time::Duration;

use anyhow::Context;
use opentelemetry::KeyValue;
use tokio::time::Instant;
use tracing::{Instrument, info_span};

use super::{
    job::Completion,
    registry::{self, Descriptor},
    retry::{NextAttempt, Retry},
};
use crate::{
    app::{App, AppState},
    aws, db,
    db::jobs::{Claim, Queue},
    jobs::sqs::client::Sqs,
    resilience::deadline,
    telemetry::{
        Scope, Trace, metrics,
        spans::{self, Span, SpanKind},
    },
};

/// How often an idle worker polls in the time after a wake-up or a job.
const BUSY_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The pause of a worker after the database or SQS has failed.
pub(crate) const ERROR_PAUSE: Duration = Duration::from_secs(2);

/// The result of one step of a worker.
#[derive(Debug, PartialEq, Eq)]
pub enum JobOutcome {
    /// No job was due.
    Idle,
    Done,
    /// Another worker has the job now; this attempt wrote nothing.
    LeaseLost,
    Failed(NextAttempt),
    /// The process is stopping and ended the lease early.
    Released,
}

/// Runs the jobs of a queue one after another until the process drains.
pub(crate) async fn work(app: AppState, queue: Queue) {
    // There is no wake-up for a job that another transaction had locked for a moment, that failed, or whose lease
    // expired. So for two leases after a wake-up or a job the worker polls more often.
    let mut last_busy = Instant::now();
    while !app.draining.is_cancelled() {
        let poll_interval = app.config.worker.poll_interval;
        let pause = match run_next_in(&app, queue).await {
            Ok(JobOutcome::Idle) if last_busy.elapsed() <= app.config.worker.visibility_timeout * 2 => {
                BUSY_POLL_INTERVAL.min(poll_interval)
            }
            Ok(JobOutcome::Idle) => poll_interval,
            Ok(_) => {
                last_busy = Instant::now();
                continue;
            }
            Err(error) => {
                tracing::warn!(%error, "claiming the next job failed");
                ERROR_PAUSE
            }
        };
        tokio::select! {
            () = app.draining.cancelled() => {}
            () = app.db.wakeups().wait_for_job(queue) => last_busy = Instant::now(),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Claims and runs one job of any queue. Fails only before a job is claimed.
pub async fn run_next(app: &AppState) -> db::Result<JobOutcome> {
    match run_next_in(app, Queue::Default).await? {
        JobOutcome::Idle => run_next_in(app, Queue::Outbox).await,
        outcome => Ok(outcome),
    }
}

/// Claims and runs one job of a queue. Fails only before a job is claimed.
pub async fn run_next_in(app: &AppState, queue: Queue) -> db::Result<JobOutcome> {
    match db::jobs::claim_next(&app.db, queue, app.config.worker.visibility_timeout).await? {
        Some(claim) => Ok(run_claimed(app, &claim).await),
        None => Ok(JobOutcome::Idle),
    }
}

/// Runs a claimed job and records its metrics and span.
pub(crate) async fn run_claimed(app: &AppState, claim: &Claim) -> JobOutcome {
    let job = registry::find(&claim.kind);
    let kind = job.map_or("unknown", |job| job.name);
    let trace = claim.trace.map_or_else(Trace::begin, |parent| parent.child());
    let span = info_span!("job", kind, subject = %claim.subject, attempt = claim.attempt, trace_id = trace.id());
    let started = Instant::now();
    // Boxed, so that an idle worker is small.
    let outcome = Scope::new(trace).enter(Box::pin(attempt(app, job, claim))).instrument(span).await;
    let label = match &outcome {
        JobOutcome::Idle | JobOutcome::Done => "done",
        JobOutcome::LeaseLost => "lease_lost",
        JobOutcome::Failed(NextAttempt::DeadLetter) => "dead",
        JobOutcome::Failed(_) => "failed",
        JobOutcome::Released => "released",
    };
    metrics::JOB_DURATION.with(&[("kind", kind)]).record(started.elapsed().as_secs_f64());
    metrics::JOB_RUNS.with(&[("kind", kind), ("outcome", label)]).increment(1);
    spans::record(&trace, || Span {
        name: format!("job {kind}"),
        kind: SpanKind::Consumer,
        duration: started.elapsed(),
        failed: matches!(outcome, JobOutcome::Failed(_)),
        attributes: vec![
            KeyValue::new("darkroom.outcome", label),
            KeyValue::new("darkroom.subject", claim.subject.to_string()),
            KeyValue::new("darkroom.attempt", i64::from(claim.attempt)),
        ],
    });
    if matches!(outcome, JobOutcome::Done | JobOutcome::Failed(NextAttempt::DeadLetter)) {
        metrics::JOB_ATTEMPTS.with(&[("kind", kind)]).record(f64::from(claim.attempt));
    }
    outcome
}

async fn attempt(app: &AppState, job: Option<&Descriptor>, claim: &Claim) -> JobOutcome {
    let started = Instant::now();
    let completion = tokio::select! {
        completion = run(app, job, claim) => completion,
        () = renew_lease(app, claim) => Ok(Completion::LeaseLost),
        () = should_stop(app) => {
            let resumes = job.is_some_and(|job| job.resumes);
            let counts = !resumes && !app.draining.is_cancelled() && deadline::is_half_spent_since(started);
            tracing::info!(counts, "job released, the process is stopping");
            if let Err(error) = release(app, job, claim, counts).await {
                tracing::warn!(%error, "releasing a job failed; it is due when its lease expires");
            }
            return JobOutcome::Released;
        }
    };
    match completion {
        Ok(Completion::Done) => JobOutcome::Done,
        Ok(Completion::LeaseLost) => {
            tracing::info!("lease lost, another worker has the job");
            JobOutcome::LeaseLost
        }
        Err(error) => JobOutcome::Failed(record_failure(app, job, claim, &error).await),
    }
}

async fn run(app: &AppState, job: Option<&Descriptor>, claim: &Claim) -> anyhow::Result<Completion> {
    let job = job.with_context(|| format!("unknown job {:?}: was it enqueued by a newer release?", claim.kind))?;
    // An attempt that was killed with its process recorded nothing, so the limit is checked again before the next one.
    if job.retry.is_exhausted(claim.attempt - 1, &app.config.worker) {
        (job.run_exhausted)(app, claim).await
    } else {
        (job.run)(app, claim).await
    }
}

/// Renews the lease until it is lost.
async fn renew_lease(app: &App, claim: &Claim) {
    let lease = app.config.worker.visibility_timeout;
    loop {
        tokio::time::sleep(lease / 3).await;
        let renewed = match app.db.session().await {
            Ok(mut session) => db::jobs::renew_lease(&mut session, claim, lease).await,
            Err(error) => Err(error),
        };
        match renewed {
            Ok(true) => {}
            Ok(false) => return,
            // The next renewal may succeed before the lease expires. If not, whatever the attempt writes has no effect.
            Err(error) => tracing::warn!(%error, kind = claim.kind, "renewing a lease failed"),
        }
    }
}

/// Waits until an unfinished job must be released: after 80 % of the drain timeout, or near the end of a Lambda
/// invocation.
async fn should_stop(app: &App) {
    let drained = async {
        app.draining.cancelled().await;
        tokio::time::sleep(app.config.http.drain_timeout.mul_f64(0.8)).await;
    };
    tokio::select! {
        () = drained => {}
        () = deadline::wait_until_near() => {}
    }
}

async fn release(app: &App, job: Option<&Descriptor>, claim: &Claim, counts: bool) -> db::Result<()> {
    let mut session = app.db.session().await?;
    db::jobs::release(&mut session, claim, redelivery_delay(app, job), counts, None).await
}

/// Records a failed attempt. If that fails too, the job is due when its lease expires.
async fn record_failure(app: &App, job: Option<&Descriptor>, claim: &Claim, error: &anyhow::Error) -> NextAttempt {
    // An attempt that met an outage does not count, however long the outage lasts.
    let counts = !aws::is_aws_error(error);
    let error = aws::with_hint(error);
    let retry = job.map_or(Retry::Limited, |job| job.retry);
    let next = retry.next_attempt(claim.attempt, counts, &app.config.worker);
    let recorded = async {
        let mut session = app.db.session().await?;
        match next {
            NextAttempt::After(delay) => {
                let delay = delay + redelivery_delay(app, job);
                db::jobs::release(&mut session, claim, delay, true, Some(&error)).await
            }
            // Without the redelivery delay: SQS moves a message that was received too often to its dead-letter queue,
            // so the row is due first and sends a new message.
            NextAttempt::UncountedAfter(delay) => {
                db::jobs::release(&mut session, claim, delay, false, Some(&error)).await
            }
            NextAttempt::DeadLetter => db::jobs::dead_letter(&mut session, claim, &error).await,
        }
    };
    let next = match recorded.await {
        Ok(()) => next,
        Err(_) => NextAttempt::After(app.config.worker.visibility_timeout),
    };
    match next {
        NextAttempt::After(delay) | NextAttempt::UncountedAfter(delay) => {
            tracing::warn!(error, ?delay, "job failed and will be retried");
        }
        NextAttempt::DeadLetter => tracing::error!(error, "job is dead; `darkroom jobs retry` makes it due again"),
    }
    next
}

/// How much later than its SQS message a job is due by its row; zero for jobs that SQS does not carry.
fn redelivery_delay(app: &App, job: Option<&Descriptor>) -> Duration {
    let is_carried = job.is_none_or(|job| job.queue == Queue::Default);
    app.queue.as_ref().filter(|_| is_carried).map_or(Duration::ZERO, Sqs::redelivery_delay)
}
