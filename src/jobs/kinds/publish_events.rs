//! Publishes an album's events from the events table (the outbox), at least once and in order.

use crate::{
    app::AppState,
    db::{
        self,
        jobs::{Claim, PUBLISH_EVENTS, Queue},
    },
    domain::AlbumId,
    jobs::{
        job::{Completion, Job, complete_in},
        retry::Retry,
    },
    telemetry::metrics,
};

/// Events read at a time.
const BATCH: u32 = 50;

pub(crate) struct PublishEvents;

impl Job for PublishEvents {
    const NAME: &'static str = PUBLISH_EVENTS.name;
    const FORMER_NAMES: &'static [&'static str] = &["announce"];
    const QUEUE: Queue = PUBLISH_EVENTS.queue;
    /// Later events wait for earlier ones.
    const RETRY: Retry = Retry::Forever;

    async fn run(app: &AppState, claim: &Claim) -> anyhow::Result<Completion> {
        let id = AlbumId::from(claim.subject);
        loop {
            let mut session = app.db.session().await?;
            let mut published = db::events::announced(&mut session, id).await?.unwrap_or_default();
            let events = db::events::after(&mut session, id, published, BATCH).await?;
            drop(session);
            for event in &events {
                if let Err(error) = app.notifier.notify(id, event).await {
                    metrics::NOTIFICATION_FAILURES.increment(1);
                    return Err(error);
                }
                metrics::NOTIFICATIONS_SENT.increment(1);
                published = event.seq;
                // Recorded one by one, so that a failure does not publish earlier events again.
                let mut session = app.db.session().await?;
                db::events::set_announced(&mut session, id, published).await?;
            }
            if let Some(completion) = complete_if_all_published(app, claim, id, published).await? {
                return Ok(completion);
            }
        }
    }
}

/// A transaction that adds an event finds this job and enqueues none. So the job ends only while the album is locked
/// and has no later event.
async fn complete_if_all_published(
    app: &AppState,
    claim: &Claim,
    id: AlbumId,
    published: u64,
) -> anyhow::Result<Option<Completion>> {
    app.db
        .transaction(|mut tx| async move {
            let album = db::albums::lock(tx.session(), id).await?;
            if album.is_some_and(|album| album.last_seq > published) {
                return Ok(tx.done(None));
            }
            let completion = complete_in(&mut tx, claim).await?;
            Ok(tx.done(Some(completion)))
        })
        .await
}
