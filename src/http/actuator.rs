//! The paths of Spring Boot's Actuator, for checkers and dashboards that knew the Java service: the same answers under
//! Spring's words, on the operations listener, when `compat.actuator` is set.
//!
//! See <https://docs.spring.io/spring-boot/api/rest/actuator/health.html>.

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

use super::operations;
use crate::app::AppState;
use crate::{
    health::DependencyHealth,
    http::{response::Reply, routes::health::Status},
};

/// A health, as Spring tells it.
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

/// The routes.
pub fn router() -> Router<AppState> {
    Router::new()
        .route("/actuator", get(links))
        .route("/actuator/health", get(health))
        .route("/actuator/health/liveness", get(up))
        .route("/actuator/health/readiness", get(ready))
        .route("/actuator/info", get(info))
        .route("/actuator/prometheus", get(operations::metrics_text))
}

fn word(well: bool) -> &'static str {
    if well { "UP" } else { "DOWN" }
}

async fn links() -> impl IntoResponse {
    let names = ["health", "info", "prometheus"];
    let links = names.map(|name| (name, json!({ "href": format!("/actuator/{name}"), "templated": false })));
    Reply(json!({ "_links": BTreeMap::from(links) }))
}

/// Each dependency, looked at now, as `/health` does.
async fn health(State(app): State<AppState>) -> Response {
    let dependencies = app.dependency_health().await;
    let well = dependencies.values().all(DependencyHealth::is_ok);
    let component =
        |(name, details): (_, DependencyHealth)| (name, Component { status: word(details.is_ok()), details });
    let components = dependencies.into_iter().map(component).collect();
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Reply(Health { status: word(well), components, groups: &["liveness", "readiness"] })).into_response()
}

/// As `/health/live`.
async fn up() -> impl IntoResponse {
    Reply(Health { status: word(true), components: BTreeMap::new(), groups: &[] })
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
