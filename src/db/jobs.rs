//! The job queue, a table. A job under a lease is invisible until the lease ends, so the job of a killed worker comes
//! back by itself. All times are the database server's: the clocks of the workers do not matter.

use std::time::Duration;

use sqlx::{Arguments, MySqlExecutor, mysql::MySqlArguments};
use uuid::Uuid;

use super::{database::Db, error::Result, session::Session, statements::with_ids, time::gauge_seconds};
pub use crate::domain::job::*;
use crate::telemetry::{Trace, scope};

/// The longest error text that is kept, in characters.
const MAX_ERROR_CHARS: usize = 500;
/// The longest delay before a job is sent to SQS again.
const MAX_REDELIVERY_DELAY: Duration = Duration::from_hours(12);

statements! {
    INSERT = "INSERT INTO jobs (id, kind, queue, subject, traceparent, visible_at, created_at)
        VALUES (?, ?, ?, ?, ?, UTC_TIMESTAMP(3), UTC_TIMESTAMP(3)) ON DUPLICATE KEY UPDATE subject = subject";
    LOCK_NEXT = "SELECT id, kind, subject, attempts, traceparent FROM jobs
        WHERE queue = ? AND dead = FALSE AND visible_at <= UTC_TIMESTAMP(3)
        ORDER BY visible_at LIMIT 1 FOR UPDATE SKIP LOCKED";
    LOCK_ONE = "SELECT lease IS NULL OR visible_at <= UTC_TIMESTAMP(3) AS free, id, kind, subject, attempts,
        traceparent FROM jobs WHERE kind = ? AND subject = ? AND dead = FALSE FOR UPDATE";
    LEASE = "UPDATE jobs SET lease = ?, attempts = attempts + 1,
        visible_at = UTC_TIMESTAMP(3) + INTERVAL ? MICROSECOND WHERE id = ?";
    LOCK_UNSENT = "SELECT id, kind, subject FROM jobs
        WHERE queue = ? AND dead = FALSE AND visible_at <= UTC_TIMESTAMP(3)
        ORDER BY visible_at LIMIT ? FOR UPDATE SKIP LOCKED";
    RESERVE = "UPDATE jobs SET lease = NULL, visible_at = UTC_TIMESTAMP(3) + INTERVAL ? MICROSECOND WHERE id IN (";
    RECORD_SENT = "UPDATE jobs SET visible_at = UTC_TIMESTAMP(3) + INTERVAL
        LEAST(CAST(? AS SIGNED) * (1 << LEAST(sends, 16)), CAST(? AS SIGNED)) MICROSECOND, sends = sends + 1
        WHERE lease IS NULL AND id IN (";
    RENEW_LEASE = "UPDATE jobs SET visible_at = UTC_TIMESTAMP(3) + INTERVAL ? MICROSECOND WHERE id = ? AND lease = ?";
    COMPLETE = "DELETE FROM jobs WHERE id = ? AND lease = ?";
    RELEASE = "UPDATE jobs SET lease = NULL, visible_at = UTC_TIMESTAMP(3) + INTERVAL ? MICROSECOND, attempts = ?,
        last_error = COALESCE(?, last_error) WHERE id = ? AND lease = ?";
    DEAD_LETTER = "UPDATE jobs SET lease = NULL, dead = TRUE, last_error = ? WHERE id = ? AND lease = ?";
    LIST = "SELECT id, kind, subject, dead, attempts, last_error, created_at FROM jobs WHERE dead >= ?
        ORDER BY id LIMIT ?";
    RETRY_DEAD = "UPDATE jobs SET dead = FALSE, attempts = 0, visible_at = UTC_TIMESTAMP(3)
        WHERE dead = TRUE AND (? OR id = ?)";
    RETRY_DEAD_OF = "UPDATE jobs SET dead = FALSE, attempts = 0, visible_at = UTC_TIMESTAMP(3)
        WHERE kind = ? AND subject = ? AND dead = TRUE";
    GET_DEAD = "SELECT kind, subject FROM jobs WHERE id = ? AND dead = TRUE";
    DELETE_DEAD = "DELETE FROM jobs WHERE id = ? AND dead = TRUE";
    DEPTH = "SELECT CAST(COALESCE(SUM(dead = FALSE), 0) AS SIGNED), CAST(COALESCE(SUM(dead = TRUE), 0) AS SIGNED),
        CAST(MAX(IF(dead = FALSE, TIMESTAMPDIFF(MICROSECOND, visible_at, UTC_TIMESTAMP(3)), NULL)) AS SIGNED)
        FROM jobs";
}

/// A job that this worker has under a lease.
#[derive(Debug, Clone)]
pub struct Claim {
    pub id: Uuid,
    /// The job's name, as written by the release that enqueued it.
    pub kind: String,
    /// The photo, edit or album.
    pub subject: Uuid,
    /// Counts from 1.
    pub attempt: u32,
    /// What is written under an older lease has no effect.
    pub lease: Uuid,
    /// The trace of the request that enqueued the job.
    pub trace: Option<Trace>,
}

from_row! {
    /// A job as an operator sees it.
    #[derive(Debug)]
    pub struct Listed {
        pub id: Uuid,
        pub kind: String,
        pub subject: Uuid,
        pub dead: bool,
        pub attempts: u32,
        pub last_error: Option<String>,
        pub created_at: chrono::DateTime<chrono::Utc>,
    }
}

from_row! {
    /// A job that may be claimed.
    struct Claimable {
        id: Uuid,
        kind: String,
        subject: Uuid,
        attempts: u32,
        traceparent: Option<String>,
    }
}

from_row! {
    struct ClaimableIfFree {
        free: bool,
    } flatten job: Claimable
}

/// The result of an attempt to claim one particular job.
#[derive(Debug)]
pub enum ClaimOutcome {
    Claimed(Claim),
    /// Another worker has it under a lease.
    Leased,
    /// It is done or dead.
    Gone,
}

/// Adds a job unless the same one exists. An existing one stays as it is (running, waiting for its next attempt or
/// dead), because what it will do covers the new request too.
pub(crate) async fn insert(session: &mut Session, job: JobName, subject: Uuid) -> Result<()> {
    sqlx::query(INSERT)
        .bind(Uuid::now_v7())
        .bind(job.name)
        .bind(job.queue.as_str())
        .bind(subject)
        .bind(scope::trace().map(|trace| trace.to_string()))
        .execute(session)
        .await?;
    Ok(())
}

/// Claims the job of a queue that has been due for longest.
pub async fn claim_next(db: &Db, queue: Queue, lease_for: Duration) -> Result<Option<Claim>> {
    db.transaction(|mut tx| async move {
        let job: Option<Claimable> =
            sqlx::query_as(LOCK_NEXT).bind(queue.as_str()).fetch_optional(tx.session()).await?;
        let claim = match job {
            Some(job) => Some(lease(tx.session(), job, lease_for).await?),
            None => None,
        };
        Ok(tx.done(claim))
    })
    .await
}

/// Claims one particular job, due or not, in the caller's transaction.
pub async fn claim_one(session: &mut Session, kind: &str, subject: Uuid, lease_for: Duration) -> Result<ClaimOutcome> {
    let row: Option<ClaimableIfFree> =
        sqlx::query_as(LOCK_ONE).bind(kind).bind(subject).fetch_optional(&mut *session).await?;
    match row {
        Some(ClaimableIfFree { free: true, job }) => lease(session, job, lease_for).await.map(ClaimOutcome::Claimed),
        Some(ClaimableIfFree { free: false, .. }) => Ok(ClaimOutcome::Leased),
        None => Ok(ClaimOutcome::Gone),
    }
}

async fn lease(session: &mut Session, job: Claimable, lease_for: Duration) -> Result<Claim> {
    let claim = Claim {
        id: job.id,
        kind: job.kind,
        subject: job.subject,
        attempt: job.attempts + 1,
        lease: Uuid::now_v7(),
        trace: job.traceparent.as_deref().and_then(Trace::parse),
    };
    sqlx::query(LEASE).bind(claim.lease).bind(micros(lease_for)).bind(claim.id).execute(session).await?;
    Ok(claim)
}

from_row! {
    /// A job to be sent to SQS.
    #[derive(Debug)]
    pub struct Unsent {
        pub id: Uuid,
        pub kind: String,
        pub subject: Uuid,
    }
}

/// Reserves due jobs of a queue for this process to send them to SQS, and ends their expired leases. A job that is not
/// sent within `reserve_for` is due again.
pub async fn reserve_unsent(db: &Db, queue: Queue, limit: usize, reserve_for: Duration) -> Result<Vec<Unsent>> {
    db.transaction(|mut tx| async move {
        let unsent: Vec<Unsent> = sqlx::query_as(LOCK_UNSENT)
            .bind(queue.as_str())
            .bind(u32::try_from(limit).unwrap_or(u32::MAX))
            .fetch_all(tx.session())
            .await?;
        if !unsent.is_empty() {
            let mut arguments = MySqlArguments::default();
            arguments.add(micros(reserve_for)).map_err(sqlx::Error::Encode)?;
            let mut query = with_ids(RESERVE, arguments, unsent.iter().map(|job| job.id));
            query.build().execute(tx.session()).await?;
        }
        Ok(tx.done(unsent))
    })
    .await
}

/// Records that jobs were sent. A job whose message leads to no attempt is due again after `redelivery_delay`, which
/// doubles each time up to [`MAX_REDELIVERY_DELAY`].
pub async fn record_sent(session: &mut Session, ids: &[Uuid], redelivery_delay: Duration) -> Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let mut arguments = MySqlArguments::default();
    for delay in [redelivery_delay, MAX_REDELIVERY_DELAY] {
        arguments.add(micros(delay)).map_err(sqlx::Error::Encode)?;
    }
    let mut query = with_ids(RECORD_SENT, arguments, ids.iter().copied());
    query.build().execute(session).await?;
    Ok(())
}

