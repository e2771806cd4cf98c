//! The job that announces an album's events: the outbox relay. At least once, in order.

use crate::jobs::End;
use crate::{app::AppState, db, domain::AlbumId, jobs::queue::Claim, telemetry::metrics};

/// How many events are read at a time.
const BATCH: u32 = 50;

pub(crate) async fn run(app: &AppState, claim: &Claim) -> anyhow::Result<End> {
    let id = AlbumId::from(claim.subject);
    loop {
        let mut session = app.db.session().await?;
        let mut announced = db::events::announced(&mut session, id).await?.unwrap_or_default();
        let events = db::events::after(&mut session, id, announced, BATCH).await?;
        drop(session);
        for event in &events {
            if let Err(error) = app.announcer.announce(id, event).await {
                metrics::NOTIFICATION_FAILURES.increment(1);
                return Err(error);
            }
            metrics::NOTIFICATIONS_SENT.increment(1);
            announced = event.seq;
            // Noted one by one: after a failure none that arrived is sent again.
            let mut session = app.db.session().await?;
            db::events::set_announced(&mut session, id, announced).await?;
        }
        if let Some(end) = complete_if_all(app, claim, id, announced).await? {
            return Ok(end);
        }
    }
}

/// An event that commits meanwhile finds this job still there and adds none, so the job may end only while the
/// album is locked and has no later number.
async fn complete_if_all(app: &AppState, claim: &Claim, id: AlbumId, announced: u64) -> anyhow::Result<Option<End>> {
    app.db
        .transaction(|mut tx| async move {
            if let Some(album) = db::albums::lock(tx.session(), id).await?
                && album.last_seq > announced
            {
                return Ok(tx.done(None));
            }
            let end = if db::jobs::complete(tx.session(), claim).await? { End::Done } else { End::Lost };
            Ok(tx.done(Some(end)))
        })
        .await
}
