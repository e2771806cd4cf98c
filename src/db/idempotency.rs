//! Stored answers of requests that carried an `Idempotency-Key`.

use chrono::{DateTime, Utc};
use sqlx::MySqlExecutor;
use uuid::Uuid;

use super::{Db, Result, Tx};

/// An answer as it is stored.
#[derive(Debug)]
pub struct Stored {
    /// The HTTP status.
    pub status: u16,
    /// The sealed body.
    pub body: Vec<u8>,
}

/// What a key turned out to be.
#[derive(Debug)]
pub enum Reservation {
    /// New: the request runs, under this owner.
    Fresh(Uuid),
    /// The first request with it has answered.
    Answered([u8; 32], Stored),
    /// The first request with it still runs.
    Running([u8; 32]),
}

/// Fingerprint, owner, end of the lock, status and body.
type Row = (Vec<u8>, Uuid, DateTime<Utc>, Option<u16>, Option<Vec<u8>>);

/// Reserves a key for a request. A first request that has not answered by `locked_until` is taken for dead and
/// its place is taken.
///
/// # Errors
/// The database's.
pub async fn reserve(
    db: &Db,
    id: &[u8; 32],
    fingerprint: &[u8; 32],
    now: DateTime<Utc>,
    locked_until: DateTime<Utc>,
) -> Result<Reservation> {
    let mut session = db.session().await?;
    let owner = Uuid::now_v7();
    let inserted = sqlx::query(
        "INSERT IGNORE INTO idempotency (id, fingerprint, owner, locked_until, created_at) VALUES (?, ?, ?, ?, ?)",
    )
    .bind(&id[..])
    .bind(&fingerprint[..])
    .bind(owner)
    .bind(locked_until)
    .bind(now)
    .execute(&mut session)
    .await?;
    if inserted.rows_affected() == 1 {
        return Ok(Reservation::Fresh(owner));
    }
    let row: Option<Row> =
        sqlx::query_as("SELECT fingerprint, owner, locked_until, status, body FROM idempotency WHERE id = ?")
            .bind(&id[..])
            .fetch_optional(&mut session)
            .await?;
    let Some((first, earlier, locked, status, body)) = row else {
        // The first request failed and took its row away in between; the client may ask again at once.
        return Ok(Reservation::Running(*fingerprint));
    };
    let first = first.try_into().map_err(|_| super::Error::Corrupt("idempotency"))?;
    if let (Some(status), Some(body)) = (status, body) {
        return Ok(Reservation::Answered(first, Stored { status, body }));
    }
    if locked > now || first != *fingerprint {
        return Ok(Reservation::Running(first));
    }
    let taken =
        sqlx::query("UPDATE idempotency SET owner = ?, locked_until = ? WHERE id = ? AND owner = ? AND status IS NULL")
            .bind(owner)
            .bind(locked_until)
            .bind(&id[..])
            .bind(earlier)
            .execute(&mut session)
            .await?;
    Ok(if taken.rows_affected() == 1 { Reservation::Fresh(owner) } else { Reservation::Running(first) })
}

/// Stores the answer in the transaction of the change; false when the place was taken by another request, and
/// then the caller rolls back.
///
/// # Errors
/// The database's.
pub async fn store(tx: &mut Tx, id: &[u8; 32], owner: Uuid, answer: &Stored) -> Result<bool> {
    let done = sqlx::query("UPDATE idempotency SET status = ?, body = ? WHERE id = ? AND owner = ? AND status IS NULL")
        .bind(answer.status)
        .bind(&answer.body)
        .bind(&id[..])
        .bind(owner)
        .execute(tx.session())
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Gives a key back after a request that changed nothing.
///
/// # Errors
/// The database's.
pub async fn release(executor: impl MySqlExecutor<'_>, id: &[u8; 32], owner: Uuid) -> Result<()> {
    sqlx::query("DELETE FROM idempotency WHERE id = ? AND owner = ? AND status IS NULL")
        .bind(&id[..])
        .bind(owner)
        .execute(executor)
        .await?;
    Ok(())
}

/// Forgets answers from before `cutoff`, some at a time; answers how many.
///
/// # Errors
/// The database's.
pub async fn forget(executor: impl MySqlExecutor<'_>, cutoff: DateTime<Utc>, limit: u32) -> Result<u64> {
    let done = sqlx::query("DELETE FROM idempotency WHERE created_at < ? LIMIT ?")
        .bind(cutoff)
        .bind(limit)
        .execute(executor)
        .await?;
    Ok(done.rows_affected())
}
