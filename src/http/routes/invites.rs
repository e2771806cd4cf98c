//! `/v1/albums/{album_id}/invites`.

use axum::{
    extract::{RawPathParams, State},
    http::StatusCode,
    response::Response,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::http::{
    auth::InAlbum,
    error::{FieldError, HttpError, Problem, Result},
    extract::{Json, Query, path_id},
    idempotency::{self, Answer},
    pagination::{Page, PageQuery},
    response::Reply,
};
use crate::{
    app::{App, AppState},
    db::{self, invites::NewInvite},
    domain::{AlbumId, Invite, InviteId, InviteRole, InviteToken, Label},
    read_model::items::Item,
};

/// The most photos that one invite may be limited to.
const MOST_PHOTOS: i64 = 1_000_000;

/// An invite, without its token.
#[derive(Debug, Serialize, ToSchema)]
pub struct InviteBody {
    id: uuid::Uuid,
    album_id: uuid::Uuid,
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

/// A new invite, with the token that is shown this once.
#[derive(Debug, Serialize, ToSchema)]
pub struct CreatedInvite {
    #[serde(flatten)]
    invite: InviteBody,
    /// To be sent as `Authorization: Bearer`.
    token: String,
    /// A link to the guests' page, with the token behind the `#`, where no server logs it.
    url: String,
}

/// A new invite.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InviteRequest {
    role: InviteRole,
    /// What the host calls it, 1 to 100 characters.
    #[schema(min_length = 1, max_length = 100)]
    label: Option<String>,
    /// When it ends; in the future.
    expires_at: Option<DateTime<Utc>>,
    /// How many photos may be added with it.
    #[schema(minimum = 1, maximum = 1_000_000)]
    max_photos: Option<i64>,
}

impl InviteRequest {
    fn check(&self, now: DateTime<Utc>) -> Result<NewInvite> {
        let mut errors = Vec::new();
        let mut wrong = |field: &str, message: &str| errors.push(FieldError::new(field, message));
        let label = match self.label.as_deref().map(Label::parse).transpose() {
            Ok(label) => label,
            Err(why) => {
                wrong("label", &why.to_string());
                None
            }
        };
        // In the milliseconds that the table holds, and without leap seconds, which it does not.
        let expires_at = self.expires_at.and_then(|at| DateTime::from_timestamp_millis(at.timestamp_millis()));
        if expires_at.is_some_and(|at| at <= now) {
            wrong("expires_at", "must be in the future");
        }
        // DATETIME ends with the year 9999.
        if expires_at.is_some_and(|at| at.timestamp() > 253_402_300_799) {
            wrong("expires_at", "must be before the year 10000");
        }
        if self.max_photos.is_some_and(|most| !(1..=MOST_PHOTOS).contains(&most)) {
            wrong("max_photos", "must be 1 to 1000000");
        }
        if !errors.is_empty() {
            return Err(HttpError::Unprocessable(errors));
        }
        let max_photos = self.max_photos.and_then(|most| u32::try_from(most).ok());
        Ok(NewInvite { role: self.role, label, expires_at, max_photos })
    }
}

/// Makes an invite. The token is in this answer and nowhere else.
#[utoipa::path(post, path = "/v1/albums/{album_id}/invites", tag = "invites", request_body = InviteRequest, security(("jwt" = [])),
    params(("album_id" = uuid::Uuid, Path), ("Idempotency-Key" = Option<String>, Header, description = "The same key and body within 24 h gives the first answer again.")),
    responses((status = 201, body = CreatedInvite), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn create(State(app): State<AppState>, here: InAlbum, request: Json<InviteRequest>) -> Result<Response> {
    here.host_only()?;
    let new = request.body.check(db::now())?;
    let (state, id, new) = (&app, here.album.id, &new);
    idempotency::run(&app, &here.caller, &request, |mut tx| async move {
        db::albums::lock_shared(tx.session(), id).await?.ok_or(HttpError::NotFound)?;
        let token = InviteToken::generate();
        let invite = db::invites::insert(tx.session(), id, new, &token, db::now()).await?;
        let created = CreatedInvite {
            invite: InviteBody::new(invite, id),
            token: token.reveal().to_owned(),
            url: link(state, id, &token),
        };
        tx.project(id).await?;
        Ok(tx.done(Answer::new(StatusCode::CREATED, &created)))
    })
    .await
}

/// The album's invites that are not revoked, newest first.
#[utoipa::path(get, path = "/v1/albums/{album_id}/invites", tag = "invites", params(("album_id" = uuid::Uuid, Path), PageQuery), security(("jwt" = [])),
    responses((status = 200, body = Page<InviteBody>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn list(
    State(app): State<AppState>,
    here: InAlbum,
    Query(query): Query<PageQuery>,
) -> Result<Reply<Page<InviteBody>>> {
    here.host_only()?;
    let (limit, signer, name) = (query.limit()?, app.storage.signer(), format!("invites of {}", here.album.id));
    let before: Option<InviteId> = query.after(signer, &name)?;
    let album_id = here.album.id;
    let list = |mut session| async move { db::invites::list(&mut session, album_id, before, limit + 1).await };
    let invites = app.db.read(list).await?;
    let show = |invite| InviteBody::new(invite, here.album.id);
    Ok(Reply(Page::new(invites, limit, signer, &name, |invite| invite.id.as_uuid(), show)))
}

/// Revokes an invite at once. The photos added with it stay.
#[utoipa::path(delete, path = "/v1/albums/{album_id}/invites/{invite_id}", tag = "invites", security(("jwt" = [])),
    params(("album_id" = uuid::Uuid, Path), ("invite_id" = uuid::Uuid, Path)),
    responses((status = 204), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn revoke(State(app): State<AppState>, here: InAlbum, params: RawPathParams) -> Result<StatusCode> {
    here.host_only()?;
    let id: InviteId = path_id(&params, "invite_id")?;
    let (album_id, now) = (here.album.id, db::now());
    let revoke = |mut tx: db::Tx| async move {
        db::albums::lock_shared(tx.session(), album_id).await?.ok_or(HttpError::NotFound)?;
        if !db::invites::revoke(tx.session(), album_id, id, now).await? {
            return Err(HttpError::NotFound);
        }
        let revoked = db::read_model::invite(tx.session(), album_id, id).await?;
        tx.project(album_id).await?;
        Ok(tx.done(revoked))
    };
    let revoked = app.db.transaction(revoke).await?;
    if let (Some(model), Some(invite)) = (&app.read_model, revoked) {
        model.write_now(&Item::invite(&invite)).await;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// A link to the guests' page. The token stands behind the `#`, which browsers send to no server.
#[must_use]
pub fn link(app: &App, album_id: AlbumId, token: &InviteToken) -> String {
    app.config.http.public(&format!("/join#album={album_id}&invite={}", token.reveal()))
}
