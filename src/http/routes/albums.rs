//! `/v1/albums`.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    app::AppState,
    domain::{Access, Album, AlbumId, AlbumRole, Caller, Title, User},
    http::{
        error::{HttpError, Problem, Result},
        etag,
        extract::{Json, Query},
        idempotency::{self, Answer, IdempotencyKey},
        pagination::{Page, PageQuery},
        response::Reply,
    },
    services::{
        ExpectedVersion,
        access::{AlbumContext, ViewerAlbum},
        albums::{self, AlbumChanges},
    },
};

/// An album, as its caller sees it.
#[derive(Debug, Serialize, ToSchema)]
pub struct AlbumBody {
    id: Uuid,
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
    fn new(album: Album, access: &Access) -> Self {
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

/// Changes of an album; missing fields stay as they are.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AlbumPatch {
    /// 1 to 200 characters.
    #[schema(min_length = 1, max_length = 200, nullable = false)]
    #[serde(default, deserialize_with = "crate::http::extract::non_null")]
    title: Option<String>,
    /// Whether new photos wait for the host before guests see them.
    #[schema(nullable = false)]
    #[serde(default, deserialize_with = "crate::http::extract::non_null")]
    review: Option<bool>,
    /// Whether it takes no more photos.
    #[schema(nullable = false)]
    #[serde(default, deserialize_with = "crate::http::extract::non_null")]
    closed: Option<bool>,
}

/// Creates an album; the caller becomes its host.
#[utoipa::path(
    post, path = "/v1/albums", tag = "albums", security(("jwt" = [])),
    params(IdempotencyKey), request_body = NewAlbum,
    responses((status = 201, body = AlbumBody), Problem)
)]
pub async fn create(State(app): State<AppState>, user: User, request: Json<NewAlbum>) -> Result<Response> {
    let title = parse_title(&request.body.title)?;
    let create = |tx| albums::create(tx, &user.subject, &title, request.body.review);
    let answer = |album| Answer::new(StatusCode::CREATED, &AlbumBody::new(album, &Access::Host));
    idempotency::run(&app, &Caller::User(user.clone()), &request, create, answer).await
}

/// The caller's albums, newest first.
#[utoipa::path(
    get, path = "/v1/albums", tag = "albums", security(("jwt" = [])),
    params(PageQuery),
    responses((status = 200, body = Page<AlbumBody>), Problem)
)]
pub async fn list(
    State(app): State<AppState>,
    user: User,
    Query(query): Query<PageQuery>,
) -> Result<Reply<Page<AlbumBody>>> {
    let (limit, signer, name) = (query.limit()?, app.storage.signer(), format!("albums of {}", user.subject));
    let before: Option<AlbumId> = query.after(signer, &name)?;
    let albums = albums::list(&app.db, &user.subject, before, limit + 1).await?;
    let show = |album| AlbumBody::new(album, &Access::Host);
    Ok(Reply(Page::new(albums, limit, signer, &name, |album| album.id.as_uuid(), show)))
}

/// One album, with the caller's role.
#[utoipa::path(
    get, path = "/v1/albums/{album_id}", tag = "albums", security(("jwt" = []), ("invite" = [])),
    params(("album_id" = Uuid, Path)),
    responses((status = 200, body = AlbumBody), (status = 304), Problem)
)]
pub async fn get(album: ViewerAlbum, headers: HeaderMap) -> Response {
    let context = album.context();
    respond(context.album.clone(), &context.access, &headers)
}

/// Changes title or settings.
#[utoipa::path(
    patch, path = "/v1/albums/{album_id}", tag = "albums", security(("jwt" = [])),
    params(("album_id" = Uuid, Path)), request_body = AlbumPatch,
    responses((status = 200, body = AlbumBody), Problem)
)]
pub async fn update(
    State(app): State<AppState>,
    context: AlbumContext,
    expected: ExpectedVersion,
    request: Json<AlbumPatch>,
) -> Result<Response> {
    context.require_host()?;
    let AlbumPatch { title, review, closed } = request.body;
    let title = title.as_deref().map(parse_title).transpose()?;
    let changes = AlbumChanges { title, review, closed };
    let album = albums::update(&app.db, context.album.id, &changes, &expected).await?;
    Ok(respond(album, &context.access, &HeaderMap::new()))
}

/// Deletes the album with all its photos.
#[utoipa::path(
    delete, path = "/v1/albums/{album_id}", tag = "albums", security(("jwt" = [])),
    params(("album_id" = Uuid, Path)),
    responses((status = 204), Problem)
)]
pub async fn delete(
    State(app): State<AppState>,
    context: AlbumContext,
    expected: ExpectedVersion,
) -> Result<StatusCode> {
    context.require_host()?;
    albums::delete(&app, context.album.id, &expected).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn parse_title(title: &str) -> Result<Title> {
    Title::parse(title).map_err(|error| HttpError::field("title", error))
}

/// The number of photos changes without the album's version.
fn respond(album: Album, access: &Access, headers: &HeaderMap) -> Response {
    let tag = etag::tag(album.version, format_args!("{}-{}", album.photo_count, access.role() as u8));
    if etag::not_modified(headers, &tag) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response();
    }
    ([(header::ETAG, tag)], Reply(AlbumBody::new(album, access))).into_response()
}
