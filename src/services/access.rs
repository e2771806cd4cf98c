//! Who calls, and which album they may access.

use crate::{
    app::App,
    db::{self, Db, Freshness, invites::Opened},
    domain::{Access, Album, AlbumId, Caller, InviteToken, User},
    read_model::Lookup,
    services::{Error, Result},
    telemetry::scope,
};

const INVALID_INVITE: Error = Error::Unauthorized("the invite is unknown, revoked or expired");

/// The credentials of a request: a verified user, or an invite that was not looked up yet.
#[derive(Debug)]
pub enum Credentials {
    User(User),
    Invite(InviteToken),
}

/// The caller, and how fresh a response has to be.
#[derive(Debug)]
pub struct ReadContext {
    pub caller: Caller,
    /// None for a user, whose reads always go to the writer.
    pub freshness: Option<Freshness>,
}

impl ReadContext {
    pub async fn find(db: &Db, credentials: Credentials) -> Result<Self> {
        match credentials {
            Credentials::User(user) => Ok(Self { caller: Caller::User(user), freshness: None }),
            Credentials::Invite(token) => {
                let opened = open_invite(db, &token).await?;
                Ok(Self { caller: Caller::Guest(opened.guest), freshness: Some(freshness(&opened)) })
            }
        }
    }
}

/// An album that the caller may access.
#[derive(Debug)]
pub struct AlbumContext {
    /// For a `drop` guest `photo_count` counts the photos of its own invite only.
    pub album: Album,
    pub access: Access,
    pub caller: Caller,
    /// None for a user, whose reads always go to the writer.
    pub freshness: Option<Freshness>,
}

impl AlbumContext {
    /// Takes one round trip. `id` is none for a malformed id.
    pub async fn find(db: &Db, credentials: &Credentials, id: Option<AlbumId>) -> Result<Self> {
        match credentials {
            Credentials::User(user) => {
                let (id, subject) = (id.ok_or(Error::NotFound)?, &user.subject);
                let find = |mut session| async move { db::albums::find(&mut session, subject, id).await };
                let album = db.read(find).await?.ok_or(Error::NotFound)?;
                Ok(Self { album, access: Access::Host, caller: Caller::User(user.clone()), freshness: None })
            }
            Credentials::Invite(token) => {
                let opened = open_invite(db, token).await?;
                let freshness = Some(freshness(&opened));
                let Opened { guest, mut album, photos_used, .. } = opened;
                if Some(album.id) != id {
                    return Err(Error::NotFound);
                }
                let access = Access::Guest(guest);
                if !access.may_follow() {
                    album.photo_count = photos_used;
                }
                Ok(Self { album, access, caller: Caller::Guest(guest), freshness })
            }
        }
    }

    /// Refuses those who may only view.
    pub fn require_contributor(&self) -> Result<()> {
        if self.access.may_add() { Ok(()) } else { Err(Error::Forbidden("this invite is for viewing only")) }
    }

    /// Refuses guests.
    pub fn require_host(&self) -> Result<()> {
        match self.access {
            Access::Host => Ok(()),
            Access::Guest(_) => Err(Error::Forbidden("only the album's host may do this")),
        }
    }
}

/// An album for reading: from the read model where that has it, else from the database.
#[derive(Debug)]
pub struct ViewerAlbum {
    context: AlbumContext,
    /// How to find the album in the database, if it is from the read model.
    lookup: Option<(Credentials, AlbumId)>,
}

impl ViewerAlbum {
    /// `id` is none for a malformed id.
    pub async fn find(app: &App, credentials: Credentials, id: Option<AlbumId>) -> Result<Self> {
        if let (Some(model), Credentials::Invite(token), Some(id)) = (&app.read_model, &credentials, id) {
            match model.find_album(token, id, db::now()).await {
                Lookup::Hit((guest, album)) => {
                    scope::set_principal(guest.role.as_str());
                    let (access, caller) = (Access::Guest(guest), Caller::Guest(guest));
                    let context = AlbumContext { album, access, caller, freshness: None };
                    return Ok(Self { context, lookup: Some((credentials, id)) });
                }
                Lookup::Ended => return Err(INVALID_INVITE),
                Lookup::Miss => {}
            }
        }
        Ok(Self { context: AlbumContext::find(&app.db, &credentials, id).await?, lookup: None })
    }

    #[must_use]
    pub fn context(&self) -> &AlbumContext {
        &self.context
    }

    #[must_use]
    pub fn is_from_read_model(&self) -> bool {
        self.lookup.is_some()
    }

    /// The album as the database has it.
    pub async fn from_database(self, db: &Db) -> Result<AlbumContext> {
        match self.lookup {
            Some((credentials, id)) => AlbumContext::find(db, &credentials, Some(id)).await,
            None => Ok(self.context),
        }
    }
}

/// Looks an invite up on the writer, so that a revocation takes effect at once.
async fn open_invite(db: &Db, token: &InviteToken) -> Result<Opened> {
    let find = |mut session| async move { db::invites::authenticate(&mut session, token, db::now()).await };
    let opened = db.read(find).await?.ok_or(INVALID_INVITE)?;
    scope::set_principal(opened.guest.role.as_str());
    Ok(opened)
}

fn freshness(opened: &Opened) -> Freshness {
    let Opened { guest, album, wrote_at, .. } = opened;
    Freshness { invite_id: guest.invite_id, last_seq: album.last_seq, wrote_at: *wrote_at }
}
