//! Transactions: retried when that is safe, and never left open.

use std::time::Duration;

use tokio::{runtime::Handle, time::Instant};

use super::{
    database::Db,
    error::{AsDbError, Error, Result},
    events, jobs,
    session::Session,
    wakeups::{Wakeup, Wakeups},
};
use crate::{
    domain::AlbumId,
    resilience::{backoff::random_below, deadline},
};

/// The longest delay before the first retry; it doubles up to the maximum.
const MIN_BACKOFF: Duration = Duration::from_millis(20);
const MAX_BACKOFF: Duration = Duration::from_millis(500);

/// An open transaction, and the wake-up notifications to send once it is committed. Dropping it rolls it back.
pub struct Tx {
    session: Option<Session>,
    wakeups: Vec<Wakeup>,
    has_read_model: bool,
}

/// A transaction that is ready to be committed, and its result.
pub struct Done<T> {
    tx: Tx,
    value: T,
}

impl<T> Done<T> {
    /// Continues the transaction.
    pub fn reopen(self) -> (Tx, T) {
        (self.tx, self.value)
    }
}

/// Why a commit failed.
enum CommitError {
    /// The server has rolled back.
    RolledBack(Error),
    /// There was no answer: the transaction may be committed or not.
    Unknown(Error),
}

impl Tx {
    async fn begin(mut session: Session, deadline: Instant, has_read_model: bool) -> Result<Self> {
        session.set_deadline(deadline);
        sqlx::raw_sql("START TRANSACTION").execute(&mut session).await?;
        Ok(Self { session: Some(session), wakeups: Vec::new(), has_read_model })
    }

    async fn commit(mut self, wakeups: &Wakeups) -> Result<(), CommitError> {
        let result = sqlx::raw_sql("COMMIT").execute(self.session()).await;
        match result.map_err(Error::from) {
            Ok(_) => {
                // Returned to the pool first: those that wake up will need a connection.
                self.session = None;
                wakeups.notify(&self.wakeups);
                Ok(())
            }
            Err(error) if self.session().is_usable() || error.is_read_only() => Err(CommitError::RolledBack(error)),
            Err(error) => Err(CommitError::Unknown(error)),
        }
    }

    /// Ends the work of the transaction, which is then committed.
    pub fn done<T>(self, value: T) -> Done<T> {
        Done { tx: self, value }
    }

    /// The session, for the functions of the repositories.
    pub fn session(&mut self) -> &mut Session {
        self.session.as_mut().expect("taken only at the end of the transaction")
    }

    /// Numbers and writes an event of a locked album, and enqueues its announcement and projection.
    pub async fn record(&mut self, album_id: AlbumId, event: events::NewEvent) -> Result<()> {
        let seq = events::append(self.session(), album_id, &event).await?;
        self.wakeups.push(Wakeup::Event(album_id, seq));
        self.enqueue(jobs::PUBLISH_EVENTS, album_id.as_uuid()).await?;
        self.project(album_id).await
    }

    /// Enqueues the projection of an album into the read model, where there is one. The caller holds at least a share
    /// lock of the album: the job that looks for changes locks it too.
    pub async fn project(&mut self, album_id: AlbumId) -> Result<()> {
        if self.has_read_model { self.enqueue(jobs::SYNC_READ_MODEL, album_id.as_uuid()).await } else { Ok(()) }
    }

    /// Adds a job unless the same one exists already.
    pub async fn enqueue(&mut self, job: jobs::JobName, subject: uuid::Uuid) -> Result<()> {
        jobs::insert(self.session(), job, subject).await?;
        self.wakeups.push(Wakeup::Job(job.queue));
        Ok(())
    }
}

impl Drop for Tx {
    /// Rolls back in a task of its own: the locks must not last until the connection is used again.
    fn drop(&mut self) {
        let Some(mut session) = self.session.take().filter(Session::is_usable) else { return };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move {
                // A failure closes the connection, and the server then rolls back.
                let _ = sqlx::raw_sql("ROLLBACK").execute(&mut session).await;
            })),
            Err(_) => session.mark_broken(),
        }
    }
}

impl Db {
    /// Runs `work` in a transaction and commits it when `work` returns [`Tx::done`]; an error rolls back.
    ///
    /// It is retried with backoff until `database.transaction_timeout` after a deadlock, a lock timeout, a lost
    /// connection, or a server that accepts no writes, as after a failover: in all these cases nothing was committed.
    /// `work` must therefore do nothing outside the database that may not be repeated. When the answer to COMMIT is
    /// lost the result is unknown, and the error is returned.
    ///
    /// `work` owns the transaction while it runs: the compiler can't prove a borrowed one `Send`.
    pub async fn transaction<T, E, F>(&self, mut work: impl FnMut(Tx) -> F) -> Result<T, E>
    where
        E: From<Error> + AsDbError,
        F: Future<Output = Result<Done<T>, E>>,
    {
        let deadline = deadline::current().into_iter().fold(Instant::now() + self.transaction_timeout, Instant::min);
        let mut max_backoff = MIN_BACKOFF;
        loop {
            // Not retried here: the pool repeats attempts to connect itself.
            let session = self.session().await?;
            let error = match Tx::begin(session, deadline, self.has_read_model).await {
                Ok(tx) => match work(tx).await {
                    Ok(Done { tx, value }) => match tx.commit(self.wakeups()).await {
                        Ok(()) => return Ok(value),
                        Err(CommitError::RolledBack(error)) => E::from(error),
                        Err(CommitError::Unknown(error)) => return Err(error.into()),
                    },
                    Err(error) => error,
                },
                Err(error) => error.into(),
            };
            let may_retry = error.as_db_error().is_some_and(|e| e.is_contention() || e.is_connection_failure());
            let backoff = random_below(max_backoff);
            if !may_retry || Instant::now() + backoff >= deadline {
                return Err(error);
            }
            tokio::time::sleep(backoff).await;
            max_backoff = (max_backoff * 2).min(MAX_BACKOFF);
        }
    }

    /// Adds a job in a transaction of its own, unless the same one exists already.
    pub async fn enqueue(&self, job: jobs::JobName, subject: uuid::Uuid) -> Result<()> {
        self.transaction(|mut tx| async move {
            tx.enqueue(job, subject).await?;
            Ok(tx.done(()))
        })
        .await
    }
}
