//! The time limit of a request.

use std::time::Duration;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::{http::error::HttpError, resilience::deadline};

/// Answers 503 after `limit`. The handler is dropped, so its transaction rolls back.
pub async fn enforce(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    match deadline::within(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => HttpError::Unavailable("the request timed out", anyhow::anyhow!("no answer within {limit:?}"))
            .into_response(),
    }
}
