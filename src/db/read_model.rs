//! The rows that the read model is projected from, and how far the projection has come.
//!
//! All that guests see of an album changes with its events, so the state of its rows at one moment is numbered by the
//! latest event at that moment; what is read here carries that number. Invites have no events: they have two versions,
//! created and revoked.

use chrono::{DateTime, Utc};
use sqlx::{Arguments, MySqlExecutor, mysql::MySqlArguments};
use uuid::Uuid;

use super::{
    albums::{self, album_columns},
    error::{Error, Result},
    photos::{self, photo_columns},
    session::Session,
    statements::with_ids,
    time::gauge_seconds,
};
use crate::domain::{Album, AlbumId, Guest, InviteId, InviteRole, Photo, PhotoId};

/// The number of an album whose deletion is projected: higher than that of any event.
pub const DELETED: u64 = i64::MAX.unsigned_abs();

/// The columns of [`InviteRow`], of `invites i`.
macro_rules! invite_columns {
    () => {
        "i.id, i.album_id, i.role, i.token_hash, i.expires_at, i.revoked_at"
    };
}

statements! {
    PROJECTION = "SELECT ", album_columns!(), ", a.projected_seq, a.deleted_at FROM albums a WHERE a.id = ?";
    LOCK_PROJECTION =
        "SELECT ", album_columns!(), ", a.projected_seq, a.deleted_at FROM albums a WHERE a.id = ? FOR UPDATE";
    SET_PROJECTED_SEQ = "UPDATE albums SET projected_seq = ? WHERE id = ? AND projected_seq < ?";
    // One statement reads one snapshot: the rows match the number.
    PHOTOS = "SELECT a.last_seq AS seq, ", photo_columns!(), " FROM photos p JOIN albums a ON a.id = p.album_id
        WHERE p.album_id = ? AND p.id IN (";
    LAST_SEQ = "SELECT last_seq FROM albums WHERE id = ?";
    PUBLIC_PHOTOS = "SELECT a.last_seq AS seq, ", photo_columns!(), " FROM photos p FORCE INDEX (photos_by_visibility)
        JOIN albums a ON a.id = p.album_id
        WHERE p.album_id = ? AND p.visibility = 'visible' AND p.state = 'ready' AND p.id > ? ORDER BY p.id LIMIT ?";
    PENDING_INVITES = "SELECT ", invite_columns!(), " FROM invites i
        WHERE i.album_id = ? AND i.projected < IF(i.revoked_at IS NULL, 1, 2) ORDER BY i.id LIMIT ?";
    INVITES = "SELECT ", invite_columns!(), " FROM invites i WHERE i.album_id = ? AND i.id > ? ORDER BY i.id LIMIT ?";
    INVITE = "SELECT ", invite_columns!(), " FROM invites i WHERE i.album_id = ? AND i.id = ?";
    SET_INVITE_PROJECTED = "UPDATE invites SET projected = ? WHERE id = ? AND projected < ?";
    PENDING_ALBUMS = "SELECT a.id FROM albums a LEFT JOIN jobs j ON j.kind = 'sync_read_model' AND j.subject = a.id
        WHERE (j.id IS NULL OR ? = FALSE) AND (a.projected_seq < IF(a.deleted_at IS NULL, a.last_seq, ?)
           OR (a.deleted_at IS NULL AND EXISTS (SELECT 1 FROM invites i WHERE i.album_id = a.id
               AND i.projected < IF(i.revoked_at IS NULL, 1, 2)))) LIMIT ?";
    ALBUMS = "SELECT id FROM albums WHERE id > ? AND deleted_at IS NULL ORDER BY id LIMIT ?";
    ALBUM_EXISTS = "SELECT 1 FROM albums WHERE id = ? AND deleted_at IS NULL";
    INVITE_EXISTS = "SELECT 1 FROM invites i JOIN albums a ON a.id = i.album_id
        WHERE i.token_hash = ? AND a.deleted_at IS NULL";
    PROJECTION_LAG =
        "SELECT CAST(MAX(TIMESTAMPDIFF(MICROSECOND, COALESCE(e.at, j.created_at), UTC_TIMESTAMP(3))) AS SIGNED)
        FROM jobs j LEFT JOIN albums a ON a.id = j.subject
        LEFT JOIN events e ON e.album_id = a.id AND e.seq = a.projected_seq + 1
        WHERE j.kind IN ('sync_read_model', 'project')";
}

/// An album, deleted or not, and the state of its projection.
#[derive(Debug)]
pub struct Projection {
    /// The album now.
    pub album: Album,
    /// Whether its host has deleted it.
    pub deleted: bool,
    /// The number of the last event that is projected; [`DELETED`] when the album's deletion is.
    pub projected: u64,
}

impl Projection {
    /// Whether events or the deletion of the album are not projected yet.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.projected < if self.deleted { DELETED } else { self.album.last_seq }
    }
}

