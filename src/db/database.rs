//! The handle of the database that the rest of the program holds.

use std::{sync::Arc, time::Duration};

use sqlx::MySqlConnection;

use super::{
    credentials::CredentialSource,
    error::Result,
    replica::Replica,
    server::{Server, ServerStatus},
    session::Session,
    wakeups::Wakeups,
};
use crate::config::database as config;

/// How often the writer is checked for accepting writes: after a failover to a read-only server nothing else may show
/// it.
const ROLE_INTERVAL: Duration = Duration::from_secs(5);

/// The pools, and the wake-up notifications of commits. Clones share them.
#[derive(Clone)]
pub struct Db {
    writer: Arc<Server>,
    replica: Option<Arc<Replica>>,
    wakeups: Arc<Wakeups>,
    pub(super) transaction_timeout: Duration,
    /// Whether changes are projected into a read model.
    pub(super) has_read_model: bool,
}

impl Db {
    /// Pools that connect on first use.
    #[must_use]
    pub fn new(config: &config::Database) -> Self {
        let replica = config.reader.as_ref();
        let replica = replica.map(|reader| Server::new("reader", config, &reader.place, &reader.login));
        Self {
            writer: Arc::new(Server::new("writer", config, &config.place, &config.login)),
            replica: replica.map(|server| Arc::new(Replica::new(server))),
            wakeups: Arc::default(),
            transaction_timeout: config.pool.transaction_timeout,
            has_read_model: false,
        }
    }

    /// With `has_read_model`, each change that guests see enqueues a job that projects it.
    #[must_use]
    pub fn with_read_model(self, has_read_model: bool) -> Self {
        Self { has_read_model, ..self }
    }

    /// A session of the writer, for single statements. Fails with [`super::Error::Unavailable`] when no connection is
    /// available in time.
    pub async fn session(&self) -> Result<Session> {
        self.writer.session().await
    }

    pub(super) fn replica(&self) -> Option<&Replica> {
        self.replica.as_deref()
    }

    /// The shortest wait for a connection of the writer since the last call; `None` when there was none.
    pub fn take_shortest_wait(&self) -> Option<Duration> {
        self.writer.pool().take_shortest_wait()
    }

    /// The time since the writer last answered a statement.
    #[must_use]
    pub fn last_answer_age(&self) -> Option<Duration> {
        self.writer.pool().last_answer_age()
    }

    /// The wake-up notifications of commits.
    #[must_use]
    pub fn wakeups(&self) -> &Wakeups {
        &self.wakeups
    }

    fn servers(&self) -> impl Iterator<Item = &Server> {
        std::iter::once(&*self.writer).chain(self.replica.as_deref().map(|replica| &replica.server))
    }

    /// The state of each server, the writer's first.
    pub fn status(&self) -> Vec<ServerStatus> {
        self.servers().map(Server::status).collect()
    }

    /// The writer's credentials, for `darkroom check`.
    #[must_use]
    pub fn credentials(&self) -> &CredentialSource {
        self.writer.pool().connector().credentials()
    }

    /// A connection to the writer outside the pool, in a single attempt, for `darkroom check`.
    pub async fn connect(&self) -> Result<MySqlConnection> {
        self.writer.pool().connector().connect().await
    }

    /// Whether the replica answers; `None` where there is none.
    pub async fn check_replica(&self) -> Option<Result<()>> {
        let replica = self.replica()?;
        let check = async {
            sqlx::raw_sql("SELECT 1").execute(&mut replica.server.session().await?).await?;
            Ok(())
        };
        Some(check.await)
    }

    /// Runs the background tasks of the pools, forever.
    pub async fn run_maintenance(self) {
        let check_roles = async {
            loop {
                tokio::time::sleep(ROLE_INTERVAL).await;
                // The check of the replica also keeps a connection open for the first guest after a quiet time.
                let _ = tokio::join!(self.writer.check_read_only(), self.check_replica());
            }
        };
        tokio::join!(futures_util::future::join_all(self.servers().map(Server::run_maintenance)), check_roles);
    }

    /// Sets the gauges of the pools and credentials.
    pub fn record_gauges(&self) {
        self.servers().for_each(Server::record_gauges);
    }

    /// Closes the pools; connections in use are closed when they are returned.
    pub async fn close(&self) {
        for server in self.servers() {
            server.pool().close().await;
        }
    }
}
