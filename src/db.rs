//! The database: pools, transactions, and all SQL, in named functions that return domain types.
//!
//! Each function that reads for a caller takes what limits the caller's access as an argument, so that it can't be
//! forgotten. SQL runs unchanged on MySQL 8.0, 8.4, 9.x and MariaDB 10.11. Transactions lock in one order: album,
//! photo, invite, job; that makes deadlocks rare, and [`Db::transaction`] retries their victims.
//!
//! From the bottom up: `credentials` provides what `connector` signs in with, `pool` keeps connections, `session`
//! applies a deadline to each statement, `server` is one server with its pool, and `database`, `reads` and
//! `transaction` are [`Db`].

#[macro_use]
mod from_row;
#[macro_use]
mod statements;

pub mod albums;
mod all_statements;
pub mod ca_file;
mod certificate_monitor;
mod connection;
mod connector;
pub mod credentials;
mod database;
pub mod edits;
mod error;
pub mod events;
pub mod idempotency;
pub mod invites;
pub mod jobs;
pub mod migrations;
pub mod photos;
mod pool;
pub mod read_model;
mod reads;
pub mod reconciler;
mod replica;
mod server;
mod session;
mod time;
mod transaction;
pub mod users;
mod wakeups;

pub use all_statements::statements;
pub use certificate_monitor::{CertificateStatus, WARN_DAYS};
pub use database::Db;
pub use error::{AsDbError, Error, Result};
pub use events::photo_event;
pub use pool::PoolState;
pub use replica::Freshness;
pub use server::{ServerStatus, create_database, server_time, server_version};
pub(crate) use server::{missing_privileges, tls_status};
pub use session::Session;
pub use time::now;
pub use transaction::{Done, Tx};
