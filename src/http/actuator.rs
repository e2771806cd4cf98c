//! The paths of Spring Boot Actuator on the operations listener, for health checks and dashboards of the Java service,
//! when `compat.actuator` is set: <https://docs.spring.io/spring-boot/api/rest/actuator/health.html>.

use std::collections::BTreeMap;

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    response::Reply,
    routes::{health::Status, metrics},
};
use crate::{app::AppState, health::DependencyHealth};

#[derive(Serialize)]
struct Health {
    status: &'static str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    components: BTreeMap<&'static str, Component>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    groups: &'static [&'static str],
}

#[derive(Serialize)]
struct Component {
    status: &'static str,
    details: DependencyHealth,
}

pub fn router() -> Router<AppState> {
    Router::new()
        .route("/actuator", get(links))
        .route("/actuator/health", get(health))
        .route("/actuator/health/liveness", get(up))
        .route("/actuator/health/readiness", get(ready))
        .route("/actuator/info", get(info))
        .route("/actuator/prometheus", get(metrics::render))
}

fn status(is_up: bool) -> &'static str {
    if is_up { "UP" } else { "DOWN" }
}

async fn links() -> impl IntoResponse {
    let names = ["health", "info", "prometheus"];
    let links = names.map(|name| (name, json!({ "href": format!("/actuator/{name}"), "templated": false })));
    Reply(json!({ "_links": BTreeMap::from(links) }))
}

/// As `/health`.
async fn health(State(app): State<AppState>) -> Response {
    let dependencies = app.dependency_health().await;
    let is_up = dependencies.values().all(DependencyHealth::is_ok);
    let component =
        |(name, details): (_, DependencyHealth)| (name, Component { status: status(details.is_ok()), details });
    let components = dependencies.into_iter().map(component).collect();
    let code = if is_up { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Reply(Health { status: status(is_up), components, groups: &["liveness", "readiness"] })).into_response()
}

/// As `/health/live`.
async fn up() -> impl IntoResponse {
    Reply(Health { status: status(true), components: BTreeMap::new(), groups: &[] })
}

/// As `/health/ready`.
async fn ready(State(app): State<AppState>) -> impl IntoResponse {
    let (code, _) = Status::of_readiness(&app).await;
    let status = if code.is_success() { "UP" } else { "OUT_OF_SERVICE" };
    (code, Reply(Health { status, components: BTreeMap::new(), groups: &[] }))
}

async fn info() -> Reply<Value> {
    Reply(json!({
        "build": { "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION") },
        "git": { "commit": { "id": env!("DARKROOM_COMMIT"), "time": env!("DARKROOM_COMMITTED_AT") } },
    }))
}