from_row! {
    struct ProjectionRow {
        projected_seq: u64,
        deleted_at: Option<DateTime<Utc>>,
    } flatten album: albums::Row
}

impl From<ProjectionRow> for Projection {
    fn from(row: ProjectionRow) -> Self {
        Self { album: row.album.into(), deleted: row.deleted_at.is_some(), projected: row.projected_seq }
    }
}

/// The projection of an album; `None` when it has no row.
pub async fn projection(executor: impl MySqlExecutor<'_>, id: AlbumId) -> Result<Option<Projection>> {
    let row: Option<ProjectionRow> = sqlx::query_as(PROJECTION).bind(id.as_uuid()).fetch_optional(executor).await?;
    Ok(row.map(Projection::from))
}

/// Whether changes of an album or its invites are not projected yet. The album is locked until the end of the
/// transaction, so that no change is added meanwhile.
pub async fn lock_and_check_pending(session: &mut Session, id: AlbumId) -> Result<bool> {
    let row: Option<ProjectionRow> =
        sqlx::query_as(LOCK_PROJECTION).bind(id.as_uuid()).fetch_optional(&mut *session).await?;
    let Some(projection) = row.map(Projection::from) else { return Ok(false) };
    let invites = !projection.deleted && !pending_invites(session, id, 1).await?.is_empty();
    Ok(projection.is_pending() || invites)
}

/// Records that all events up to `seq` are projected; does nothing when later ones already are.
pub async fn set_projected(executor: impl MySqlExecutor<'_>, id: AlbumId, seq: u64) -> Result<()> {
    sqlx::query(SET_PROJECTED_SEQ).bind(seq).bind(id.as_uuid()).bind(seq).execute(executor).await?;
    Ok(())
}

/// A photo and the number of the event at which it was in this state; `None` when it has no row any more.
pub type NumberedPhoto = (PhotoId, u64, Option<Photo>);

from_row! {
    struct NumberedRow {
        seq: u64,
    } flatten photo: photos::Row
}

impl TryFrom<NumberedRow> for NumberedPhoto {
    type Error = Error;

    fn try_from(row: NumberedRow) -> Result<Self> {
        let photo = Photo::try_from(row.photo)?;
        Ok((photo.id, row.seq, Some(photo)))
    }
}

/// Some photos of an album, in any state.
pub async fn photos(session: &mut Session, album_id: AlbumId, ids: &[PhotoId]) -> Result<Vec<NumberedPhoto>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut arguments = MySqlArguments::default();
    arguments.add(album_id.as_uuid()).map_err(sqlx::Error::Encode)?;
    let mut query = with_ids(PHOTOS, arguments, ids.iter().map(|id| id.as_uuid()));
    let rows: Vec<NumberedRow> = query.build_query_as().fetch_all(&mut *session).await?;
    let mut found = rows.into_iter().map(NumberedPhoto::try_from).collect::<Result<Vec<_>>>()?;
    // Photos without a row never come back, so a number that is read later is not too high for them.
    let seq = sqlx::query_scalar(LAST_SEQ).bind(album_id.as_uuid()).fetch_optional(session).await?;
    if let Some(seq) = seq {
        let missing: Vec<_> = ids.iter().filter(|id| !found.iter().any(|(known, ..)| known == *id)).collect();
        found.extend(missing.into_iter().map(|id| (*id, seq, None)));
    }
    Ok(found)
}

/// A page of the public photos of an album, by id.
pub async fn public_photos(
    executor: impl MySqlExecutor<'_>,
    album_id: AlbumId,
    after: PhotoId,
    limit: u32,
) -> Result<Vec<NumberedPhoto>> {
    let query = sqlx::query_as::<_, NumberedRow>(PUBLIC_PHOTOS);
    let query = query.bind(album_id.as_uuid()).bind(after.as_uuid()).bind(limit);
    query.fetch_all(executor).await?.into_iter().map(NumberedPhoto::try_from).collect()
}

