//! Who asks: a JWT of the configured issuer, or an invite token.
//!
//! A second line behind the gateway's authorizer: a request that comes round the gateway gets nothing.

use axum::{
    extract::{FromRequestParts, OptionalFromRequestParts, RawPathParams},
    http::{header, request::Parts},
};

use super::{
    error::{HttpError, Result},
    extract::path_id,
};
use crate::{
    app::AppState,
    db::{self, Freshness, invites::Opened},
    domain::{Access, Album, AlbumId, Caller, InviteToken, User},
    identity::Denied,
    read_model::Lookup,
    telemetry::scope,
};

const NO_TOKEN: HttpError = HttpError::Unauthorized("send `Authorization: Bearer` with a JWT or an invite token");
const BAD_INVITE: HttpError = HttpError::Unauthorized("the invite is unknown, revoked or expired");

fn denied(denied: Denied) -> HttpError {
    match denied {
        Denied::Token(why) => HttpError::Unauthorized(why),
        Denied::NoKeys(why) => {
            HttpError::Unavailable("the issuer's keys can't be read right now", anyhow::anyhow!(why))
        }
    }
}

/// What a request shows; a JWT is verified, an invite is not looked up yet.
#[derive(Debug)]
enum Credentials {
    User(User),
    Invite(InviteToken),
}

impl Credentials {
    async fn read(parts: &Parts, app: &AppState) -> Result<Self> {
        let value = parts.headers.get(header::AUTHORIZATION).ok_or(NO_TOKEN)?;
        let (scheme, token) = value.to_str().ok().and_then(|v| v.split_once(' ')).ok_or(NO_TOKEN)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(NO_TOKEN);
        }
        if let Some(invite) = InviteToken::presented(token.trim()) {
            app.rate_limits.check_invite(&invite).map_err(HttpError::TooMany)?;
            return Ok(Self::Invite(invite));
        }
        let user = app.verifier.verify(token.trim()).await.map_err(denied)?;
        scope::set_principal("user");
        app.rate_limits.check_user(&user).map_err(HttpError::TooMany)?;
        Ok(Self::User(user))
    }
}

/// Looks an invite up, on the writer: a revocation counts at once.
async fn open(app: &AppState, token: &InviteToken) -> Result<Opened> {
    let look = |mut session| async move { db::invites::authenticate(&mut session, token, db::now()).await };
    let opened = app.db.read(look).await?.ok_or(BAD_INVITE)?;
    scope::set_principal(opened.guest.role.as_str());
    Ok(opened)
}

fn freshness(opened: &Opened) -> Freshness {
    let Opened { guest, album, wrote_at, .. } = opened;
    Freshness { invite_id: guest.invite_id, last_seq: album.last_seq, wrote_at: *wrote_at }
}

/// Who asks, and how fresh an answer has to be for a guest.
#[derive(Debug)]
pub struct Reading {
    /// Who asks.
    pub caller: Caller,
    /// None for a user, who is always answered by the writer.
    pub freshness: Option<Freshness>,
}

impl FromRequestParts<AppState> for Reading {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self> {
        match Credentials::read(parts, app).await? {
            Credentials::User(user) => Ok(Self { caller: Caller::User(user), freshness: None }),
            Credentials::Invite(token) => {
                let opened = open(app, &token).await?;
                Ok(Self { caller: Caller::Guest(opened.guest), freshness: Some(freshness(&opened)) })
            }
        }
    }
}

impl FromRequestParts<AppState> for Caller {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self> {
        Ok(Reading::from_request_parts(parts, app).await?.caller)
    }
}

impl FromRequestParts<AppState> for User {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self> {
        match <Caller as FromRequestParts<_>>::from_request_parts(parts, app).await? {
            Caller::User(user) => Ok(user),
            Caller::Guest(_) => Err(HttpError::Forbidden("an invite opens one album only; sign in for this")),
        }
    }
}

impl OptionalFromRequestParts<AppState> for Caller {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Option<Self>> {
        if !parts.headers.contains_key(header::AUTHORIZATION) {
            return Ok(None);
        }
        <Self as FromRequestParts<_>>::from_request_parts(parts, app).await.map(Some)
    }
}

