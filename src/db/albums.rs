//! Albums.

use chrono::{DateTime, Utc};
use sqlx::MySqlExecutor;
use uuid::Uuid;

use super::{error::Result, session::Session};
use crate::domain::{Album, AlbumId, Title};

/// The columns of [`Row`], of `albums a`.
macro_rules! album_columns {
    () => {
        "a.id, a.title, a.review, a.closed, a.photo_count, a.last_seq, a.version, a.created_at, a.updated_at"
    };
}
pub(super) use album_columns;

statements! {
    INSERT = "INSERT INTO albums (id, host, title, review, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?)";
    FIND = "SELECT ", album_columns!(), " FROM albums a WHERE a.id = ? AND a.host = ? AND a.deleted_at IS NULL";
    LIST = "SELECT ", album_columns!(), " FROM albums a FORCE INDEX (albums_by_host)
        WHERE a.host = ? AND a.deleted_at IS NULL AND a.id < ? ORDER BY a.id DESC LIMIT ?";
    LOCK = "SELECT ", album_columns!(), " FROM albums a WHERE a.id = ? AND a.deleted_at IS NULL FOR UPDATE";
    LOCK_SHARED =
        "SELECT ", album_columns!(), " FROM albums a WHERE a.id = ? AND a.deleted_at IS NULL LOCK IN SHARE MODE";
    UPDATE = "UPDATE albums SET title = ?, review = ?, closed = ?, version = ?, updated_at = ? WHERE id = ?";
    INCREMENT_PHOTO_COUNT = "UPDATE albums SET photo_count = photo_count + 1 WHERE id = ?";
    DECREMENT_PHOTO_COUNT = "UPDATE albums SET photo_count = photo_count - 1 WHERE id = ? AND photo_count > 0";
    MARK_DELETED = "UPDATE albums SET deleted_at = ? WHERE id = ?";
    DELETE_EVENTS = "DELETE FROM events WHERE album_id = ? LIMIT 5000";
    DELETE_INVITES = "DELETE FROM invites WHERE album_id = ? LIMIT 5000";
    DELETE = "DELETE FROM albums WHERE id = ? AND deleted_at IS NOT NULL";
}

from_row! {
    pub(crate) struct Row {
        id: Uuid,
        title: String,
        review: bool,
        closed: bool,
        photo_count: u32,
        last_seq: u64,
        version: u32,
        created_at: DateTime<Utc>,
        updated_at: DateTime<Utc>,
    }
}

impl From<Row> for Album {
    fn from(row: Row) -> Self {
        Self {
            id: row.id.into(),
            title: row.title,
            review: row.review,
            closed: row.closed,
            photo_count: row.photo_count,
            last_seq: row.last_seq,
            version: row.version,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

/// Inserts a new album.
pub async fn insert(
    session: &mut Session,
    host: &str,
    title: &Title,
    review: bool,
    now: DateTime<Utc>,
) -> Result<Album> {
    let album = Album {
        id: AlbumId::generate(),
        title: title.as_str().to_owned(),
        review,
        closed: false,
        photo_count: 0,
        last_seq: 0,
        version: 1,
        created_at: now,
        updated_at: now,
    };
    sqlx::query(INSERT)
        .bind(album.id.as_uuid())
        .bind(host.as_bytes())
        .bind(&album.title)
        .bind(review)
        .bind(now)
        .bind(now)
        .execute(session)
        .await?;
    Ok(album)
}

/// A host's album; `None` when there is none of this id or it belongs to another host.
pub async fn find(executor: impl MySqlExecutor<'_>, host: &str, id: AlbumId) -> Result<Option<Album>> {
    let query = sqlx::query_as::<_, Row>(FIND).bind(id.as_uuid()).bind(host.as_bytes());
    Ok(query.fetch_optional(executor).await?.map(Album::from))
}

/// A page of a host's albums, newest first, that come after `before`.
pub async fn list(
    executor: impl MySqlExecutor<'_>,
    host: &str,
    before: Option<AlbumId>,
    limit: u32,
) -> Result<Vec<Album>> {
    let rows: Vec<Row> = sqlx::query_as(LIST)
        .bind(host.as_bytes())
        .bind(before.map_or(Uuid::max(), AlbumId::as_uuid))
        .bind(limit)
        .fetch_all(executor)
        .await?;
    Ok(rows.into_iter().map(Album::from).collect())
}

/// Locks an album that is not deleted until the end of the transaction, and returns it.
pub async fn lock(session: &mut Session, id: AlbumId) -> Result<Option<Album>> {
    let query = sqlx::query_as::<_, Row>(LOCK).bind(id.as_uuid());
    Ok(query.fetch_optional(session).await?.map(Album::from))
}

/// As [`lock`], with a shared lock: other transactions may read the album and add to it, but not change or delete it.
pub async fn lock_shared(session: &mut Session, id: AlbumId) -> Result<Option<Album>> {
    let query = sqlx::query_as::<_, Row>(LOCK_SHARED).bind(id.as_uuid());
    Ok(query.fetch_optional(session).await?.map(Album::from))
}

/// Writes title and settings of a locked album.
pub async fn update(session: &mut Session, album: &Album) -> Result<()> {
    sqlx::query(UPDATE)
        .bind(&album.title)
        .bind(album.review)
        .bind(album.closed)
        .bind(album.version)
        .bind(album.updated_at)
        .bind(album.id.as_uuid())
        .execute(session)
        .await?;
    Ok(())
}

/// Updates the number of public photos of a locked album after a photo has become public or ceased to be.
pub async fn count_public(session: &mut Session, id: AlbumId, before: bool, after: bool) -> Result<()> {
    let statement = match (before, after) {
        (false, true) => INCREMENT_PHOTO_COUNT,
        (true, false) => DECREMENT_PHOTO_COUNT,
        _ => return Ok(()),
    };
    sqlx::query(statement).bind(id.as_uuid()).execute(session).await?;
    Ok(())
}

/// Marks a locked album as deleted: it is no longer visible, and a job removes its rows.
pub async fn mark_deleted(session: &mut Session, id: AlbumId, now: DateTime<Utc>) -> Result<()> {
    sqlx::query(MARK_DELETED).bind(now).bind(id.as_uuid()).execute(session).await?;
    Ok(())
}

/// Deletes some of the rows of a deleted album without photos, so that no transaction grows with it. Returns the number
/// of deleted rows, 0 when none are left.
pub async fn delete_some_rows(session: &mut Session, id: AlbumId) -> Result<u64> {
    for statement in [DELETE_EVENTS, DELETE_INVITES, DELETE] {
        let deleted = sqlx::query(statement).bind(id.as_uuid()).execute(&mut *session).await?.rows_affected();
        if deleted > 0 {
            return Ok(deleted);
        }
    }
    Ok(0)
}
