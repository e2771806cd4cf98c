//! One database server, the writer or the read replica: its pool, its certificate, and statements about the server
//! itself.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, NaiveDateTime, Utc};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, MySqlConnection, MySqlExecutor, mysql::MySqlConnectOptions};
use tokio::time::Instant;

use super::{
    certificate_monitor::{CertificateMonitor, CertificateStatus},
    connector::Connector,
    credentials::{CredentialSource, CredentialStatus},
    error::{Result, error_number},
    pool::{Pool, PoolState},
    session::Session,
};
use crate::{
    config::database::{self as config, Login, Place, TlsMode},
    telemetry::metrics,
};

statements! {
    READ_ONLY = "SELECT CAST(@@global.read_only OR @@global.innodb_read_only AS SIGNED)";
    VERSION = "SELECT VERSION()";
    TIME = "SELECT UTC_TIMESTAMP(6)";
    TLS_STATUS = "SHOW SESSION STATUS WHERE Variable_name IN ('Ssl_version', 'Ssl_server_not_after')";
    // Read as bytes: MySQL and MariaDB give these columns different types.
    TABLES = "SELECT table_name, column_name FROM information_schema.columns
        WHERE table_schema = DATABASE() AND ordinal_position = 1";
}

/// How often the server's certificate is checked, and how soon again after a failure.
const CERTIFICATE_INTERVAL: Duration = Duration::from_hours(1);
const CERTIFICATE_RETRY: Duration = Duration::from_mins(5);

pub(crate) struct Server {
    /// `writer` or `reader`, in metrics and logs.
    name: &'static str,
    pool: Pool,
    /// Only where the certificate is verified.
    certificate: Option<CertificateMonitor>,
}

/// The state of a server's pool, credentials and certificate.
#[derive(Debug, Clone)]
pub struct ServerStatus {
    /// `writer` or `reader`.
    pub name: &'static str,
    /// Connections.
    pub connections: PoolState,
    /// The cached credentials, if they are cached.
    pub credentials: Option<CredentialStatus>,
    /// The server's certificate, if it is verified and was checked.
    pub certificate: Option<CertificateStatus>,
}

impl Server {
    pub(crate) fn new(name: &'static str, config: &config::Database, address: &Place, login: &Login) -> Self {
        let connector = Connector::new(config, address, CredentialSource::new(login, name));
        let is_verified = matches!(address, Place::Tcp(..)) && config.tls.mode == TlsMode::VerifyIdentity;
        let certificate = is_verified.then(|| CertificateMonitor::new(config.tls.ca.clone()));
        Self { name, pool: Pool::new(name, connector, config.pool.clone()), certificate }
    }

