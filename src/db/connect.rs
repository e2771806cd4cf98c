//! Opens connections: the login of the moment, verified TLS, keepalive, and the settings of the session.

use std::{io, sync::Once, time::Duration};

use keepalive::Keepalive;
use secrecy::ExposeSecret;
use sqlx::{
    AssertSqlSafe, ConnectOptions, Executor, MySqlConnection,
    mysql::{MySqlConnectOptions, MySqlSslMode},
};
use tokio::time::{Instant, timeout_at};

use super::{Error, Result, certificates::Certificates};
use crate::config::database::{self as config, Place, TlsMode};
use crate::db::credentials::{Credential, Login};

/// A database host that vanished is noticed after 5 s + 3 × 3 s.
const KEEPALIVE: Keepalive = Keepalive {
    idle: Duration::from_secs(5),
    interval: Duration::from_secs(3),
    probes: 3,
    user_timeout: Duration::from_secs(14),
};
/// The server drops a session that we have forgotten so much later than we drop an idle one, in seconds.
const FORGOTTEN: u64 = 30;
/// Longest wait for a lock where statements have no limit, in seconds: an ALTER that waits keeps everybody else waiting.
const LOCKS: u64 = 30;

/// Opens connections to one server.
pub(crate) struct Connector {
    place: Place,
    name: String,
    tls: config::Tls,
    connect_timeout: Duration,
    settings: String,
    login: Login,
    certificates: Option<Certificates>,
}

impl Connector {
    pub(crate) fn new(config: &config::Database, place: &Place, login: Login) -> Self {
        Self {
            place: place.clone(),
            name: config.name.clone(),
            tls: config.tls.clone(),
            connect_timeout: config.pool.connect_timeout,
            settings: session_settings(&config.pool),
            login,
            certificates: Certificates::new(place, &config.tls),
        }
    }

    /// Who signs in.
    pub(crate) fn login(&self) -> &Login {
        &self.login
    }

    /// The watch over the server's certificates, where they are verified.
    pub(crate) fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// Opens a connection. When the server refuses a login with credentials that are leased, they may have been
    /// rotated: it is tried once more with fresh ones.
    ///
    /// # Errors
    /// No credentials, no server, no verified certificate, a refused login, or no time left for all that.
    pub(crate) async fn connect(&self) -> Result<MySqlConnection> {
        let until = Instant::now() + self.connect_timeout;
        let late = || Error::Unavailable(Error::timed_out(format!("no connection within {:?}", self.connect_timeout)));
        let opening = async {
            let credential = self.login.credential().await?;
            match self.open(&credential).await {
                Err(error) if error.is_access_denied() => match self.login.after_refusal(&credential).await {
                    Some(fresh) => self.open(&fresh).await,
                    None => Err(error),
                },
                outcome => outcome,
            }
        };
        timeout_at(until, opening).await.map_err(|_| late())?
    }

    async fn open(&self, credential: &Credential) -> Result<MySqlConnection> {
        let mut connection = self.options(credential).connect().await?;
        if let Place::Tcp(_, port) = self.place {
            let probing = tokio::task::spawn_blocking(move || KEEPALIVE.enable_for_port(port)).await;
            // Without it a connection is as good as any, but for a host that vanishes.
            if let Some(error) = probing.map_err(io::Error::other).flatten().err() {
                static TOLD: Once = Once::new();
                TOLD.call_once(|| tracing::warn!(%error, "connections to the database go without keepalive"));
            }
        }
        connection.execute(AssertSqlSafe(self.settings.clone())).await?;
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
            .database(&self.name)
            .charset("utf8mb4")
            // A token goes over the wire as it is. The configuration allows that under a verified certificate only.
            .enable_cleartext_plugin(credential.is_token);
        if let Some(secret) = &credential.secret {
            options = options.password(secret.expose_secret());
        }
        if let Some(ca) = &self.tls.ca {
            options = options.ssl_ca(ca);
        }
        match &self.place {
            // Nobody listens on a unix socket, but sqlx sends a password by MySQL's usual method over TLS only.
            Place::Socket(path) if self.tls.mode != TlsMode::Disabled => {
                options.socket(path).ssl_mode(MySqlSslMode::Preferred)
            }
            Place::Socket(path) => options.socket(path).ssl_mode(mode),
            // Without a verified certificate the name must not lead anywhere else.
            Place::Tcp(host, port) if host == "localhost" && self.tls.mode != TlsMode::VerifyIdentity => {
                options.host("127.0.0.1").port(*port).ssl_mode(mode)
            }
            Place::Tcp(host, port) => options.host(host).port(*port).ssl_mode(mode),
        }
    }
}

/// One statement for both kinds of server, which each skip the other's comments.
///
/// READ COMMITTED, because gap locks of the default level bring deadlocks between workers and buy us nothing.
///
/// The server's limits are below ours, so that it is the one to give up: then the connection is fine, and nothing goes on
/// that nobody waits for. MySQL's limit is for SELECT only, and MariaDB alone ends a transaction whose client fell silent.
fn session_settings(limits: &config::Pool) -> String {
    let forgotten = limits.idle_timeout.as_secs() + FORGOTTEN;
    let statement = limits.query_timeout * 9 / 10;
    let locks = if limits.query_timeout.is_zero() { LOCKS } else { (limits.query_timeout.as_secs() / 2).max(1) };
    format!(
        "SET SESSION wait_timeout = {forgotten}, innodb_lock_wait_timeout = {locks}, lock_wait_timeout = {locks} \
         /*!50720 , transaction_isolation = 'READ-COMMITTED', max_execution_time = {} */ \
         /*M!100108 , tx_isolation = 'READ-COMMITTED', max_statement_time = {:.3}, idle_transaction_timeout = {FORGOTTEN} */",
        statement.as_millis(),
        statement.as_secs_f64()
    )
}
