//! `/health/live` and `/health/ready`, for load balancers. They check no shared dependency unless configured to: a
//! check that fails on every instance at once takes the whole service down.

use axum::{extract::State, http::StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    app::{App, AppState},
    health,
    http::{error::Problem, response::Reply},
};

#[derive(Debug, Serialize, ToSchema)]
pub struct Status {
    /// `ok`, `draining` or `database failing`
    status: &'static str,
}

/// Whether the process is running
#[utoipa::path(
    get, path = "/health/live", tag = "health",
    responses(
        (status = 200, body = Status),
        Problem,
    ),
)]
pub async fn live() -> Reply<Status> {
    Reply(Status { status: "ok" })
}

/// Whether the process accepts requests
///
/// While it drains it still does, and answers 200 with `draining` until its listener closes, unless
/// `http.fail_readiness_on_shutdown` is set; then 503. With `http.readiness_checks_database` also 503 while the
/// database does not answer.
#[utoipa::path(
    get, path = "/health/ready", tag = "health",
    responses(
        (status = 200, body = Status),
        Problem,
    ),
)]
pub async fn ready(State(app): State<AppState>) -> (StatusCode, Reply<Status>) {
    let (code, status) = Status::of_readiness(&app).await;
    (code, Reply(status))
}

impl Status {
    pub(crate) async fn of_readiness(app: &App) -> (StatusCode, Self) {
        let http = &app.config.http;
        let (code, status) = if app.draining.is_cancelled() {
            let is_ready = !app.closing.is_cancelled() && !http.fail_readiness_on_shutdown;
            (if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, "draining")
        } else if http.readiness_checks_database && !health::database_answers(&app.db).await {
            (StatusCode::SERVICE_UNAVAILABLE, "database failing")
        } else {
            (StatusCode::OK, "ok")
        };
        (code, Self { status })
    }
}
