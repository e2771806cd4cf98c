//! Why the database did not do what it was asked, and what that says about the connection.

use std::io;

use sqlx::mysql::MySqlDatabaseError;

/// Why the database did not do what it was asked. Each text is the whole story; as a source it would be told twice.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No answer: down, restarting, unreachable, or no free connection in time. Worth trying again.
    #[error("the database is unavailable: {0}")]
    Unavailable(sqlx::Error),
    /// No credentials to sign in with. Worth trying again.
    #[error("there is no login for the database: {0}")]
    NoLogin(String),
    /// An answer that means a mistake of ours.
    #[error("the database refused: {0}")]
    Refused(sqlx::Error),
    /// A row holds what this version does not understand.
    #[error("a row of {0} can't be understood")]
    Corrupt(&'static str),
}

/// The result of a database call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What an error says about the connection that it came over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is fine: the statement was not.
    Sound,
    /// It is gone, or nobody knows what comes next on it.
    Lost,
    /// It leads to a server that takes no writes (any more): after a failover the name leads to another one.
    Demoted,
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let unavailable = match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => true,
            // Too many connections, or none from this host; a refused login, which credentials that are rotated bring about; a lock that
            // did not come free, a deadlock; a statement that had its time (MySQL's number and MariaDB's), or was killed.
            sqlx::Error::Database(_) => {
                verdict(&error) != Verdict::Sound
                    || matches!(
                        number(&error),
                        Some(1040 | 1045 | 1129 | 1130 | 1203 | 1205 | 1213 | 1226 | 1317 | 1698 | 1969 | 3024)
                    )
            }
            _ => false,
        };
        if unavailable { Self::Unavailable(error) } else { Self::Refused(error) }
    }
}

impl Error {
    /// The server, or we, had no more patience.
    pub(crate) fn timed_out(what: String) -> sqlx::Error {
        sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, what))
    }

    fn inner(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Unavailable(error) | Self::Refused(error) => Some(error),
            Self::NoLogin(_) | Self::Corrupt(_) => None,
        }
    }

    /// The statement or transaction lost against another one, and may win the next time.
    pub(crate) fn is_contention(&self) -> bool {
        self.inner().and_then(number).is_some_and(|number| matches!(number, 1205 | 1213))
    }

    /// The connection failed, not the statement: on another one it may go well. Not so when time was up.
    pub(crate) fn is_of_connection(&self) -> bool {
        let timed_out =
            |error: &sqlx::Error| matches!(error, sqlx::Error::Io(e) if e.kind() == io::ErrorKind::TimedOut);
        self.inner().is_some_and(|error| verdict(error) != Verdict::Sound && !timed_out(error))
    }

    /// The server takes no writes.
    pub(crate) fn is_of_read_only(&self) -> bool {
        self.inner().is_some_and(|error| verdict(error) == Verdict::Demoted)
    }

    /// The server does not know the user, or not by this password or token.
    #[must_use]
    pub fn is_access_denied(&self) -> bool {
        self.inner().and_then(number).is_some_and(|number| matches!(number, 1045 | 1698))
    }

    /// The server's own number, such as 1045.
    #[must_use]
    pub fn number(&self) -> Option<u16> {
        self.inner().and_then(number)
    }
}

/// The server's own number of an error: <https://dev.mysql.com/doc/mysql-errors/en/server-error-reference.html>.
pub(crate) fn number(error: &sqlx::Error) -> Option<u16> {
    error.as_database_error()?.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number)
}

/// What an error says about its connection.
pub(crate) fn verdict(error: &sqlx::Error) -> Verdict {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => {
            Verdict::Lost
        }
        sqlx::Error::Database(_) => match number(error) {
            // Shutting down; aborted, killed or cut for idleness; what clients call "gone away" and "lost".
            Some(1053 | 1152..=1161 | 1184 | 1927 | 2006 | 2013 | 3169 | 4031) => Verdict::Lost,
            // Read only: by the option, by InnoDB, and what InnoDB makes of a lock then.
            Some(1015 | 1290 | 1836) => Verdict::Demoted,
            _ => Verdict::Sound,
        },
        _ => Verdict::Sound,
    }
}

/// Lets [`super::Db::transaction`] see whether an error of another area came from the database.
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
