//! The worker: claims jobs and does them, at least once each, so every job may run twice without harm.
//!
//! A job ends in one transaction with what it has changed; whoever lost the lease meanwhile changes nothing.

mod dead_letter;
pub mod gauges;
pub mod kinds;
pub mod queue;
pub mod reconciler;
pub mod sqs;

use std::time::Duration;

pub use dead_letter::give_up;
use kinds::{edit, purge, render};

use opentelemetry::KeyValue;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, info_span};

use crate::{
    app::{App, AppState},
    aws, db,
    jobs::{
        queue::{Claim, Kind, Lane, Next},
        sqs::consumer,
    },
    resilience::deadline,
    telemetry::{
        Scope, Trace, metrics,
        spans::{self, Span, SpanKind},
    },
};

/// Workers that only announce and project. One album has one of each at a time, so they wait for different albums.
const ANNOUNCERS: usize = 2;
/// How often an idle worker looks for a job that no bell rings for, soon after others.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The longest pause of a worker whose database does not answer.
const PAUSE: Duration = Duration::from_secs(2);

/// What one step came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was due.
    Idle,
    /// A job is done.
    Done,
    /// Another worker has it now; what this one did has no effect.
    Lost,
    /// It failed.
    Failed(Next),
    /// The worker is to stop and gave it back.
    GivenBack,
}

/// How a job ended that did not fail.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    Done,
    Lost,
}

/// Starts the workers of this process and the timers of the sweep and of levels; they end once the app drains.
pub fn start(app: &AppState, tasks: &TaskTracker) {
    if let Some(queue) = &app.queue {
        tasks.spawn(consumer::consume(app.clone(), queue.clone(), tasks.clone()));
        tasks.spawn(consumer::relay(app.clone(), queue.clone()));
    } else {
        for _ in 0..app.config.worker.concurrency {
            tasks.spawn(work(app.clone(), Lane::Work));
        }
    }
    for _ in 0..ANNOUNCERS {
        tasks.spawn(work(app.clone(), Lane::Announce));
    }
    tasks.spawn(reconciler::timer(app.clone()));
    tasks.spawn(gauges::timer(app.clone()));
}

async fn work(app: AppState, lane: Lane) {
    // No bell rings for a job that another transaction held locked for a moment, that failed, or whose lease was lost: for
    // two leases' time after a bell or a job it is looked for every second, however seldom else.
    let mut lively = Instant::now();
    while !app.draining.is_cancelled() {
        let rest = match step_in(&app, lane).await {
            Ok(Outcome::Idle) if lively.elapsed() <= app.config.worker.lease * 2 => {
                LOOK_AGAIN.min(app.config.worker.poll_interval)
            }
            Ok(Outcome::Idle) => app.config.worker.poll_interval,
            Ok(_) => {
                lively = Instant::now();
                continue;
            }
            Err(error) => {
                tracing::warn!(%error, "the next job can't be claimed");
                PAUSE
            }
        };
        tokio::select! {
            () = app.draining.cancelled() => {}
            () = app.db.signals().next_job(lane) => lively = Instant::now(),
            () = tokio::time::sleep(rest) => {}
        }
    }
}

/// Claims one job of any lane and does it.
///
/// # Errors
/// The database's, before a job was claimed.
pub async fn step(app: &AppState) -> db::Result<Outcome> {
    match step_in(app, Lane::Work).await? {
        Outcome::Idle => step_in(app, Lane::Announce).await,
        outcome => Ok(outcome),
    }
}

async fn step_in(app: &AppState, lane: Lane) -> db::Result<Outcome> {
    let Some(claim) = queue::claim(&app.db, lane, &app.config.worker).await? else { return Ok(Outcome::Idle) };
    Ok(do_job(app, &claim).await)
}

/// Claims one job of announcements and does it.
///
/// # Errors
/// The database's, before a job was claimed.
pub async fn announce_one(app: &AppState) -> db::Result<Outcome> {
    step_in(app, Lane::Announce).await
}

