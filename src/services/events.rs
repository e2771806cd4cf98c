//! Events of an album, with a long poll.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{Error, Result, access::AlbumContext};
use crate::{
    app::{App, AppState},
    db::{self, Db},
    domain::{Event, EventKind},
    resilience::deadline,
};

/// The most events that one query reads.
const PAGE_SIZE: u32 = 200;
/// How often followed albums are read for events that other processes committed.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The events after a number.
#[derive(Debug)]
pub struct EventPage {
    /// What the caller may see, with the kind that the caller sees.
    pub events: Vec<(EventKind, Event)>,
    /// The number of the last event that was read, seen or not.
    pub last: u64,
}

/// The events after number `after`. Without any, waits up to `wait` for one.
pub async fn list(app: &App, context: &AlbumContext, after: u64, wait: Duration) -> Result<EventPage> {
    if !context.access.may_follow() {
        return Err(Error::Forbidden("this invite does not show the album's events"));
    }
    let wait_ends = Instant::now() + wait;
    // A Lambda invocation may have less time than the gateway gives.
    let near_deadline = deadline::wait_until_near();
    tokio::pin!(near_deadline);
    // A drain ends the waits. One that begins during the drain ends when the listener closes: ended at once, its client
    // would come back at once.
    let drained = if app.draining.is_cancelled() { &app.closing } else { &app.draining };
    // Follows before the first read, so that no event in between is missed.
    let mut follower = (!wait.is_zero()).then(|| app.db.wakeups().follow(context.album.id, context.album.last_seq));
    let mut page = EventPage { events: Vec::new(), last: after };
    let mut has_read = false;
    loop {
        let read = read_next(&app.db, context, &mut page).await;
        // Events that the caller may not see are skipped one query at a time: an album may have a million of them.
        if matches!(read, Ok(true)) || !page.events.is_empty() {
            return Ok(page);
        }
        let until = match &read {
            Ok(_) => wait_ends,
            // A waiting client keeps waiting through an outage: refused, all of them would come back at once.
            Err(Error::Database(db::Error::Unavailable(_) | db::Error::NoCredentials(_))) if has_read => {
                wait_ends.min(Instant::now() + POLL_INTERVAL)
            }
            Err(_) => return read.map(|_| page),
        };
        has_read = true;
        let Some(follower) = &mut follower else { return Ok(page) };
        let is_over = tokio::select! {
            changed = timeout_at(until, follower.changed()) => changed.is_err() && until == wait_ends,
            () = drained.cancelled() => true,
            () = &mut near_deadline => true,
        };
        if is_over {
            return read.map(|_| page);
        }
    }
}

/// Reads the next events into the page; true if there may be more.
async fn read_next(db: &Db, context: &AlbumContext, page: &mut EventPage) -> Result<bool> {
    let (album_id, last) = (context.album.id, page.last);
    let after = |mut session| async move { db::events::after(&mut session, album_id, last, PAGE_SIZE).await };
    let events = db.read(after).await?;
    let has_more = events.len() == PAGE_SIZE as usize;
    for event in events {
        page.last = event.seq;
        if let Some(kind) = event.kind_for(&context.access) {
            page.events.push((kind, event));
        }
    }
    Ok(has_more)
}

/// Reads how far followed albums are, all in one query, until the process ends.
pub async fn poll_followed_albums(app: AppState) {
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let followed = app.db.wakeups().followed_albums();
        if followed.is_empty() {
            continue;
        }
        let last_seqs = async {
            let mut session = app.db.session().await?;
            db::events::last_seqs(&mut session, &followed).await
        };
        match last_seqs.await {
            Ok(albums) => albums.into_iter().for_each(|(album_id, seq)| app.db.wakeups().notify_event(album_id, seq)),
            Err(error) => tracing::debug!(%error, "cannot read the last events of followed albums"),
        }
    }
}
