//! `/v1/photos/{photo_id}/edits`: filters on a photo, giving renditions of its own.

use axum::{
    extract::{RawPathParams, State},
    http::StatusCode,
    response::Response,
};
use chrono::{DateTime, Utc};
use imaging::Filter;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::photos::{RenditionBody, links, seen};
use crate::http::{
    error::{FieldError, HttpError, Problem, Result},
    extract::{Json, Query, path_id},
    idempotency::{self, Answer},
    pagination::{Page, PageQuery},
    response::Reply,
};
use crate::{
    app::AppState,
    db::{self, Done, Tx, jobs::APPLY_EDIT},
    domain::{Access, Caller, Edit, EditId, EditState, EditStep, Photo, PhotoState, edit},
    jobs::kinds::apply_edit::{Decision, decide},
    storage::RenditionUrls,
    telemetry::metrics,
};

const TOO_MANY: HttpError = HttpError::Conflict("the photo has as many edits as it may");
const NOT_READY: HttpError = HttpError::Conflict("the photo is not ready");
const DECIDED: HttpError = HttpError::Conflict("the edit does not wait for review");

/// An edit, as its caller sees it.
#[derive(Debug, Serialize, ToSchema)]
pub struct EditBody {
    id: uuid::Uuid,
    photo_id: uuid::Uuid,
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
    fn new(edit: Edit, links: &RenditionUrls) -> Self {
        // Before that they may be there, but nobody has said so.
        let made = if edit.state == EditState::Ready { &edit.renditions[..] } else { &[] };
        let show = |rendition| RenditionBody::new(edit.photo_id, rendition, &edit.rendition_name(rendition), links);
        Self {
            id: edit.id.as_uuid(),
            photo_id: edit.photo_id.as_uuid(),
            state: edit.state,
            renditions: made.iter().map(show).collect(),
            filters: edit.filters,
            fail_reason: edit.fail_reason,
            created_at: edit.created_at,
            ready_at: edit.ready_at,
        }
    }
}

/// An edit to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewEdit {
    /// 1 to 16 of them.
    #[schema(min_items = 1, max_items = 16)]
    filters: Vec<Filter>,
}

/// What the host says of an edit that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Review {
    /// It is made.
    Approve,
    /// It is not.
    Refuse,
}

/// A decision on an edit.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EditPatch {
    review: Review,
}

