//! Transactions: run again when that is safe, and never left open.

use std::time::Duration;

use tokio::{runtime::Handle, time::Instant};

use super::{AsDbError, Db, Error, Result, events, jobs, rand_below, session::Session};
use crate::db::wakeups::{self, Signals};
use crate::{domain::AlbumId, resilience::deadline};

/// The longest pause before a first second try, in milliseconds; it doubles with each one up to the cap.
const PAUSE: u64 = 20;
const PAUSE_CAP: u64 = 500;

/// An open transaction, which also remembers whom to wake once it has committed. Dropped before that, it rolls back.
pub struct Tx {
    session: Option<Session>,
    rings: Vec<wakeups::Ring>,
    projects: bool,
}

/// A transaction that is ready to be committed, and what it came to.
pub struct Done<T> {
    tx: Tx,
    value: T,
}

impl<T> Done<T> {
    /// Goes on with the transaction.
    pub fn reopen(self) -> (Tx, T) {
        (self.tx, self.value)
    }
}

/// How a commit failed.
enum Uncommitted {
    /// The server has rolled back.
    RolledBack(Error),
    /// The answer did not come: nobody knows.
    Unknown(Error),
}

impl Tx {
    async fn begin(mut session: Session, ends: Instant, projects: bool) -> Result<Self> {
        session.ends_at(ends);
        sqlx::raw_sql("START TRANSACTION").execute(&mut session).await?;
        Ok(Self { session: Some(session), rings: Vec::new(), projects })
    }

    async fn commit(mut self, signals: &Signals) -> Result<(), Uncommitted> {
        let outcome = sqlx::raw_sql("COMMIT").execute(self.session()).await;
        match outcome.map_err(Error::from) {
            Ok(_) => {
                // Given back before anybody wakes: they will want one.
                self.session = None;
                signals.ring(&self.rings);
                Ok(())
            }
            // The server's own no: nothing has happened.
            Err(error) if self.session().is_sound() || error.is_of_read_only() => Err(Uncommitted::RolledBack(error)),
            Err(error) => Err(Uncommitted::Unknown(error)),
        }
    }

    /// Ends the work; what was done is committed.
    pub fn done<T>(self, value: T) -> Done<T> {
        Done { tx: self, value }
    }

    /// The session, for the functions of this area.
    pub fn session(&mut self) -> &mut Session {
        self.session.as_mut().expect("taken when the transaction ends, not before")
    }

    /// Numbers and writes an event of a locked album, and sees to its announcement and projection.
    ///
    /// # Errors
    /// The database's.
    pub async fn record(&mut self, album_id: AlbumId, event: events::NewEvent) -> Result<()> {
        let seq = events::append(self.session(), album_id, &event).await?;
        self.rings.push(wakeups::Ring::Event(album_id, seq));
        self.enqueue(jobs::PUBLISH_EVENTS, album_id.as_uuid()).await?;
        self.project(album_id).await
    }

    /// Sees to the projection of what has changed with a locked album or its invites, where there is a read model. A share
    /// lock will do: a job that looks for what is left to project locks the album too.
    ///
    /// # Errors
    /// The database's.
    pub async fn project(&mut self, album_id: AlbumId) -> Result<()> {
        if self.projects { self.enqueue(jobs::SYNC_READ_MODEL, album_id.as_uuid()).await } else { Ok(()) }
    }

    /// Adds a job unless the same one waits already.
    ///
    /// # Errors
    /// The database's.
    pub async fn enqueue(&mut self, job: jobs::JobName, subject: uuid::Uuid) -> Result<()> {
        jobs::insert(self.session(), job, subject).await?;
        self.rings.push(wakeups::Ring::Job(job.queue));
        Ok(())
    }
}

impl Drop for Tx {
    /// Rolls back in a task of its own: locks must not stay until somebody happens to use the connection again.
    fn drop(&mut self) {
        let Some(mut session) = self.session.take().filter(Session::is_sound) else { return };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move {
                // A failure closes the connection, and the server rolls back by itself.
                let _ = sqlx::raw_sql("ROLLBACK").execute(&mut session).await;
            })),
            Err(_) => session.condemn(),
        }
    }
}

impl Db {
    /// Runs `work` in a transaction and commits when it answers [`Tx::done`]; an error rolls back.
    ///
    /// It is run again, with pauses, until `database.transaction_timeout`, when it was the victim of a deadlock or of a
    /// lock that did not come free, when its connection was lost, or when it met a server that takes no writes, as after
    /// a failover: in all these cases nothing of it has happened. So `work` must do nothing outside the database that
    /// may not be repeated. When the answer to the COMMIT is lost, nobody knows whether it has happened, and the error
    /// goes to the caller.
    ///
    /// `work` owns the transaction while it runs: a borrowed one can't be proved `Send` by today's compiler.
    ///
    /// # Errors
    /// What `work` answers, or the database's own failure.
    pub async fn transaction<T, E, F>(&self, mut work: impl FnMut(Tx) -> F) -> Result<T, E>
    where
        E: From<Error> + AsDbError,
        F: Future<Output = Result<Done<T>, E>>,
    {
        let ends = deadline::ends().into_iter().fold(Instant::now() + self.transaction_timeout, Instant::min);
        let mut longest = PAUSE;
        loop {
            // The pool has tried for as long as it may.
            let session = self.session().await?;
            let failed = match Tx::begin(session, ends, self.projects).await {
                Ok(tx) => match work(tx).await {
                    Ok(Done { tx, value }) => match tx.commit(&self.signals).await {
                        Ok(()) => return Ok(value),
                        Err(Uncommitted::RolledBack(error)) => E::from(error),
                        Err(Uncommitted::Unknown(error)) => return Err(error.into()),
                    },
                    Err(error) => error,
                },
                Err(error) => error.into(),
            };
            let again = failed.as_db_error().is_some_and(|error| error.is_contention() || error.is_of_connection());
            let pause = Duration::from_millis(rand_below(longest));
            if !again || Instant::now() + pause >= ends {
                return Err(failed);
            }
            tokio::time::sleep(pause).await;
            longest = (longest * 2).min(PAUSE_CAP);
        }
    }
}
