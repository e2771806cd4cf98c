//! The database: the pool, transactions, and all SQL, in named functions that return domain types.
//!
//! Every function that reads for a caller takes what limits the caller's sight as an argument, so that it
//! can't be forgotten. SQL runs unchanged on MySQL 8.0, 8.4, 9.x and MariaDB 10.11. Transactions lock in one
//! order: album, photo, job; that keeps deadlocks rare, and [`Db::transaction`] runs a victim again.

pub mod albums;
pub mod events;
pub mod idempotency;
pub mod invites;
pub mod jobs;
pub mod migrations;
pub mod photos;
pub mod signals;
pub mod sweep;

use std::{net::IpAddr, sync::Arc, time::Duration};

use chrono::{DateTime, NaiveDateTime, SubsecRound, Utc};
use secrecy::ExposeSecret;
use sqlx::{
    ConnectOptions, Connection, MySqlConnection, MySqlPool, MySqlTransaction,
    mysql::{MySqlConnectOptions, MySqlPoolOptions, MySqlSslMode},
    pool::PoolConnection,
};

use crate::{
    config,
    domain::{AlbumId, EventKind},
};
use signals::Signals;

/// A connection that was idle for longer is tried before use; a younger one is used at once, which saves a
/// round trip for each request under load.
const TRUST_IDLE: Duration = Duration::from_secs(5);
/// How often a transaction is run in all when it is the victim of a deadlock.
const DEADLOCK_TRIES: u32 = 5;

/// Why the database did not do what it was asked. Each text is the whole story; as a source it would be told twice.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No answer: down, restarting, unreachable, or no free connection in time. Worth trying again.
    #[error("the database is unavailable: {0}")]
    Unavailable(sqlx::Error),
    /// An answer that means a mistake of ours.
    #[error("the database refused: {0}")]
    Refused(sqlx::Error),
    /// A row holds what this version does not understand.
    #[error("a row of {0} can't be understood")]
    Corrupt(&'static str),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Unavailable(error),
            // Shutting down, too many connections, killed, read only: the server is going or coming.
            sqlx::Error::Database(e)
                if matches!(number(e.as_ref()), Some(1040 | 1053 | 1152 | 1205 | 1213 | 1290 | 1836 | 1927)) =>
            {
                Self::Unavailable(error)
            }
            _ => Self::Refused(error),
        }
    }
}

impl Error {
    fn is_deadlock(&self) -> bool {
        let (Self::Unavailable(e) | Self::Refused(e)) = self else { return false };
        e.as_database_error().is_some_and(|e| matches!(number(e), Some(1213 | 1205)))
    }
}

fn number(error: &dyn sqlx::error::DatabaseError) -> Option<u16> {
    error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>().map(sqlx::mysql::MySqlDatabaseError::number)
}

/// The result of a database call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The pool, and the bell that rings when a transaction has committed something to do.
#[derive(Clone)]
pub struct Db {
    pool: MySqlPool,
    signals: Arc<Signals>,
}

impl Db {
    /// A pool that connects when it is first used.
    #[must_use]
    pub fn new(config: &config::Database) -> Self {
        Self::with_options(connect_options(config), config)
    }

    /// The same with options made elsewhere, as `darkroom dev` and the tests do.
    #[must_use]
    pub fn with_options(options: MySqlConnectOptions, config: &config::Database) -> Self {
        let pool = MySqlPoolOptions::new()
            .max_connections(config.max_connections)
            .acquire_timeout(config.acquire_timeout)
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move { Ok(meta.idle_for < TRUST_IDLE || connection.ping().await.is_ok()) })
            })
            .after_connect(|connection, _| {
                Box::pin(async move {
                    // Gap locks of the default level bring deadlocks between workers and buy us nothing.
                    sqlx::query("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").execute(connection).await?;
                    Ok(())
                })
            })
            .connect_lazy_with(options);
        Self { pool, signals: Arc::default() }
    }

    /// A connection for reads and for single writes that wake nobody.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when there is none in time.
    pub async fn acquire(&self) -> Result<PoolConnection<sqlx::MySql>> {
        Ok(self.pool.acquire().await?)
    }

    /// Adds a job in a transaction of its own, unless the same one waits already.
    ///
    /// # Errors
    /// The database's.
    pub async fn enqueue(&self, kind: jobs::Kind, subject: uuid::Uuid) -> Result<()> {
        self.transaction(|mut tx| async move {
            tx.enqueue(kind, subject).await?;
            Ok(tx.done(()))
        })
        .await
    }

    /// What commits announce.
    #[must_use]
    pub fn signals(&self) -> &Arc<Signals> {
        &self.signals
    }

    /// Connections in use and in all.
    #[must_use]
    pub fn pool_state(&self) -> (usize, u32) {
        let size = self.pool.size();
        ((size as usize).saturating_sub(self.pool.num_idle()), size)
    }

    /// Closes the pool; connections in use end when they are given back.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Runs `work` in a transaction and commits when it answers [`Tx::done`]; an error rolls back. The victim of a
    /// deadlock is run again, so `work` must do nothing outside the database that may not be repeated.
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
        let mut tried = 0;
        loop {
            tried += 1;
            let tx = Tx { inner: self.pool.begin().await.map_err(Error::from)?, rings: Vec::new() };
            let outcome = match work(tx).await {
                Ok(Done { tx, value }) => match tx.inner.commit().await.map_err(Error::from) {
                    Ok(()) => {
                        self.signals.ring(&tx.rings);
                        return Ok(value);
                    }
                    Err(error) => E::from(error),
                },
                Err(error) => error,
            };
            if tried == DEADLOCK_TRIES || !outcome.as_db_error().is_some_and(Error::is_deadlock) {
                return Err(outcome);
            }
            tokio::time::sleep(Duration::from_millis(rand_below(10 << tried))).await;
        }
    }
}

