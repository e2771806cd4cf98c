//! Authentication: a JWT of the configured issuer, or an invite token.
//!
//! The gateway's authorizer checks JWTs too; a request that bypasses the gateway gains nothing.

use axum::{
    extract::FromRequestParts,
    http::{header, request::Parts},
};
use serde::Deserialize;

use super::{
    error::{HttpError, Result},
    extract::Path,
};
use crate::{
    app::AppState,
    domain::{AlbumId, Caller, InviteToken, User},
    identity::Denied,
    services::access::{AlbumContext, Credentials, ReadContext, ViewerAlbum},
    telemetry::scope,
};

const NO_TOKEN: HttpError = HttpError::Unauthorized("send `Authorization: Bearer` with a JWT or an invite token");

impl From<Denied> for HttpError {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Token(reason) => Self::Unauthorized(reason),
            Denied::NoKeys(reason) => Self::Unavailable("the issuer's keys are unavailable", anyhow::anyhow!(reason)),
        }
    }
}

async fn credentials(parts: &Parts, app: &AppState) -> Result<Credentials> {
    let value = parts.headers.get(header::AUTHORIZATION).ok_or(NO_TOKEN)?;
    let (scheme, token) = value.to_str().ok().and_then(|value| value.split_once(' ')).ok_or(NO_TOKEN)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(NO_TOKEN);
    }
    if let Some(invite) = InviteToken::from_client(token.trim()) {
        app.rate_limits.check_invite(&invite).map_err(HttpError::TooMany)?;
        return Ok(Credentials::Invite(invite));
    }
    let user = app.verifier.verify(token.trim()).await?;
    scope::set_principal("user");
    app.rate_limits.check_user(&user).map_err(HttpError::TooMany)?;
    Ok(Credentials::User(user))
}

/// The album id of the path; none if it is malformed.
async fn album_id(parts: &mut Parts, app: &AppState) -> Option<AlbumId> {
    #[derive(Deserialize)]
    struct AlbumPath {
        album_id: AlbumId,
    }
    Path::<AlbumPath>::from_request_parts(parts, app).await.ok().map(|path| path.0.album_id)
}

impl FromRequestParts<AppState> for ReadContext {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self> {
        Ok(Self::find(&app.db, credentials(parts, app).await?).await?)
    }
}

impl FromRequestParts<AppState> for Caller {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self> {
        Ok(ReadContext::from_request_parts(parts, app).await?.caller)
    }
}

impl FromRequestParts<AppState> for User {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self> {
        match <Caller as FromRequestParts<_>>::from_request_parts(parts, app).await? {
            Caller::User(user) => Ok(user),
            Caller::Guest(_) => Err(HttpError::Forbidden("an invite gives access to one album only; sign in for this")),
        }
    }
}

impl FromRequestParts<AppState> for AlbumContext {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self> {
        let credentials = credentials(parts, app).await?;
        Ok(Self::find(&app.db, &credentials, album_id(parts, app).await).await?)
    }
}

impl FromRequestParts<AppState> for ViewerAlbum {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self> {
        let credentials = credentials(parts, app).await?;
        Ok(Self::find(app, credentials, album_id(parts, app).await).await?)
    }
}
