//! Invites.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use chrono::{DateTime, Utc};
use sqlx::MySqlExecutor;
use uuid::Uuid;

use super::{
    albums::{self, album_columns},
    error::{Error, Result},
    session::Session,
    time::as_datetime,
};
use crate::domain::{Album, AlbumId, Guest, Invite, InviteId, InviteRole, InviteToken, Label};

/// The columns of [`Row`], of `invites i`.
macro_rules! invite_columns {
    () => {
        "i.id, i.role, i.label, i.expires_at, i.max_photos, i.photos_used, i.created_at"
    };
}

statements! {
    INSERT = "INSERT INTO invites (id, album_id, role, label, token_hash, expires_at, max_photos, created_at)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
    AUTHENTICATE = "SELECT i.id AS invite_id, i.role, i.token_hash, i.photos_used, i.wrote_at, ", album_columns!(), "
        FROM invites i JOIN albums a ON a.id = i.album_id WHERE i.token_hash = ? AND i.revoked_at IS NULL
        AND (i.expires_at IS NULL OR i.expires_at > ?) AND a.deleted_at IS NULL";
    LIST = "SELECT ", invite_columns!(), " FROM invites i FORCE INDEX (invites_by_album)
        WHERE i.album_id = ? AND i.revoked_at IS NULL AND i.id < ? ORDER BY i.id DESC LIMIT ?";
    REVOKE = "UPDATE invites SET revoked_at = ? WHERE id = ? AND album_id = ? AND revoked_at IS NULL";
    TAKE_PHOTO = "UPDATE invites SET photos_used = photos_used + 1, wrote_at = UTC_TIMESTAMP(6)
        WHERE id = ? AND revoked_at IS NULL AND (max_photos IS NULL OR photos_used < max_photos)";
    RETURN_PHOTO = "UPDATE invites SET photos_used = photos_used - 1, wrote_at = UTC_TIMESTAMP(6)
        WHERE id = ? AND photos_used > 0";
    ROLE = "SELECT role FROM invites WHERE id = ?";
    NOTE_CHANGE = "UPDATE invites SET wrote_at = UTC_TIMESTAMP(6) WHERE id = ?";
    REPLICATION_STATE = "SELECT a.last_seq, i.wrote_at FROM invites i JOIN albums a ON a.id = i.album_id
        WHERE i.id = ?";
}

from_row! {
    struct Row {
        id: Uuid,
        role: String,
        label: Option<String>,
        expires_at: Option<DateTime<Utc>>,
        max_photos: Option<u32>,
        photos_used: u32,
        created_at: DateTime<Utc>,
    }
}

impl TryFrom<Row> for Invite {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            id: row.id.into(),
            role: InviteRole::parse(&row.role).ok_or(Error::Corrupt("invites"))?,
            label: row.label,
            expires_at: row.expires_at,
            max_photos: row.max_photos,
            photos_used: row.photos_used,
            created_at: row.created_at,
        })
    }
}

/// A new invite.
#[derive(Debug)]
pub struct NewInvite {
    /// What it allows.
    pub role: InviteRole,
    /// The host's name for it.
    pub label: Option<Label>,
    /// When it expires.
    pub expires_at: Option<DateTime<Utc>>,
    /// The maximum number of photos that may be added with it.
    pub max_photos: Option<u32>,
}

/// Inserts an invite; of the token only its hash is stored.
pub async fn insert(
    session: &mut Session,
    album_id: AlbumId,
    new: &NewInvite,
    token: &InviteToken,
    now: DateTime<Utc>,
) -> Result<Invite> {
    let id = InviteId::generate();
    let label = new.label.as_ref().map(Label::as_str);
    sqlx::query(INSERT)
        .bind(id.as_uuid())
        .bind(album_id.as_uuid())
        .bind(new.role.as_str())
        .bind(label)
        .bind(&token.hash()[..])
        .bind(new.expires_at.map(as_datetime))
        .bind(new.max_photos)
        .bind(now)
        .execute(session)
        .await?;
    Ok(Invite {
        id,
        role: new.role,
        label: label.map(str::to_owned),
        expires_at: new.expires_at,
        max_photos: new.max_photos,
        photos_used: 0,
        created_at: now,
    })
}

