//! Errors as clients see them: RFC 9457 `application/problem+json`. One enum, one mapping to statuses.
//!
//! Causes are logged here, once; the client gets a sentence without SQL, paths or keys.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::{
    IntoResponses, ToSchema,
    openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder},
};

pub use crate::services::FieldError;
use crate::{db, resilience::backoff::random_below, services, telemetry::scope};

/// The `WWW-Authenticate` header of a 401.
pub(crate) const CHALLENGE: &str = r#"Bearer realm="darkroom", error="invalid_token""#;

/// The result of a handler.
pub type Result<T, E = HttpError> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Not HTTP, or not JSON.
    #[error("{0}")]
    BadRequest(String),
    /// No credentials, or expired, revoked or forged ones.
    #[error("{0}")]
    Unauthorized(&'static str),
    /// The caller may know of it, but not do this.
    #[error("{0}")]
    Forbidden(&'static str),
    /// It does not exist, or the caller may not know that it does.
    #[error("not found")]
    NotFound,
    #[error("method not allowed")]
    MethodNotAllowed,
    #[error("{0}")]
    Conflict(&'static str),
    /// A conflict with a concurrent request, worth another try in a second.
    #[error("{0}")]
    Busy(&'static str),
    /// `If-Match` names another version.
    #[error("the resource has changed since the version in If-Match")]
    PreconditionFailed,
    /// The body exceeds this limit, in bytes.
    #[error("the body is larger than {0} bytes")]
    TooLarge(u64),
    #[error("{0}")]
    UnsupportedMediaType(String),
    /// The body arrives below the minimum rate.
    #[error("the body arrives too slowly")]
    TooSlow,
    /// The caller may try again after this time.
    #[error("rate limit exceeded")]
    TooMany(Duration),
    #[error("the service is overloaded; try again later")]
    Overloaded,
    /// Invalid fields, query parameters or headers.
    #[error("validation failed")]
    Unprocessable(Vec<FieldError>),
    /// A dependency failed, worth another try; the source is for the log.
    #[error("{0}")]
    Unavailable(&'static str, #[source] anyhow::Error),
    /// A fault of the service; the source is for the log.
    #[error("internal server error")]
    Internal(#[from] anyhow::Error),
}

impl HttpError {
    /// 422 for one field.
    pub fn field(field: impl Into<String>, message: impl std::fmt::Display) -> Self {
        Self::Unprocessable(vec![FieldError::new(field, message)])
    }

    /// The status, and the name in the problem's `type`.
    fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::BadRequest(_) => (StatusCode::BAD_REQUEST, "bad-request"),
            Self::Unauthorized(_) => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not-found"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed"),
            Self::TooSlow => (StatusCode::REQUEST_TIMEOUT, "too-slow"),
            Self::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
            Self::Busy(_) => (StatusCode::CONFLICT, "busy"),
            Self::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, "precondition-failed"),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "too-large"),
            Self::UnsupportedMediaType(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type"),
            Self::Unprocessable(_) => (StatusCode::UNPROCESSABLE_ENTITY, "unprocessable"),
            Self::TooMany(_) => (StatusCode::TOO_MANY_REQUESTS, "too-many-requests"),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
            Self::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
            Self::Unavailable(..) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        }
    }

    /// The problem without a request id and without `errors`.
    pub(crate) fn problem(&self) -> Problem {
        let (status, name) = self.status();
        Problem::new(format!("urn:darkroom:problem:{name}"), status, self.to_string())
    }

    /// Seconds.
    fn retry_after(&self) -> Option<u64> {
        match self {
            Self::Busy(_) => Some(1),
            Self::TooMany(wait) => Some(wait.as_secs() + 1),
            // Jitter, so that refused clients do not all come back at the same time.
            Self::Unavailable(..) | Self::Overloaded => Some(1 + random_below(Duration::from_secs(4)).as_secs()),
            _ => None,
        }
    }
}

impl From<services::Error> for HttpError {
    fn from(error: services::Error) -> Self {
        match error {
            services::Error::Unauthorized(detail) => Self::Unauthorized(detail),
            services::Error::Forbidden(detail) => Self::Forbidden(detail),
            services::Error::NotFound => Self::NotFound,
            services::Error::Conflict(detail) => Self::Conflict(detail),
            services::Error::Busy(detail) => Self::Busy(detail),
            services::Error::PreconditionFailed => Self::PreconditionFailed,
            services::Error::Invalid(errors) => Self::Unprocessable(errors),
            services::Error::Database(error) => error.into(),
            services::Error::Unavailable(detail, source) => Self::Unavailable(detail, source),
        }
    }
}

impl From<db::Error> for HttpError {
    fn from(error: db::Error) -> Self {
        match error {
            db::Error::Unavailable(_) | db::Error::NoCredentials(_) => {
                Self::Unavailable("the database is unavailable", error.into())
            }
            db::Error::Rejected(_) | db::Error::Corrupt(_) => Self::Internal(error.into()),
        }
    }
}

impl db::AsDbError for HttpError {
    fn as_db_error(&self) -> Option<&db::Error> {
        match self {
            Self::Unavailable(_, source) | Self::Internal(source) => source.downcast_ref(),
            _ => None,
        }
    }
}

/// RFC 9457 problem details.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Problem {
    /// `urn:darkroom:problem:` and a stable name.
    #[serde(rename = "type")]
    pub type_: String,
    /// The standard reason phrase of the status.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong with this request.
    pub detail: String,
    /// As in the `x-request-id` header.
    pub request_id: String,
    /// With 422: each rule that the request broke.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub errors: Option<Vec<FieldError>>,
}

