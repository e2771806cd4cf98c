//! The operations listener: details for operators, on an address of its own.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    middleware::from_fn,
    response::IntoResponse,
    routing::get,
};
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{
    actuator, health,
    problem::{self, HttpError, Result},
    reply::Reply,
};
use crate::{
    app::{App, AppState},
    db::{self, login::LeaseState},
    telemetry::{self, metrics},
};

/// The longest look at one dependency.
const LOOK: Duration = Duration::from_secs(2);
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
        .route("/log-level", get(log_level).put(set_log_level))
        .route("/info", get(info))
        .fallback(|| async { HttpError::NotFound })
        .method_not_allowed_fallback(|| async { HttpError::MethodNotAllowed })
        .layer(from_fn(problem::finish))
        .layer(from_fn(telemetry::observe))
        .with_state(app)
}

#[derive(Serialize)]
struct Details {
    status: &'static str,
    uptime_seconds: u64,
    dependencies: BTreeMap<&'static str, Dependency>,
}

/// What is known of one dependency.
#[derive(Serialize)]
pub(super) struct Dependency {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ms: Option<f64>,
    /// How long ago what is known was learnt.
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

impl Dependency {
    pub(super) fn is_well(&self) -> bool {
        self.status == "ok"
    }

    fn looked(started: Instant, outcome: std::result::Result<String, String>) -> Self {
        let latency_ms = Some((started.elapsed().as_secs_f64() * 1e6).round() / 1e3);
        let (status, detail) = match outcome {
            Ok(detail) => ("ok", detail),
            Err(error) => ("failing", error),
        };
        Self { status, latency_ms, age_seconds: Some(0), detail: Some(detail) }
    }

    /// What was learnt a while ago.
    fn known(age: Duration, outcome: std::result::Result<String, String>) -> Self {
        let (status, detail) = match outcome {
            Ok(detail) => ("ok", detail),
            Err(error) => ("failing", error),
        };
        Self { status, latency_ms: None, age_seconds: Some(age.as_secs()), detail: Some(detail) }
    }

    /// A token or secret that new database connections sign in with.
    fn leased(lease: &LeaseState) -> Self {
        let left = lease.left.unwrap_or_default().as_secs();
        let origin = lease.origin.as_deref().unwrap_or("none yet");
        let outcome = match &lease.failing {
            Some(why) => Err(format!("{}: can't be renewed, good for {left} s: {why}", lease.kind)),
            None => Ok(format!("{}: good for {left} s, {origin}", lease.kind)),
        };
        Self::known(lease.age.unwrap_or_default(), outcome)
    }
}

/// Looks at each dependency now.
pub(super) async fn look(app: &App) -> BTreeMap<&'static str, Dependency> {
    let (database, storage) = tokio::join!(look_at_database(app), look_at_storage(app));
    let mut dependencies =
        BTreeMap::from([("database", database), ("storage", storage), ("identity", look_at_keys(app))]);
    dependencies.extend(look_at_pools(app).await);
    dependencies
}

async fn details(State(app): State<AppState>) -> impl IntoResponse {
    let dependencies = look(&app).await;
    let ok = dependencies.values().all(Dependency::is_well);
    let status = if ok { "ok" } else { "degraded" };
    (
        if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE },
        Reply(Details { status, uptime_seconds: app.started.elapsed().as_secs(), dependencies }),
    )
}

async fn look_at_database(app: &App) -> Dependency {
    let started = Instant::now();
    let look = async {
        let mut session = app.db.session().await?;
        db::jobs::depth(&mut session).await
    };
    let outcome = match tokio::time::timeout(LOOK, look).await {
        Ok(Ok((live, dead, _))) => Ok(format!("{live} jobs, {dead} dead")),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {LOOK:?}")),
    };
    Dependency::looked(started, outcome)
}

/// The reader, if there is one; and of each pool what it signs in with and the server's certificate.
async fn look_at_pools(app: &App) -> Vec<(&'static str, Dependency)> {
    let mut rows = Vec::new();
    let started = Instant::now();
    let looked = tokio::time::timeout(LOOK, app.db.look_at_reader()).await;
    let outcome = match looked {
        Ok(None) => None,
        Ok(Some(answer)) => Some(answer.map(|()| "answers".to_owned()).map_err(|error| error.to_string())),
        Err(_) => Some(Err(format!("no answer within {LOOK:?}"))),
    };
    rows.extend(outcome.map(|outcome| ("reader", Dependency::looked(started, outcome))));
    for report in app.db.report() {
        let names = if report.name == "reader" {
            ("reader_login", "reader_certificate")
        } else {
            ("database_login", "database_certificate")
        };
        rows.extend(report.lease.map(|lease| (names.0, Dependency::leased(&lease))));
        rows.extend(report.certificate.map(|state| (names.1, Dependency::known(state.age, state.outcome))));
    }
    rows
}

async fn look_at_storage(app: &App) -> Dependency {
    let (started, files) = (Instant::now(), app.storage.files().clone());
    let outcome = match tokio::task::spawn_blocking(move || files.probe()).await {
        Ok(Ok(())) => Ok("writable".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the look failed".to_owned()),
    };
    Dependency::looked(started, outcome)
}

fn look_at_keys(app: &App) -> Dependency {
    let state = app.verifier.state();
    let status = if state.last_error.is_some() { "failing" } else { "ok" };
    let detail = Some(state.last_error.unwrap_or_else(|| format!("{} keys", state.keys)));
    Dependency { status, latency_ms: None, age_seconds: state.age.map(|age| age.as_secs()), detail }
}

pub(super) async fn metrics_text(State(app): State<AppState>) -> impl IntoResponse {
    app.db.measure();
    ([(header::CONTENT_TYPE, HeaderValue::from_static(TEXT))], metrics::install().render())
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
        config: &app.config.effective,
    })
    .into_response()
}
