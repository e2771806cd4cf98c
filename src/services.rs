//! Use cases: rules, transaction and lock order, for routes, jobs, Lambda and `darkroom dev` alike. They know no axum.
//!
//! Rows are locked in one order: album, photo, invite, job. A use case of a POST takes an open transaction instead of
//! beginning one, because the response that is stored under an `Idempotency-Key` commits with it.

pub mod access;
pub mod albums;
pub mod edits;
pub mod events;
pub mod invites;
pub mod photos;
pub mod uploads;

use serde::Serialize;
use utoipa::ToSchema;

use crate::db;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a use case was refused or failed. The texts are for clients.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No valid credentials.
    #[error("{0}")]
    Unauthorized(&'static str),
    /// The caller may know of it, but not do this.
    #[error("{0}")]
    Forbidden(&'static str),
    /// It does not exist, or the caller may not know that it does.
    #[error("not found")]
    NotFound,
    #[error("{0}")]
    Conflict(&'static str),
    /// A conflict with a concurrent request, worth another try in a second.
    #[error("{0}")]
    Busy(&'static str),
    /// The resource has another version than the caller expects.
    #[error("the resource has changed since the version in If-Match")]
    PreconditionFailed,
    #[error("validation failed")]
    Invalid(Vec<FieldError>),
    #[error(transparent)]
    Database(#[from] db::Error),
    /// A dependency failed; the source is for the log.
    #[error("{0}")]
    Unavailable(&'static str, #[source] anyhow::Error),
}

impl Error {
    /// One invalid field.
    pub fn field(field: impl Into<String>, message: impl std::fmt::Display) -> Self {
        Self::Invalid(vec![FieldError::new(field, message)])
    }
}

impl db::AsDbError for Error {
    fn as_db_error(&self) -> Option<&db::Error> {
        match self {
            Self::Database(error) => Some(error),
            _ => None,
        }
    }
}

/// A rule that a request broke.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// A JSON field, a query parameter or a header.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl FieldError {
    pub fn new(field: impl Into<String>, message: impl std::fmt::Display) -> Self {
        Self { field: field.into(), message: message.to_string() }
    }
}

/// The versions of a resource that a change may replace (`If-Match`).
#[derive(Debug)]
pub enum ExpectedVersion {
    Any,
    OneOf(Vec<u32>),
}

impl ExpectedVersion {
    pub fn check(&self, version: u32) -> Result<()> {
        match self {
            Self::OneOf(versions) if !versions.contains(&version) => Err(Error::PreconditionFailed),
            Self::Any | Self::OneOf(_) => Ok(()),
        }
    }
}
