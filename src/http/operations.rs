//! The operations listener: health, metrics and settings for operators.

use std::{collections::BTreeMap, sync::PoisonError};

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    middleware::{from_fn, from_fn_with_state},
    response::IntoResponse,
    routing::get,
};
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{
    actuator,
    error::{HttpError, Result},
    middleware::{observe, problem},
    response::Reply,
    routes::{health, metrics},
};
use crate::{
    app::AppState,
    health::DependencyHealth,
    telemetry::{self, SlowRequest},
};

pub fn router(app: AppState) -> Router {
    let actuator = if app.config.compat.actuator { actuator::router() } else { Router::new() };
    Router::new()
        .merge(actuator)
        .route("/health", get(details))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/metrics", get(metrics::render))
        .route("/slow", get(slow))
        .route("/log-level", get(log_level).put(set_log_level))
        .route("/info", get(info))
        .fallback(|| async { HttpError::NotFound })
        .method_not_allowed_fallback(|| async { HttpError::MethodNotAllowed })
        .layer(from_fn(problem::write_body))
        .layer(from_fn_with_state(observe::observer(&app), telemetry::observe))
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

#[derive(Serialize)]
struct SlowBody {
    items: Vec<SlowRequest>,
}

/// The latest slow or failed requests, newest first.
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

/// The body is a filter, for example `darkroom=debug,info`.
async fn set_log_level(State(app): State<AppState>, filter: String) -> Result<Reply<LogLevelBody>> {
    let handle = app.log_level.as_ref().ok_or(HttpError::NotFound)?;
    handle.set(filter.trim()).map_err(|error| HttpError::field("level", error))?;
    tracing::info!(level = handle.get(), "log level changed");
    Ok(Reply(LogLevelBody { level: handle.get() }))
}

#[derive(Serialize)]
struct Info<'a> {
    version: &'static str,
    /// From `git describe`.
    commit: &'static str,
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
