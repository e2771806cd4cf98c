//! Metrics that are levels of the database: how much waits, and for how long. Each process that works tells them.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::{
    app::{App, AppState},
    db,
    telemetry::metrics,
};

/// How often they are looked up. One look reads the whole table of jobs.
const EACH: Duration = Duration::from_secs(10);

pub(crate) async fn timer(app: AppState) {
    let mut ticks = interval(EACH);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = app.draining.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if let Err(error) = measure(&app).await {
            tracing::debug!(%error, "jobs can't be counted; the next look will do");
        }
    }
}

/// Looks them up now.
///
/// # Errors
/// The database's.
pub async fn measure(app: &App) -> db::Result<()> {
    let mut session = app.db.session().await?;
    let (live, dead, oldest) = db::jobs::depth(&mut session).await?;
    let lag = db::events::lag(&mut session).await?;
    if app.read_model.is_some() {
        metrics::READ_MODEL_LAG.set(db::read_model::lag(&mut session).await?);
    }
    #[expect(clippy::cast_precision_loss, reason = "counts for a graph")]
    {
        metrics::JOB_QUEUE_DEPTH.set(live as f64);
        metrics::JOBS_DEAD_LETTERED.set(dead as f64);
    }
    metrics::JOB_QUEUE_OLDEST_AGE.set(oldest);
    metrics::OUTBOX_LAG.set(lag);
    Ok(())
}
