//! `GET /v1/albums/{album_id}/events`: what happened, in order, with a long poll.

use std::time::Duration;

use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};
use utoipa::{IntoParams, ToSchema};

use crate::http::{
    auth::InAlbum,
    error::{HttpError, Problem, Result},
    extract::Query,
    response::Reply,
};
use crate::{
    app::{App, AppState},
    db,
    domain::{EditId, EventKind, PhotoId},
    resilience::deadline,
};

/// The most events that one answer looks at.
const MOST: u32 = 200;
/// The longest wait, in seconds: under the 29 s of the gateway.
const LONGEST_WAIT: i64 = 25;
/// How often followed albums are looked at, for events that other processes committed.
const POLL: Duration = Duration::from_millis(500);

/// From where on, and for how long to wait.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventQuery {
    /// The `last` of the answer before; 0 when left out.
    #[param(minimum = 0)]
    after: Option<i64>,
    /// Seconds to wait until something happens, 0 to 25; 0 when left out.
    #[param(minimum = 0, maximum = 25)]
    wait: Option<i64>,
}

/// One thing that happened.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventBody {
    seq: u64,
    kind: EventKind,
    at: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    photo_id: Option<uuid::Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    edit_id: Option<uuid::Uuid>,
}

/// What happened after `after`.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventList {
    /// In order; numbers that the caller may not see are left out.
    items: Vec<EventBody>,
    /// To be sent as `after` next time. It moves on past what the caller may not see.
    last: u64,
}

/// The album's events after a number. With `wait` it holds until there is one, for that many seconds at most.
#[utoipa::path(get, path = "/v1/albums/{album_id}/events", tag = "events", params(("album_id" = uuid::Uuid, Path), EventQuery), security(("jwt" = []), ("invite" = [])),
    responses((status = 200, body = EventList), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn list(
    State(app): State<AppState>,
    here: InAlbum,
    Query(query): Query<EventQuery>,
) -> Result<Reply<EventList>> {
    if !here.access.may_follow() {
        return Err(HttpError::Forbidden("this invite does not show the album's events"));
    }
    let after = u64::try_from(query.after.unwrap_or(0)).map_err(|_| HttpError::field("after", "must be 0 or more"))?;
    let wait = query.wait.unwrap_or(0);
    if !(0..=LONGEST_WAIT).contains(&wait) {
        return Err(HttpError::field("wait", format!("must be 0 to {LONGEST_WAIT}")));
    }
    let deadline = Instant::now() + Duration::from_secs(wait.unsigned_abs());
    // A function of Lambda may have less time than the gateway.
    let near = deadline::is_near();
    tokio::pin!(near);
    // A drain does not wait for those who wait. Who comes while it has begun is not sent away at once, to come back at
    // once, but when the listener closes.
    let drained = if app.draining.is_cancelled() { &app.closing } else { &app.draining };
    // Followed before the first look, so that nothing is missed in between.
    let mut follower = (wait > 0).then(|| app.db.wakeups().follow(here.album.id, here.album.last_seq));
    let mut list = EventList { items: Vec::new(), last: after };
    let mut looked = false;
    loop {
        let found = read(&app, &here, &mut list).await;
        // What the caller may not see is passed over a page at a time: an album may have a million of it.
        if matches!(found, Ok(true)) || !list.items.is_empty() {
            break;
        }
        let until = match &found {
            Ok(_) => deadline,
            // Who waits already goes on waiting through an outage: a crowd that is sent away comes back at once.
            Err(HttpError::Unavailable(..)) if looked => deadline.min(Instant::now() + POLL),
            Err(_) => return found.map(|_| Reply(list)),
        };
        looked = true;
        let Some(follower) = &mut follower else { break };
        let over = tokio::select! {
            changed = timeout_at(until, follower.changed()) => changed.is_err() && until == deadline,
            () = drained.cancelled() => true,
            () = &mut near => true,
        };
        if over {
            found?;
            break;
        }
    }
    Ok(Reply(list))
}

/// Reads on; true when there may be more.
async fn read(app: &App, here: &InAlbum, list: &mut EventList) -> Result<bool> {
    let (album_id, seen) = (here.album.id, list.last);
    let after = |mut session| async move { db::events::after(&mut session, album_id, seen, MOST).await };
    let events = app.db.read(after).await?;
    let more = events.len() == MOST as usize;
    for event in events {
        list.last = event.seq;
        if let Some(kind) = event.kind_for(&here.access) {
            list.items.push(EventBody {
                seq: event.seq,
                kind,
                at: event.at,
                photo_id: event.photo_id.map(PhotoId::as_uuid),
                edit_id: event.edit_id.map(EditId::as_uuid),
            });
        }
    }
    Ok(more)
}

/// Looks at the followed albums, all in one query, for as long as the process lives.
pub async fn poll_followed(app: AppState) {
    loop {
        tokio::time::sleep(POLL).await;
        let followed = app.db.wakeups().followed_albums();
        if followed.is_empty() {
            continue;
        }
        let look = async {
            let mut session = app.db.session().await?;
            db::events::last_seqs(&mut session, &followed).await
        };
        match look.await {
            Ok(reached) => reached.into_iter().for_each(|(album_id, seq)| app.db.wakeups().notify_event(album_id, seq)),
            Err(error) => tracing::debug!(%error, "followed albums can't be looked at; the next look will do"),
        }
    }
}