    /// Fails with [`super::Error::Unavailable`] when no connection is available in time.
    pub(crate) async fn session(&self) -> Result<Session> {
        Ok(Session::new(self.pool.acquire().await?, self.pool.query_timeout()))
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(crate) fn status(&self) -> ServerStatus {
        ServerStatus {
            name: self.name,
            connections: self.pool.state(),
            credentials: self.pool.connector().credentials().status(),
            certificate: self.certificate.as_ref().and_then(CertificateMonitor::status),
        }
    }

    pub(crate) fn record_gauges(&self) {
        self.pool.state().record_gauges(self.name);
        if let Some(status) = self.pool.connector().credentials().status() {
            metrics::TOKEN_AGE.with(&[("pool", self.name)]).set(status.age.unwrap_or_default().as_secs_f64());
            let expires_at = SystemTime::now() + status.remaining.unwrap_or_default();
            let since_epoch = expires_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            metrics::TOKEN_EXPIRY.with(&[("pool", self.name)]).set(since_epoch.as_secs_f64());
        }
    }

    /// Renews credentials, closes idle connections and checks the certificate, forever.
    pub(crate) async fn run_maintenance(&self) {
        let credentials = self.pool.connector().credentials();
        tokio::join!(credentials.keep_renewed(), self.pool.reap(), self.monitor_certificate());
    }

    async fn monitor_certificate(&self) {
        let Some(monitor) = &self.certificate else { return };
        loop {
            let tls = async { tls_status(&mut self.session().await?).await };
            let not_after = match tls.await {
                Ok(TlsStatus { not_after, .. }) => not_after.ok_or_else(|| "the server reports no expiry".to_owned()),
                Err(error) => Err(error.to_string()),
            };
            let succeeded = monitor.record(self.name, not_after);
            tokio::time::sleep(if succeeded { CERTIFICATE_INTERVAL } else { CERTIFICATE_RETRY }).await;
        }
    }

    /// Has older connections closed if the server accepts no writes. The server itself would not notice a failover of
    /// which it is the old writer.
    pub(crate) async fn check_read_only(&self) {
        let started = Instant::now();
        let check = async { is_read_only(&mut self.session().await?).await };
        if matches!(check.await, Ok(true)) {
            self.pool.note_read_only(started);
        }
    }
}

/// Whether the server accepts no writes.
async fn is_read_only(executor: impl MySqlExecutor<'_>) -> Result<bool> {
    Ok(sqlx::query_scalar::<_, i64>(READ_ONLY).fetch_one(executor).await? == 1)
}

/// The server's `VERSION()`.
pub async fn server_version(executor: impl MySqlExecutor<'_>) -> Result<String> {
    Ok(sqlx::query_scalar(VERSION).fetch_one(executor).await?)
}

/// The server's clock.
pub async fn server_time(executor: impl MySqlExecutor<'_>) -> Result<DateTime<Utc>> {
    Ok(sqlx::query_scalar(TIME).fetch_one(executor).await?)
}

/// The TLS of a connection.
pub(crate) struct TlsStatus {
    /// The protocol, as `TLSv1.3`; empty without TLS.
    pub(crate) version: String,
    /// When the server's certificate expires.
    pub(crate) not_after: Option<DateTime<Utc>>,
}

/// The TLS of the connection that runs this.
pub(crate) async fn tls_status(executor: impl MySqlExecutor<'_>) -> Result<TlsStatus> {
    let variables: Vec<(String, String)> = sqlx::query_as(TLS_STATUS).fetch_all(executor).await?;
    let value = |name: &str| variables.iter().find(|(other, _)| other == name).map_or("", |(_, value)| value);
    Ok(TlsStatus {
        version: value("Ssl_version").to_owned(),
        not_after: parse_openssl_time(value("Ssl_server_not_after")),
    })
}

/// Parses a time as OpenSSL prints it: `Nov  8 23:27:06 2027 GMT`.
fn parse_openssl_time(text: &str) -> Option<DateTime<Utc>> {
    Some(NaiveDateTime::parse_from_str(text, "%b %e %H:%M:%S %Y GMT").ok()?.and_utc())
}

/// The number of tables, and the server's errors about missing privileges. Each privilege is tried on each table, with
/// statements that match no row; without `writes` only SELECT.
pub(crate) async fn missing_privileges(connection: &mut MySqlConnection, writes: bool) -> Result<(usize, Vec<String>)> {
    let tables: Vec<(Vec<u8>, Vec<u8>)> = sqlx::query_as(TABLES).fetch_all(&mut *connection).await?;
    let mut missing = Vec::new();
    for (table, column) in &tables {
        let (table, column) = (String::from_utf8_lossy(table), String::from_utf8_lossy(column));
        let mut statements = vec![format!("SELECT 1 FROM `{table}` WHERE FALSE")];
        // Only `darkroom migrate` writes the table of migrations.
        if writes && table != "_sqlx_migrations" {
            statements.extend([
                format!("INSERT INTO `{table}` (`{column}`) SELECT `{column}` FROM `{table}` WHERE FALSE"),
                format!("UPDATE `{table}` SET `{column}` = `{column}` WHERE FALSE"),
                format!("DELETE FROM `{table}` WHERE FALSE"),
            ]);
        }
        for statement in statements {
            match sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *connection).await {
                Ok(_) => {}
                Err(error) if error_number(&error).is_some_and(|number| AFTER_PRIVILEGES.contains(&number)) => {}
                Err(sqlx::Error::Database(error)) => missing.push(error.message().to_owned()),
                Err(error) => return Err(error.into()),
            }
        }
    }
    missing.dedup();
    Ok((tables.len(), missing))
}

/// Errors that come after the check of privileges: a column without a default, one that may not be NULL, a generated
/// one.
const AFTER_PRIVILEGES: [u16; 4] = [1048, 1364, 1906, 3105];

/// Creates a database unless it exists; `name` needs no quotes.
pub async fn create_database(options: &MySqlConnectOptions, name: &'static str) -> Result<()> {
    let mut connection = options.connect().await?;
    let statement = format!("CREATE DATABASE IF NOT EXISTS {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin");
    sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await?;
    Ok(connection.close().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_openssl_times() {
        for (text, expected) in [
            ("Nov  8 23:27:06 2027 GMT", Some("2027-11-08T23:27:06Z")),
            ("Dec 31 00:00:00 2049 GMT", Some("2049-12-31T00:00:00Z")),
            ("", None),
        ] {
            assert_eq!(parse_openssl_time(text), expected.map(|time| time.parse().unwrap()), "{text}");
        }
    }
}
