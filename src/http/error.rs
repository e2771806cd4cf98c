//! Errors as clients see them: RFC 9457 `application/problem+json`. One enum, one mapping to a status.
//!
//! What went wrong inside goes to the log, once, here; the client gets a sentence without SQL, paths or keys.

use std::time::Duration;

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    db,
    resilience::backoff::random_below,
    telemetry::{RequestId, scope},
};

/// What a 401 says of how to sign in.
pub(crate) const CHALLENGE: &str = r#"Bearer realm="darkroom", error="invalid_token""#;

/// The result of a handler.
pub type Result<T, E = HttpError> = std::result::Result<T, E>;

/// A rule that a request broke.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// Where: a JSON field, a query parameter or a header.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl FieldError {
    /// A broken rule.
    pub fn new(field: impl Into<String>, message: impl std::fmt::Display) -> Self {
        Self { field: field.into(), message: message.to_string() }
    }
}

/// Everything a request can end in but an answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// 400: not HTTP, or not JSON.
    #[error("{0}")]
    BadRequest(String),
    /// 401: no identity, or one that is expired, revoked or forged.
    #[error("{0}")]
    Unauthorized(&'static str),
    /// 403: seen, but not allowed.
    #[error("{0}")]
    Forbidden(&'static str),
    /// 404: not there, or not to be known of.
    #[error("there is nothing here for you")]
    NotFound,
    /// 405.
    #[error("this address does not know that method")]
    MethodNotAllowed,
    /// 409: a state in the way.
    #[error("{0}")]
    Conflict(&'static str),
    /// 409: another request in the way, which will soon be over.
    #[error("{0}")]
    Busy(&'static str),
    /// 412: `If-Match` names another version.
    #[error("it has changed since the version that If-Match names")]
    PreconditionFailed,
    /// 413: a body over the limit, in bytes.
    #[error("the body is larger than {0} bytes")]
    TooLarge(u64),
    /// 415.
    #[error("{0}")]
    UnsupportedMediaType(String),
    /// 408: the body came too slowly.
    #[error("the body comes too slowly")]
    TooSlow,
    /// 429: the caller asks too often, and may ask again after this long.
    #[error("this is too often; come back later")]
    TooMany(Duration),
    /// 503: there is more to do than can be done.
    #[error("there is too much to do right now; come back in a moment")]
    Overloaded,
    /// 422: rules of fields, query parameters or headers.
    #[error("the request breaks a rule")]
    Unprocessable(Vec<FieldError>),
    /// 503: try again soon.
    #[error("{0}")]
    Unavailable(&'static str, #[source] anyhow::Error),
    /// 500: a mistake of ours.
    #[error("something went wrong here")]
    Internal(#[from] anyhow::Error),
}

impl HttpError {
    /// 422 with one broken rule.
    pub fn field(field: impl Into<String>, message: impl std::fmt::Display) -> Self {
        Self::Unprocessable(vec![FieldError::new(field, message)])
    }

    /// The one mapping to a status, with the problem's name and title.
    fn kind(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::BadRequest(_) => (StatusCode::BAD_REQUEST, "bad-request", "Bad request"),
            Self::Unauthorized(_) => (StatusCode::UNAUTHORIZED, "unauthorized", "Not signed in"),
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden", "Not allowed"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not-found", "Not found"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed"),
            Self::Conflict(_) => (StatusCode::CONFLICT, "conflict", "Conflict"),
            Self::Busy(_) => (StatusCode::CONFLICT, "busy", "Conflict"),
            Self::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, "precondition-failed", "Precondition failed"),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "too-large", "Too large"),
            Self::UnsupportedMediaType(_) => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "Unsupported media type")
            }
            Self::TooSlow => (StatusCode::REQUEST_TIMEOUT, "too-slow", "Request timeout"),
            Self::TooMany(_) => (StatusCode::TOO_MANY_REQUESTS, "too-many-requests", "Too many requests"),
            Self::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "overloaded", "Overloaded"),
            Self::Unprocessable(_) => (StatusCode::UNPROCESSABLE_ENTITY, "unprocessable", "Unprocessable"),
            Self::Unavailable(..) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Unavailable"),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error"),
        }
    }

    /// As clients see it, but for the request's id and the rules that were broken.
    pub(crate) fn problem(&self) -> Problem {
        let (status, name, title) = self.kind();
        Problem {
            type_: format!("urn:darkroom:problem:{name}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: self.to_string(),
            request_id: String::new(),
            errors: None,
        }
    }

    fn retry_after(&self) -> Option<u64> {
        match self {
            Self::Busy(_) => Some(1),
            Self::TooMany(wait) => Some(wait.as_secs() + 1),
            // Jitter, so that a crowd that was turned away does not come back as one.
            Self::Unavailable(..) | Self::Overloaded => Some(1 + random_below(Duration::from_secs(4)).as_secs()),
            _ => None,
        }
    }
}

