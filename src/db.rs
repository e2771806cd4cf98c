//! The database: pools, transactions, and all SQL, in named functions that return domain types.
//!
//! Every function that reads for a caller takes what limits the caller's sight as an argument, so that it
//! can't be forgotten. SQL runs unchanged on MySQL 8.0, 8.4, 9.x and MariaDB 10.11. Transactions lock in one
//! order: album, photo, invite, job; that keeps deadlocks rare, and [`Db::transaction`] runs a victim again.
//!
//! From below: [`login`] has what to sign in with, `connect` opens connections, [`pool`] keeps them, [`session`] puts a
//! deadline on each statement, [`reads`] and [`transaction`] try again what is safe to try again.

#[macro_use]
mod from_row;

pub mod albums;
pub mod certificates;
mod connect;
pub mod credentials;
pub mod edits;
mod error;
pub mod events;
pub mod idempotency;
pub mod invites;
pub mod jobs;
pub mod migrations;
pub mod photos;
pub mod pool;
pub mod probe;
pub mod read_model;
pub mod reads;
pub mod reconciler;
pub mod session;
pub mod tls;
pub mod transaction;
pub mod users;
pub mod wakeups;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use chrono::{DateTime, NaiveDateTime, SubsecRound, Utc};
use sqlx::{ConnectOptions, Connection, MySqlConnection, MySqlExecutor, mysql::MySqlConnectOptions};

pub use error::{AsDbError, Error, Result};
pub use reads::Freshness;
pub use session::Session;
pub use transaction::{Done, Tx};

use crate::{config::database as config, domain::EventKind, telemetry::metrics};
use certificates::{CertificateState, Certificates};
use connect::Connector;
use credentials::{LeaseState, Login};
use pool::{Pool, PoolState};
use reads::Replica;
use wakeups::Signals;

/// How often the writer is asked whether it takes writes: after a failover one that only reads is not noticed otherwise.
const ROLE: Duration = Duration::from_secs(5);

/// The pools, and the bell that rings when a transaction has committed something to do.
#[derive(Clone)]
pub struct Db {
    writer: Arc<Pool>,
    reader: Option<Arc<Replica>>,
    signals: Arc<Signals>,
    transaction_timeout: Duration,
    /// Whether changes are projected into a read model.
    projects: bool,
}

/// How a pool and its login stand.
#[derive(Debug, Clone)]
pub struct PoolReport {
    /// `writer` or `reader`.
    pub name: &'static str,
    /// Its connections.
    pub connections: PoolState,
    /// What it signs in with, if that is leased.
    pub lease: Option<LeaseState>,
    /// The certificates on the way to the server, if they are verified and were looked at.
    pub certificate: Option<CertificateState>,
}

impl Db {
    /// Pools that connect when they are first used.
    #[must_use]
    pub fn new(config: &config::Database) -> Self {
        let pool = |name, place, login| {
            Pool::new(name, Connector::new(config, place, Login::new(login, name)), config.pool.clone())
        };
        let reader =
            config.reader.as_ref().map(|reader| Arc::new(Replica::new(pool("reader", &reader.place, &reader.login))));
        Self {
            writer: Arc::new(pool("writer", &config.place, &config.login)),
            reader,
            signals: Arc::default(),
            transaction_timeout: config.pool.transaction_timeout,
            projects: false,
        }
    }

    /// The same with a read model, if `on`: whatever changes what guests see adds a job that projects it.
    #[must_use]
    pub fn projecting(self, on: bool) -> Self {
        Self { projects: on, ..self }
    }

    /// A session of the writer, for single statements that wake nobody.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when there is none in time.
    pub async fn session(&self) -> Result<Session> {
        self.writer.session().await
    }

    /// Adds a job in a transaction of its own, unless the same one waits already.
    ///
    /// # Errors
    /// The database's.
    pub async fn enqueue(&self, job: jobs::JobName, subject: uuid::Uuid) -> Result<()> {
        self.transaction(|mut tx| async move {
            tx.enqueue(job, subject).await?;
            Ok(tx.done(()))
        })
        .await
    }