/// Returns false when the lease is lost.
pub async fn renew_lease(executor: impl MySqlExecutor<'_>, claim: &Claim, lease_for: Duration) -> Result<bool> {
    let done =
        sqlx::query(RENEW_LEASE).bind(micros(lease_for)).bind(claim.id).bind(claim.lease).execute(executor).await?;
    Ok(done.rows_affected() == 1)
}

/// Deletes a finished job. Returns false when the lease is lost; the caller then rolls back.
pub async fn complete(executor: impl MySqlExecutor<'_>, claim: &Claim) -> Result<bool> {
    let done = sqlx::query(COMPLETE).bind(claim.id).bind(claim.lease).execute(executor).await?;
    Ok(done.rows_affected() == 1)
}

/// Ends the lease; the job is due again after `delay`. An attempt that does not count leaves no trace but its error.
pub async fn release(
    executor: impl MySqlExecutor<'_>,
    claim: &Claim,
    delay: Duration,
    attempt_counts: bool,
    error: Option<&str>,
) -> Result<()> {
    sqlx::query(RELEASE)
        .bind(micros(delay))
        .bind(claim.attempt - u32::from(!attempt_counts))
        .bind(error.map(shorten))
        .bind(claim.id)
        .bind(claim.lease)
        .execute(executor)
        .await?;
    Ok(())
}

