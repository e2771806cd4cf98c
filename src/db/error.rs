//! Errors of the database, and what they say about the connection.

use std::io;

use rustls::CertificateError;
use sqlx::mysql::MySqlDatabaseError;

/// An error of the database. Each text includes its cause, which is therefore not a `source`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server is down, unreachable or overloaded, or no connection was free in time. A retry may succeed.
    #[error("database unavailable: {0}")]
    Unavailable(sqlx::Error),
    /// There are no credentials to sign in with. A retry may succeed.
    #[error("no database credentials: {0}")]
    NoCredentials(String),
    /// The server rejected a statement: a bug.
    #[error("database rejected a statement: {0}")]
    Rejected(sqlx::Error),
    /// A row contains what this version can't read; the name of its table.
    #[error("unreadable row in table `{0}`")]
    Corrupt(&'static str),
}

/// The result of a database call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What an error says about its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionHealth {
    /// Only the statement failed.
    Usable,
    /// It is closed, or the state of the protocol is unknown.
    Lost,
    /// The server no longer accepts writes: after a failover its host name leads to another one.
    ReadOnly,
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let unavailable = match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => true,
            // Too many connections, or none allowed from this host; access denied, as during a rotation of credentials;
            // a lock timeout or a deadlock; a statement that ran too long (numbers of MySQL and MariaDB) or was killed.
            sqlx::Error::Database(_) => {
                connection_health(&error) != ConnectionHealth::Usable
                    || matches!(
                        error_number(&error),
                        Some(1040 | 1045 | 1129 | 1130 | 1203 | 1205 | 1213 | 1226 | 1317 | 1698 | 1969 | 3024)
                    )
            }
            _ => false,
        };
        if unavailable { Self::Unavailable(error) } else { Self::Rejected(error) }
    }
}

impl Error {
    /// A timeout of ours or the server's.
    pub(crate) fn timed_out(message: String) -> sqlx::Error {
        sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, message))
    }

    fn inner(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Unavailable(error) | Self::Rejected(error) => Some(error),
            Self::NoCredentials(_) | Self::Corrupt(_) => None,
        }
    }

    /// A lock timeout or a deadlock: the transaction was rolled back and may succeed when it is retried.
    pub(crate) fn is_contention(&self) -> bool {
        self.number().is_some_and(|number| matches!(number, 1205 | 1213))
    }

    /// The connection failed rather than the statement, which may succeed on another one. Timeouts do not count.
    pub(crate) fn is_connection_failure(&self) -> bool {
        let timed_out =
            |error: &sqlx::Error| matches!(error, sqlx::Error::Io(e) if e.kind() == io::ErrorKind::TimedOut);
        self.inner().is_some_and(|error| connection_health(error) != ConnectionHealth::Usable && !timed_out(error))
    }

    /// The server accepts no writes.
    pub(crate) fn is_read_only(&self) -> bool {
        self.inner().is_some_and(|error| connection_health(error) == ConnectionHealth::ReadOnly)
    }

    /// The server does not know the user, or not with this password or token.
    pub(crate) fn is_access_denied(&self) -> bool {
        self.number().is_some_and(|number| matches!(number, 1045 | 1698))
    }

    /// The server's error number, such as 1045.
    #[must_use]
    pub fn number(&self) -> Option<u16> {
        self.inner().and_then(error_number)
    }

    /// Whether TLS could not be established.
    pub(crate) fn is_tls_failure(&self) -> bool {
        matches!(self.inner(), Some(sqlx::Error::Tls(_))) || self.rustls().is_some()
    }

    /// Why the server's certificate was rejected, if it was.
    pub(crate) fn certificate_error(&self) -> Option<&CertificateError> {
        match self.rustls()? {
            rustls::Error::InvalidCertificate(error) => Some(error),
            _ => None,
        }
    }

    fn rustls(&self) -> Option<&rustls::Error> {
        match self.inner()? {
            sqlx::Error::Io(error) => error.get_ref()?.downcast_ref(),
            _ => None,
        }
    }
}

/// The server's error number: <https://dev.mysql.com/doc/mysql-errors/en/server-error-reference.html>.
pub(crate) fn error_number(error: &sqlx::Error) -> Option<u16> {
    error.as_database_error()?.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number)
}

/// What an error says about its connection.
pub(crate) fn connection_health(error: &sqlx::Error) -> ConnectionHealth {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => {
            ConnectionHealth::Lost
        }
        sqlx::Error::Database(_) => match error_number(error) {
            // Server shutdown; aborted, killed or closed when idle; "gone away" and "lost connection".
            Some(1053 | 1152..=1161 | 1184 | 1927 | 2006 | 2013 | 3169 | 4031) => ConnectionHealth::Lost,
            // read_only, innodb_read_only, and the error of a lock on a read-only InnoDB.
            Some(1015 | 1290 | 1836) => ConnectionHealth::ReadOnly,
            _ => ConnectionHealth::Usable,
        },
        _ => ConnectionHealth::Usable,
    }
}

/// Lets [`super::Db::transaction`] see whether the error of a caller came from the database.
pub trait AsDbError {
    /// The error of the database, if it is one.
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
