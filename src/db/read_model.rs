//! What the read model is made of, and how far it has come.
//!
//! All that guests see of an album changes with its events, so its rows at one moment have the number of the latest event
//! then; what is read here carries that number. No event tells of invites: they have two versions, made and revoked.

use chrono::{DateTime, Utc};
use sqlx::{MySql, MySqlExecutor, QueryBuilder};
use uuid::Uuid;

use super::{Error, Result, Session, albums, photos};
use crate::domain::{Album, AlbumId, Guest, InviteId, InviteRole, Photo, PhotoId, PhotoState, Visibility};

/// The number of an album whose deletion is projected: above all events.
pub const DELETED: u64 = i64::MAX.unsigned_abs();

/// An album, deleted or not, and how far it is projected.
#[derive(Debug)]
pub struct Standing {
    /// The album as it is now.
    pub album: Album,
    /// Whether its host has deleted it.
    pub deleted: bool,
    /// The number of the last event that is projected; [`DELETED`] when its deletion is.
    pub projected: u64,
}

impl Standing {
    /// Whether something is left to project.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.projected < if self.deleted { DELETED } else { self.album.last_seq }
    }
}

from_row! {
    struct StandingRow {
        projected_seq: u64,
        deleted_at: Option<DateTime<Utc>>,
    } flatten album: albums::Row
}

impl From<StandingRow> for Standing {
    fn from(row: StandingRow) -> Self {
        Self { album: row.album.into(), deleted: row.deleted_at.is_some(), projected: row.projected_seq }
    }
}

/// How an album stands; none when it has no row.
///
/// # Errors
/// The database's.
pub async fn standing(executor: impl MySqlExecutor<'_>, id: AlbumId) -> Result<Option<Standing>> {
    let row: Option<StandingRow> = sqlx::query_as(
        "SELECT id, title, review, closed, photo_count, last_seq, version, created_at, updated_at, projected_seq, deleted_at
         FROM albums WHERE id = ?",
    )
    .bind(id.as_uuid())
    .fetch_optional(executor)
    .await?;
    Ok(row.map(Standing::from))
}

/// Whether something of an album or its invites is left to project. The album is locked for the rest of the transaction, so
/// nothing is added meanwhile.
///
/// # Errors
/// The database's.
pub async fn lock_and_look(session: &mut Session, id: AlbumId) -> Result<bool> {
    let row: Option<StandingRow> = sqlx::query_as(
        "SELECT id, title, review, closed, photo_count, last_seq, version, created_at, updated_at, projected_seq, deleted_at
         FROM albums WHERE id = ? FOR UPDATE",
    )
    .bind(id.as_uuid())
    .fetch_optional(&mut *session)
    .await?;
    let Some(standing) = row.map(Standing::from) else { return Ok(false) };
    let invites = !standing.deleted && !invites_due(session, id, 1).await?.is_empty();
    Ok(standing.is_due() || invites)
}

/// Notes that all up to `seq` is projected; an older note changes nothing.
///
/// # Errors
/// The database's.
pub async fn set_projected(executor: impl MySqlExecutor<'_>, id: AlbumId, seq: u64) -> Result<()> {
    sqlx::query("UPDATE albums SET projected_seq = ? WHERE id = ? AND projected_seq < ?")
        .bind(seq)
        .bind(id.as_uuid())
        .bind(seq)
        .execute(executor)
        .await?;
    Ok(())
}

/// A photo as of an event's number; none when it has no row any more.
pub type Numbered = (PhotoId, u64, Option<Photo>);

from_row! {
    struct NumberedRow {
        seq: u64,
    } flatten photo: photos::Row
}

impl TryFrom<NumberedRow> for Numbered {
    type Error = Error;

    fn try_from(row: NumberedRow) -> Result<Self> {
        let photo = Photo::try_from(row.photo)?;
        Ok((photo.id, row.seq, Some(photo)))
    }
}

/// One statement sees one moment: the rows and the number belong together.
fn select_numbered(index: &str) -> QueryBuilder<MySql> {
    let mut query = QueryBuilder::new(photos::SELECT.replacen("SELECT", "SELECT a.last_seq AS seq,", 1));
    query.push(index).push(" JOIN albums a ON a.id = p.album_id WHERE p.album_id = ");
    query
}