/// Does a job that is claimed, and gives it back if it fails.
async fn do_job(app: &AppState, claim: &Claim) -> Outcome {
    let kind = claim.kind.as_str();
    let trace = claim.trace.map_or_else(Trace::begin, |above| above.child());
    let span = info_span!("job", kind, subject = %claim.subject, attempt = claim.attempt, trace_id = trace.id());
    let started = Instant::now();
    // Boxed: idle workers need not hold room for all that a job does.
    let outcome = Scope::new(trace).enter(Box::pin(attempt(app, claim))).instrument(span).await;
    let word = match &outcome {
        Outcome::Idle | Outcome::Done => "done",
        Outcome::Lost => "lost",
        Outcome::Failed(Next::Again(_) | Next::Later(_)) => "failed",
        Outcome::Failed(Next::Dead) => "dead",
        Outcome::GivenBack => "given_back",
    };
    metrics::JOB_DURATION.with(&[("kind", kind)]).record(started.elapsed().as_secs_f64());
    metrics::JOB_RUNS.with(&[("kind", kind), ("outcome", word)]).increment(1);
    spans::record(&trace, || Span {
        name: format!("job {kind}"),
        kind: SpanKind::Consumer,
        took: started.elapsed(),
        failed: matches!(outcome, Outcome::Failed(_)),
        attributes: vec![
            KeyValue::new("darkroom.outcome", word),
            KeyValue::new("darkroom.subject", claim.subject.to_string()),
            KeyValue::new("darkroom.attempt", i64::from(claim.attempt)),
        ],
    });
    if matches!(outcome, Outcome::Done | Outcome::Failed(Next::Dead)) {
        metrics::JOB_ATTEMPTS.with(&[("kind", kind)]).record(f64::from(claim.attempt));
    }
    outcome
}

async fn attempt(app: &AppState, claim: &Claim) -> Outcome {
    // A try that ends with its process tells nobody; only the next claim shows that there were too many.
    let patience = consumer::patience(app, claim.kind);
    let begun = Instant::now();
    let spent = claim.attempt > app.config.worker.max_attempts && !queue::goes_on_for_ever(claim.kind);
    let outcome = tokio::select! {
        outcome = perform(app, claim), if !spent => outcome,
        outcome = exhausted(app, claim), if spent => outcome,
        () = queue::keep(&app.db, claim, &app.config.worker) => Ok(End::Lost),
        () = time_to_stop(app) => {
            tracing::info!("given back: the worker stops");
            // A job that takes more than a whole invocation would go round for ever; one that had little of it is not to blame, nor
            // is one that goes on where it was cut off.
            let would_begin_anew = claim.kind != Kind::PurgeAlbum;
            let counts = would_begin_anew && !app.draining.is_cancelled() && deadline::had_half_since(begun);
            if let Err(error) = queue::give_back(&app.db, claim, patience, counts).await {
                tracing::warn!(%error, "a job comes back when its lease ends");
            }
            return Outcome::GivenBack;
        }
    };
    match outcome {
        Ok(End::Done) => Outcome::Done,
        Ok(End::Lost) => {
            tracing::info!("another worker has the job now");
            Outcome::Lost
        }
        Err(error) => {
            // An outage is not the job's fault, however long it lasts.
            let counts = !aws::is_away(&error);
            let error = aws::advised(&error);
            let next = queue::failed(&app.db, claim, &error, &app.config.worker, patience, counts).await;
            let next = next.unwrap_or(Next::Again(app.config.worker.lease));
            match next {
                Next::Again(wait) | Next::Later(wait) => {
                    tracing::warn!(error, ?wait, "a job failed and will be tried again");
                }
                Next::Dead => tracing::error!(error, "a job is dead; `darkroom jobs retry` puts it back"),
            }
            Outcome::Failed(next)
        }
    }
}

/// What becomes of a job whose tries all ended with their process.
async fn exhausted(app: &AppState, claim: &Claim) -> anyhow::Result<End> {
    if claim.kind == Kind::Edit {
        return edit::exhausted(app, claim).await;
    }
    anyhow::bail!("every try ended without a word: its worker was killed, or took longer than its lease")
}

/// Jobs under way get most of the drain's time, or of the invocation's in a function; the rest is for giving them back.
async fn time_to_stop(app: &App) {
    let drained = async {
        app.draining.cancelled().await;
        tokio::time::sleep(app.config.http.drain_timeout.mul_f64(0.8)).await;
    };
    tokio::select! {
        () = drained => {}
        () = deadline::is_near() => {}
    }
}

async fn perform(app: &AppState, claim: &Claim) -> anyhow::Result<End> {
    match claim.kind {
        Kind::Develop => render::run(app, claim).await,
        Kind::Edit => edit::run(app, claim).await,
        Kind::PurgePhoto => purge::photo(app, claim).await,
        Kind::PurgeAlbum => purge::album(app, claim).await,
        Kind::Announce => kinds::publish::run(app, claim).await,
        Kind::Project => kinds::read_model::run(app, claim).await,
    }
}

/// Ends a job that had nothing to change.
async fn complete(app: &App, claim: &Claim) -> anyhow::Result<End> {
    let mut session = app.db.session().await?;
    Ok(if db::jobs::complete(&mut session, claim).await? { End::Done } else { End::Lost })
}
