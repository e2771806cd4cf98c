//! `/health/live` and `/health/ready`: cheap, and without any shared dependency, because a check that fails
//! everywhere at once takes out the whole fleet.

use axum::{extract::State, http::StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::{App, AppState};
use crate::{
    health,
    http::{error::Problem, response::Reply},
};

/// A state in a word.
#[derive(Debug, Serialize, ToSchema)]
pub struct Status {
    /// `ok`, `draining` or `database failing`.
    status: &'static str,
}

/// The process runs.
#[utoipa::path(get, path = "/health/live", tag = "health", responses((status = 200, body = Status), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn live() -> Reply<Status> {
    Reply(Status { status: "ok" })
}

/// The process takes requests. While it drains it still does, and says so: with 200 as long as its listener is open,
/// unless `http.unready_at_once`, and with 503 then. With `http.ready_needs_database` it is 503 too while the database
/// does not answer.
#[utoipa::path(get, path = "/health/ready", tag = "health", responses((status = 200, body = Status), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn ready(State(app): State<AppState>) -> (StatusCode, Reply<Status>) {
    let (code, status) = Status::of_readiness(&app).await;
    (code, Reply(status))
}

impl Status {
    pub(crate) async fn of_readiness(app: &App) -> (StatusCode, Self) {
        let (draining, http) = (app.draining.is_cancelled(), &app.config.http);
        if draining {
            let closed = app.closing.is_cancelled() || http.unready_at_once;
            let code = if closed { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
            return (code, Self { status: "draining" });
        }
        if http.ready_needs_database && !health::database_answers(app).await {
            return (StatusCode::SERVICE_UNAVAILABLE, Self { status: "database failing" });
        }
        (StatusCode::OK, Self { status: "ok" })
    }
}
