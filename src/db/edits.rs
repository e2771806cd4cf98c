//! Edits.

use chrono::{DateTime, Utc};
use sqlx::MySqlExecutor;
use uuid::Uuid;

use super::{
    error::{Error, Result},
    reconciler::OVERDUE_INTERVAL,
    session::Session,
    time::now,
};
use crate::domain::{Access, Edit, EditId, EditState, EditStep, Photo, PhotoId, TaskToken, edit::REVIEW_TIMEOUT};

/// The columns of [`Row`], of `edits e`.
macro_rules! edit_columns {
    () => {
        "e.id, e.photo_id, e.album_id, e.state, e.step, e.filters, e.renditions, e.fail_reason, e.created_at, \
         e.ready_at"
    };
}

statements! {
    INSERT = "INSERT INTO edits (id, photo_id, album_id, state, step, filters, created_at, sweep_at)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
    COUNT = "SELECT COUNT(*), COUNT(IF(state = 'failed', NULL, 1)) FROM edits WHERE photo_id = ?";
    LIST = "SELECT ", edit_columns!(), " FROM edits e WHERE e.photo_id = ? AND e.id < ? ORDER BY e.id DESC LIMIT ?";
    LIST_READY = "SELECT ", edit_columns!(), " FROM edits e
        WHERE e.photo_id = ? AND e.id < ? AND e.state = 'ready' ORDER BY e.id DESC LIMIT ?";
    GET = "SELECT ", edit_columns!(), " FROM edits e WHERE e.id = ?";
    LOCK = "SELECT ", edit_columns!(), " FROM edits e WHERE e.id = ? FOR UPDATE";
    ADVANCE = "UPDATE edits SET state = ?, step = ?, renditions = ?, fail_reason = ?, ready_at = ?, sweep_at = ?
        WHERE id = ?";
    TASK_TOKEN = "SELECT task_token FROM edits WHERE id = ?";
    SET_TASK_TOKEN = "UPDATE edits SET task_token = ? WHERE id = ?";
    CLEAR_TASK_TOKEN = "UPDATE edits SET task_token = NULL WHERE id = ? AND task_token = ?";
    DELETE_OF_PHOTO = "DELETE FROM edits WHERE photo_id = ?";
}

from_row! {
    struct Row {
        id: Uuid,
        photo_id: Uuid,
        album_id: Uuid,
        state: String,
        step: Option<String>,
        filters: String,
        renditions: Option<String>,
        fail_reason: Option<String>,
        created_at: DateTime<Utc>,
        ready_at: Option<DateTime<Utc>>,
    }
}

impl TryFrom<Row> for Edit {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self> {
        const CORRUPT: Error = Error::Corrupt("edits");
        let renditions = row.renditions.map(|json| serde_json::from_str(&json).map_err(|_| CORRUPT)).transpose()?;
        let step = row.step.map(|word| EditStep::parse(&word).ok_or(CORRUPT)).transpose()?;
        Ok(Self {
            id: row.id.into(),
            photo_id: row.photo_id.into(),
            album_id: row.album_id.into(),
            state: EditState::parse(&row.state).ok_or(CORRUPT)?,
            step,
            filters: serde_json::from_str(&row.filters).map_err(|_| CORRUPT)?,
            renditions: renditions.unwrap_or_default(),
            fail_reason: row.fail_reason,
            created_at: row.created_at,
            ready_at: row.ready_at,
        })
    }
}

/// Inserts a new edit of a locked photo.
pub async fn insert(session: &mut Session, edit: &Edit) -> Result<()> {
    let filters = serde_json::to_string(&edit.filters).map_err(|_| Error::Corrupt("edits"))?;
    sqlx::query(INSERT)
        .bind(edit.id.as_uuid())
        .bind(edit.photo_id.as_uuid())
        .bind(edit.album_id.as_uuid())
        .bind(edit.state.as_str())
        .bind(edit.step.map(EditStep::as_str))
        .bind(filters)
        .bind(edit.created_at)
        .bind(now() + OVERDUE_INTERVAL)
        .execute(session)
        .await?;
    Ok(())
}

/// The number of edits of a photo: all, and those that have not failed.
pub async fn count(executor: impl MySqlExecutor<'_>, photo_id: PhotoId) -> Result<(u64, u64)> {
    let (all, not_failed): (i64, i64) = sqlx::query_as(COUNT).bind(photo_id.as_uuid()).fetch_one(executor).await?;
    Ok((all.unsigned_abs(), not_failed.unsigned_abs()))
}

