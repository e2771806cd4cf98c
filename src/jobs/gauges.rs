//! Gauges read from the database: queue depth, dead jobs and lags.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::{
    app::{App, AppState},
    db,
    telemetry::metrics,
};

/// One query reads the whole jobs table.
const INTERVAL: Duration = Duration::from_secs(10);

pub(crate) async fn record_periodically(app: AppState) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = app.draining.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if let Err(error) = record_gauges(&app).await {
            tracing::debug!(%error, "reading the job gauges failed");
        }
    }
}

pub async fn record_gauges(app: &App) -> db::Result<()> {
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
