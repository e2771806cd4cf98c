//! `/v1/albums/{album_id}/photos` and `/v1/photos/{photo_id}`.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, TimeDelta, Utc};
use imaging::UnknownMediaType;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    app::AppState,
    db,
    domain::{Caller, Caption, DisplayName, Photo, PhotoId, PhotoState, Rendition, Sha256, Visibility},
    http::{
        error::{FieldError, HttpError, Problem, Result},
        etag,
        extract::{Json, Path, Query},
        idempotency::{self, Answer, IdempotencyKey},
        pagination::{Page, PageQuery},
        response::Reply,
    },
    services::{
        ExpectedVersion,
        access::{AlbumContext, ReadContext, ViewerAlbum},
        photos::{self, Declaration, Declared, PhotoChanges, original_urls, rendition_urls},
    },
    storage::{RenditionUrls, Upload},
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
    /// Signs the URL of a photo's rendition that storage has under `name`.
    pub(super) fn new(photo: PhotoId, rendition: &Rendition, name: &str, urls: &RenditionUrls) -> Self {
        Self {
            url: urls.url(photo, name),
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
    id: Uuid,
    album_id: Uuid,
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
    fn new(photo: Photo, urls: &RenditionUrls) -> Self {
        let kind = if photo.uploader.invite_id.is_some() { "guest" } else { "host" };
        let show = |rendition: &Rendition| RenditionBody::new(photo.id, rendition, &rendition.file_name(), urls);
        Self {
            id: photo.id.as_uuid(),
            album_id: photo.album_id.as_uuid(),
            state: photo.state,
            visibility: photo.visibility,
            renditions: photo.renditions.iter().map(show).collect(),
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
            reject_reason: photo.reject_reason,
            created_at: photo.created_at,
            ready_at: photo.ready_at,
        }
    }
}

/// The order of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The default.
    Newest,
    Oldest,
}

/// Which photos a list shows.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PhotoQuery {
    /// The page size, 1 to 200, 50 by default.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
    /// `next_cursor` of the previous page.
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

/// Changes of a photo; missing fields stay as they are.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PhotoPatch {
    /// 1 to 1000 characters, or null for none.
    #[schema(min_length = 1, max_length = 1000)]
    #[serde(default, deserialize_with = "crate::http::extract::nullable")]
    #[expect(clippy::option_option, reason = "a missing caption stays, null removes it")]
    caption: Option<Option<String>>,
    /// Only the host may change it.
    #[schema(nullable = false)]
    #[serde(default, deserialize_with = "crate::http::extract::non_null")]
    visibility: Option<Visibility>,
}

/// A new photo.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPhoto {
    /// `image/jpeg`, `image/png`, `image/webp` or `image/gif`.
    content_type: String,
    /// The exact size.
    #[schema(minimum = 1)]
    bytes: i64,
    /// 64 hex digits. With it the same photo is never stored twice, and a broken upload can be repeated.
    sha256: Option<String>,
    /// 1 to 1000 characters.
    #[schema(min_length = 1, max_length = 1000)]
    caption: Option<String>,
    /// The guest's display name, 1 to 100 characters.
    #[schema(min_length = 1, max_length = 100)]
    guest_name: Option<String>,
}

impl NewPhoto {
    fn parse(&self, max_bytes: u64) -> Result<Declaration> {
        let content_type = self.content_type.parse().map_err(|_: UnknownMediaType| {
            let hint =
                if is_heif(&self.content_type) { "; HEIC and AVIF are not supported yet, send JPEG" } else { "" };
            let message = "content_type must be image/jpeg, image/png, image/webp or image/gif";
            HttpError::UnsupportedMediaType(format!("{message}{hint}"))
        })?;
        let mut errors = Vec::new();
        let bytes = u64::try_from(self.bytes).unwrap_or(0);
        if bytes == 0 {
            errors.push(FieldError::new("bytes", "must be at least 1"));
        }
        let sha256 = self.sha256.as_deref().map(Sha256::from_hex);
        if sha256 == Some(None) {
            errors.push(FieldError::new("sha256", "must be 64 hex digits"));
        }
        let caption = self.caption.as_deref().map(Caption::parse).transpose();
        let caption = caption.unwrap_or_else(|error| {
            errors.push(FieldError::new("caption", error));
            None
        });
        let guest_name = self.guest_name.as_deref().map(DisplayName::parse).transpose();
        let guest_name = guest_name.unwrap_or_else(|error| {
            errors.push(FieldError::new("guest_name", error));
            None
        });
        if !errors.is_empty() {
            return Err(HttpError::Unprocessable(errors));
        }
        if bytes > max_bytes {
            return Err(HttpError::TooLarge(max_bytes));
        }
        Ok(Declaration { content_type, bytes, sha256: sha256.flatten(), caption, guest_name })
    }
}

fn is_heif(content_type: &str) -> bool {
    let lower = content_type.to_ascii_lowercase();
    ["image/heic", "image/heif", "image/avif"].iter().any(|heif| lower.starts_with(heif))
}

/// A photo, and how to upload its bytes.
#[derive(Debug, Serialize, ToSchema)]
pub struct AddedPhoto {
    photo: PhotoBody,
    /// Null if the original is already uploaded.
    upload: Option<Upload>,
}