/// Some photos of an album, whatever their state.
///
/// # Errors
/// The database's.
pub async fn photos(session: &mut Session, album_id: AlbumId, ids: &[PhotoId]) -> Result<Vec<Numbered>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut query = select_numbered("");
    query.push_bind(album_id.as_uuid()).push(" AND p.id IN (");
    let mut list = query.separated(", ");
    for id in ids {
        list.push_bind(id.as_uuid());
    }
    query.push(")");
    let rows: Vec<NumberedRow> = query.build_query_as().fetch_all(&mut *session).await?;
    let mut found = rows.into_iter().map(Numbered::try_from).collect::<Result<Vec<_>>>()?;
    // What was not found is gone for good; a number that is read after it was missed is none before its end.
    let seq = sqlx::query_scalar("SELECT last_seq FROM albums WHERE id = ?")
        .bind(album_id.as_uuid())
        .fetch_optional(session)
        .await?;
    if let Some(seq) = seq {
        let gone: Vec<_> = ids.iter().filter(|id| !found.iter().any(|(known, ..)| known == *id)).collect();
        found.extend(gone.into_iter().map(|id| (*id, seq, None)));
    }
    Ok(found)
}

/// A page of the photos of an album that everybody sees, by id.
///
/// # Errors
/// The database's.
pub async fn public_photos(
    executor: impl MySqlExecutor<'_>,
    album_id: AlbumId,
    after: PhotoId,
    limit: u32,
) -> Result<Vec<Numbered>> {
    let mut query = select_numbered(" FORCE INDEX (photos_by_visibility)");
    query.push_bind(album_id.as_uuid()).push(" AND p.visibility = ").push_bind(Visibility::Visible.as_str());
    query.push(" AND p.state = ").push_bind(PhotoState::Ready.as_str());
    query.push(" AND p.id > ").push_bind(after.as_uuid()).push(" ORDER BY p.id LIMIT ").push_bind(limit);
    let rows: Vec<NumberedRow> = query.build_query_as().fetch_all(executor).await?;
    rows.into_iter().map(Numbered::try_from).collect()
}

/// An invite as the read model has it.
#[derive(Debug, Clone)]
pub struct Invite {
    /// SHA-256 of its token.
    pub token_hash: [u8; 32],
    /// Its holder.
    pub guest: Guest,
    /// When it ends.
    pub expires_at: Option<DateTime<Utc>>,
    /// Whether its host has ended it.
    pub revoked: bool,
}

impl Invite {
    /// 1 as it was made, 2 revoked.
    #[must_use]
    pub fn version(&self) -> u8 {
        1 + u8::from(self.revoked)
    }
}

from_row! {
    struct InviteRow {
        id: Uuid,
        album_id: Uuid,
        role: String,
        token_hash: Vec<u8>,
        expires_at: Option<DateTime<Utc>>,
        revoked_at: Option<DateTime<Utc>>,
    }
}

impl TryFrom<InviteRow> for Invite {
    type Error = Error;

    fn try_from(row: InviteRow) -> Result<Self> {
        const CORRUPT: Error = Error::Corrupt("invites");
        let role = InviteRole::parse(&row.role).ok_or(CORRUPT)?;
        Ok(Self {
            token_hash: row.token_hash.try_into().map_err(|_| CORRUPT)?,
            guest: Guest { invite_id: row.id.into(), album_id: row.album_id.into(), role },
            expires_at: row.expires_at,
            revoked: row.revoked_at.is_some(),
        })
    }
}

/// Some invites of an album that are left to project.
///
/// # Errors
/// The database's.
pub async fn invites_due(executor: impl MySqlExecutor<'_>, album_id: AlbumId, limit: u32) -> Result<Vec<Invite>> {
    let rows: Vec<InviteRow> = sqlx::query_as(
        "SELECT id, album_id, role, token_hash, expires_at, revoked_at FROM invites
         WHERE album_id = ? AND projected < IF(revoked_at IS NULL, 1, 2) ORDER BY id LIMIT ?",
    )
    .bind(album_id.as_uuid())
    .bind(limit)
    .fetch_all(executor)
    .await?;
    rows.into_iter().map(Invite::try_from).collect()
}

/// A page of an album's invites by id, revoked ones too.
///
/// # Errors
/// The database's.
pub async fn invites(
    executor: impl MySqlExecutor<'_>,
    album_id: AlbumId,
    after: InviteId,
    limit: u32,
) -> Result<Vec<Invite>> {
    let rows: Vec<InviteRow> = sqlx::query_as(
        "SELECT id, album_id, role, token_hash, expires_at, revoked_at FROM invites
         WHERE album_id = ? AND id > ? ORDER BY id LIMIT ?",
    )
    .bind(album_id.as_uuid())
    .bind(after.as_uuid())
    .bind(limit)
    .fetch_all(executor)
    .await?;
    rows.into_iter().map(Invite::try_from).collect()
}

