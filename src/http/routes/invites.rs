//! `/v1/albums/{album_id}/invites`.

use axum::{extract::State, http::StatusCode, response::Response};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    app::AppState,
    db,
    domain::{AlbumId, Invite, InviteId, InviteRole},
    http::{
        error::{Problem, Result},
        extract::{Json, Path, Query},
        idempotency::{self, Answer, IdempotencyKey},
        pagination::{Page, PageQuery},
        response::Reply,
    },
    services::{access::AlbumContext, invites},
};

/// An invite, without its token.
#[derive(Debug, Serialize, ToSchema)]
pub struct InviteBody {
    id: Uuid,
    album_id: Uuid,
    role: InviteRole,
    label: Option<String>,
    expires_at: Option<DateTime<Utc>>,
    /// How many photos may be added with it; null for any number.
    max_photos: Option<u32>,
    /// How many were.
    photos_used: u32,
    created_at: DateTime<Utc>,
}

impl InviteBody {
    fn new(invite: Invite, album_id: AlbumId) -> Self {
        Self {
            id: invite.id.as_uuid(),
            album_id: album_id.as_uuid(),
            role: invite.role,
            label: invite.label,
            expires_at: invite.expires_at,
            max_photos: invite.max_photos,
            photos_used: invite.photos_used,
            created_at: invite.created_at,
        }
    }
}

/// A new invite, with its token, which no other response shows.
#[derive(Debug, Serialize, ToSchema)]
pub struct CreatedInvite {
    #[serde(flatten)]
    invite: InviteBody,
    /// For `Authorization: Bearer`.
    token: String,
    /// A link to the guests' page, with the token behind the `#`, where no server logs it.
    url: String,
}

/// A new invite.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InviteRequest {
    role: InviteRole,
    /// The host's name for it, 1 to 100 characters.
    #[schema(min_length = 1, max_length = 100)]
    label: Option<String>,
    /// When it ends; in the future.
    expires_at: Option<DateTime<Utc>>,
    /// How many photos may be added with it.
    #[schema(minimum = 1, maximum = 1_000_000)]
    max_photos: Option<i64>,
}

/// An invite in the path.
#[derive(Debug, Deserialize)]
pub struct InvitePath {
    invite_id: InviteId,
}

/// Creates an invite. No other response shows its token.
#[utoipa::path(
    post, path = "/v1/albums/{album_id}/invites", tag = "invites", security(("jwt" = [])),
    params(("album_id" = Uuid, Path), IdempotencyKey), request_body = InviteRequest,
    responses((status = 201, body = CreatedInvite), Problem)
)]
pub async fn create(
    State(app): State<AppState>,
    context: AlbumContext,
    request: Json<InviteRequest>,
) -> Result<Response> {
    context.require_host()?;
    let (album_id, body) = (context.album.id, &request.body);
    let new = invites::check(body.role, body.label.as_deref(), body.expires_at, body.max_photos, db::now())?;
    let create = |tx| invites::create(tx, album_id, &new);
    let answer = |(invite, token)| {
        let url = invites::join_url(&app.config.http, album_id, &token);
        let token = token.reveal().to_owned();
        Answer::new(StatusCode::CREATED, &CreatedInvite { invite: InviteBody::new(invite, album_id), token, url })
    };
    idempotency::run(&app, &context.caller, &request, create, answer).await
}

/// The album's invites that are not revoked, newest first.
#[utoipa::path(
    get, path = "/v1/albums/{album_id}/invites", tag = "invites", security(("jwt" = [])),
    params(("album_id" = Uuid, Path), PageQuery),
    responses((status = 200, body = Page<InviteBody>), Problem)
)]
pub async fn list(
    State(app): State<AppState>,
    context: AlbumContext,
    Query(query): Query<PageQuery>,
) -> Result<Reply<Page<InviteBody>>> {
    context.require_host()?;
    let album_id = context.album.id;
    let (limit, signer, name) = (query.limit()?, app.storage.signer(), format!("invites of {album_id}"));
    let before: Option<InviteId> = query.after(signer, &name)?;
    let invites = invites::list(&app.db, album_id, before, limit + 1).await?;
    let show = |invite| InviteBody::new(invite, album_id);
    Ok(Reply(Page::new(invites, limit, signer, &name, |invite| invite.id.as_uuid(), show)))
}

/// Revokes an invite at once. Photos that were added with it stay.
#[utoipa::path(
    delete, path = "/v1/albums/{album_id}/invites/{invite_id}", tag = "invites", security(("jwt" = [])),
    params(("album_id" = Uuid, Path), ("invite_id" = Uuid, Path)),
    responses((status = 204), Problem)
)]
pub async fn revoke(
    State(app): State<AppState>,
    context: AlbumContext,
    Path(path): Path<InvitePath>,
) -> Result<StatusCode> {
    context.require_host()?;
    invites::revoke(&app, context.album.id, path.invite_id).await?;
    Ok(StatusCode::NO_CONTENT)
}
