//! Reads: tried on another connection when theirs is lost, and for guests from a replica where there is one.
//!
//! A replica lags behind, so a guest's read comes from it only if nobody can tell the difference. Each request of a guest
//! looks its invite up on the writer, because a revocation counts at once; the same row tells the number of the album's
//! latest event, and when something last changed with the invite that no event tells of (a photo was declared, uploaded
//! or has expired). A replica that has not reached both is passed over. So a caller reads its own writes, nobody is shown
//! less than an event has told, and nobody goes back in time, on however many instances and however far the replica is
//! behind.
//!
//! Hosts read from the writer: they write, review, and are few.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tokio::time::{Instant, timeout};

use super::{AsDbError, Db, Error, Result, invites, pool::Pool, session::Session};
use crate::{
    domain::InviteId,
    resilience::{breaker::Breaker, deadline},
    telemetry::metrics,
};

/// A replica that failed is left alone for so long.
const REST: Duration = Duration::from_secs(5);
/// A replica that has not told by then what it has reached is left alone too: the writer could have answered long ago.
const LOOK: Duration = Duration::from_millis(300);

/// How fresh a guest's read has to be, as the writer has just said.
#[derive(Debug, Clone, Copy)]
pub struct Freshness {
    /// The guest's invite.
    pub invite_id: InviteId,
    /// The number of its album's latest event.
    pub last_seq: u64,
    /// When something last changed with the invite that no event tells of.
    pub wrote_at: Option<DateTime<Utc>>,
}

/// A server that may be behind.
pub(crate) struct Replica {
    pub(crate) pool: Arc<Pool>,
    breaker: Breaker,
}

impl Replica {
    pub(crate) fn new(pool: Pool) -> Self {
        Self { pool: Arc::new(pool), breaker: Breaker::new(REST) }
    }

    fn failed(&self, why: &dyn std::fmt::Display) {
        // A request whose own time is over has learnt nothing of the reader.
        if deadline::ends().is_some_and(|ends| ends <= Instant::now()) {
            return;
        }
        if self.breaker.failed() {
            tracing::warn!(error = %why, "the reader fails; reads go to the writer");
        }
    }

    /// A session that is fresh enough, or the word for why there is none.
    async fn session(&self, wanted: &Freshness) -> Result<Session, &'static str> {
        if !self.breaker.may_be_asked() {
            return Err("failing");
        }
        let looked = timeout(LOOK, async {
            let mut session = self.pool.session().await?;
            let reached = invites::reached(&mut session, wanted.invite_id).await?;
            Ok::<_, Error>((session, reached))
        });
        match looked.await {
            Ok(Ok((session, reached))) => {
                if self.breaker.answered() {
                    tracing::info!("the reader answers again");
                }
                let fresh =
                    reached.is_some_and(|(seq, wrote_at)| seq >= wanted.last_seq && wrote_at >= wanted.wrote_at);
                if fresh { Ok(session) } else { Err("behind") }
            }
            Ok(Err(error)) => {
                self.failed(&error);
                Err("failing")
            }
            Err(_) => {
                self.failed(&format_args!("no answer within {LOOK:?}"));
                Err("failing")
            }
        }
    }
}

impl Db {
    /// Runs `work`, which only reads, on the writer, and once more if the connection was lost under it.
    ///
    /// # Errors
    /// What `work` answers, or the database's own failure.
    pub async fn read<T, E, F>(&self, mut work: impl FnMut(Session) -> F) -> Result<T, E>
    where
        E: From<Error> + AsDbError,
        F: Future<Output = Result<T, E>>,
    {
        match work(self.session().await?).await {
            Err(error) if error.as_db_error().is_some_and(Error::is_of_connection) => work(self.session().await?).await,
            outcome => outcome,
        }
    }

    /// The same for a guest's read, which may come from the reader if that is fresh enough; none for who is no guest.
    ///
    /// # Errors
    /// As [`Db::read`]: where the reader fails, the writer answers.
    pub async fn read_apart<T, E, F>(
        &self,
        wanted: Option<Freshness>,
        mut work: impl FnMut(Session) -> F,
    ) -> Result<T, E>
    where
        E: From<Error> + AsDbError,
        F: Future<Output = Result<T, E>>,
    {
        let (Some(replica), Some(wanted)) = (&self.reader, wanted) else { return self.read(work).await };
        let why = match replica.session(&wanted).await {
            Ok(session) => match work(session).await {
                // Whatever stands in its way there: a right that is missing, a migration that is still to come.
                Err(error) if error.as_db_error().is_some() => {
                    replica.failed(&error.as_db_error().map_or_else(String::new, ToString::to_string));
                    "failing"
                }
                outcome => {
                    metrics::DB_READS.with(&[("server", "reader")]).increment(1);
                    return outcome;
                }
            },
            Err(why) => why,
        };
        metrics::DB_READS.with(&[("server", "writer"), ("reason", why)]).increment(1);
        self.read(work).await
    }
}
