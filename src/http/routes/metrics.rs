//! `/metrics` of the operations listener.

use axum::{
    extract::State,
    http::{HeaderValue, header},
    response::IntoResponse,
};

use crate::{app::AppState, telemetry::recorder};

/// The content type that Prometheus expects.
const TEXT_FORMAT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

pub async fn render(State(app): State<AppState>) -> impl IntoResponse {
    app.record_gauges();
    ([(header::CONTENT_TYPE, TEXT_FORMAT)], recorder::handle().render())
}
