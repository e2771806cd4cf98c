//! Edits: the statements behind their lists and each step of their way.

use chrono::{DateTime, Utc};
use sqlx::{MySql, MySqlExecutor, QueryBuilder};
use uuid::Uuid;

use super::{Error, Result, Session};
use crate::db::reconciler::OVERDUE_INTERVAL;
use crate::domain::{Access, Edit, EditId, EditState, EditStep, Photo, PhotoId, TaskToken, edit::REVIEW_TIME};

const SELECT: &str =
    "SELECT id, photo_id, album_id, state, step, filters, renditions, fail_reason, created_at, ready_at FROM edits";

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

/// Writes a new edit of a locked photo.
///
/// # Errors
/// The database's.
pub async fn insert(session: &mut Session, edit: &Edit) -> Result<()> {
    let filters = serde_json::to_string(&edit.filters).map_err(|_| Error::Corrupt("edits"))?;
    sqlx::query(
        "INSERT INTO edits (id, photo_id, album_id, state, step, filters, created_at, sweep_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(edit.id.as_uuid())
    .bind(edit.photo_id.as_uuid())
    .bind(edit.album_id.as_uuid())
    .bind(edit.state.as_str())
    .bind(edit.step.map(EditStep::as_str))
    .bind(filters)
    .bind(edit.created_at)
    .bind(super::now() + OVERDUE_INTERVAL)
    .execute(session)
    .await?;
    Ok(())
}

/// How many edits a photo has: in all, and of them those that have not failed.
///
/// # Errors
/// The database's.
pub async fn count(executor: impl MySqlExecutor<'_>, photo_id: PhotoId) -> Result<(u64, u64)> {
    let query = "SELECT COUNT(*), COUNT(IF(state = ?, NULL, 1)) FROM edits WHERE photo_id = ?";
    let (all, good): (i64, i64) =
        sqlx::query_as(query).bind(EditState::Failed.as_str()).bind(photo_id.as_uuid()).fetch_one(executor).await?;
    Ok((all.unsigned_abs(), good.unsigned_abs()))
}

/// An edit of a photo, for a caller that sees the photo; none of one that the caller may not know of.
///
/// # Errors
/// The database's.
pub async fn find(
    executor: impl MySqlExecutor<'_>,
    access: &Access,
    photo: &Photo,
    id: EditId,
) -> Result<Option<Edit>> {
    let edit = get(executor, id).await?;
    Ok(edit.filter(|edit| edit.photo_id == photo.id && access.sees_edit(photo, edit)))
}

/// A page of the edits of a photo that the caller may see, newest first.
///
/// # Errors
/// The database's.
pub async fn list(
    executor: impl MySqlExecutor<'_>,
    access: &Access,
    photo: &Photo,
    before: Option<EditId>,
    limit: u32,
) -> Result<Vec<Edit>> {
    let mut query = QueryBuilder::<MySql>::new(SELECT);
    query.push(" WHERE photo_id = ").push_bind(photo.id.as_uuid());
    if !access.owns(photo) {
        query.push(" AND state = ").push_bind(EditState::Ready.as_str());
    }
    if let Some(id) = before {
        query.push(" AND id < ").push_bind(id.as_uuid());
    }
    query.push(" ORDER BY id DESC LIMIT ").push_bind(limit);
    let rows: Vec<Row> = query.build_query_as().fetch_all(executor).await?;
    rows.into_iter().map(Edit::try_from).collect()
}

/// Any edit by its id, for workers.
///
/// # Errors
/// The database's.
pub async fn get(executor: impl MySqlExecutor<'_>, id: EditId) -> Result<Option<Edit>> {
    let mut query = QueryBuilder::<MySql>::new(SELECT);
    query.push(" WHERE id = ").push_bind(id.as_uuid());
    one(query.build_query_as().fetch_optional(executor).await?)
}

/// Locks an edit for the rest of the transaction and reads it. Lock its album and its photo first where they are needed.
///
/// # Errors
/// The database's.
pub async fn lock(session: &mut Session, id: EditId) -> Result<Option<Edit>> {
    let mut query = QueryBuilder::<MySql>::new(SELECT);
    query.push(" WHERE id = ").push_bind(id.as_uuid()).push(" FOR UPDATE");
    one(query.build_query_as().fetch_optional(session).await?)
}

/// Writes how far a locked edit has come. The sweep looks after it for as long as a worker has something to do, and when the host
/// had time enough.
///
/// # Errors
/// The database's.
pub async fn advance(session: &mut Session, edit: &Edit) -> Result<()> {
    let renditions = serde_json::to_string(&edit.renditions).map_err(|_| Error::Corrupt("edits"))?;
    let sweep_at = match edit.state {
        EditState::Processing => Some(super::now() + OVERDUE_INTERVAL),
        EditState::PendingReview => Some(edit.created_at + REVIEW_TIME),
        EditState::Ready | EditState::Failed => None,
    };
    sqlx::query(
        "UPDATE edits SET state = ?, step = ?, renditions = ?, fail_reason = ?, ready_at = ?, sweep_at = ? WHERE id = ?",
    )
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

/// What a state machine waits with for the host's decision of a locked edit, if it does.
///
/// # Errors
/// The database's.
pub async fn task_token(executor: impl MySqlExecutor<'_>, id: EditId) -> Result<Option<TaskToken>> {
    let token: Option<Option<String>> = sqlx::query_scalar("SELECT task_token FROM edits WHERE id = ?")
        .bind(id.as_uuid())
        .fetch_optional(executor)
        .await?;
    Ok(token.flatten().map(TaskToken::from))
}

/// Keeps the token that a state machine waits with.
///
/// # Errors
/// The database's.
pub async fn set_task_token(executor: impl MySqlExecutor<'_>, id: EditId, token: &TaskToken) -> Result<()> {
    sqlx::query("UPDATE edits SET task_token = ? WHERE id = ?")
        .bind(token.expose())
        .bind(id.as_uuid())
        .execute(executor)
        .await?;
    Ok(())
}

/// Forgets a token by which the state machine was told; a newer one stays.
///
/// # Errors
/// The database's.
pub async fn forget_task_token(executor: impl MySqlExecutor<'_>, id: EditId, told: &TaskToken) -> Result<()> {
    sqlx::query("UPDATE edits SET task_token = NULL WHERE id = ? AND task_token = ?")
        .bind(id.as_uuid())
        .bind(told.expose())
        .execute(executor)
        .await?;
    Ok(())
}

/// Removes all edits of a photo.
pub(crate) async fn delete_of(session: &mut Session, photo_id: PhotoId) -> Result<()> {
    sqlx::query("DELETE FROM edits WHERE photo_id = ?").bind(photo_id.as_uuid()).execute(session).await?;
    Ok(())
}

fn one(row: Option<Row>) -> Result<Option<Edit>> {
    row.map(Edit::try_from).transpose()
}
