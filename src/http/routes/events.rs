//! `/v1/albums/{album_id}/events`: what happened, in order, with a long poll.

use std::time::Duration;

use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    app::AppState,
    domain::{EditId, Event, EventKind, PhotoId},
    http::{
        error::{HttpError, Problem, Result},
        extract::Query,
        response::Reply,
    },
    services::{access::AlbumContext, events},
};

/// Seconds, less than the 29 that API Gateway waits.
const MAX_WAIT: i64 = 25;

/// Which events, and how long to wait for one.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventQuery {
    /// `last` of the previous response, 0 by default.
    #[param(minimum = 0)]
    after: Option<i64>,
    /// Seconds to wait for an event, 0 to 25, 0 by default.
    #[param(minimum = 0, maximum = 25)]
    wait: Option<i64>,
}

/// One change in the album.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventBody {
    seq: u64,
    kind: EventKind,
    at: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    photo_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    edit_id: Option<Uuid>,
}

/// The events after `after`.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventList {
    /// In order, without those that the caller may not see.
    items: Vec<EventBody>,
    /// The `after` of the next request. It advances past events that the caller may not see.
    last: u64,
}

/// The album's events after a number. With `wait` it blocks until there is one, at most for that time.
#[utoipa::path(
    get, path = "/v1/albums/{album_id}/events", tag = "events", security(("jwt" = []), ("invite" = [])),
    params(("album_id" = Uuid, Path), EventQuery),
    responses((status = 200, body = EventList), Problem)
)]
pub async fn list(
    State(app): State<AppState>,
    context: AlbumContext,
    Query(query): Query<EventQuery>,
) -> Result<Reply<EventList>> {
    let after = u64::try_from(query.after.unwrap_or(0)).map_err(|_| HttpError::field("after", "must be 0 or more"))?;
    let wait = query.wait.unwrap_or(0);
    if !(0..=MAX_WAIT).contains(&wait) {
        return Err(HttpError::field("wait", format_args!("must be 0 to {MAX_WAIT}")));
    }
    let page = events::list(&app, &context, after, Duration::from_secs(wait.unsigned_abs())).await?;
    let show = |(kind, event): (EventKind, Event)| EventBody {
        seq: event.seq,
        kind,
        at: event.at,
        photo_id: event.photo_id.map(PhotoId::as_uuid),
        edit_id: event.edit_id.map(EditId::as_uuid),
    };
    Ok(Reply(EventList { items: page.events.into_iter().map(show).collect(), last: page.last }))
}