/// One invite of an album.
///
/// # Errors
/// The database's.
pub async fn invite(executor: impl MySqlExecutor<'_>, album_id: AlbumId, id: InviteId) -> Result<Option<Invite>> {
    let query =
        "SELECT id, album_id, role, token_hash, expires_at, revoked_at FROM invites WHERE album_id = ? AND id = ?";
    let row: Option<InviteRow> =
        sqlx::query_as(query).bind(album_id.as_uuid()).bind(id.as_uuid()).fetch_optional(executor).await?;
    row.map(Invite::try_from).transpose()
}

/// Notes the version of an invite that is projected; an older note changes nothing.
///
/// # Errors
/// The database's.
pub async fn set_invite_projected(executor: impl MySqlExecutor<'_>, invite: &Invite) -> Result<()> {
    sqlx::query("UPDATE invites SET projected = ? WHERE id = ? AND projected < ?")
        .bind(invite.version())
        .bind(invite.guest.invite_id.as_uuid())
        .bind(invite.version())
        .execute(executor)
        .await?;
    Ok(())
}

/// Albums of which something is left to project; with `jobless` only those that no job will see to.
///
/// # Errors
/// The database's.
pub async fn due(executor: impl MySqlExecutor<'_>, jobless: bool, limit: u32) -> Result<Vec<AlbumId>> {
    let ids: Vec<Uuid> = sqlx::query_scalar(
        "SELECT a.id FROM albums a LEFT JOIN jobs j ON j.kind = 'sync_read_model' AND j.subject = a.id
         WHERE (j.id IS NULL OR ? = FALSE) AND (a.projected_seq < IF(a.deleted_at IS NULL, a.last_seq, ?)
            OR (a.deleted_at IS NULL AND EXISTS (SELECT 1 FROM invites i WHERE i.album_id = a.id
                AND i.projected < IF(i.revoked_at IS NULL, 1, 2)))) LIMIT ?",
    )
    .bind(jobless)
    .bind(DELETED)
    .bind(limit)
    .fetch_all(executor)
    .await?;
    Ok(ids.into_iter().map(AlbumId::from).collect())
}

/// A page of the albums that are not deleted, by id.
///
/// # Errors
/// The database's.
pub async fn albums_after(executor: impl MySqlExecutor<'_>, after: AlbumId, limit: u32) -> Result<Vec<AlbumId>> {
    let ids: Vec<Uuid> =
        sqlx::query_scalar("SELECT id FROM albums WHERE id > ? AND deleted_at IS NULL ORDER BY id LIMIT ?")
            .bind(after.as_uuid())
            .bind(limit)
            .fetch_all(executor)
            .await?;
    Ok(ids.into_iter().map(AlbumId::from).collect())
}

/// Whether an album is there and not deleted.
///
/// # Errors
/// The database's.
pub async fn album_lives(executor: impl MySqlExecutor<'_>, id: AlbumId) -> Result<bool> {
    let found: Option<i64> = sqlx::query_scalar("SELECT 1 FROM albums WHERE id = ? AND deleted_at IS NULL")
        .bind(id.as_uuid())
        .fetch_optional(executor)
        .await?;
    Ok(found.is_some())
}

/// Whether an invite with this hash of its token has a row, in an album that is not deleted.
///
/// # Errors
/// The database's.
pub async fn invite_lives(executor: impl MySqlExecutor<'_>, token_hash: &[u8; 32]) -> Result<bool> {
    let found: Option<i64> = sqlx::query_scalar(
        "SELECT 1 FROM invites i JOIN albums a ON a.id = i.album_id WHERE i.token_hash = ? AND a.deleted_at IS NULL",
    )
    .bind(&token_hash[..])
    .fetch_optional(executor)
    .await?;
    Ok(found.is_some())
}

/// How long the oldest change has been waiting to be projected, in seconds; 0 when none is. Albums with such changes have
/// a job, which is how they are found; where no event waits, it is an invite or a deletion.
///
/// # Errors
/// The database's.
pub async fn lag(executor: impl MySqlExecutor<'_>) -> Result<f64> {
    let age: Option<i64> = sqlx::query_scalar(
        "SELECT CAST(MAX(TIMESTAMPDIFF(MICROSECOND, COALESCE(e.at, j.created_at), UTC_TIMESTAMP(3))) AS SIGNED) FROM jobs j
         LEFT JOIN albums a ON a.id = j.subject LEFT JOIN events e ON e.album_id = a.id AND e.seq = a.projected_seq + 1
         WHERE j.kind IN ('sync_read_model', 'project')",
    )
    .fetch_one(executor)
    .await?;
    Ok(super::seconds(age))
}
