//! Queries of the reconciler.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{MySqlExecutor, mysql::MySqlArguments};
use uuid::Uuid;

use super::{error::Result, statements::with_ids, time::now};
use crate::domain::{AlbumId, EditId, PhotoId, PhotoState, Rendition};

/// How often the reconciler looks at a photo or edit that waits for a worker.
pub(crate) const OVERDUE_INTERVAL: TimeDelta = TimeDelta::minutes(10);

statements! {
    OVERDUE = "SELECT id, state FROM photos WHERE sweep_at <= ? ORDER BY sweep_at LIMIT ?";
    IS_OVERDUE = "SELECT 1 FROM photos WHERE id = ? AND sweep_at <= ?";
    POSTPONE = "UPDATE photos SET sweep_at = ? WHERE id = ? AND sweep_at IS NOT NULL";
    OVERDUE_EDITS = "SELECT id FROM edits WHERE sweep_at <= ? ORDER BY sweep_at LIMIT ?";
    POSTPONE_EDIT = "UPDATE edits SET sweep_at = ? WHERE id = ? AND sweep_at IS NOT NULL";
    WITHOUT_PUBLISH_JOB = "SELECT a.id FROM albums a LEFT JOIN jobs j ON j.kind = 'publish_events' AND j.subject = a.id
         WHERE a.announced_seq < a.last_seq AND a.deleted_at IS NULL AND j.id IS NULL LIMIT ?";
    WITHOUT_PURGE_JOB = "SELECT a.id FROM albums a LEFT JOIN jobs j ON j.kind = 'purge_album' AND j.subject = a.id
         WHERE a.deleted_at IS NOT NULL AND j.id IS NULL LIMIT ?";
    READY_AFTER = "SELECT id, IF(state = 'ready', renditions, NULL) FROM photos WHERE id > ? ORDER BY id LIMIT ?";
    STATES = "SELECT id, state FROM photos WHERE id IN (";
}

/// Photos that have waited too long for their upload or for a worker.
pub async fn overdue(
    executor: impl MySqlExecutor<'_>,
    now: DateTime<Utc>,
    limit: u32,
) -> Result<Vec<(PhotoId, PhotoState)>> {
    let rows: Vec<(Uuid, String)> = sqlx::query_as(OVERDUE).bind(now).bind(limit).fetch_all(executor).await?;
    Ok(rows.into_iter().filter_map(|(id, state)| Some((id.into(), PhotoState::parse(&state)?))).collect())
}

/// Whether a locked photo is still overdue. It may have been declared again since it was found.
pub async fn is_overdue(executor: impl MySqlExecutor<'_>, id: PhotoId) -> Result<bool> {
    let overdue: Option<i64> =
        sqlx::query_scalar(IS_OVERDUE).bind(id.as_uuid()).bind(now()).fetch_optional(executor).await?;
    Ok(overdue.is_some())
}

pub async fn postpone(executor: impl MySqlExecutor<'_>, id: PhotoId) -> Result<()> {
    sqlx::query(POSTPONE).bind(now() + OVERDUE_INTERVAL).bind(id.as_uuid()).execute(executor).await?;
    Ok(())
}

/// Edits that have waited too long for a worker.
pub async fn overdue_edits(executor: impl MySqlExecutor<'_>, now: DateTime<Utc>, limit: u32) -> Result<Vec<EditId>> {
    let ids: Vec<Uuid> = sqlx::query_scalar(OVERDUE_EDITS).bind(now).bind(limit).fetch_all(executor).await?;
    Ok(ids.into_iter().map(EditId::from).collect())
}

pub async fn postpone_edit(executor: impl MySqlExecutor<'_>, id: EditId) -> Result<()> {
    sqlx::query(POSTPONE_EDIT).bind(now() + OVERDUE_INTERVAL).bind(id.as_uuid()).execute(executor).await?;
    Ok(())
}

/// Albums with unpublished events that no job will publish.
pub async fn albums_without_publish_job(executor: impl MySqlExecutor<'_>, limit: u32) -> Result<Vec<AlbumId>> {
    let ids: Vec<Uuid> = sqlx::query_scalar(WITHOUT_PUBLISH_JOB).bind(limit).fetch_all(executor).await?;
    Ok(ids.into_iter().map(AlbumId::from).collect())
}

/// Deleted albums that no job will purge.
pub async fn albums_without_purge_job(executor: impl MySqlExecutor<'_>, limit: u32) -> Result<Vec<AlbumId>> {
    let ids: Vec<Uuid> = sqlx::query_scalar(WITHOUT_PURGE_JOB).bind(limit).fetch_all(executor).await?;
    Ok(ids.into_iter().map(AlbumId::from).collect())
}

/// The states of those photos that have a row.
pub async fn states(executor: impl MySqlExecutor<'_>, ids: &[PhotoId]) -> Result<Vec<(PhotoId, PhotoState)>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut query = with_ids(STATES, MySqlArguments::default(), ids.iter().map(|id| id.as_uuid()));
    let rows: Vec<(Uuid, String)> = query.build_query_as().fetch_all(executor).await?;
    Ok(rows.into_iter().filter_map(|(id, state)| Some((id.into(), PhotoState::parse(&state)?))).collect())
}

/// A page of all photos by id, with the renditions that storage must have of each.
pub async fn ready_after(
    executor: impl MySqlExecutor<'_>,
    after: PhotoId,
    limit: u32,
) -> Result<Vec<(PhotoId, Vec<Rendition>)>> {
    let rows: Vec<(Uuid, Option<String>)> =
        sqlx::query_as(READY_AFTER).bind(after.as_uuid()).bind(limit).fetch_all(executor).await?;
    let read = |json: Option<String>| json.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default();
    Ok(rows.into_iter().map(|(id, json)| (id.into(), read(json))).collect())
}