/// Declares a photo and signs the URL to upload its bytes to. The same bytes again: 200 with the existing photo, and
/// with `upload` only if its bytes are missing and the caller is its uploader.
#[utoipa::path(
    post, path = "/v1/albums/{album_id}/photos", tag = "photos", security(("jwt" = []), ("invite" = [])),
    params(("album_id" = Uuid, Path), IdempotencyKey), request_body = NewPhoto,
    responses((status = 201, body = AddedPhoto), (status = 200, body = AddedPhoto), Problem)
)]
pub async fn add(State(app): State<AppState>, context: AlbumContext, request: Json<NewPhoto>) -> Result<Response> {
    context.require_contributor()?;
    let declaration = request.body.parse(app.config.uploads.max_bytes)?;
    let url_ttl = TimeDelta::from_std(app.config.uploads.url_ttl).unwrap_or(TimeDelta::MAX);
    let (urls, originals) = (rendition_urls(&app).await?, original_urls(&app).await?);
    let declare = |tx| photos::declare(tx, &context, &declaration, url_ttl);
    let answer = |Declared { photo, is_new, upload_expires_at }| {
        let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
        let upload = upload_expires_at.map(|expires_at| originals.upload(&photo, expires_at));
        Answer::new(status, &AddedPhoto { photo: PhotoBody::new(photo, &urls), upload })
    };
    idempotency::run(&app, &context.caller, &request, declare, answer).await
}

/// The album's photos that the caller may see, newest first.
#[utoipa::path(
    get, path = "/v1/albums/{album_id}/photos", tag = "photos", security(("jwt" = []), ("invite" = [])),
    params(("album_id" = Uuid, Path), PhotoQuery),
    responses((status = 200, body = Page<PhotoBody>), Problem)
)]
pub async fn list(
    State(app): State<AppState>,
    album: ViewerAlbum,
    Query(query): Query<PhotoQuery>,
) -> Result<Reply<Page<PhotoBody>>> {
    let oldest_first = query.order == Some(Order::Oldest);
    // A cursor belongs to one order.
    let order = if oldest_first { "oldest" } else { "newest" };
    let name = format!("photos of {}, {order}", album.context().album.id);
    let (page, signer) = (PageQuery { limit: query.limit, cursor: query.cursor }, app.storage.signer());
    let limit = page.limit()?;
    let page = db::photos::Page {
        state: query.state,
        visibility: query.visibility,
        oldest_first,
        after: page.after(signer, &name)?,
        limit: limit + 1,
    };
    let photos = photos::list(&app, album, &page).await?;
    let urls = rendition_urls(&app).await?;
    let show = |photo| PhotoBody::new(photo, &urls);
    Ok(Reply(Page::new(photos, limit, signer, &name, |photo| photo.id.as_uuid(), show)))
}

/// One photo.
#[utoipa::path(
    get, path = "/v1/photos/{photo_id}", tag = "photos", security(("jwt" = []), ("invite" = [])),
    params(("photo_id" = Uuid, Path)),
    responses((status = 200, body = PhotoBody), (status = 304), Problem)
)]
pub async fn get(
    State(app): State<AppState>,
    context: ReadContext,
    Path(id): Path<PhotoId>,
    headers: HeaderMap,
) -> Result<Response> {
    let photo = photos::read(&app.db, &context, id).await?;
    Ok(respond(photo, &rendition_urls(&app).await?, &headers))
}

/// Changes the caption (uploader, host) or the visibility (host).
#[utoipa::path(
    patch, path = "/v1/photos/{photo_id}", tag = "photos", security(("jwt" = []), ("invite" = [])),
    params(("photo_id" = Uuid, Path)), request_body = PhotoPatch,
    responses((status = 200, body = PhotoBody), Problem)
)]
pub async fn update(
    State(app): State<AppState>,
    caller: Caller,
    Path(id): Path<PhotoId>,
    expected: ExpectedVersion,
    request: Json<PhotoPatch>,
) -> Result<Response> {
    let PhotoPatch { caption, visibility } = request.body;
    let caption = caption.map(|caption| caption.map(Caption::parse).transpose()).transpose();
    let caption = caption.map_err(|error| HttpError::field("caption", error))?;
    // Before the change: a request that fails must not have changed anything.
    let urls = rendition_urls(&app).await?;
    let photo = photos::update(&app.db, &caller, id, &PhotoChanges { caption, visibility }, &expected).await?;
    Ok(respond(photo, &urls, &HeaderMap::new()))
}

/// Deletes the photo and its objects.
#[utoipa::path(
    delete, path = "/v1/photos/{photo_id}", tag = "photos", security(("jwt" = []), ("invite" = [])),
    params(("photo_id" = Uuid, Path)),
    responses((status = 204), Problem)
)]
pub async fn delete(
    State(app): State<AppState>,
    caller: Caller,
    Path(id): Path<PhotoId>,
    expected: ExpectedVersion,
) -> Result<StatusCode> {
    photos::delete(&app.db, &caller, id, &expected).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Redirects to a signed URL of the original, valid for one minute.
#[utoipa::path(
    get, path = "/v1/photos/{photo_id}/original", tag = "photos", security(("jwt" = []), ("invite" = [])),
    params(("photo_id" = Uuid, Path)),
    responses((status = 303, headers(("location" = String))), Problem)
)]
pub async fn original(State(app): State<AppState>, caller: Caller, Path(id): Path<PhotoId>) -> Result<Response> {
    let location = photos::original_url(&app, &caller, id).await?;
    let headers = [(header::LOCATION, location), (header::CACHE_CONTROL, "no-store".into())];
    Ok((StatusCode::SEE_OTHER, headers).into_response())
}

/// The signed URLs change without the photo's version.
fn respond(photo: Photo, urls: &RenditionUrls, headers: &HeaderMap) -> Response {
    let tag = etag::tag(photo.version, urls.tag(photo.id));
    if etag::not_modified(headers, &tag) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response();
    }
    ([(header::ETAG, tag)], Reply(PhotoBody::new(photo, urls))).into_response()
}
