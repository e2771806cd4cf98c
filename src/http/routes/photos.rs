//! `/v1/albums/{album_id}/photos` and `/v1/photos/{photo_id}`: reading, reviewing, removing.

mod add;

use std::io;

use axum::{
    extract::{RawPathParams, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

pub use add::*;

use crate::http::{
    auth::{Looking, Reading},
    error::{HttpError, Problem, Result},
    etag,
    extract::{Json, Query, path_id},
    pagination::{Page, PageQuery},
    response::Reply,
};
use crate::{
    app::{App, AppState},
    db::{self, jobs::PURGE_PHOTO, photo_event},
    domain::{Access, Caller, Caption, EventKind, Photo, PhotoId, PhotoState, Rendition, Visibility},
    storage::{OriginalUrls, RenditionUrls},
};

/// Who added a photo.
#[derive(Debug, Serialize, ToSchema)]
pub struct UploaderBody {
    /// `host` or `guest`.
    kind: &'static str,
    /// The display name, if one was given.
    name: Option<String>,
}

/// A derived picture.
#[derive(Debug, Serialize, ToSchema)]
pub struct RenditionBody {
    /// `thumb` (320 pixels on the long edge), `small` (1024) or `large` (2048).
    name: String,
    content_type: String,
    width: u32,
    height: u32,
    bytes: u64,
    /// Signed; stays the same for a while, so that it can be cached.
    url: String,
}

impl RenditionBody {
    /// Signs the URL of a photo's rendition, which is kept under `name`.
    pub(crate) fn new(photo: PhotoId, rendition: &Rendition, name: &str, links: &RenditionUrls) -> Self {
        Self {
            url: links.url(photo, name),
            name: rendition.name.clone(),
            content_type: rendition.content_type.clone(),
            width: rendition.width,
            height: rendition.height,
            bytes: rendition.bytes,
        }
    }
}

/// A photo, as its caller sees it.
#[derive(Debug, Serialize, ToSchema)]
pub struct PhotoBody {
    id: uuid::Uuid,
    album_id: uuid::Uuid,
    state: PhotoState,
    visibility: Visibility,
    uploader: UploaderBody,
    caption: Option<String>,
    /// The declared type of the original.
    content_type: String,
    /// The size of the original.
    bytes: u64,
    /// Of the original, 64 hex digits.
    sha256: Option<String>,
    /// Pixels, upright.
    width: Option<u32>,
    /// Pixels, upright.
    height: Option<u32>,
    taken_at: Option<DateTime<Utc>>,
    camera: Option<String>,
    /// A base64 ThumbHash.
    placeholder: Option<String>,
    renditions: Vec<RenditionBody>,
    /// Why it was rejected.
    reject_reason: Option<String>,
    created_at: DateTime<Utc>,
    ready_at: Option<DateTime<Utc>>,
}

impl PhotoBody {
    /// Signs the renditions' URLs.
    pub(crate) fn new(photo: Photo, links: &RenditionUrls) -> Self {
        let kind = if photo.uploader.invite_id.is_some() { "guest" } else { "host" };
        let show = |rendition: &Rendition| RenditionBody::new(photo.id, rendition, &rendition.file_name(), links);
        let renditions = photo.renditions.iter().map(show);
        Self {
            id: photo.id.as_uuid(),
            album_id: photo.album_id.as_uuid(),
            state: photo.state,
            visibility: photo.visibility,
            uploader: UploaderBody { kind, name: photo.uploader.name },
            caption: photo.caption,
            content_type: photo.content_type,
            bytes: photo.bytes,
            sha256: photo.sha256.map(|digest| digest.to_string()),
            width: photo.width,
            height: photo.height,
            taken_at: photo.taken_at,
            camera: photo.camera,
            placeholder: photo.placeholder.map(|hash| STANDARD.encode(hash)),
            renditions: renditions.collect(),
            reject_reason: photo.reject_reason,
            created_at: photo.created_at,
            ready_at: photo.ready_at,
        }
    }
}

/// Which way a list goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The default.
    Newest,
    /// From the first photo on.
    Oldest,
}

/// Which photos a list shows.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PhotoQuery {
    /// How many at most, 1 to 200; 50 when left out.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Only photos in this state.
    #[param(inline)]
    state: Option<PhotoState>,
    /// Only photos of this visibility; those that wait for review are `pending_review`.
    #[param(inline)]
    visibility: Option<Visibility>,
    #[param(inline)]
    order: Option<Order>,
}

/// Changes of a photo; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PhotoPatch {
    /// 1 to 1000 characters, or null for none.
    #[schema(min_length = 1, max_length = 1000)]
    #[serde(default, deserialize_with = "crate::http::extract::given_or_null")]
    #[expect(clippy::option_option, reason = "left out is not the same as null")]
    caption: Option<Option<String>>,
    /// The host's to change.
    #[schema(nullable = false)]
    #[serde(default, deserialize_with = "crate::http::extract::given")]
    visibility: Option<Visibility>,
}

