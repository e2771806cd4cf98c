//! Albums.

use chrono::{DateTime, Utc};
use sqlx::MySqlExecutor;
use uuid::Uuid;

use super::{Result, Session};
use crate::domain::{Album, AlbumId, Title};

from_row! {
    /// The columns of an album, for queries of this area.
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

/// Opens an album.
///
/// # Errors
/// The database's.
pub async fn insert(
    session: &mut Session,
    host: &str,
    title: &Title,
    review: bool,
    now: DateTime<Utc>,
) -> Result<Album> {
    let id = AlbumId::generate();
    sqlx::query("INSERT INTO albums (id, host, title, review, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?)")
        .bind(id.as_uuid())
        .bind(host.as_bytes())
        .bind(title.as_str())
        .bind(review)
        .bind(now)
        .bind(now)
        .execute(session)
        .await?;
    let title = title.as_str().to_owned();
    Ok(Album {
        id,
        title,
        review,
        closed: false,
        photo_count: 0,
        last_seq: 0,
        version: 1,
        created_at: now,
        updated_at: now,
    })
}

/// A host's album; none when there is no such album or it is another's.
///
/// # Errors
/// The database's.
pub async fn find(executor: impl MySqlExecutor<'_>, host: &str, id: AlbumId) -> Result<Option<Album>> {
    let row: Option<Row> = sqlx::query_as(
        "SELECT id, title, review, closed, photo_count, last_seq, version, created_at, updated_at FROM albums
         WHERE id = ? AND host = ? AND deleted_at IS NULL",
    )
    .bind(id.as_uuid())
    .bind(host.as_bytes())
    .fetch_optional(executor)
    .await?;
    Ok(row.map(Album::from))
}

/// One host's albums, newest first, from `before` on.
///
/// # Errors
/// The database's.
pub async fn list(
    executor: impl MySqlExecutor<'_>,
    host: &str,
    before: Option<AlbumId>,
    limit: u32,
) -> Result<Vec<Album>> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT id, title, review, closed, photo_count, last_seq, version, created_at, updated_at FROM albums FORCE INDEX (albums_by_host)
         WHERE host = ? AND deleted_at IS NULL AND id < ? ORDER BY id DESC LIMIT ?",
    )
    .bind(host.as_bytes())
    .bind(before.map_or(Uuid::max(), AlbumId::as_uuid))
    .bind(limit)
    .fetch_all(executor)
    .await?;
    Ok(rows.into_iter().map(Album::from).collect())
}

/// Locks an album that is not deleted for the rest of the transaction and reads it.
///
/// # Errors
/// The database's.
pub async fn lock(session: &mut Session, id: AlbumId) -> Result<Option<Album>> {
    let row: Option<Row> = sqlx::query_as(
        "SELECT id, title, review, closed, photo_count, last_seq, version, created_at, updated_at FROM albums
         WHERE id = ? AND deleted_at IS NULL FOR UPDATE",
    )
    .bind(id.as_uuid())
    .fetch_optional(session)
    .await?;
    Ok(row.map(Album::from))
}

/// The same with a share lock: others may read and add, nobody may change or delete the album meanwhile.
///
/// # Errors
/// The database's.
pub async fn share(session: &mut Session, id: AlbumId) -> Result<Option<Album>> {
    let row: Option<Row> = sqlx::query_as(
        "SELECT id, title, review, closed, photo_count, last_seq, version, created_at, updated_at FROM albums
         WHERE id = ? AND deleted_at IS NULL LOCK IN SHARE MODE",
    )
    .bind(id.as_uuid())
    .fetch_optional(session)
    .await?;
    Ok(row.map(Album::from))
}

/// Writes title and settings of a locked album.
///
/// # Errors
/// The database's.
pub async fn update(session: &mut Session, album: &Album) -> Result<()> {
    sqlx::query("UPDATE albums SET title = ?, review = ?, closed = ?, version = ?, updated_at = ? WHERE id = ?")
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

/// Counts public photos of a locked album up or down.
///
/// # Errors
/// The database's.
pub async fn count_public(session: &mut Session, id: AlbumId, before: bool, after: bool) -> Result<()> {
    let change = match (before, after) {
        (false, true) => "UPDATE albums SET photo_count = photo_count + 1 WHERE id = ?",
        (true, false) => "UPDATE albums SET photo_count = photo_count - 1 WHERE id = ? AND photo_count > 0",
        _ => return Ok(()),
    };
    sqlx::query(change).bind(id.as_uuid()).execute(session).await?;
    Ok(())
}

/// Hides a locked album from everybody; a job removes it.
///
/// # Errors
/// The database's.
pub async fn mark_deleted(session: &mut Session, id: AlbumId, now: DateTime<Utc>) -> Result<()> {
    sqlx::query("UPDATE albums SET deleted_at = ? WHERE id = ?").bind(now).bind(id.as_uuid()).execute(session).await?;
    Ok(())
}

/// Removes some of what is left of a deleted album once its photos are gone; answers how many rows. Events of a
/// large album go in steps, so that no transaction grows with it.
///
/// # Errors
/// The database's.
pub async fn remove_some(session: &mut Session, id: AlbumId) -> Result<u64> {
    for statement in [
        "DELETE FROM events WHERE album_id = ? LIMIT 5000",
        "DELETE FROM invites WHERE album_id = ? LIMIT 5000",
        "DELETE FROM albums WHERE id = ? AND deleted_at IS NOT NULL",
    ] {
        let removed = sqlx::query(statement).bind(id.as_uuid()).execute(&mut *session).await?.rows_affected();
        if removed > 0 {
            return Ok(removed);
        }
    }
    Ok(0)
}