/// Lets [`Db::transaction`] see whether an error of another area came from the database.
pub trait AsDbError {
    /// The database's error inside, if that is what it is.
    fn as_db_error(&self) -> Option<&Error>;
}

impl AsDbError for Error {
    fn as_db_error(&self) -> Option<&Error> {
        Some(self)
    }
}

impl AsDbError for anyhow::Error {
    fn as_db_error(&self) -> Option<&Error> {
        self.downcast_ref()
    }
}

/// An open transaction, which also remembers whom to wake once it has committed.
pub struct Tx {
    inner: MySqlTransaction<'static>,
    rings: Vec<signals::Ring>,
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

impl Tx {
    /// Ends the work; what was done is committed.
    pub fn done<T>(self, value: T) -> Done<T> {
        Done { tx: self, value }
    }

    /// The connection, for the functions of this area.
    pub fn connection(&mut self) -> &mut MySqlConnection {
        &mut self.inner
    }

    /// Numbers and writes an event of a locked album, and sees to its announcement.
    ///
    /// # Errors
    /// The database's.
    pub async fn record(&mut self, album_id: AlbumId, event: events::NewEvent) -> Result<()> {
        let seq = events::append(&mut self.inner, album_id, &event).await?;
        self.rings.push(signals::Ring::Event(album_id, seq));
        self.enqueue(jobs::Kind::Announce, album_id.as_uuid()).await
    }

    /// Adds a job unless the same one waits already.
    ///
    /// # Errors
    /// The database's.
    pub async fn enqueue(&mut self, kind: jobs::Kind, subject: uuid::Uuid) -> Result<()> {
        jobs::insert(&mut self.inner, kind, subject).await?;
        self.rings.push(signals::Ring::Job(kind.lane()));
        Ok(())
    }
}

/// An event about a photo: what the host sees, and what the public does.
#[must_use]
pub fn photo_event(photo: &crate::domain::Photo, kind: EventKind, public_kind: Option<EventKind>) -> events::NewEvent {
    events::NewEvent { kind, public_kind, photo_id: Some(photo.id), uploader: photo.uploader.invite_id }
}

/// Off loopback and unix sockets the server's certificate is always verified: see promise 3 of the design.
fn connect_options(config: &config::Database) -> MySqlConnectOptions {
    let mut options = MySqlConnectOptions::new().username(&config.user).database(&config.name).charset("utf8mb4");
    if let Some(password) = &config.password {
        options = options.password(password.expose_secret());
    }
    if let Some(ca) = &config.tls_ca {
        options = options.ssl_ca(ca);
    }
    if let Some(socket) = &config.socket {
        // Nobody listens on a unix socket, but sqlx sends a password by MySQL's usual method over TLS only.
        return options.socket(socket).ssl_mode(MySqlSslMode::Preferred);
    }
    let loopback = config.host == "localhost" || config.host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    let preferred = loopback && config.tls_ca.is_none();
    let mode = if preferred { MySqlSslMode::Preferred } else { MySqlSslMode::VerifyIdentity };
    options.host(&config.host).port(config.port).ssl_mode(mode)
}

/// The time, in the milliseconds that the tables hold: what is answered now is what will be read later.
#[must_use]
pub fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(3)
}

/// A time that people or cameras give, as a parameter. A `DateTime` goes over the wire as a TIMESTAMP, which MariaDB
/// makes NULL when it is before 1970 or after January 2038; this goes as a DATETIME, as the column is.
fn any_year(time: DateTime<Utc>) -> NaiveDateTime {
    time.naive_utc()
}

/// A random number below `bound`, for jitter.
pub(crate) fn rand_below(bound: u64) -> u64 {
    let mut bits = [0; 8];
    // Without random numbers the jitter is lost, nothing else.
    let _ = aws_lc_rs::rand::fill(&mut bits);
    u64::from_le_bytes(bits) % bound.max(1)
}

/// The server's `VERSION()`.
///
/// # Errors
/// The database's.
pub async fn server_version(connection: &mut MySqlConnection) -> Result<String> {
    Ok(sqlx::query_scalar("SELECT VERSION()").fetch_one(connection).await?)
}

/// Makes a database unless it is there; `name` is a word of ours.
///
/// # Errors
/// The database's.
pub async fn create_database(options: &MySqlConnectOptions, name: &'static str) -> Result<()> {
    let mut connection = options.connect().await?;
    let statement = format!("CREATE DATABASE IF NOT EXISTS {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin");
    sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await?;
    Ok(connection.close().await?)
}
