//! `/v1/photos/{photo_id}/edits`: filters on a photo, with renditions of their own.

use axum::{extract::State, http::StatusCode, response::Response};
use chrono::{DateTime, Utc};
use imaging::Filter;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::photos::RenditionBody;
use crate::{
    app::AppState,
    domain::{Caller, Edit, EditId, EditState, PhotoId},
    http::{
        error::{Problem, Result},
        extract::{Json, Path, Query},
        idempotency::{self, Answer, IdempotencyKey},
        pagination::{Page, PageQuery},
        response::Reply,
    },
    services::{
        edits::{self, Decision},
        photos::{self, rendition_urls},
    },
    storage::RenditionUrls,
};

/// An edit, as its caller sees it.
#[derive(Debug, Serialize, ToSchema)]
pub struct EditBody {
    id: Uuid,
    photo_id: Uuid,
    state: EditState,
    filters: Vec<Filter>,
    /// Once it is ready.
    renditions: Vec<RenditionBody>,
    /// Why it failed.
    fail_reason: Option<String>,
    created_at: DateTime<Utc>,
    ready_at: Option<DateTime<Utc>>,
}

impl EditBody {
    /// Signs the renditions' URLs.
    fn new(edit: Edit, urls: &RenditionUrls) -> Self {
        // The row lists renditions before the edit is ready.
        let renditions = if edit.state == EditState::Ready { &edit.renditions[..] } else { &[] };
        let show = |rendition| RenditionBody::new(edit.photo_id, rendition, &edit.rendition_name(rendition), urls);
        Self {
            id: edit.id.as_uuid(),
            photo_id: edit.photo_id.as_uuid(),
            state: edit.state,
            renditions: renditions.iter().map(show).collect(),
            filters: edit.filters,
            fail_reason: edit.fail_reason,
            created_at: edit.created_at,
            ready_at: edit.ready_at,
        }
    }
}

/// A new edit.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewEdit {
    /// 1 to 16 filters.
    #[schema(min_items = 1, max_items = 16)]
    filters: Vec<Filter>,
}

/// The host's decision on an edit that waits for review.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Review {
    /// The edit is made.
    Approve,
    /// The edit fails.
    Refuse,
}

/// A decision on an edit.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EditPatch {
    review: Review,
}

/// An edit in the path.
#[derive(Debug, Deserialize)]
pub struct EditPath {
    photo_id: PhotoId,
    edit_id: EditId,
}

/// Creates an edit: `processing`, or `pending_review` if the album is reviewed and the caller is not its host.
#[utoipa::path(
    post, path = "/v1/photos/{photo_id}/edits", tag = "edits", security(("jwt" = []), ("invite" = [])),
    params(("photo_id" = Uuid, Path), IdempotencyKey), request_body = NewEdit,
    responses((status = 202, body = EditBody), Problem)
)]
pub async fn create(
    State(app): State<AppState>,
    caller: Caller,
    Path(photo_id): Path<PhotoId>,
    request: Json<NewEdit>,
) -> Result<Response> {
    let filters = &request.body.filters;
    let (photo, access) = edits::check(&app.db, &caller, photo_id, filters).await?;
    let urls = rendition_urls(&app).await?;
    let create = |tx| edits::create(tx, &photo, access, filters);
    let answer = |edit| Answer::new(StatusCode::ACCEPTED, &EditBody::new(edit, &urls));
    idempotency::run(&app, &caller, &request, create, answer).await
}

/// The photo's edits that the caller may see, newest first.
#[utoipa::path(
    get, path = "/v1/photos/{photo_id}/edits", tag = "edits", security(("jwt" = []), ("invite" = [])),
    params(("photo_id" = Uuid, Path), PageQuery),
    responses((status = 200, body = Page<EditBody>), Problem)
)]
pub async fn list(
    State(app): State<AppState>,
    caller: Caller,
    Path(photo_id): Path<PhotoId>,
    Query(query): Query<PageQuery>,
) -> Result<Reply<Page<EditBody>>> {
    let (photo, access) = photos::find(&app.db, &caller, photo_id).await?;
    let (limit, signer, name) = (query.limit()?, app.storage.signer(), format!("edits of {photo_id}"));
    let before: Option<EditId> = query.after(signer, &name)?;
    let edits = edits::list(&app.db, &access, &photo, before, limit + 1).await?;
    let urls = rendition_urls(&app).await?;
    Ok(Reply(Page::new(edits, limit, signer, &name, |edit| edit.id.as_uuid(), |edit| EditBody::new(edit, &urls))))
}

/// One edit.
#[utoipa::path(
    get, path = "/v1/photos/{photo_id}/edits/{edit_id}", tag = "edits", security(("jwt" = []), ("invite" = [])),
    params(("photo_id" = Uuid, Path), ("edit_id" = Uuid, Path)),
    responses((status = 200, body = EditBody), Problem)
)]
pub async fn get(State(app): State<AppState>, caller: Caller, Path(path): Path<EditPath>) -> Result<Reply<EditBody>> {
    let edit = edits::read(&app.db, &caller, path.photo_id, path.edit_id).await?;
    Ok(Reply(EditBody::new(edit, &rendition_urls(&app).await?)))
}

/// Approves or refuses an edit that waits for review.
#[utoipa::path(
    patch, path = "/v1/photos/{photo_id}/edits/{edit_id}", tag = "edits", security(("jwt" = []), ("invite" = [])),
    params(("photo_id" = Uuid, Path), ("edit_id" = Uuid, Path)), request_body = EditPatch,
    responses((status = 200, body = EditBody), Problem)
)]
pub async fn review(
    State(app): State<AppState>,
    caller: Caller,
    Path(path): Path<EditPath>,
    request: Json<EditPatch>,
) -> Result<Reply<EditBody>> {
    let decision = match request.body.review {
        Review::Approve => Decision::Approve,
        Review::Refuse => Decision::Refuse,
    };
    // Before the change: a request that fails must not have changed anything.
    let urls = rendition_urls(&app).await?;
    let edit = edits::review(&app.db, &caller, path.photo_id, path.edit_id, decision).await?;
    Ok(Reply(EditBody::new(edit, &urls)))
}
