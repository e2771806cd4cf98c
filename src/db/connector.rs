//! Opens connections: current credentials, verified TLS, TCP keepalive, and session variables.

use std::{io, sync::Once, time::Duration};

use keepalive::Keepalive;
use secrecy::ExposeSecret;
use sqlx::{
    AssertSqlSafe, ConnectOptions, Executor, MySqlConnection,
    mysql::{MySqlConnectOptions, MySqlSslMode},
};
use tokio::time::{Instant, timeout_at};

use super::{
    credentials::{Credential, CredentialSource},
    error::{Error, Result},
};
use crate::config::database::{self as config, Place, TlsMode};

/// A database host that has vanished is detected after 5 s + 3 × 3 s.
const KEEPALIVE: Keepalive = Keepalive {
    idle: Duration::from_secs(5),
    interval: Duration::from_secs(3),
    probes: 3,
    user_timeout: Duration::from_secs(14),
};
/// How much later than the pool the server closes an idle session, in seconds.
const SERVER_IDLE_MARGIN: u64 = 30;
/// The lock timeout where statements have no timeout, in seconds: a waiting ALTER TABLE blocks all other statements.
const LOCK_TIMEOUT: u64 = 30;

/// Opens connections to one server.
pub(crate) struct Connector {
    address: Place,
    database: String,
    tls: config::Tls,
    connect_timeout: Duration,
    session_variables: String,
    credentials: CredentialSource,
}

impl Connector {
    pub(crate) fn new(config: &config::Database, address: &Place, credentials: CredentialSource) -> Self {
        Self {
            address: address.clone(),
            database: config.name.clone(),
            tls: config.tls.clone(),
            connect_timeout: config.pool.connect_timeout,
            session_variables: session_variables(&config.pool),
            credentials,
        }
    }

    pub(crate) fn credentials(&self) -> &CredentialSource {
        &self.credentials
    }

    /// Opens a connection within `connect_timeout`. When the server refuses cached credentials they may have been
    /// rotated: the login is repeated once with new ones.
    pub(crate) async fn connect(&self) -> Result<MySqlConnection> {
        let until = Instant::now() + self.connect_timeout;
        let timed_out =
            |_| Error::Unavailable(Error::timed_out(format!("no connection within {:?}", self.connect_timeout)));
        let connecting = async {
            let credential = self.credentials.current().await?;
            match self.open(&credential).await {
                Err(error) if error.is_access_denied() => match self.credentials.renew_refused(&credential).await {
                    Some(renewed) => self.open(&renewed).await,
                    None => Err(error),
                },
                result => result,
            }
        };
        timeout_at(until, connecting).await.map_err(timed_out)?
    }

    async fn open(&self, credential: &Credential) -> Result<MySqlConnection> {
        let mut connection = self.options(credential).connect().await?;
        if let Place::Tcp(_, port) = self.address {
            let enabled = tokio::task::spawn_blocking(move || KEEPALIVE.enable_for_port(port)).await;
            // The connection works without it; only a vanished host is detected later.
            if let Some(error) = enabled.map_err(io::Error::other).flatten().err() {
                static LOGGED: Once = Once::new();
                LOGGED.call_once(|| tracing::warn!(%error, "enabling TCP keepalive on database connections failed"));
            }
        }
        connection.execute(AssertSqlSafe(self.session_variables.clone())).await?;
        Ok(connection)
    }

    fn options(&self, credential: &Credential) -> MySqlConnectOptions {
        let mode = match self.tls.mode {
            TlsMode::Disabled => MySqlSslMode::Disabled,
            TlsMode::Preferred => MySqlSslMode::Preferred,
            TlsMode::Required => MySqlSslMode::Required,
            TlsMode::VerifyCa => MySqlSslMode::VerifyCa,
            TlsMode::VerifyIdentity => MySqlSslMode::VerifyIdentity,
        };
        let mut options = MySqlConnectOptions::new()
            .username(&credential.user)
            .database(&self.database)
            .charset("utf8mb4")
            // A token is sent in clear. The configuration allows that only with a verified certificate.
            .enable_cleartext_plugin(credential.is_token);
        if let Some(secret) = &credential.secret {
            options = options.password(secret.expose_secret());
        }
        if let Some(ca) = &self.tls.ca {
            options = options.ssl_ca(ca);
        }
        match &self.address {
            // A unix socket can't be intercepted, but sqlx sends a password of `caching_sha2_password` over TLS only.
            Place::Socket(path) if self.tls.mode != TlsMode::Disabled => {
                options.socket(path).ssl_mode(MySqlSslMode::Preferred)
            }
            Place::Socket(path) => options.socket(path).ssl_mode(mode),
            // Without a verified certificate a resolver must not redirect the connection.
            Place::Tcp(host, port) if host == "localhost" && self.tls.mode != TlsMode::VerifyIdentity => {
                options.host("127.0.0.1").port(*port).ssl_mode(mode)
            }
            Place::Tcp(host, port) => options.host(host).port(*port).ssl_mode(mode),
        }
    }
}

/// One statement for MySQL and MariaDB, which skip each other's conditional comments.
///
/// READ COMMITTED: the gap locks of the default isolation level cause deadlocks between workers and are not needed
/// here.
///
/// The timeouts of the server are shorter than ours, so that the server ends a statement and the connection remains
/// usable. MySQL's limit is for SELECT only; MariaDB alone has `idle_transaction_timeout`.
fn session_variables(limits: &config::Pool) -> String {
    let idle = limits.idle_timeout.as_secs() + SERVER_IDLE_MARGIN;
    let statement = limits.query_timeout * 9 / 10;
    let lock = if limits.query_timeout.is_zero() { LOCK_TIMEOUT } else { (limits.query_timeout.as_secs() / 2).max(1) };
    format!(
        "SET SESSION wait_timeout = {idle}, innodb_lock_wait_timeout = {lock}, lock_wait_timeout = {lock} \
         /*!50720 , transaction_isolation = 'READ-COMMITTED', max_execution_time = {} */ \
         /*M!100108 , tx_isolation = 'READ-COMMITTED', max_statement_time = {:.3}, \
         idle_transaction_timeout = {SERVER_IDLE_MARGIN} */",
        statement.as_millis(),
        statement.as_secs_f64()
    )
}
