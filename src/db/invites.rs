//! Invites.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use chrono::{DateTime, Utc};
use sqlx::MySqlExecutor;
use uuid::Uuid;

use super::{Error, Result, Session};
use crate::domain::{Album, AlbumId, Guest, Invite, InviteId, InviteRole, InviteToken, Label};

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

/// What a host asks for in a new invite.
#[derive(Debug)]
pub struct NewInvite {
    /// What it allows.
    pub role: InviteRole,
    /// What the host calls it.
    pub label: Option<Label>,
    /// When it ends.
    pub expires_at: Option<DateTime<Utc>>,
    /// How many photos may be added with it.
    pub max_photos: Option<u32>,
}

/// Makes an invite; the token's hash is all that is kept of it.
///
/// # Errors
/// The database's.
pub async fn insert(
    session: &mut Session,
    album_id: AlbumId,
    new: &NewInvite,
    token: &InviteToken,
    now: DateTime<Utc>,
) -> Result<Invite> {
    let id = InviteId::generate();
    let label = new.label.as_ref().map(Label::as_str);
    sqlx::query(
        "INSERT INTO invites (id, album_id, role, label, token_hash, expires_at, max_photos, created_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(id.as_uuid())
    .bind(album_id.as_uuid())
    .bind(new.role.as_str())
    .bind(label)
    .bind(&token.hash()[..])
    .bind(new.expires_at.map(super::any_year))
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
    } flatten album: super::albums::Row
}

/// What an invite token opens.
#[derive(Debug)]
pub struct Opened {
    /// Its holder.
    pub guest: Guest,
    /// The album.
    pub album: Album,
    /// Photos that were added with the invite.
    pub photos_used: u32,
    /// When something last changed with it that no event tells of.
    pub wrote_at: Option<DateTime<Utc>>,
}

/// What a token opens; none when it is unknown, revoked or expired, or its album is deleted.
///
/// # Errors
/// The database's.
pub async fn authenticate(
    executor: impl MySqlExecutor<'_>,
    token: &InviteToken,
    now: DateTime<Utc>,
) -> Result<Option<Opened>> {
    let hash = token.hash();
    let row: Option<GuestRow> = sqlx::query_as(
        "SELECT i.id AS invite_id, i.role, i.token_hash, i.photos_used, a.id, a.title, a.review, a.closed, a.photo_count, a.last_seq,
                a.version, a.created_at, a.updated_at, i.wrote_at
         FROM invites i JOIN albums a ON a.id = i.album_id
         WHERE i.token_hash = ? AND i.revoked_at IS NULL AND (i.expires_at IS NULL OR i.expires_at > ?) AND a.deleted_at IS NULL",
    )
    .bind(&hash[..])
    .bind(now)
    .fetch_optional(executor)
    .await?;
    let Some(row) = row else { return Ok(None) };
    // The index found it by the hash, whose time tells nothing of the token; this compares in constant time.
    if verify_slices_are_equal(&row.token_hash, &hash).is_err() {
        return Ok(None);
    }
    let role = InviteRole::parse(&row.role).ok_or(Error::Corrupt("invites"))?;
    let album = Album::from(row.album);
    let guest = Guest { invite_id: row.invite_id.into(), album_id: album.id, role };
    Ok(Some(Opened { guest, album, photos_used: row.photos_used, wrote_at: row.wrote_at }))
}

/// An album's invites that are not revoked, newest first, from `before` on.
///
/// # Errors
/// The database's.
pub async fn list(
    executor: impl MySqlExecutor<'_>,
    album_id: AlbumId,
    before: Option<InviteId>,
    limit: u32,
) -> Result<Vec<Invite>> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT id, role, label, expires_at, max_photos, photos_used, created_at FROM invites FORCE INDEX (invites_by_album)
         WHERE album_id = ? AND revoked_at IS NULL AND id < ? ORDER BY id DESC LIMIT ?",
    )
    .bind(album_id.as_uuid())
    .bind(before.map_or(Uuid::max(), InviteId::as_uuid))
    .bind(limit)
    .fetch_all(executor)
    .await?;
    rows.into_iter().map(Invite::try_from).collect()
}

/// Ends an invite; false when the album has no such invite.
///
/// # Errors
/// The database's.
pub async fn revoke(
    executor: impl MySqlExecutor<'_>,
    album_id: AlbumId,
    id: InviteId,
    now: DateTime<Utc>,
) -> Result<bool> {
    let done = sqlx::query("UPDATE invites SET revoked_at = ? WHERE id = ? AND album_id = ? AND revoked_at IS NULL")
        .bind(now)
        .bind(id.as_uuid())
        .bind(album_id.as_uuid())
        .execute(executor)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Takes one of the photos that an invite allows; false when none is left. The row's lock makes it exact.
///
/// # Errors
/// The database's.
pub async fn use_one(session: &mut Session, id: InviteId) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE invites SET photos_used = photos_used + 1, wrote_at = UTC_TIMESTAMP(6)
         WHERE id = ? AND revoked_at IS NULL AND (max_photos IS NULL OR photos_used < max_photos)",
    )
    .bind(id.as_uuid())
    .execute(session)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// What an invite allows, ended or not; none when its album is gone.
///
/// # Errors
/// The database's.
pub async fn role(executor: impl MySqlExecutor<'_>, id: InviteId) -> Result<Option<InviteRole>> {
    let word: Option<String> =
        sqlx::query_scalar("SELECT role FROM invites WHERE id = ?").bind(id.as_uuid()).fetch_optional(executor).await?;
    word.map(|word| InviteRole::parse(&word).ok_or(Error::Corrupt("invites"))).transpose()
}

/// Notes that something changed with an invite that no event tells of.
///
/// # Errors
/// The database's.
pub(crate) async fn note_change(session: &mut Session, id: InviteId) -> Result<()> {
    sqlx::query("UPDATE invites SET wrote_at = UTC_TIMESTAMP(6) WHERE id = ?")
        .bind(id.as_uuid())
        .execute(session)
        .await?;
    Ok(())
}

/// What a server has reached of an invite and its album: the number of the album's latest event, and when something last
/// changed with the invite. None when it does not know the invite.
///
/// # Errors
/// The database's.
pub async fn reached(executor: impl MySqlExecutor<'_>, id: InviteId) -> Result<Option<(u64, Option<DateTime<Utc>>)>> {
    let query = "SELECT a.last_seq, i.wrote_at FROM invites i JOIN albums a ON a.id = i.album_id WHERE i.id = ?";
    Ok(sqlx::query_as(query).bind(id.as_uuid()).fetch_optional(executor).await?)
}

/// Gives one back, for an upload that never came.
///
/// # Errors
/// The database's.
pub async fn give_back(session: &mut Session, id: InviteId) -> Result<()> {
    sqlx::query("UPDATE invites SET photos_used = photos_used - 1, wrote_at = UTC_TIMESTAMP(6) WHERE id = ? AND photos_used > 0")
        .bind(id.as_uuid())
        .execute(session)
        .await?;
    Ok(())
}