impl From<db::Error> for HttpError {
    fn from(error: db::Error) -> Self {
        match error {
            db::Error::Unavailable(_) | db::Error::NoCredentials(_) => {
                Self::Unavailable("the database does not answer right now", error.into())
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
    /// `urn:darkroom:problem:` and a name that programs can rely on.
    #[serde(rename = "type")]
    pub type_: String,
    /// The same for each problem of this type.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong this time.
    pub detail: String,
    /// As in the `x-request-id` header.
    pub request_id: String,
    /// With 422: each rule that was broken.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub errors: Option<Vec<FieldError>>,
}

impl Problem {
    /// The problem of a status that a library answered with, e.g. 416; none when it is no error.
    fn bare(status: StatusCode) -> Option<Self> {
        if !status.is_client_error() && !status.is_server_error() {
            return None;
        }
        let title = status.canonical_reason().unwrap_or("Error").to_owned();
        Some(Self {
            // RFC 9457, 4.2.1: the status says it all.
            type_: "about:blank".to_owned(),
            detail: title.clone(),
            title,
            status: status.as_u16(),
            request_id: String::new(),
            errors: None,
        })
    }
}

impl IntoResponse for HttpError {
    /// The body is written by [`finish`], which knows the request's id.
    fn into_response(self) -> Response {
        let (status, ..) = self.kind();
        let retry_after = self.retry_after();
        let problem = self.problem();
        let mut response = status.into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
        }
        let errors = match self {
            Self::Unprocessable(errors) => Some(errors),
            Self::Unavailable(why, source) => {
                scope::set_failure(why);
                tracing::warn!(error = format!("{source:#}"), "unavailable");
                None
            }
            Self::Internal(source) => {
                scope::set_failure("a mistake of ours; the log has it under this request's id");
                tracing::error!(error = format!("{source:#}"), "internal error");
                None
            }
            _ => None,
        };
        response.extensions_mut().insert(Problem { errors, ..problem });
        response
    }
}

/// Writes the body of each problem, and makes one of each bare error that a library answers with.
pub async fn finish(request: Request, next: Next) -> Response {
    let id = request.extensions().get::<RequestId>().cloned().unwrap_or_default();
    let response = next.run(request).await;
    let status = response.status();
    let known = response.extensions().get::<Problem>().cloned();
    // JSON is an answer of ours: `/health` tells details with its 503.
    let ours = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    let bare = || if ours { None } else { Problem::bare(status) };
    let Some(mut problem) = known.or_else(bare) else { return response };
    problem.request_id = id.to_string();
    let (mut parts, _) = response.into_parts();
    parts.extensions.remove::<Problem>();
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    parts.headers.remove(header::CONTENT_LENGTH);
    let body = serde_json::to_vec(&problem).expect("a problem is JSON");
    Response::from_parts(parts, Body::from(body))
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
            (HttpError::from(db::Error::Corrupt("photos")), 500),
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
