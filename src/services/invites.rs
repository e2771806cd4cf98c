//! Invites: create, list, revoke.

use chrono::{DateTime, Utc};

use super::{Error, FieldError, Result};
use crate::{
    app::App,
    config,
    db::{self, Db, Done, Tx, invites::NewInvite},
    domain::{AlbumId, Invite, InviteId, InviteRole, InviteToken, Label},
    read_model::items::Item,
};

/// The largest `max_photos`.
const MAX_PHOTOS: i64 = 1_000_000;
/// 9999-12-31T23:59:59Z, the last second of a DATETIME.
const LAST_SECOND: i64 = 253_402_300_799;

/// Checks what a host asks for, as of `now`.
pub fn check(
    role: InviteRole,
    label: Option<&str>,
    expires_at: Option<DateTime<Utc>>,
    max_photos: Option<i64>,
    now: DateTime<Utc>,
) -> Result<NewInvite> {
    let mut errors = Vec::new();
    let label = label.map(Label::parse).transpose().unwrap_or_else(|error| {
        errors.push(FieldError::new("label", error));
        None
    });
    // The table holds milliseconds and no leap seconds.
    let expires_at = expires_at.and_then(|at| DateTime::from_timestamp_millis(at.timestamp_millis()));
    if expires_at.is_some_and(|at| at <= now) {
        errors.push(FieldError::new("expires_at", "must be in the future"));
    }
    if expires_at.is_some_and(|at| at.timestamp() > LAST_SECOND) {
        errors.push(FieldError::new("expires_at", "must be before the year 10000"));
    }
    if max_photos.is_some_and(|max| !(1..=MAX_PHOTOS).contains(&max)) {
        errors.push(FieldError::new("max_photos", format_args!("must be 1 to {MAX_PHOTOS}")));
    }
    if !errors.is_empty() {
        return Err(Error::Invalid(errors));
    }
    Ok(NewInvite { role, label, expires_at, max_photos: max_photos.and_then(|max| u32::try_from(max).ok()) })
}

/// Creates an invite. Only the hash of the token is stored.
pub async fn create(mut tx: Tx, album_id: AlbumId, new: &NewInvite) -> Result<Done<(Invite, InviteToken)>> {
    db::albums::lock_shared(tx.session(), album_id).await?.ok_or(Error::NotFound)?;
    let token = InviteToken::generate();
    let invite = db::invites::insert(tx.session(), album_id, new, &token, db::now()).await?;
    tx.project(album_id).await?;
    Ok(tx.done((invite, token)))
}

/// A page of the album's invites that are not revoked, newest first.
pub async fn list(db: &Db, album_id: AlbumId, before: Option<InviteId>, limit: u32) -> Result<Vec<Invite>> {
    let list = |mut session| async move { db::invites::list(&mut session, album_id, before, limit).await };
    Ok(db.read(list).await?)
}

/// Revokes an invite at once, in the read model too. Photos that were added with it stay.
pub async fn revoke(app: &App, album_id: AlbumId, id: InviteId) -> Result<()> {
    let revoke = |mut tx: Tx| async move {
        db::albums::lock_shared(tx.session(), album_id).await?.ok_or(Error::NotFound)?;
        if !db::invites::revoke(tx.session(), album_id, id, db::now()).await? {
            return Err(Error::NotFound);
        }
        let revoked = db::read_model::invite(tx.session(), album_id, id).await?;
        tx.project(album_id).await?;
        Ok(tx.done(revoked))
    };
    let revoked = app.db.transaction(revoke).await?;
    if let (Some(model), Some(invite)) = (&app.read_model, revoked) {
        model.write_now(&Item::invite(&invite)).await;
    }
    Ok(())
}

/// The link to the guests' page. Browsers send what follows the `#` to no server.
#[must_use]
pub fn join_url(config: &config::Http, album_id: AlbumId, token: &InviteToken) -> String {
    config.public(&format!("/join#album={album_id}&invite={}", token.reveal()))
}