/// Ends the lease and keeps the job for an operator, who may retry or drop it.
pub async fn dead_letter(executor: impl MySqlExecutor<'_>, claim: &Claim, error: &str) -> Result<()> {
    sqlx::query(DEAD_LETTER).bind(shorten(error)).bind(claim.id).bind(claim.lease).execute(executor).await?;
    Ok(())
}

/// Lists jobs, oldest first.
pub async fn list(executor: impl MySqlExecutor<'_>, dead_only: bool, limit: u32) -> Result<Vec<Listed>> {
    Ok(sqlx::query_as(LIST).bind(dead_only).bind(limit).fetch_all(executor).await?)
}

/// Makes one dead job due again, or all of them. Returns how many.
pub async fn retry_dead(executor: impl MySqlExecutor<'_>, id: Option<Uuid>) -> Result<u64> {
    let done = sqlx::query(RETRY_DEAD).bind(id.is_none()).bind(id.unwrap_or_default()).execute(executor).await?;
    Ok(done.rows_affected())
}

/// Makes a job due again if it is dead, because its subject has changed.
pub async fn retry_dead_of(executor: impl MySqlExecutor<'_>, job: JobName, subject: Uuid) -> Result<()> {
    sqlx::query(RETRY_DEAD_OF).bind(job.name).bind(subject).execute(executor).await?;
    Ok(())
}

/// The name and the subject of a dead job.
pub async fn get_dead(executor: impl MySqlExecutor<'_>, id: Uuid) -> Result<Option<(String, Uuid)>> {
    Ok(sqlx::query_as(GET_DEAD).bind(id).fetch_optional(executor).await?)
}

/// Returns false when no dead job has this id.
pub async fn delete_dead(executor: impl MySqlExecutor<'_>, id: Uuid) -> Result<bool> {
    let done = sqlx::query(DELETE_DEAD).bind(id).execute(executor).await?;
    Ok(done.rows_affected() == 1)
}

/// The numbers of live and of dead jobs, and the age of the oldest due one in seconds.
pub async fn depth(executor: impl MySqlExecutor<'_>) -> Result<(i64, i64, f64)> {
    let (live, dead, age): (i64, i64, Option<i64>) = sqlx::query_as(DEPTH).fetch_one(executor).await?;
    Ok((live, dead, gauge_seconds(age)))
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn shorten(error: &str) -> String {
    error.chars().take(MAX_ERROR_CHARS).collect()
}
