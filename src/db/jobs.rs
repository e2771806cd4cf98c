//! Jobs: a queue in a table. A job under a lease is simply not visible until the lease ends, so one that a
//! killed worker held comes back by itself. All times are the server's, so that workers' clocks don't matter.

use std::time::Duration;

use sqlx::{MySql, MySqlExecutor, QueryBuilder};
use uuid::Uuid;

use super::{Db, Error, Result, Session};
use crate::telemetry::{Trace, scope};

/// The longest error text that is kept, in characters.
const MAX_ERROR_CHARS: usize = 500;

/// What there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Make a photo's renditions.
    Develop,
    /// Lead an edit through its steps.
    Edit,
    /// Remove the objects of a deleted photo.
    PurgePhoto,
    /// Remove a deleted album.
    PurgeAlbum,
    /// Announce an album's events.
    Announce,
    /// Bring the read model of an album up to date.
    Project,
}

impl Kind {
    const ALL: [Self; 6] =
        [Self::Develop, Self::Edit, Self::PurgePhoto, Self::PurgeAlbum, Self::Announce, Self::Project];

    /// Which workers do it.
    #[must_use]
    pub const fn lane(self) -> Lane {
        match self {
            Self::Develop | Self::Edit | Self::PurgePhoto | Self::PurgeAlbum => Lane::Work,
            Self::Announce | Self::Project => Lane::Announce,
        }
    }

    /// The kind of a word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// The word of the table, of messages, of logs and of metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Develop => "develop",
            Self::Edit => "edit",
            Self::PurgePhoto => "purge_photo",
            Self::PurgeAlbum => "purge_album",
            Self::Announce => "announce",
            Self::Project => "project",
        }
    }
}

/// Which workers do a job. A webhook that hangs must not hold up photos, so announcements have their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Photos, edits, and what is to be removed.
    Work,
    /// Announcements and projections.
    Announce,
}

impl Lane {
    /// The word of the table.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Work => "work",
            Self::Announce => "announce",
        }
    }
}

/// A job that this worker has under a lease.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The job's id.
    pub id: Uuid,
    /// What to do.
    pub kind: Kind,
    /// The photo, edit or album.
    pub subject: Uuid,
    /// This try's number, from 1.
    pub attempt: u32,
    /// The lease: what is written under an older one has no effect.
    pub lease: Uuid,
    /// The trace of what made it.
    pub trace: Option<Trace>,
}

from_row! {
    /// A job as an operator sees it.
    #[derive(Debug)]
    pub struct Listed {
        /// The job's id.
        pub id: Uuid,
        /// What to do.
        pub kind: String,
        /// The photo, edit or album.
        pub subject: Uuid,
        /// Whether it waits for an operator.
        pub dead: bool,
        /// Tries so far.
        pub attempts: u32,
        /// Why the last one failed.
        pub last_error: Option<String>,
        /// When it was made.
        pub created_at: chrono::DateTime<chrono::Utc>,
    }
}

/// Adds a job unless the same one is there. One that is there stays as it is, at work, waiting for its next try or
/// dead: what it will do covers the new wish too.
pub(crate) async fn insert(session: &mut Session, kind: Kind, subject: Uuid) -> Result<()> {
    sqlx::query(
        "INSERT INTO jobs (id, kind, subject, traceparent, visible_at, created_at) VALUES (?, ?, ?, ?, UTC_TIMESTAMP(3), UTC_TIMESTAMP(3))
         ON DUPLICATE KEY UPDATE subject = subject",
    )
    .bind(Uuid::now_v7())
    .bind(kind.as_str())
    .bind(subject)
    .bind(scope::trace().map(|trace| trace.to_string()))
    .execute(session)
    .await?;
    Ok(())
}