/// Asks for an edit. It is `processing` at once, or `pending_review` when the album is reviewed and the caller is not its host.
#[utoipa::path(post, path = "/v1/photos/{photo_id}/edits", tag = "edits", request_body = NewEdit, security(("jwt" = []), ("invite" = [])),
    params(("photo_id" = uuid::Uuid, Path), ("Idempotency-Key" = Option<String>, Header, description = "The same key and body within 24 h gives the first answer again.")),
    responses((status = 202, body = EditBody), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn create(
    State(app): State<AppState>,
    caller: Caller,
    params: RawPathParams,
    request: Json<NewEdit>,
) -> Result<Response> {
    let (photo, access) = seen(&app, &caller, &params).await?;
    if !access.owns(&photo) {
        return Err(HttpError::Forbidden("only the uploader and the host may edit a photo"));
    }
    let filters = &request.body.filters;
    imaging::validate_filters(filters).map_err(|errors| {
        let errors = errors.into_iter().map(|error| FieldError::new(error.path, error.reason));
        HttpError::Unprocessable(errors.collect())
    })?;
    let (photo, links) = (&photo, &links(&app).await?);
    idempotency::run(&app, &caller, &request, |tx| begin(tx, photo, access, filters, links)).await
}

async fn begin(
    mut tx: Tx,
    seen: &Photo,
    access: Access,
    filters: &[Filter],
    links: &RenditionUrls,
) -> Result<Done<Answer>> {
    let album = db::albums::lock_shared(tx.session(), seen.album_id).await?.ok_or(HttpError::NotFound)?;
    let photo = db::photos::lock(tx.session(), seen.id).await?.ok_or(HttpError::NotFound)?;
    if photo.state != PhotoState::Ready {
        return Err(NOT_READY);
    }
    let (all, good) = db::edits::count(tx.session(), photo.id).await?;
    if good >= edit::MOST_EDITS || all >= edit::MOST_ASKED {
        return Err(TOO_MANY);
    }
    let waits = album.review && access != Access::Host;
    let edit = Edit {
        id: EditId::generate(),
        photo_id: photo.id,
        album_id: album.id,
        state: if waits { EditState::PendingReview } else { EditState::Processing },
        step: Some(EditStep::Validate),
        filters: filters.to_vec(),
        renditions: Vec::new(),
        fail_reason: None,
        created_at: db::now(),
        ready_at: None,
    };
    db::edits::insert(tx.session(), &edit).await?;
    tx.enqueue(APPLY_EDIT, edit.id.as_uuid()).await?;
    Ok(tx.done(Answer::new(StatusCode::ACCEPTED, &EditBody::new(edit, links))))
}

/// The photo's edits that the caller may see, newest first.
#[utoipa::path(get, path = "/v1/photos/{photo_id}/edits", tag = "edits", params(("photo_id" = uuid::Uuid, Path), PageQuery), security(("jwt" = []), ("invite" = [])),
    responses((status = 200, body = Page<EditBody>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn list(
    State(app): State<AppState>,
    caller: Caller,
    params: RawPathParams,
    Query(query): Query<PageQuery>,
) -> Result<Reply<Page<EditBody>>> {
    let (photo, access) = seen(&app, &caller, &params).await?;
    let (limit, signer, name) = (query.limit()?, app.storage.signer(), format!("edits of {}", photo.id));
    let before: Option<EditId> = query.after(signer, &name)?;
    let (photo, access) = (&photo, &access);
    let list = |mut session| async move { db::edits::list(&mut session, access, photo, before, limit + 1).await };
    let edits = app.db.read(list).await?;
    let links = links(&app).await?;
    Ok(Reply(Page::new(edits, limit, signer, &name, |edit| edit.id.as_uuid(), |edit| EditBody::new(edit, &links))))
}

/// One edit.
#[utoipa::path(get, path = "/v1/photos/{photo_id}/edits/{edit_id}", tag = "edits", params(("photo_id" = uuid::Uuid, Path), ("edit_id" = uuid::Uuid, Path)), security(("jwt" = []), ("invite" = [])),
    responses((status = 200, body = EditBody), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn get(State(app): State<AppState>, caller: Caller, params: RawPathParams) -> Result<Reply<EditBody>> {
    let (photo, access) = seen(&app, &caller, &params).await?;
    let edit = find(&app, &photo, &access, &params).await?;
    Ok(Reply(EditBody::new(edit, &links(&app).await?)))
}

/// Agrees to an edit that waits for review, or refuses it.
#[utoipa::path(patch, path = "/v1/photos/{photo_id}/edits/{edit_id}", tag = "edits", params(("photo_id" = uuid::Uuid, Path), ("edit_id" = uuid::Uuid, Path)), request_body = EditPatch, security(("jwt" = []), ("invite" = [])),
    responses((status = 200, body = EditBody), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn review(
    State(app): State<AppState>,
    caller: Caller,
    params: RawPathParams,
    request: Json<EditPatch>,
) -> Result<Reply<EditBody>> {
    let (photo, access) = seen(&app, &caller, &params).await?;
    let edit = find(&app, &photo, &access, &params).await?;
    if access != Access::Host {
        return Err(HttpError::Forbidden("only the host may decide on an edit"));
    }
    let (album_id, photo_id, id) = (photo.album_id, photo.id, edit.id);
    let decision = match request.body.review {
        Review::Approve => Decision::Approve,
        Review::Refuse => Decision::Refuse,
    };
    // First: who is told that it failed must not find it done.
    let links = links(&app).await?;
    let edit = app
        .db
        .transaction(|mut tx| async move {
            db::albums::lock(tx.session(), album_id).await?.ok_or(HttpError::NotFound)?;
            let photo = db::photos::lock(tx.session(), photo_id).await?.ok_or(HttpError::NotFound)?;
            let edit = db::edits::lock(tx.session(), id).await?.ok_or(HttpError::NotFound)?;
            if edit.state != EditState::PendingReview {
                return Err(DECIDED);
            }
            let edit = decide(&mut tx, edit, &photo, decision).await?;
            Ok::<_, HttpError>(tx.done(edit))
        })
        .await?;
    if edit.state == EditState::Failed {
        metrics::EDITS.with(&[("outcome", "failed")]).increment(1);
    }
    Ok(Reply(EditBody::new(edit, &links)))
}

async fn find(app: &AppState, photo: &Photo, access: &Access, params: &RawPathParams) -> Result<Edit> {
    let id = path_id(params, "edit_id")?;
    let find = |mut session| async move { db::edits::find(&mut session, access, photo, id).await };
    app.db.read(find).await?.ok_or(HttpError::NotFound)
}
