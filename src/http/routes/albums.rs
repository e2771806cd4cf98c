//! `/v1/albums`.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::http::{
    auth::{InAlbum, Looking},
    error::{FieldError, HttpError, Problem, Result},
    etag,
    extract::{Json, Query},
    idempotency::{self, Answer},
    pagination::{Page, PageQuery},
    response::Reply,
};
use crate::{
    app::AppState,
    db::{self, events::NewEvent, jobs::PURGE_ALBUM},
    domain::{Access, Album, AlbumId, AlbumRole, Caller, EventKind, Title, User},
    read_model::items::Item,
};

/// An album, as its caller sees it.
#[derive(Debug, Serialize, ToSchema)]
pub struct AlbumBody {
    id: uuid::Uuid,
    title: String,
    role: AlbumRole,
    /// Whether new photos wait for the host before guests see them.
    review: bool,
    /// Whether it takes no more photos.
    closed: bool,
    /// Photos that are ready and visible; for a `drop` guest the photos added with its invite.
    photo_count: u32,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl AlbumBody {
    pub(crate) fn new(album: Album, access: &Access) -> Self {
        Self {
            id: album.id.as_uuid(),
            title: album.title,
            role: access.role(),
            review: album.review,
            closed: album.closed,
            photo_count: album.photo_count,
            created_at: album.created_at,
            updated_at: album.updated_at,
        }
    }
}

/// A new album.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewAlbum {
    /// 1 to 200 characters.
    #[schema(min_length = 1, max_length = 200)]
    title: String,
    /// Whether new photos wait for the host before guests see them.
    #[serde(default)]
    review: bool,
}

/// Changes of an album; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AlbumPatch {
    /// 1 to 200 characters.
    #[schema(min_length = 1, max_length = 200, nullable = false)]
    #[serde(default, deserialize_with = "crate::http::extract::given")]
    title: Option<String>,
    /// Whether new photos wait for the host before guests see them.
    #[schema(nullable = false)]
    #[serde(default, deserialize_with = "crate::http::extract::given")]
    review: Option<bool>,
    /// Whether it takes no more photos.
    #[schema(nullable = false)]
    #[serde(default, deserialize_with = "crate::http::extract::given")]
    closed: Option<bool>,
}

/// Opens an album; the caller becomes its host.
#[utoipa::path(post, path = "/v1/albums", tag = "albums", request_body = NewAlbum, security(("jwt" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key and body within 24 h gives the first answer again.")),
    responses((status = 201, body = AlbumBody), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn create(State(app): State<AppState>, user: User, request: Json<NewAlbum>) -> Result<Response> {
    let title = Title::parse(&*request.body.title).map_err(|why| HttpError::field("title", why))?;
    let caller = Caller::User(user.clone());
    let (host, title, review) = (&user.subject, &title, request.body.review);
    idempotency::run(&app, &caller, &request, |mut tx| async move {
        let album = db::albums::insert(tx.session(), host, title, review, db::now()).await?;
        Ok(tx.done(Answer::new(StatusCode::CREATED, &AlbumBody::new(album, &Access::Host))))
    })
    .await
}

/// The caller's albums, newest first.
#[utoipa::path(get, path = "/v1/albums", tag = "albums", params(PageQuery), security(("jwt" = [])),
    responses((status = 200, body = Page<AlbumBody>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn list(
    State(app): State<AppState>,
    user: User,
    Query(query): Query<PageQuery>,
) -> Result<Reply<Page<AlbumBody>>> {
    let (limit, signer, name) = (query.limit()?, app.storage.signer(), format!("albums of {}", user.subject));
    let before: Option<AlbumId> = query.after(signer, &name)?;
    let subject = &user.subject;
    let list = |mut session| async move { db::albums::list(&mut session, subject, before, limit + 1).await };
    let albums = app.db.read(list).await?;
    let show = |album| AlbumBody::new(album, &Access::Host);
    Ok(Reply(Page::new(albums, limit, signer, &name, |album| album.id.as_uuid(), show)))
}

/// One album, with the caller's role.
#[utoipa::path(get, path = "/v1/albums/{album_id}", tag = "albums", params(("album_id" = uuid::Uuid, Path)), security(("jwt" = []), ("invite" = [])),
    responses((status = 200, body = AlbumBody), (status = 304), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn get(looking: Looking, headers: HeaderMap) -> Response {
    let here = looking.here();
    answer(here.album.clone(), &here.access, &headers)
}

/// Changes title or settings.
#[utoipa::path(patch, path = "/v1/albums/{album_id}", tag = "albums", params(("album_id" = uuid::Uuid, Path)), request_body = AlbumPatch, security(("jwt" = [])),
    responses((status = 200, body = AlbumBody), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn update(
    State(app): State<AppState>,
    here: InAlbum,
    headers: HeaderMap,
    request: Json<AlbumPatch>,
) -> Result<Response> {
    here.host_only()?;
    let patch = &request.body;
    let title = patch.title.as_deref().map(Title::parse).transpose();
    let title = title.map_err(|why| HttpError::Unprocessable(vec![FieldError::new("title", why)]))?;
    let (id, headers, title) = (here.album.id, &headers, &title);
    let album = app
        .db
        .transaction(|mut tx| async move {
            let mut album = db::albums::lock(tx.session(), id).await?.ok_or(HttpError::NotFound)?;
            etag::check_match(headers, album.version)?;
            let before = (album.title.clone(), album.review, album.closed);
            if let Some(title) = title {
                title.as_str().clone_into(&mut album.title);
            }
            album.review = patch.review.unwrap_or(album.review);
            album.closed = patch.closed.unwrap_or(album.closed);
            if before == (album.title.clone(), album.review, album.closed) {
                return Ok(tx.done(album));
            }
            album.version += 1;
            album.updated_at = db::now();
            db::albums::update(tx.session(), &album).await?;
            let kind = EventKind::AlbumUpdated;
            tx.record(
                album.id,
                NewEvent { kind, public_kind: Some(kind), photo_id: None, edit_id: None, uploader: None },
            )
            .await?;
            Ok::<_, HttpError>(tx.done(album))
        })
        .await?;
    Ok(answer(album, &here.access, &HeaderMap::new()))
}

/// Deletes the album with all its photos.
#[utoipa::path(delete, path = "/v1/albums/{album_id}", tag = "albums", params(("album_id" = uuid::Uuid, Path)), security(("jwt" = [])),
    responses((status = 204), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn delete(State(app): State<AppState>, here: InAlbum, headers: HeaderMap) -> Result<StatusCode> {
    here.host_only()?;
    let (id, headers) = (here.album.id, &headers);
    app.db
        .transaction(|mut tx| async move {
            let album = db::albums::lock(tx.session(), id).await?.ok_or(HttpError::NotFound)?;
            etag::check_match(headers, album.version)?;
            db::albums::mark_deleted(tx.session(), album.id, db::now()).await?;
            tx.project(album.id).await?;
            tx.enqueue(PURGE_ALBUM, album.id.as_uuid()).await?;
            Ok::<_, HttpError>(tx.done(()))
        })
        .await?;
    if let Some(model) = &app.read_model {
        model.write_now(&Item::deleted(id, db::now())).await;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// The count of photos changes without the album's version.
fn answer(album: Album, access: &Access, headers: &HeaderMap) -> Response {
    let tag = etag::tag(album.version, format_args!("{}-{}", album.photo_count, access.role() as u8));
    if etag::not_modified(headers, &tag) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response();
    }
    ([(header::ETAG, tag)], Reply(AlbumBody::new(album, access))).into_response()
}