/// Claims the job of a lane that has been due for longest, if there is one.
///
/// # Errors
/// The database's.
pub async fn claim(db: &Db, lane: Lane, lease_for: Duration) -> Result<Option<Claim>> {
    db.transaction(|mut tx| async move {
        let row: Option<Waiting> = sqlx::query_as(
            "SELECT id, kind, subject, attempts, traceparent FROM jobs WHERE lane = ? AND dead = FALSE AND visible_at <= UTC_TIMESTAMP(3)
             ORDER BY visible_at LIMIT 1 FOR UPDATE SKIP LOCKED",
        )
        .bind(lane.as_str())
        .fetch_optional(tx.session())
        .await?;
        let Some(row) = row else { return Ok(tx.done(None)) };
        let claim = take(tx.session(), row, lease_for).await?;
        Ok(tx.done(Some(claim)))
    })
    .await
}

/// What there is of a job that somebody is told to do.
#[derive(Debug)]
pub enum Found {
    /// It is the asker's to do.
    Claimed(Claim),
    /// It is another worker's just now.
    Taken,
    /// It is done, or dead.
    Over,
}

/// Claims one job, due or not.
///
/// # Errors
/// The database's.
pub async fn claim_this(session: &mut Session, kind: Kind, subject: Uuid, lease_for: Duration) -> Result<Found> {
    let row: Option<Addressed> = sqlx::query_as(
        "SELECT lease IS NULL OR visible_at <= UTC_TIMESTAMP(3) AS free, id, kind, subject, attempts, traceparent
         FROM jobs WHERE kind = ? AND subject = ? AND dead = FALSE FOR UPDATE",
    )
    .bind(kind.as_str())
    .bind(subject)
    .fetch_optional(&mut *session)
    .await?;
    match row {
        Some(Addressed { free: true, job }) => take(session, job, lease_for).await.map(Found::Claimed),
        Some(Addressed { free: false, .. }) => Ok(Found::Taken),
        None => Ok(Found::Over),
    }
}

from_row! {
    /// A job that was asked for by name.
    struct Addressed {
        free: bool,
    } flatten job: Waiting
}

from_row! {
    /// A job that may be claimed.
    struct Waiting {
        id: Uuid,
        kind: String,
        subject: Uuid,
        attempts: u32,
        traceparent: Option<String>,
    }
}

async fn take(session: &mut Session, row: Waiting, lease_for: Duration) -> Result<Claim> {
    let claim = Claim {
        id: row.id,
        kind: Kind::parse(&row.kind).ok_or(Error::Corrupt("jobs"))?,
        subject: row.subject,
        attempt: row.attempts + 1,
        lease: Uuid::now_v7(),
        trace: row.traceparent.as_deref().and_then(Trace::parse),
    };
    sqlx::query(
        "UPDATE jobs SET lease = ?, attempts = attempts + 1, visible_at = UTC_TIMESTAMP(3) + INTERVAL ? MICROSECOND WHERE id = ?",
    )
    .bind(claim.lease)
    .bind(micros(lease_for))
    .bind(claim.id)
    .execute(session)
    .await?;
    Ok(claim)
}

/// A job that waits to be sent to a queue.
#[derive(Debug, Clone, Copy)]
pub struct Unsent {
    /// The job's id.
    pub id: Uuid,
    /// What to do.
    pub kind: Kind,
    /// The photo, edit or album.
    pub subject: Uuid,
}