impl Problem {
    fn new(type_: String, status: StatusCode, detail: String) -> Self {
        let title = status.canonical_reason().unwrap_or("Error").to_owned();
        Self { type_, title, status: status.as_u16(), detail, request_id: String::new(), errors: None }
    }

    /// The problem of a status without further details (RFC 9457, 4.2.1); none if it is no error.
    pub(super) fn of_status(status: StatusCode) -> Option<Self> {
        let is_error = status.is_client_error() || status.is_server_error();
        let detail = status.canonical_reason().unwrap_or("Error").to_owned();
        is_error.then(|| Self::new("about:blank".to_owned(), status, detail))
    }
}

/// Every error response in the OpenAPI document.
impl IntoResponses for Problem {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
        let response = ResponseBuilder::new().content("application/problem+json", content).build();
        BTreeMap::from([("default".to_owned(), response.into())])
    }
}

impl IntoResponse for HttpError {
    /// [`write_body`](super::middleware::problem::write_body), which knows the request's id, writes the body.
    fn into_response(self) -> Response {
        let (problem, retry_after) = (self.problem(), self.retry_after());
        let mut response = self.status().0.into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if matches!(self, Self::Unauthorized(_)) {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
        }
        let errors = match self {
            Self::Unprocessable(errors) => Some(errors),
            Self::Unavailable(detail, source) => {
                scope::set_failure(detail);
                tracing::warn!(error = format!("{source:#}"), "unavailable");
                None
            }
            Self::Internal(source) => {
                scope::set_failure("internal server error; the log has the cause under this request id");
                tracing::error!(error = format!("{source:#}"), "internal error");
                None
            }
            _ => None,
        };
        response.extensions_mut().insert(Problem { errors, ..problem });
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_errors_to_status_and_public_detail() {
        let secret = || anyhow::anyhow!("SELECT password FROM /etc/shadow");
        let unavailable = sqlx::Error::PoolTimedOut;
        for (error, status) in [
            (HttpError::BadRequest("x".into()), 400),
            (HttpError::Unauthorized("x"), 401),
            (HttpError::Forbidden("x"), 403),
            (HttpError::NotFound, 404),
            (HttpError::MethodNotAllowed, 405),
            (HttpError::Conflict("x"), 409),
            (HttpError::Busy("x"), 409),
            (HttpError::PreconditionFailed, 412),
            (HttpError::TooLarge(1), 413),
            (HttpError::UnsupportedMediaType("x".into()), 415),
            (HttpError::field("a", "b"), 422),
            (HttpError::TooSlow, 408),
            (HttpError::TooMany(Duration::from_millis(20)), 429),
            (HttpError::Overloaded, 503),
            (HttpError::Internal(secret()), 500),
            (HttpError::Unavailable("x", secret()), 503),
            (HttpError::from(db::Error::from(unavailable)), 503),
            (HttpError::from(services::Error::from(db::Error::Corrupt("photos"))), 500),
        ] {
            let response = error.into_response();
            assert_eq!(response.status(), status);
            let problem = response.extensions().get::<Problem>().unwrap();
            assert_eq!(problem.status, status);
            assert!(!problem.detail.contains("SELECT") && !problem.detail.contains("photos"), "{}", problem.detail);
            assert_eq!(response.headers().contains_key(header::WWW_AUTHENTICATE), status == 401);
            assert_eq!(
                response.headers().contains_key(header::RETRY_AFTER),
                status == 503 || status == 429 || problem.type_.ends_with("busy")
            );
        }
    }
}
