//! Stored responses of requests with an `Idempotency-Key`.

use chrono::{DateTime, Utc};
use sqlx::MySqlExecutor;
use uuid::Uuid;

use super::{
    database::Db,
    error::{Error, Result},
    transaction::Tx,
};

statements! {
    INSERT = "INSERT IGNORE INTO idempotency (id, fingerprint, owner, locked_until, created_at) VALUES (?, ?, ?, ?, ?)";
    FIND = "SELECT fingerprint, owner, locked_until, status, body FROM idempotency WHERE id = ?";
    TAKE_OVER = "UPDATE idempotency SET owner = ?, locked_until = ? WHERE id = ? AND owner = ? AND status IS NULL";
    STORE = "UPDATE idempotency SET status = ?, body = ? WHERE id = ? AND owner = ? AND status IS NULL";
    RELEASE = "DELETE FROM idempotency WHERE id = ? AND owner = ? AND status IS NULL";
    DELETE_BEFORE = "DELETE FROM idempotency WHERE created_at < ? LIMIT ?";
}

/// A stored response.
#[derive(Debug)]
pub struct Stored {
    /// The HTTP status.
    pub status: u16,
    /// The encrypted body.
    pub body: Vec<u8>,
}

/// The result of reserving a key. The digest is the fingerprint of the first request.
#[derive(Debug)]
pub enum Reservation {
    /// New: the request runs, with this owner.
    Fresh(Uuid),
    /// The first request has been answered.
    Answered([u8; 32], Stored),
    /// The first request is still running.
    Running([u8; 32]),
}

/// Fingerprint, owner, end of the lock, status and body.
type Row = (Vec<u8>, Uuid, DateTime<Utc>, Option<u16>, Option<Vec<u8>>);

/// Reserves a key for a request. The reservation of a request that has not answered by its `locked_until` is taken
/// over.
pub async fn reserve(
    db: &Db,
    id: &[u8; 32],
    fingerprint: &[u8; 32],
    now: DateTime<Utc>,
    locked_until: DateTime<Utc>,
) -> Result<Reservation> {
    let mut session = db.session().await?;
    let owner = Uuid::now_v7();
    let inserted = sqlx::query(INSERT)
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
    let row: Option<Row> = sqlx::query_as(FIND).bind(&id[..]).fetch_optional(&mut session).await?;
    let Some((first, earlier_owner, locked, status, body)) = row else {
        // The first request has failed and released its key in between; the client may retry at once.
        return Ok(Reservation::Running(*fingerprint));
    };
    let first = first.try_into().map_err(|_| Error::Corrupt("idempotency"))?;
    if let (Some(status), Some(body)) = (status, body) {
        return Ok(Reservation::Answered(first, Stored { status, body }));
    }
    if locked > now || first != *fingerprint {
        return Ok(Reservation::Running(first));
    }
    let taken = sqlx::query(TAKE_OVER)
        .bind(owner)
        .bind(locked_until)
        .bind(&id[..])
        .bind(earlier_owner)
        .execute(&mut session)
        .await?;
    Ok(if taken.rows_affected() == 1 { Reservation::Fresh(owner) } else { Reservation::Running(first) })
}

/// Stores a response in the transaction of its change. When this returns false another request has taken the key over,
/// and the caller rolls back.
pub async fn store(tx: &mut Tx, id: &[u8; 32], owner: Uuid, response: &Stored) -> Result<bool> {
    let updated = sqlx::query(STORE)
        .bind(response.status)
        .bind(&response.body)
        .bind(&id[..])
        .bind(owner)
        .execute(tx.session())
        .await?;
    Ok(updated.rows_affected() == 1)
}

/// Releases the key of a request that changed nothing.
pub async fn release(executor: impl MySqlExecutor<'_>, id: &[u8; 32], owner: Uuid) -> Result<()> {
    sqlx::query(RELEASE).bind(&id[..]).bind(owner).execute(executor).await?;
    Ok(())
}

/// Deletes up to `limit` responses that are older than `cutoff`, and returns their number.
pub async fn delete_before(executor: impl MySqlExecutor<'_>, cutoff: DateTime<Utc>, limit: u32) -> Result<u64> {
    Ok(sqlx::query(DELETE_BEFORE).bind(cutoff).bind(limit).execute(executor).await?.rows_affected())
}