/// Takes jobs of a lane that are due, to be sent; nobody else takes them for `hold`. One whose lease has run out is nobody's
/// any more.
///
/// # Errors
/// The database's.
pub async fn take_unsent(db: &Db, lane: Lane, limit: usize, hold: Duration) -> Result<Vec<Unsent>> {
    db.transaction(|mut tx| async move {
        let rows: Vec<(Uuid, String, Uuid)> = sqlx::query_as(
            "SELECT id, kind, subject FROM jobs WHERE lane = ? AND dead = FALSE AND visible_at <= UTC_TIMESTAMP(3)
             ORDER BY visible_at LIMIT ? FOR UPDATE SKIP LOCKED",
        )
        .bind(lane.as_str())
        .bind(u32::try_from(limit).unwrap_or(u32::MAX))
        .fetch_all(tx.session())
        .await?;
        let unsent = |(id, kind, subject): (Uuid, String, Uuid)| {
            Ok(Unsent { id, kind: Kind::parse(&kind).ok_or(Error::Corrupt("jobs"))?, subject })
        };
        let unsent = rows.into_iter().map(unsent).collect::<Result<Vec<_>>>()?;
        if !unsent.is_empty() {
            let mut query =
                QueryBuilder::<MySql>::new("UPDATE jobs SET lease = NULL, visible_at = UTC_TIMESTAMP(3) + INTERVAL ");
            query.push_bind(micros(hold)).push(" MICROSECOND WHERE id IN (");
            push_ids(&mut query, unsent.iter().map(|job| job.id));
            query.build().execute(tx.session()).await?;
        }
        Ok(tx.done(unsent))
    })
    .await
}

/// Notes that messages for jobs were sent: unless one is taken up, it is due again after `patience`, and each further time
/// after twice as long, up to 12 hours.
///
/// # Errors
/// The database's; then they are due again soon.
pub async fn note_sent(session: &mut Session, ids: &[Uuid], patience: Duration) -> Result<()> {
    const LONGEST: Duration = Duration::from_hours(12);
    if ids.is_empty() {
        return Ok(());
    }
    let mut query = QueryBuilder::<MySql>::new("UPDATE jobs SET visible_at = UTC_TIMESTAMP(3) + INTERVAL LEAST(CAST(");
    query.push_bind(micros(patience)).push(" AS SIGNED) * (1 << LEAST(sends, 16)), CAST(");
    query
        .push_bind(micros(LONGEST))
        .push(" AS SIGNED)) MICROSECOND, sends = sends + 1 WHERE lease IS NULL AND id IN (");
    push_ids(&mut query, ids.iter().copied());
    query.build().execute(session).await?;
    Ok(())
}

fn push_ids(query: &mut QueryBuilder<MySql>, ids: impl Iterator<Item = Uuid>) {
    let mut list = query.separated(", ");
    ids.for_each(|id| {
        list.push_bind(id);
    });
    query.push(")");
}

/// Renews a lease; false when it is no longer ours.
///
/// # Errors
/// The database's.
pub async fn extend(executor: impl MySqlExecutor<'_>, claim: &Claim, lease_for: Duration) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE jobs SET visible_at = UTC_TIMESTAMP(3) + INTERVAL ? MICROSECOND WHERE id = ? AND lease = ?",
    )
    .bind(micros(lease_for))
    .bind(claim.id)
    .bind(claim.lease)
    .execute(executor)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Removes a finished job; false when the lease is no longer ours, and then the caller rolls back.
