//! Applies the rate limit by client address; those by user and invite are applied where a caller is authenticated.

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::{app::AppState, http::error::HttpError, server::Peer};

/// Counts a request before anything else is done for it. Health checks are not limited.
pub async fn limit_by_address(State(app): State<AppState>, request: Request, next: Next) -> Response {
    if request.uri().path().starts_with("/health/") {
        return next.run(request).await;
    }
    let client = request.extensions().get::<Peer>().map(|peer| peer.client_ip(request.headers()));
    match client.map_or(Ok(()), |address| app.rate_limits.check_address(address)) {
        Ok(()) => next.run(request).await,
        Err(retry_after) => HttpError::TooMany(retry_after).into_response(),
    }
}