    /// The shortest wait for a session of the writer since the last call, if there was any.
    pub fn shortest_wait(&self) -> Option<Duration> {
        self.writer.shortest_wait()
    }

    /// How long ago the writer answered a statement.
    #[must_use]
    pub fn heard(&self) -> Option<Duration> {
        self.writer.heard()
    }

    /// What commits announce.
    #[must_use]
    pub fn signals(&self) -> &Arc<Signals> {
        &self.signals
    }

    fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        std::iter::once(&self.writer).chain(self.reader.as_ref().map(|replica| &replica.pool))
    }

    /// How the pools stand, the writer's first.
    pub fn report(&self) -> Vec<PoolReport> {
        let report = |pool: &Arc<Pool>| PoolReport {
            name: pool.name(),
            connections: pool.state(),
            lease: pool.connector().login().lease(),
            certificate: pool.connector().certificates().and_then(Certificates::state),
        };
        self.pools().map(report).collect()
    }

    /// The writer's login, for the doctor.
    #[must_use]
    pub fn login(&self) -> &Login {
        self.writer.connector().login()
    }

    /// A connection of the writer outside the pool, tried once, for the doctor.
    ///
    /// # Errors
    /// Whatever stands in the way.
    pub async fn connect(&self) -> Result<MySqlConnection> {
        self.writer.connector().connect().await
    }

    /// Whether the reader answers, if there is one.
    pub async fn look_at_reader(&self) -> Option<Result<()>> {
        let replica = self.reader.as_ref()?;
        let look = async {
            let mut session = replica.pool.session().await?;
            sqlx::raw_sql("SELECT 1").execute(&mut session).await?;
            Ok(())
        };
        Some(look.await)
    }

    /// Looks after logins, idle connections and certificates, for ever.
    pub async fn keep(self) {
        let keepers = self.pools().map(|pool| async {
            let watch = async {
                if let Some(certificates) = pool.connector().certificates() {
                    certificates.keep(pool.name()).await;
                }
            };
            tokio::join!(pool.connector().login().keep(), pool.reap(), watch);
        });
        let role = async {
            loop {
                tokio::time::sleep(ROLE).await;
                // A reader that is asked now and then has a connection open for the first guest of a quiet time.
                let _answers = tokio::join!(self.writer.doubt_if_read_only(), self.look_at_reader());
            }
        };
        tokio::join!(futures_util::future::join_all(keepers), role);
    }

    /// Sets the metrics that are levels.
    pub fn measure(&self) {
        for pool in self.pools() {
            pool.measure();
            let name = pool.name();
            if let Some(LeaseState { age, left, .. }) = pool.connector().login().lease() {
                metrics::TOKEN_AGE.with(&[("pool", name)]).set(age.unwrap_or_default().as_secs_f64());
                let expires_at = SystemTime::now() + left.unwrap_or_default();
                let since_epoch = expires_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                metrics::TOKEN_EXPIRY.with(&[("pool", name)]).set(since_epoch.as_secs_f64());
            }
        }
    }

    /// Closes the pools; connections in use end when they are given back.
    pub async fn close(&self) {
        for pool in self.pools() {
            pool.close().await;
        }
    }
}

/// An event about a photo: what the host sees, and what the public does.
#[must_use]
pub fn photo_event(photo: &crate::domain::Photo, kind: EventKind, public_kind: Option<EventKind>) -> events::NewEvent {
    events::NewEvent { kind, public_kind, photo_id: Some(photo.id), edit_id: None, uploader: photo.uploader.invite_id }
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

/// An age for a graph, from microseconds: 0 for what is not there or lies ahead.
fn seconds(micros: Option<i64>) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "an age for a graph")]
    let age = micros.unwrap_or(0).max(0) as f64;
    age / 1e6
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
pub async fn server_version(executor: impl MySqlExecutor<'_>) -> Result<String> {
    Ok(sqlx::query_scalar("SELECT VERSION()").fetch_one(executor).await?)
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