from_row! {
    struct GuestRow {
        invite_id: Uuid,
        role: String,
        token_hash: Vec<u8>,
        photos_used: u32,
        wrote_at: Option<DateTime<Utc>>,
    } flatten album: albums::Row
}

/// What an invite token grants.
#[derive(Debug)]
pub struct Opened {
    /// The guest.
    pub guest: Guest,
    /// The album.
    pub album: Album,
    /// The number of photos that were added with the invite.
    pub photos_used: u32,
    /// The time of the invite's last change without an event.
    pub wrote_at: Option<DateTime<Utc>>,
}

/// What a token grants; `None` when it is unknown, revoked or expired, or its album is deleted.
pub async fn authenticate(
    executor: impl MySqlExecutor<'_>,
    token: &InviteToken,
    now: DateTime<Utc>,
) -> Result<Option<Opened>> {
    let hash = token.hash();
    let row: Option<GuestRow> = sqlx::query_as(AUTHENTICATE).bind(&hash[..]).bind(now).fetch_optional(executor).await?;
    let Some(row) = row else { return Ok(None) };
    // The index lookup's time reveals nothing of the token, only of its hash; this compares in constant time.
    if verify_slices_are_equal(&row.token_hash, &hash).is_err() {
        return Ok(None);
    }
    let role = InviteRole::parse(&row.role).ok_or(Error::Corrupt("invites"))?;
    let album = Album::from(row.album);
    let guest = Guest { invite_id: row.invite_id.into(), album_id: album.id, role };
    Ok(Some(Opened { guest, album, photos_used: row.photos_used, wrote_at: row.wrote_at }))
}

/// A page of an album's invites that are not revoked, newest first, that come after `before`.
pub async fn list(
    executor: impl MySqlExecutor<'_>,
    album_id: AlbumId,
    before: Option<InviteId>,
    limit: u32,
) -> Result<Vec<Invite>> {
    let rows: Vec<Row> = sqlx::query_as(LIST)
        .bind(album_id.as_uuid())
        .bind(before.map_or(Uuid::max(), InviteId::as_uuid))
        .bind(limit)
        .fetch_all(executor)
        .await?;
    rows.into_iter().map(Invite::try_from).collect()
}

/// Revokes an invite; false when the album has no such invite that is not revoked.
pub async fn revoke(
    executor: impl MySqlExecutor<'_>,
    album_id: AlbumId,
    id: InviteId,
    now: DateTime<Utc>,
) -> Result<bool> {
    let updated = sqlx::query(REVOKE).bind(now).bind(id.as_uuid()).bind(album_id.as_uuid()).execute(executor).await?;
    Ok(updated.rows_affected() == 1)
}

/// Counts one of the photos that an invite allows; false when none is left. The lock of the row makes it exact.
pub async fn take_photo(session: &mut Session, id: InviteId) -> Result<bool> {
    Ok(sqlx::query(TAKE_PHOTO).bind(id.as_uuid()).execute(session).await?.rows_affected() == 1)
}

/// Uncounts a photo whose upload never came.
pub async fn return_photo(session: &mut Session, id: InviteId) -> Result<()> {
    sqlx::query(RETURN_PHOTO).bind(id.as_uuid()).execute(session).await?;
    Ok(())
}

/// The role of an invite, whether or not it is still valid; `None` when its album has no row any more.
pub async fn role(executor: impl MySqlExecutor<'_>, id: InviteId) -> Result<Option<InviteRole>> {
    let word: Option<String> = sqlx::query_scalar(ROLE).bind(id.as_uuid()).fetch_optional(executor).await?;
    word.map(|word| InviteRole::parse(&word).ok_or(Error::Corrupt("invites"))).transpose()
}

/// Records a change of an invite that has no event.
pub(crate) async fn note_change(session: &mut Session, id: InviteId) -> Result<()> {
    sqlx::query(NOTE_CHANGE).bind(id.as_uuid()).execute(session).await?;
    Ok(())
}

/// The number of the latest event of an invite's album, and the time of the invite's last change without an event, as
/// this server has them; `None` when it does not have the invite.
pub(crate) async fn replication_state(
    executor: impl MySqlExecutor<'_>,
    id: InviteId,
) -> Result<Option<(u64, Option<DateTime<Utc>>)>> {
    Ok(sqlx::query_as(REPLICATION_STATE).bind(id.as_uuid()).fetch_optional(executor).await?)
}