/// The album's photos that the caller may see, newest first.
#[utoipa::path(get, path = "/v1/albums/{album_id}/photos", tag = "photos", params(("album_id" = uuid::Uuid, Path), PhotoQuery), security(("jwt" = []), ("invite" = [])),
    responses((status = 200, body = Page<PhotoBody>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn list(
    State(app): State<AppState>,
    looking: Looking,
    Query(query): Query<PhotoQuery>,
) -> Result<Reply<Page<PhotoBody>>> {
    let oldest_first = query.order == Some(Order::Oldest);
    let album_id = looking.here().album.id;
    // A cursor of one order means nothing in the other.
    let name = format!("photos of {album_id}, {}", if oldest_first { "oldest" } else { "newest" });
    let (page, signer) = (PageQuery { limit: query.limit, cursor: query.cursor }, app.storage.signer());
    let limit = page.limit()?;
    let wanted = db::photos::Page {
        state: query.state,
        visibility: query.visibility,
        oldest_first,
        after: page.after(signer, &name)?,
        limit: limit + 1,
    };
    let photos = match projected(&app, &looking, &wanted).await {
        Some(photos) => photos,
        None => in_database(&app, looking, &wanted).await?,
    };
    let links = links(&app).await?;
    Ok(Reply(Page::new(
        photos,
        limit,
        signer,
        &name,
        |photo| photo.id.as_uuid(),
        |photo| PhotoBody::new(photo, &links),
    )))
}

/// A page from the read model, if that has opened the album and the page is of what it has.
async fn projected(app: &App, looking: &Looking, wanted: &db::photos::Page) -> Option<Vec<Photo>> {
    let model = app.read_model.as_ref().filter(|_| looking.is_projected() && wanted.shows_all_public())?;
    model.photos(looking.here().album.id, wanted).await
}

async fn in_database(app: &AppState, looking: Looking, wanted: &db::photos::Page) -> Result<Vec<Photo>> {
    let here = looking.in_database(app).await?;
    let (access, album_id) = (&here.access, here.album.id);
    let list = |mut session| async move { db::photos::list(&mut session, access, album_id, wanted).await };
    Ok(app.db.read_from_replica(here.freshness, list).await?)
}

/// One photo.
#[utoipa::path(get, path = "/v1/photos/{photo_id}", tag = "photos", params(("photo_id" = uuid::Uuid, Path)), security(("jwt" = []), ("invite" = [])),
    responses((status = 200, body = PhotoBody), (status = 304), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn get(
    State(app): State<AppState>,
    Reading { caller, freshness }: Reading,
    params: RawPathParams,
    headers: HeaderMap,
) -> Result<Response> {
    let (id, caller) = (path_id(&params, "photo_id")?, &caller);
    let find = |mut session| async move { db::photos::find(&mut session, caller, id).await };
    let (photo, _) = app.db.read_from_replica(freshness, find).await?.ok_or(HttpError::NotFound)?;
    let links = links(&app).await?;
    let tag = etag::tag(photo.version, links.tag(photo.id));
    if etag::not_modified(&headers, &tag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    Ok(([(header::ETAG, tag)], Reply(PhotoBody::new(photo, &links))).into_response())
}

/// Changes the caption (uploader, host) or the visibility (host).
#[utoipa::path(patch, path = "/v1/photos/{photo_id}", tag = "photos", params(("photo_id" = uuid::Uuid, Path)), request_body = PhotoPatch, security(("jwt" = []), ("invite" = [])),
    responses((status = 200, body = PhotoBody), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn update(
    State(app): State<AppState>,
    caller: Caller,
    params: RawPathParams,
    headers: HeaderMap,
    request: Json<PhotoPatch>,
) -> Result<Response> {
    let (photo, access) = seen(&app, &caller, &params).await?;
    let patch = request.body;
    if !access.owns(&photo) {
        return Err(HttpError::Forbidden("only the uploader and the host may change a photo"));
    }
    if patch.visibility.is_some() && access != Access::Host {
        return Err(HttpError::Forbidden("only the host may change who sees a photo"));
    }
    if let Some(Some(caption)) = &patch.caption {
        Caption::parse(&**caption).map_err(|why| HttpError::field("caption", why))?;
    }
    // First: who is told that it failed must not find it done.
    let links = links(&app).await?;
    let photo = app.db.transaction(|tx| change(tx, &photo, &patch, &headers)).await?;
    let tag = etag::tag(photo.version, links.tag(photo.id));
    Ok(([(header::ETAG, tag)], Reply(PhotoBody::new(photo, &links))).into_response())
}

async fn change(mut tx: db::Tx, seen: &Photo, patch: &PhotoPatch, headers: &HeaderMap) -> Result<db::Done<Photo>> {
    db::albums::lock(tx.session(), seen.album_id).await?.ok_or(HttpError::NotFound)?;
    let mut photo = db::photos::lock(tx.session(), seen.id).await?.ok_or(HttpError::NotFound)?;
    etag::check_match(headers, photo.version)?;
    let before = (photo.is_public(), photo.caption.clone(), photo.visibility);
    if let Some(caption) = &patch.caption {
        photo.caption.clone_from(caption);
    }
    photo.visibility = patch.visibility.unwrap_or(photo.visibility);
    let (was_public, is_public) = (before.0, photo.is_public());
    if (was_public, photo.caption.clone(), photo.visibility) == before {
        return Ok(tx.done(photo));
    }
    photo.version += 1;
    db::photos::update(tx.session(), &photo).await?;
    db::albums::count_public(tx.session(), photo.album_id, was_public, is_public).await?;
    // To those who see only public photos, one that is hidden goes away.
    let public_kind = match (was_public, is_public) {
        (_, true) => Some(EventKind::PhotoUpdated),
        (true, false) => Some(EventKind::PhotoRemoved),
        (false, false) => None,
    };
    tx.record(photo.album_id, photo_event(&photo, EventKind::PhotoUpdated, public_kind)).await?;
    Ok(tx.done(photo))
}

/// Deletes the photo and its objects.
#[utoipa::path(delete, path = "/v1/photos/{photo_id}", tag = "photos", params(("photo_id" = uuid::Uuid, Path)), security(("jwt" = []), ("invite" = [])),
    responses((status = 204), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn delete(
    State(app): State<AppState>,
    caller: Caller,
    params: RawPathParams,
    headers: HeaderMap,
) -> Result<StatusCode> {
    let (photo, access) = seen(&app, &caller, &params).await?;
    if !access.owns(&photo) {
        return Err(HttpError::Forbidden("only the uploader and the host may delete a photo"));
    }
    let (album_id, id, headers) = (photo.album_id, photo.id, &headers);
    app.db
        .transaction(|mut tx| async move {
            db::albums::lock(tx.session(), album_id).await?.ok_or(HttpError::NotFound)?;
            let photo = db::photos::lock(tx.session(), id).await?.ok_or(HttpError::NotFound)?;
            etag::check_match(headers, photo.version)?;
            db::photos::delete(tx.session(), photo.id).await?;
            db::albums::count_public(tx.session(), photo.album_id, photo.is_public(), false).await?;
            if let (PhotoState::AwaitingUpload, Some(invite_id)) = (photo.state, photo.uploader.invite_id) {
                db::invites::return_photo(tx.session(), invite_id).await?;
            }
            let removed = EventKind::PhotoRemoved;
            tx.record(photo.album_id, photo_event(&photo, removed, photo.is_public().then_some(removed))).await?;
            tx.enqueue(PURGE_PHOTO, photo.id.as_uuid()).await?;
            Ok::<_, HttpError>(tx.done(()))
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Leads to the original by a signed URL that is good for a minute.
#[utoipa::path(get, path = "/v1/photos/{photo_id}/original", tag = "photos", params(("photo_id" = uuid::Uuid, Path)), security(("jwt" = []), ("invite" = [])),
    responses((status = 303, headers(("location" = String))), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn original(State(app): State<AppState>, caller: Caller, params: RawPathParams) -> Result<Response> {
    let (photo, access) = seen(&app, &caller, &params).await?;
    if !access.owns(&photo) {
        return Err(HttpError::Forbidden("only the uploader and the host may fetch the original"));
    }
    if matches!(photo.state, PhotoState::AwaitingUpload | PhotoState::Expired) {
        return Err(HttpError::Conflict("the photo's bytes have not come"));
    }
    let location = original_links(&app).await?.download(&photo);
    Ok((StatusCode::SEE_OTHER, [(header::LOCATION, location), (header::CACHE_CONTROL, "no-store".into())])
        .into_response())
}

/// What signs the URLs of an answer.
pub(crate) async fn links(app: &App) -> Result<RenditionUrls> {
    app.storage.rendition_urls(db::now()).await.map_err(unsigned)
}

/// What signs the URL of an original.
async fn original_links(app: &App) -> Result<OriginalUrls> {
    app.storage.original_urls(db::now()).await.map_err(unsigned)
}

fn unsigned(error: io::Error) -> HttpError {
    HttpError::Unavailable("URLs can't be signed right now", error.into())
}

/// The photo in the path, for a caller that may know of it.
pub(crate) async fn seen(app: &App, caller: &Caller, params: &RawPathParams) -> Result<(Photo, Access)> {
    let id: PhotoId = path_id(params, "photo_id")?;
    let find = |mut session| async move { db::photos::find(&mut session, caller, id).await };
    app.db.read(find).await?.ok_or(HttpError::NotFound)
}
