//! Jobs, and the rules of trying again: leases, capped backoff with jitter, dead letters.
//!
//! A job is a row from its wish to its end. Workers find rows by looking for what is due; or, with a queue of SQS, by
//! messages that carry the jobs of [`Lane::Work`] to them. The row stays what counts: a message says only whose turn it is, so
//! that one that comes twice, late or never does no harm. What a worker claims and gives back is the row; a job that was
//! sent and that nobody has taken up is due again after a while, and sent again.

use std::time::Duration;

use crate::{
    config,
    db::{self, Db, Result, jobs},
};

pub use jobs::{Claim, Kind, Lane};

/// While something that jobs need is away, each waits as after so many tries.
const OUTAGE: u32 = 5;

/// What becomes of a try that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Tried again after this long.
    Again(Duration),
    /// Due again after this long, as if it had not been tried: something that it needs was away.
    Later(Duration),
    /// Laid aside for an operator.
    Dead,
}

/// Claims the next job of a lane, if one is due.
///
/// # Errors
/// The database's.
pub async fn claim(db: &Db, lane: Lane, rules: &config::Worker) -> Result<Option<Claim>> {
    jobs::claim(db, lane, rules.lease).await
}

/// Renews the lease again and again, and answers once it is lost.
pub async fn keep(db: &Db, claim: &Claim, rules: &config::Worker) {
    loop {
        tokio::time::sleep(rules.lease / 3).await;
        let renewed = match db.session().await {
            Ok(mut session) => jobs::extend(&mut session, claim, rules.lease).await,
            Err(error) => Err(error),
        };
        match renewed {
            Ok(true) => {}
            Ok(false) => return,
            // It may still work out before the lease ends; if not, whatever we write has no effect.
            Err(error) => tracing::warn!(%error, job = claim.kind.as_str(), "a lease could not be renewed"),
        }
    }
}

/// Notes a failed try, one of those that count or not. A job whose message comes again by itself is due only `patience` later, in
/// case that it doesn't; after a try that does not count a new message is sent when it is due, however long an outage lasts: a
/// queue gives a message up that was taken too often.
///
/// # Errors
/// The database's; then the lease runs out and the job comes back by itself.
pub async fn failed(
    db: &Db,
    claim: &Claim,
    error: &str,
    rules: &config::Worker,
    patience: Duration,
    counts: bool,
) -> Result<Next> {
    let next = if counts { next(claim, rules) } else { Next::Later(backoff(OUTAGE, rules)) };
    let mut session = db.session().await?;
    match next {
        Next::Again(wait) => jobs::give_back(&mut session, claim, wait + patience, true, Some(error)).await?,
        Next::Later(wait) => jobs::give_back(&mut session, claim, wait, false, Some(error)).await?,
        Next::Dead => jobs::bury(&mut session, claim, error).await?,
    }
    Ok(next)
}

/// Gives back what a stopping worker does not finish; `patience` and `counts` as for [`failed`].
///
/// # Errors
/// The database's; then the lease runs out and the job comes back by itself.
pub async fn give_back(db: &Db, claim: &Claim, patience: Duration, counts: bool) -> Result<()> {
    let mut session = db.session().await?;
    jobs::give_back(&mut session, claim, patience, counts, None).await
}

/// An announcement is never laid aside: the events behind it would wait for ever. Nor is a projection: pages would stay as
/// they were, and revoked invites good, until somebody looked.
fn next(claim: &Claim, rules: &config::Worker) -> Next {
    if claim.attempt >= rules.max_attempts && !goes_on_for_ever(claim.kind) {
        return Next::Dead;
    }
    Next::Again(backoff(claim.attempt, rules))
}

/// How long to wait after so many tries.
#[must_use]
pub fn backoff(tries: u32, rules: &config::Worker) -> Duration {
    let doubled = rules.retry_base.saturating_mul(1 << tries.saturating_sub(1).min(20));
    let cap = u64::try_from(doubled.min(rules.retry_cap).as_millis()).unwrap_or(u64::MAX).max(1);
    // Between half and all of it, so that what failed together does not come back together.
    Duration::from_millis(cap / 2 + db::rand_below(cap / 2 + 1))
}

/// Whether a job is tried until it is done.
#[must_use]
pub fn goes_on_for_ever(kind: Kind) -> bool {
    matches!(kind, Kind::Announce | Kind::Project)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_end() {
        let rules = config::Worker {
            enabled: true,
            concurrency: 1,
            poll_interval: Duration::from_secs(1),
            lease: Duration::from_mins(1),
            max_attempts: 8,
            retry_base: Duration::from_secs(2),
            retry_cap: Duration::from_secs(20),
        };
        let try_number = |attempt, kind| Claim {
            id: uuid::Uuid::nil(),
            kind,
            subject: uuid::Uuid::nil(),
            attempt,
            lease: uuid::Uuid::nil(),
            trace: None,
        };
        for (attempt, most) in [(1, 2), (2, 4), (3, 8), (4, 16), (5, 20), (7, 20)] {
            let Next::Again(wait) = next(&try_number(attempt, Kind::Develop), &rules) else {
                panic!("dead after {attempt}")
            };
            assert!(wait <= Duration::from_secs(most) && wait >= Duration::from_secs(most) / 2, "{attempt}: {wait:?}");
        }
        assert_eq!(next(&try_number(8, Kind::Develop), &rules), Next::Dead);
        for kind in [Kind::Announce, Kind::Project] {
            assert!(matches!(next(&try_number(u32::MAX, kind), &rules), Next::Again(_)));
        }
    }
}
