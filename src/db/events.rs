//! Events, which are also the outbox of announcements.

use chrono::{DateTime, Utc};
use sqlx::{MySqlExecutor, mysql::MySqlArguments};
use uuid::Uuid;

use super::{
    error::{Error, Result},
    session::Session,
    statements::with_ids,
    time::{gauge_seconds, now},
};
use crate::{
    domain::{AlbumId, EditId, Event, EventKind, InviteId, Photo, PhotoId},
    telemetry::scope,
};

/// The columns of [`Row`], of `events e`.
macro_rules! event_columns {
    () => {
        "e.seq, e.kind, e.public_kind, e.photo_id, e.edit_id, e.invite_id, e.at, e.traceparent"
    };
}

statements! {
    INCREMENT_SEQ = "UPDATE albums SET last_seq = last_seq + 1 WHERE id = ?";
    LAST_SEQ = "SELECT last_seq FROM albums WHERE id = ?";
    INSERT = "INSERT INTO events (album_id, seq, kind, public_kind, photo_id, edit_id, invite_id, at, traceparent)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
    AFTER = "SELECT ", event_columns!(), " FROM events e WHERE e.album_id = ? AND e.seq > ? ORDER BY e.seq LIMIT ?";
    LAST_SEQS = "SELECT id, last_seq FROM albums WHERE deleted_at IS NULL AND id IN (";
    ANNOUNCED_SEQ = "SELECT announced_seq FROM albums WHERE id = ?";
    SET_ANNOUNCED_SEQ = "UPDATE albums SET announced_seq = ? WHERE id = ? AND announced_seq < ?";
    ANNOUNCEMENT_LAG = "SELECT CAST(MAX(TIMESTAMPDIFF(MICROSECOND, e.at, UTC_TIMESTAMP(3))) AS SIGNED) FROM jobs j
        JOIN albums a ON a.id = j.subject JOIN events e ON e.album_id = a.id AND e.seq = a.announced_seq + 1
        WHERE j.kind IN ('publish_events', 'announce')";
}

/// An event without a number.
#[derive(Debug)]
pub struct NewEvent {
    /// Its kind for the host and the photo's uploader.
    pub kind: EventKind,
    /// Its kind for those who see only public photos; `None` when they do not see it.
    pub public_kind: Option<EventKind>,
    /// Its photo.
    pub photo_id: Option<PhotoId>,
    /// Its edit of that photo.
    pub edit_id: Option<EditId>,
    /// The invite with which the photo was added.
    pub uploader: Option<InviteId>,
}

/// An event about a photo: its kind for the host and the uploader, and for those who see only public photos.
#[must_use]
pub fn photo_event(photo: &Photo, kind: EventKind, public_kind: Option<EventKind>) -> NewEvent {
    NewEvent { kind, public_kind, photo_id: Some(photo.id), edit_id: None, uploader: photo.uploader.invite_id }
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

/// Numbers and inserts an event. The update locks the album's row, so that numbers have no gaps: a transaction that is
/// rolled back also returns its number.
pub(crate) async fn append(session: &mut Session, album_id: AlbumId, event: &NewEvent) -> Result<u64> {
    sqlx::query(INCREMENT_SEQ).bind(album_id.as_uuid()).execute(&mut *session).await?;
    let seq: u64 = sqlx::query_scalar(LAST_SEQ).bind(album_id.as_uuid()).fetch_one(&mut *session).await?;
    sqlx::query(INSERT)
        .bind(album_id.as_uuid())
        .bind(seq)
        .bind(event.kind.as_str())
        .bind(event.public_kind.map(EventKind::as_str))
        .bind(event.photo_id.map(PhotoId::as_uuid))
        .bind(event.edit_id.map(EditId::as_uuid))
        .bind(event.uploader.map(InviteId::as_uuid))
        .bind(now())
        .bind(scope::trace().map(|trace| trace.to_string()))
        .execute(session)
        .await?;
    Ok(seq)
}

/// The events of an album after a number, in order.
pub async fn after(executor: impl MySqlExecutor<'_>, album_id: AlbumId, seq: u64, limit: u32) -> Result<Vec<Event>> {
    let query = sqlx::query_as::<_, Row>(AFTER).bind(album_id.as_uuid()).bind(seq).bind(limit);
    query.fetch_all(executor).await?.into_iter().map(Event::try_from).collect()
}

/// The number of the latest event of each of these albums that is not deleted.
pub async fn last_seqs(executor: impl MySqlExecutor<'_>, albums: &[AlbumId]) -> Result<Vec<(AlbumId, u64)>> {
    let mut query = with_ids(LAST_SEQS, MySqlArguments::default(), albums.iter().map(|id| id.as_uuid()));
    let rows: Vec<(Uuid, u64)> = query.build_query_as().fetch_all(executor).await?;
    Ok(rows.into_iter().map(|(id, seq)| (id.into(), seq)).collect())
}

/// The number of the last event of an album that is announced; `None` when the album has no row.
pub async fn announced(executor: impl MySqlExecutor<'_>, album_id: AlbumId) -> Result<Option<u64>> {
    Ok(sqlx::query_scalar(ANNOUNCED_SEQ).bind(album_id.as_uuid()).fetch_optional(executor).await?)
}

/// Records that all events up to `seq` are announced; does nothing when later ones already are.
pub async fn set_announced(executor: impl MySqlExecutor<'_>, album_id: AlbumId, seq: u64) -> Result<()> {
    sqlx::query(SET_ANNOUNCED_SEQ).bind(seq).bind(album_id.as_uuid()).bind(seq).execute(executor).await?;
    Ok(())
}

/// The age of the oldest event that is not announced, in seconds; 0 when all are. Only albums with an announcement job
/// are searched: each album with such an event has one.
pub async fn lag(executor: impl MySqlExecutor<'_>) -> Result<f64> {
    Ok(gauge_seconds(sqlx::query_scalar(ANNOUNCEMENT_LAG).fetch_one(executor).await?))
}
