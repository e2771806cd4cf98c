//! Events, which are also the outbox of announcements.

use chrono::{DateTime, Utc};
use sqlx::MySqlExecutor;
use uuid::Uuid;

use super::{Error, Result, Session};
use crate::{
    domain::{AlbumId, EditId, Event, EventKind, InviteId, PhotoId},
    telemetry::scope,
};

/// An event that has no number yet.
#[derive(Debug)]
pub struct NewEvent {
    /// What happened, for the host and the photo's uploader.
    pub kind: EventKind,
    /// What it means to those who see only public photos.
    pub public_kind: Option<EventKind>,
    /// The photo that it is about.
    pub photo_id: Option<PhotoId>,
    /// The edit of that photo that it is about.
    pub edit_id: Option<EditId>,
    /// The invite that the photo was added with.
    pub uploader: Option<InviteId>,
}

from_row! {
    struct Row {
        seq: u64,
        kind: String,
        public_kind: Option<String>,
        photo_id: Option<Uuid>,
        edit_id: Option<Uuid>,
        invite_id: Option<Uuid>,
        at: DateTime<Utc>,
        traceparent: Option<String>,
    }
}

impl TryFrom<Row> for Event {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self> {
        let kind = |word: &str| EventKind::parse(word).ok_or(Error::Corrupt("events"));
        Ok(Self {
            seq: row.seq,
            kind: kind(&row.kind)?,
            public_kind: row.public_kind.as_deref().map(kind).transpose()?,
            photo_id: row.photo_id.map(PhotoId::from),
            edit_id: row.edit_id.map(EditId::from),
            uploader: row.invite_id.map(InviteId::from),
            at: row.at,
            traceparent: row.traceparent,
        })
    }
}

/// Numbers and writes an event. The album's row is locked by the update, so that numbers have no gaps: a
/// transaction that fails takes its number back with it.
pub(crate) async fn append(session: &mut Session, album_id: AlbumId, event: &NewEvent) -> Result<u64> {
    sqlx::query("UPDATE albums SET last_seq = last_seq + 1 WHERE id = ?")
        .bind(album_id.as_uuid())
        .execute(&mut *session)
        .await?;
    let seq: u64 = sqlx::query_scalar("SELECT last_seq FROM albums WHERE id = ?")
        .bind(album_id.as_uuid())
        .fetch_one(&mut *session)
        .await?;
    sqlx::query(
        "INSERT INTO events (album_id, seq, kind, public_kind, photo_id, edit_id, invite_id, at, traceparent) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(album_id.as_uuid())
    .bind(seq)
    .bind(event.kind.as_str())
    .bind(event.public_kind.map(EventKind::as_str))
    .bind(event.photo_id.map(PhotoId::as_uuid))
    .bind(event.edit_id.map(EditId::as_uuid))
    .bind(event.uploader.map(InviteId::as_uuid))
    .bind(super::now())
    .bind(scope::trace().map(|trace| trace.to_string()))
    .execute(session)
    .await?;
    Ok(seq)
}

/// The events after a number, in order.
///
/// # Errors
/// The database's.
pub async fn after(executor: impl MySqlExecutor<'_>, album_id: AlbumId, seq: u64, limit: u32) -> Result<Vec<Event>> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT seq, kind, public_kind, photo_id, edit_id, invite_id, at, traceparent FROM events WHERE album_id = ? AND seq > ? ORDER BY seq LIMIT ?",
    )
    .bind(album_id.as_uuid())
    .bind(seq)
    .bind(limit)
    .fetch_all(executor)
    .await?;
    rows.into_iter().map(Event::try_from).collect()
}

/// How far the numbers of some albums have come; deleted albums are left out.
///
/// # Errors
/// The database's.
pub async fn last_seqs(executor: impl MySqlExecutor<'_>, albums: &[AlbumId]) -> Result<Vec<(AlbumId, u64)>> {
    let mut query = sqlx::QueryBuilder::new("SELECT id, last_seq FROM albums WHERE deleted_at IS NULL AND id IN (");
    let mut list = query.separated(", ");
    for id in albums {
        list.push_bind(id.as_uuid());
    }
    query.push(")");
    let rows: Vec<(Uuid, u64)> = query.build_query_as().fetch_all(executor).await?;
    Ok(rows.into_iter().map(|(id, seq)| (id.into(), seq)).collect())
}

/// Up to which number an album's events are announced; none when it is gone.
///
/// # Errors
/// The database's.
pub async fn announced(executor: impl MySqlExecutor<'_>, album_id: AlbumId) -> Result<Option<u64>> {
    Ok(sqlx::query_scalar("SELECT announced_seq FROM albums WHERE id = ?")
        .bind(album_id.as_uuid())
        .fetch_optional(executor)
        .await?)
}

/// Notes that all up to `seq` is announced; an older note changes nothing.
///
/// # Errors
/// The database's.
pub async fn set_announced(executor: impl MySqlExecutor<'_>, album_id: AlbumId, seq: u64) -> Result<()> {
    sqlx::query("UPDATE albums SET announced_seq = ? WHERE id = ? AND announced_seq < ?")
        .bind(seq)
        .bind(album_id.as_uuid())
        .bind(seq)
        .execute(executor)
        .await?;
    Ok(())
}

/// The age of the oldest event that is not announced yet, in seconds; 0 when all are. An album with such events has a
/// job, which is how it is found.
///
/// # Errors
/// The database's.
pub async fn lag(executor: impl MySqlExecutor<'_>) -> Result<f64> {
    let age: Option<i64> = sqlx::query_scalar(
        "SELECT CAST(MAX(TIMESTAMPDIFF(MICROSECOND, e.at, UTC_TIMESTAMP(3))) AS SIGNED) FROM jobs j
         JOIN albums a ON a.id = j.subject JOIN events e ON e.album_id = a.id AND e.seq = a.announced_seq + 1
         WHERE j.kind IN ('publish_events', 'announce')",
    )
    .fetch_one(executor)
    .await?;
    Ok(super::seconds(age))
}
