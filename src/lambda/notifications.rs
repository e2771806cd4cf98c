//! The scheduled function: runs the jobs of the outbox queue, sends due jobs to SQS, and reconciles the rows. Storage
//! is reconciled by instances only. The content of the event is ignored. It is safe to run at any time, beside workers
//! too.

use serde_json::{Value, json};

use crate::{
    app::{App, AppState},
    db::jobs::Queue,
    jobs::{
        gauges,
        reconciler::{self, Report},
        runner::{self, JobOutcome},
        sqs::{client::BATCH, consumer},
    },
    resilience::deadline,
};

/// Works until nothing is due or the time is over. Returns the counts.
pub(crate) async fn run(app: &AppState) -> anyhow::Result<Value> {
    // At the same time, so that an unavailable topic or queue delays only its own part.
    let (published, sent, report) = tokio::join!(run_outbox_jobs(app), send_jobs(app), reconcile(app));
    // After the work, so that the gauges show what is left.
    gauges::record_gauges(app).await?;
    let ((done, failed), sent) = (published?, sent?);
    if let Some(report) = report?.filter(|report| *report != Report::default()) {
        tracing::info!(?report, "reconciled");
    }
    Ok(json!({ "announcements": done, "failed": failed, "jobs_sent": sent }))
}

/// Returns how many jobs are done, and how many failed and will be retried.
async fn run_outbox_jobs(app: &AppState) -> anyhow::Result<(u32, u32)> {
    let (mut done, mut failed) = (0, 0);
    while deadline::has_time_left() {
        match runner::run_next_in(app, Queue::Outbox).await? {
            JobOutcome::Idle | JobOutcome::Released => break,
            JobOutcome::Failed(_) => failed += 1,
            JobOutcome::Done | JobOutcome::LeaseLost => done += 1,
        }
    }
    Ok((done, failed))
}

async fn send_jobs(app: &App) -> anyhow::Result<usize> {
    let Some(sqs) = &app.queue else { return Ok(0) };
    let mut total = 0;
    while deadline::has_time_left() {
        let count = consumer::send_due_jobs(app, sqs).await?;
        total += count;
        if count < BATCH {
            break;
        }
    }
    Ok(total)
}

/// Returns None when the time was over; the next run continues.
async fn reconcile(app: &App) -> anyhow::Result<Option<Report>> {
    tokio::select! {
        report = reconciler::run(app, false) => report.map(Some),
        () = deadline::wait_until_near() => Ok(None),
    }
}