/// An edit of a photo that the caller may see; `None` when the caller may not see the edit.
pub async fn find(
    executor: impl MySqlExecutor<'_>,
    access: &Access,
    photo: &Photo,
    id: EditId,
) -> Result<Option<Edit>> {
    let edit = get(executor, id).await?;
    Ok(edit.filter(|edit| edit.photo_id == photo.id && access.sees_edit(photo, edit)))
}

/// A page of the edits of a photo that the caller may see, newest first, that come after `before`.
pub async fn list(
    executor: impl MySqlExecutor<'_>,
    access: &Access,
    photo: &Photo,
    before: Option<EditId>,
    limit: u32,
) -> Result<Vec<Edit>> {
    let rows: Vec<Row> = sqlx::query_as(if access.owns(photo) { LIST } else { LIST_READY })
        .bind(photo.id.as_uuid())
        .bind(before.map_or(Uuid::max(), EditId::as_uuid))
        .bind(limit)
        .fetch_all(executor)
        .await?;
    rows.into_iter().map(Edit::try_from).collect()
}

/// An edit by its id, for workers.
pub async fn get(executor: impl MySqlExecutor<'_>, id: EditId) -> Result<Option<Edit>> {
    let row: Option<Row> = sqlx::query_as(GET).bind(id.as_uuid()).fetch_optional(executor).await?;
    row.map(Edit::try_from).transpose()
}

/// Locks an edit until the end of the transaction, and returns it. Lock its album and photo first where they are
/// needed.
pub async fn lock(session: &mut Session, id: EditId) -> Result<Option<Edit>> {
    let row: Option<Row> = sqlx::query_as(LOCK).bind(id.as_uuid()).fetch_optional(session).await?;
    row.map(Edit::try_from).transpose()
}

/// Writes the progress of a locked edit. The reconciler checks it while a worker has something to do, and when the time
/// for the host's review has passed.
pub async fn advance(session: &mut Session, edit: &Edit) -> Result<()> {
    let renditions = serde_json::to_string(&edit.renditions).map_err(|_| Error::Corrupt("edits"))?;
    let sweep_at = match edit.state {
        EditState::Processing => Some(now() + OVERDUE_INTERVAL),
        EditState::PendingReview => Some(edit.created_at + REVIEW_TIMEOUT),
        EditState::Ready | EditState::Failed => None,
    };
    sqlx::query(ADVANCE)
        .bind(edit.state.as_str())
        .bind(edit.step.map(EditStep::as_str))
        .bind(renditions)
        .bind(&edit.fail_reason)
        .bind(edit.ready_at)
        .bind(sweep_at)
        .bind(edit.id.as_uuid())
        .execute(session)
        .await?;
    Ok(())
}

/// The token of the state machine that waits for the host's review of a locked edit, if one waits.
pub async fn task_token(executor: impl MySqlExecutor<'_>, id: EditId) -> Result<Option<TaskToken>> {
    let token: Option<Option<String>> =
        sqlx::query_scalar(TASK_TOKEN).bind(id.as_uuid()).fetch_optional(executor).await?;
    Ok(token.flatten().map(TaskToken::from))
}

/// Stores the token of a waiting state machine.
pub async fn set_task_token(executor: impl MySqlExecutor<'_>, id: EditId, token: &TaskToken) -> Result<()> {
    sqlx::query(SET_TASK_TOKEN).bind(token.expose()).bind(id.as_uuid()).execute(executor).await?;
    Ok(())
}

/// Removes a token that was used; a newer one stays.
pub async fn clear_task_token(executor: impl MySqlExecutor<'_>, id: EditId, used: &TaskToken) -> Result<()> {
    sqlx::query(CLEAR_TASK_TOKEN).bind(id.as_uuid()).bind(used.expose()).execute(executor).await?;
    Ok(())
}

/// Deletes all edits of a photo.
pub(crate) async fn delete_of_photo(session: &mut Session, photo_id: PhotoId) -> Result<()> {
    sqlx::query(DELETE_OF_PHOTO).bind(photo_id.as_uuid()).execute(session).await?;
    Ok(())
}
