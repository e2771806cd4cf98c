//! Reads: tried on another connection when theirs is lost, and for guests from a replica where there is one.
//!
//! A replica lags behind, so a guest's read comes from it only if nobody can tell the difference:
//! - An invite that has written a short while ago reads what it wrote from the writer. When it wrote stands in its own
//!   row, which is read from the writer with each request, so every instance of the service knows.
//! - Nothing is older than the events that anybody was told of: the number of the album's latest event comes from the
//!   writer with the same row, and a replica that has not reached it is passed over.
//!
//! Hosts read from the writer: they write, review, and are few.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{AsDbError, Db, Error, Result, albums, pool::Pool, session::Session};
use crate::{domain::AlbumId, telemetry::metrics};

/// A replica that failed is left alone for so long.
const REST: Duration = Duration::from_secs(5);

/// How fresh a guest's read has to be.
#[derive(Debug, Clone, Copy)]
pub struct Freshness {
    /// The album.
    pub album_id: AlbumId,
    /// The number of its latest event, as the writer has just said.
    pub last_seq: u64,
    /// How long ago the invite wrote, by the writer's clock; none for never.
    pub wrote_ago: Option<Duration>,
}

/// A server that may be behind.
pub(super) struct Replica {
    pub(super) pool: Arc<Pool>,
    pin: Duration,
    rests_until: Mutex<Option<Instant>>,
}

impl Replica {
    pub(super) fn new(pool: Pool, pin: Duration) -> Self {
        Self { pool: Arc::new(pool), pin, rests_until: Mutex::default() }
    }

    fn rests(&self) -> bool {
        self.rests_until.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| Instant::now() < until)
    }

    fn rest(&self, error: &Error) {
        let mut until = self.rests_until.lock().unwrap_or_else(PoisonError::into_inner);
        if until.is_none_or(|until| until <= Instant::now()) {
            tracing::warn!(%error, "the reader fails; reads go to the writer");
        }
        *until = Some(Instant::now() + REST);
    }

    /// A session that is fresh enough, or the word for why there is none.
    async fn session(&self, wanted: &Freshness) -> Result<Session, &'static str> {
        if wanted.wrote_ago.is_some_and(|ago| ago < self.pin) {
            return Err("pinned");
        }
        if self.rests() {
            return Err("failing");
        }
        let looked = async {
            let mut session = self.pool.session().await?;
            let seq = albums::last_seq(&mut session, wanted.album_id).await?;
            Ok::<_, Error>((session, seq))
        };
        match looked.await {
            Ok((session, Some(seq))) if seq >= wanted.last_seq => Ok(session),
            Ok(_) => Err("behind"),
            Err(error) => {
                self.rest(&error);
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
                Err(error) if matches!(error.as_db_error(), Some(Error::Unavailable(_))) => "failing",
                outcome => {
                    metrics::DB_READS.with(&[("from", "reader".to_owned())]).increment(1);
                    return outcome;
                }
            },
            Err(why) => why,
        };
        metrics::DB_READS.with(&[("from", "writer".to_owned()), ("why", why.to_owned())]).increment(1);
        self.read(work).await
    }
}
