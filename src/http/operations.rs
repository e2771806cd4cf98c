//! The operations listener: details for operators, on an address of its own.

use std::{collections::BTreeMap, sync::PoisonError};

use axum::{
    Router,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    middleware::{from_fn, from_fn_with_state},
    response::IntoResponse,
    routing::get,
};
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::actuator;
use crate::{
    app::AppState,
    telemetry::{self, SlowRequest},
};
use crate::{
    health::DependencyHealth,
    http::{
        error::{self, HttpError, Result},
        response::Reply,
        routes::health,
    },
};

/// What Prometheus expects.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The routes of the operations listener.
pub fn router(app: AppState) -> Router {
    let compat = if app.config.compat.actuator { actuator::router() } else { Router::new() };
    Router::new()
        .merge(compat)
        .route("/health", get(details))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/metrics", get(metrics_text))
        .route("/slow", get(slow))
        .route("/log-level", get(log_level).put(set_log_level))
        .route("/info", get(info))
        .fallback(|| async { HttpError::NotFound })
        .method_not_allowed_fallback(|| async { HttpError::MethodNotAllowed })
        .layer(from_fn(error::finish))
        .layer(from_fn_with_state(super::observer(&app), telemetry::observe))
        .with_state(app)
}

#[derive(Serialize)]
struct Details {
    status: &'static str,
    uptime_seconds: u64,
    dependencies: BTreeMap<&'static str, DependencyHealth>,
}

async fn details(State(app): State<AppState>) -> impl IntoResponse {
    let dependencies = app.dependency_health().await;
    let ok = dependencies.values().all(DependencyHealth::is_ok);
    let status = if ok { "ok" } else { "degraded" };
    (
        if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE },
        Reply(Details { status, uptime_seconds: app.started.elapsed().as_secs(), dependencies }),
    )
}

pub(crate) async fn metrics_text(State(app): State<AppState>) -> impl IntoResponse {
    app.measure();
    ([(header::CONTENT_TYPE, HeaderValue::from_static(TEXT))], telemetry::recorder::handle().render())
}

#[derive(Serialize)]
struct SlowBody {
    items: Vec<SlowRequest>,
}

/// The last requests that were slow or failed, newest first.
async fn slow(State(app): State<AppState>) -> Reply<SlowBody> {
    Reply(SlowBody { items: app.slow_requests.list() })
}

#[derive(Serialize)]
struct LogLevelBody {
    level: String,
}

async fn log_level(State(app): State<AppState>) -> Result<Reply<LogLevelBody>> {
    let level = app.log_level.as_ref().ok_or(HttpError::NotFound)?.get();
    Ok(Reply(LogLevelBody { level }))
}

/// The body is the filter, e.g. `darkroom=debug,info`.
async fn set_log_level(State(app): State<AppState>, filter: String) -> Result<Reply<LogLevelBody>> {
    let handle = app.log_level.as_ref().ok_or(HttpError::NotFound)?;
    handle.set(filter.trim()).map_err(|error| HttpError::field("level", error))?;
    tracing::info!(level = handle.get(), "the log level was changed");
    Ok(Reply(LogLevelBody { level: handle.get() }))
}

#[derive(Serialize)]
struct Info<'a> {
    version: &'static str,
    /// What was built, as `git describe` names it.
    commit: &'static str,
    /// When that was committed: the same for every build of it.
    committed_at: &'static str,
    started_at: DateTime<Utc>,
    uptime_seconds: u64,
    config: &'a BTreeMap<String, String>,
}

async fn info(State(app): State<AppState>) -> impl IntoResponse {
    Reply(Info {
        version: env!("CARGO_PKG_VERSION"),
        commit: env!("DARKROOM_COMMIT"),
        committed_at: env!("DARKROOM_COMMITTED_AT"),
        started_at: Utc::now() - app.started.elapsed(),
        uptime_seconds: app.started.elapsed().as_secs(),
        config: &app.effective.lock().unwrap_or_else(PoisonError::into_inner),
    })
    .into_response()
}