/// The album in the path, for a caller that may know of it. One round trip, whoever asks.
#[derive(Debug)]
pub struct InAlbum {
    /// The album. For a `drop` guest `photo_count` counts its own photos, the only ones it knows of.
    pub album: Album,
    /// What the caller is to it.
    pub access: Access,
    /// Who asks.
    pub caller: Caller,
    /// How fresh an answer has to be for a guest.
    pub freshness: Option<Freshness>,
}

impl FromRequestParts<AppState> for InAlbum {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self> {
        let (credentials, id) = asked(parts, app).await?;
        Self::find(app, &credentials, id).await
    }
}

/// Who asks, and for which album; none for an id that can't be one.
async fn asked(parts: &mut Parts, app: &AppState) -> Result<(Credentials, Option<AlbumId>)> {
    let credentials = Credentials::read(parts, app).await?;
    let params = RawPathParams::from_request_parts(parts, app).await.map_err(|_| HttpError::NotFound)?;
    Ok((credentials, path_id(&params, "album_id").ok()))
}

/// The album in the path, for who looks at a page of it: for a viewer from the read model, where it is on and has it.
#[derive(Debug)]
pub struct Looking {
    here: InAlbum,
    /// What the database can be asked with, if the read model answered.
    asked: Option<(Credentials, AlbumId)>,
}

impl FromRequestParts<AppState> for Looking {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self> {
        let (credentials, id) = asked(parts, app).await?;
        if let (Some(model), Credentials::Invite(token), Some(id)) = (&app.read_model, &credentials, id) {
            match model.find_album(token, id, db::now()).await {
                Lookup::Hit((guest, album)) => {
                    scope::set_principal(guest.role.as_str());
                    let (access, caller) = (Access::Guest(guest), Caller::Guest(guest));
                    let here = InAlbum { album, access, caller, freshness: None };
                    return Ok(Self { here, asked: Some((credentials, id)) });
                }
                Lookup::Ended => return Err(BAD_INVITE),
                Lookup::Miss => {}
            }
        }
        Ok(Self { here: InAlbum::find(app, &credentials, id).await?, asked: None })
    }
}

impl Looking {
    /// The album, as the one or the other has told.
    #[must_use]
    pub fn here(&self) -> &InAlbum {
        &self.here
    }

    /// Whether the read model has told.
    #[must_use]
    pub fn is_projected(&self) -> bool {
        self.asked.is_some()
    }

    /// The album as the database tells of it.
    pub async fn in_database(self, app: &AppState) -> Result<InAlbum> {
        match self.asked {
            Some((credentials, id)) => InAlbum::find(app, &credentials, Some(id)).await,
            None => Ok(self.here),
        }
    }
}

impl InAlbum {
    async fn find(app: &AppState, credentials: &Credentials, id: Option<AlbumId>) -> Result<Self> {
        match credentials {
            Credentials::User(user) => {
                let (id, subject) = (id.ok_or(HttpError::NotFound)?, &user.subject);
                let find = |mut session| async move { db::albums::find(&mut session, subject, id).await };
                let album = app.db.read(find).await?.ok_or(HttpError::NotFound)?;
                Ok(Self { album, access: Access::Host, caller: Caller::User(user.clone()), freshness: None })
            }
            Credentials::Invite(token) => {
                let opened = open(app, token).await?;
                let freshness = Some(freshness(&opened));
                let Opened { guest, mut album, photos_used, .. } = opened;
                if Some(album.id) != id {
                    return Err(HttpError::NotFound);
                }
                let access = Access::Guest(guest);
                if !access.may_follow() {
                    album.photo_count = photos_used;
                }
                Ok(Self { album, access, caller: Caller::Guest(guest), freshness })
            }
        }
    }

    /// Refuses guests.
    pub fn host_only(&self) -> Result<()> {
        if self.access == Access::Host {
            Ok(())
        } else {
            Err(HttpError::Forbidden("only the album's host may do this"))
        }
    }
}
