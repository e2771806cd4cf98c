//! `/health/live` and `/health/ready`: cheap, and without any shared dependency, because a check that fails
//! everywhere at once takes out the whole fleet.

use axum::{extract::State, http::StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use super::{problem::Problem, reply::Reply};
use crate::app::AppState;

/// A state in a word.
#[derive(Debug, Serialize, ToSchema)]
pub struct Status {
    /// `ok`, or `draining`.
    status: &'static str,
}

/// The process runs.
#[utoipa::path(get, path = "/health/live", tag = "health", responses((status = 200, body = Status), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn live() -> Reply<Status> {
    Reply(Status { status: "ok" })
}

/// The process takes requests. While it drains it still does, and says so.
#[utoipa::path(get, path = "/health/ready", tag = "health", responses((status = 200, body = Status), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn ready(State(app): State<AppState>) -> (StatusCode, Reply<Status>) {
    let status = if app.draining.is_cancelled() { "draining" } else { "ok" };
    (StatusCode::OK, Reply(Status { status }))
}