///
/// # Errors
/// The database's.
pub async fn complete(executor: impl MySqlExecutor<'_>, claim: &Claim) -> Result<bool> {
    let done = sqlx::query("DELETE FROM jobs WHERE id = ? AND lease = ?")
        .bind(claim.id)
        .bind(claim.lease)
        .execute(executor)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Gives a job back to be tried after `wait`. `counts` is whether the try counts: a worker that stops gives
/// back what it did not finish as if it had never had it.
///
/// # Errors
/// The database's.
pub async fn give_back(
    executor: impl MySqlExecutor<'_>,
    claim: &Claim,
    wait: Duration,
    counts: bool,
    error: Option<&str>,
) -> Result<()> {
    sqlx::query(
        "UPDATE jobs SET lease = NULL, visible_at = UTC_TIMESTAMP(3) + INTERVAL ? MICROSECOND, attempts = ?, last_error = COALESCE(?, last_error)
         WHERE id = ? AND lease = ?",
    )
    .bind(micros(wait))
    .bind(claim.attempt - u32::from(!counts))
    .bind(error.map(shorten))
    .bind(claim.id)
    .bind(claim.lease)
    .execute(executor)
    .await?;
    Ok(())
}

/// Lays a job aside for an operator.
///
/// # Errors
/// The database's.
pub async fn bury(executor: impl MySqlExecutor<'_>, claim: &Claim, error: &str) -> Result<()> {
    sqlx::query("UPDATE jobs SET lease = NULL, dead = TRUE, last_error = ? WHERE id = ? AND lease = ?")
        .bind(shorten(error))
        .bind(claim.id)
        .bind(claim.lease)
        .execute(executor)
        .await?;
    Ok(())
}

/// Jobs, oldest first; only dead ones when `dead`.
///
/// # Errors
/// The database's.
pub async fn list(executor: impl MySqlExecutor<'_>, dead: bool, limit: u32) -> Result<Vec<Listed>> {
    Ok(sqlx::query_as(
        "SELECT id, kind, subject, dead, attempts, last_error, created_at FROM jobs WHERE dead >= ? ORDER BY id LIMIT ?",
    )
    .bind(dead)
    .bind(limit)
    .fetch_all(executor)
    .await?)
}

/// Puts dead jobs back: one, or all. Answers how many.
///
/// # Errors
/// The database's.
pub async fn revive(executor: impl MySqlExecutor<'_>, id: Option<Uuid>) -> Result<u64> {
    let done = sqlx::query(
        "UPDATE jobs SET dead = FALSE, attempts = 0, visible_at = UTC_TIMESTAMP(3) WHERE dead = TRUE AND (? OR id = ?)",
    )
    .bind(id.is_none())
    .bind(id.unwrap_or_default())
    .execute(executor)
    .await?;
    Ok(done.rows_affected())
}

/// Puts a job back if it is dead, because something new is to be done by it.
///
/// # Errors
/// The database's.
pub async fn revive_this(executor: impl MySqlExecutor<'_>, kind: Kind, subject: Uuid) -> Result<()> {
    sqlx::query(
        "UPDATE jobs SET dead = FALSE, attempts = 0, visible_at = UTC_TIMESTAMP(3) WHERE kind = ? AND subject = ? AND dead = TRUE",
    )
    .bind(kind.as_str())
    .bind(subject)
    .execute(executor)
    .await?;
    Ok(())
}

/// What a dead job was about.
///
/// # Errors
/// The database's.
pub async fn dead(executor: impl MySqlExecutor<'_>, id: Uuid) -> Result<Option<(Kind, Uuid)>> {
    let query = "SELECT kind, subject FROM jobs WHERE id = ? AND dead = TRUE";
    let row: Option<(String, Uuid)> = sqlx::query_as(query).bind(id).fetch_optional(executor).await?;
    row.map(|(kind, subject)| Ok((Kind::parse(&kind).ok_or(Error::Corrupt("jobs"))?, subject))).transpose()
}

/// Removes a dead job; false when there is none of this id.
///
/// # Errors
/// The database's.
pub async fn drop_dead(executor: impl MySqlExecutor<'_>, id: Uuid) -> Result<bool> {
    let done = sqlx::query("DELETE FROM jobs WHERE id = ? AND dead = TRUE").bind(id).execute(executor).await?;
    Ok(done.rows_affected() == 1)
}

/// Jobs that wait or are at work, dead ones, and the age of the oldest due one in seconds.
///
/// # Errors
/// The database's.
pub async fn depth(executor: impl MySqlExecutor<'_>) -> Result<(i64, i64, f64)> {
    let (live, dead, age): (i64, i64, Option<i64>) = sqlx::query_as(
        "SELECT CAST(COALESCE(SUM(dead = FALSE), 0) AS SIGNED), CAST(COALESCE(SUM(dead = TRUE), 0) AS SIGNED),
                CAST(MAX(IF(dead = FALSE, TIMESTAMPDIFF(MICROSECOND, visible_at, UTC_TIMESTAMP(3)), NULL)) AS SIGNED) FROM jobs",
    )
    .fetch_one(executor)
    .await?;
    Ok((live, dead, super::seconds(age)))
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn shorten(error: &str) -> String {
    error.chars().take(MAX_ERROR_CHARS).collect()
}
