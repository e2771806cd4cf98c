//! The function `announce`: both outboxes and the sweep, on a schedule. Events go to the topic and the webhook, jobs to the queue;
//! the sweep looks over the rows for what was left behind, and leaves the whole of storage to an instance.
//!
//! Any event will do: none says anything that counts. It may run as often as one likes, and beside workers.

use serde_json::{Value, json};

use crate::{
    app::{App, AppState},
    jobs::{self, Outcome, reconciler::Report, sqs::client::BATCH, sqs::consumer},
    resilience::deadline,
};

/// Sends what is due until nothing is, or the time is over. Answers how much of it there was.
pub(crate) async fn relay(app: &AppState) -> anyhow::Result<Value> {
    // None waits for another: a topic or queue that is away, or silent, holds up no job, and no sweep.
    let (announcements, jobs, swept) = tokio::join!(announce(app), send_jobs(app), sweep(app));
    // What still waits then is what others wait for.
    jobs::gauges::measure(app).await?;
    let ((done, failed), sent) = (announcements?, jobs?);
    if let Some(report) = swept?.filter(|report| *report != Report::default()) {
        tracing::info!(?report, "swept");
    }
    Ok(json!({ "announcements": done, "failed": failed, "jobs_sent": sent }))
}

/// Works off what is due of announcements; how many jobs are done, and how many failed and will be tried again.
async fn announce(app: &AppState) -> anyhow::Result<(u32, u32)> {
    let (mut done, mut failed) = (0, 0);
    while deadline::is_ahead() {
        match jobs::announce_one(app).await? {
            Outcome::Idle | Outcome::GivenBack => break,
            Outcome::Failed(_) => failed += 1,
            Outcome::Done | Outcome::Lost => done += 1,
        }
    }
    Ok((done, failed))
}

/// Sweeps; cut short it goes on the next time.
async fn sweep(app: &App) -> anyhow::Result<Option<Report>> {
    tokio::select! {
        swept = jobs::reconciler::run(app, false) => swept.map(Some),
        () = deadline::is_near() => Ok(None),
    }
}

/// Sends jobs that are due to the queue, if there is one; how many.
async fn send_jobs(app: &App) -> anyhow::Result<usize> {
    let Some(queue) = &app.queue else { return Ok(0) };
    let mut all = 0;
    while deadline::is_ahead() {
        let count = consumer::send_due(app, queue).await?;
        all += count;
        if count < BATCH {
            break;
        }
    }
    Ok(all)
}