/// An invite as the read model has it.
#[derive(Debug, Clone)]
pub struct Invite {
    /// SHA-256 of its token.
    pub token_hash: [u8; 32],
    /// The guest.
    pub guest: Guest,
    /// When it expires.
    pub expires_at: Option<DateTime<Utc>>,
    /// Whether its host has revoked it.
    pub revoked: bool,
}

impl Invite {
    /// 1 when created, 2 when revoked.
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

/// Some invites of an album that are not projected yet.
pub async fn pending_invites(executor: impl MySqlExecutor<'_>, album_id: AlbumId, limit: u32) -> Result<Vec<Invite>> {
    let query = sqlx::query_as::<_, InviteRow>(PENDING_INVITES).bind(album_id.as_uuid()).bind(limit);
    query.fetch_all(executor).await?.into_iter().map(Invite::try_from).collect()
}

/// A page of an album's invites by id, revoked ones included.
pub async fn invites(
    executor: impl MySqlExecutor<'_>,
    album_id: AlbumId,
    after: InviteId,
    limit: u32,
) -> Result<Vec<Invite>> {
    let query = sqlx::query_as::<_, InviteRow>(INVITES);
    let query = query.bind(album_id.as_uuid()).bind(after.as_uuid()).bind(limit);
    query.fetch_all(executor).await?.into_iter().map(Invite::try_from).collect()
}

/// An invite of an album.
pub async fn invite(executor: impl MySqlExecutor<'_>, album_id: AlbumId, id: InviteId) -> Result<Option<Invite>> {
    let query = sqlx::query_as::<_, InviteRow>(INVITE).bind(album_id.as_uuid()).bind(id.as_uuid());
    query.fetch_optional(executor).await?.map(Invite::try_from).transpose()
}

/// Records the version of an invite that is projected; does nothing when a later one already is.
pub async fn set_invite_projected(executor: impl MySqlExecutor<'_>, invite: &Invite) -> Result<()> {
    let version = invite.version();
    let query = sqlx::query(SET_INVITE_PROJECTED).bind(version).bind(invite.guest.invite_id.as_uuid()).bind(version);
    query.execute(executor).await?;
    Ok(())
}

/// Albums with changes that are not projected yet; with `without_job` only those that have no job for it.
pub async fn pending_albums(executor: impl MySqlExecutor<'_>, without_job: bool, limit: u32) -> Result<Vec<AlbumId>> {
    let query = sqlx::query_scalar::<_, Uuid>(PENDING_ALBUMS).bind(without_job).bind(DELETED).bind(limit);
    Ok(query.fetch_all(executor).await?.into_iter().map(AlbumId::from).collect())
}

/// A page of the albums that are not deleted, by id.
pub async fn albums_after(executor: impl MySqlExecutor<'_>, after: AlbumId, limit: u32) -> Result<Vec<AlbumId>> {
    let query = sqlx::query_scalar::<_, Uuid>(ALBUMS).bind(after.as_uuid()).bind(limit);
    Ok(query.fetch_all(executor).await?.into_iter().map(AlbumId::from).collect())
}

/// Whether an album exists and is not deleted.
pub async fn album_exists(executor: impl MySqlExecutor<'_>, id: AlbumId) -> Result<bool> {
    let row: Option<i64> = sqlx::query_scalar(ALBUM_EXISTS).bind(id.as_uuid()).fetch_optional(executor).await?;
    Ok(row.is_some())
}

/// Whether an invite with this hash of its token exists, in an album that is not deleted.
pub async fn invite_exists(executor: impl MySqlExecutor<'_>, token_hash: &[u8; 32]) -> Result<bool> {
    let row: Option<i64> = sqlx::query_scalar(INVITE_EXISTS).bind(&token_hash[..]).fetch_optional(executor).await?;
    Ok(row.is_some())
}

/// The age of the oldest change that is not projected, in seconds; 0 when all are. Albums with such changes have a job,
/// by which they are found; without a pending event the change is an invite or a deletion.
pub async fn lag(executor: impl MySqlExecutor<'_>) -> Result<f64> {
    Ok(gauge_seconds(sqlx::query_scalar(PROJECTION_LAG).fetch_one(executor).await?))
}
