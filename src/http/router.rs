//! The table of routes of the main listener, and the layers around them.

use std::time::Duration;

use axum::{
    Router,
    middleware::{from_fn, from_fn_with_state},
    response::Redirect,
    routing::get,
};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    error::HttpError,
    middleware::{admission, cors, deadline, observe, panic, problem, rate_limits},
    openapi,
    routes::{albums, edits, events, health, invites, join, objects, photos},
};
use crate::{app::AppState, telemetry};

/// The longest upload, however steadily its bytes arrive.
const UPLOAD_TIMEOUT: Duration = Duration::from_mins(30);
/// API Gateway gives up after 29 s.
const LONG_POLL_TIMEOUT: Duration = Duration::from_secs(28);

fn resources() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(albums::create, albums::list))
        .routes(routes!(albums::get, albums::update, albums::delete))
        .routes(routes!(invites::create, invites::list))
        .routes(routes!(invites::revoke))
        .routes(routes!(photos::add, photos::list))
        .routes(routes!(photos::get, photos::update, photos::delete))
        .routes(routes!(photos::original))
        .routes(routes!(edits::create, edits::list))
        .routes(routes!(edits::get, edits::review))
        .routes(routes!(objects::rendition))
        .routes(routes!(objects::edit_rendition))
        .routes(routes!(objects::original))
}

fn long_polls() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(events::list))
}

fn uploads() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(objects::upload))
}

/// The checks of load balancers, which no limit applies to.
fn health_checks() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(health::live)).routes(routes!(health::ready))
}

/// The OpenAPI 3.1 document of all routes.
#[must_use]
pub fn openapi_document() -> utoipa::openapi::OpenApi {
    let routes = resources().merge(long_polls()).merge(uploads()).merge(health_checks());
    openapi::complete(routes.into_openapi())
}

/// Everything that the main listener serves.
#[expect(clippy::needless_pass_by_value, reason = "the router keeps its state")]
pub fn router(app: AppState) -> Router {
    let state = || app.clone();
    let (routes, _) = resources()
        .layer(from_fn_with_state(state(), admission::admit))
        .layer(from_fn_with_state(app.config.http.request_timeout, deadline::enforce))
        .merge(
            long_polls()
                .layer(from_fn_with_state(state(), admission::admit_unless_long_poll))
                .layer(from_fn_with_state(LONG_POLL_TIMEOUT, deadline::enforce)),
        )
        .merge(
            uploads()
                .layer(from_fn_with_state(state(), admission::admit_upload))
                .layer(from_fn_with_state(UPLOAD_TIMEOUT, deadline::enforce)),
        )
        .merge(health_checks())
        .split_for_parts();
    routes
        .merge(openapi::docs(openapi_document()))
        .route("/join", get(join::page))
        .route("/", get(|| async { Redirect::temporary("/docs/") }))
        .fallback(|| async { HttpError::NotFound })
        .method_not_allowed_fallback(|| async { HttpError::MethodNotAllowed })
        .layer(from_fn_with_state(state(), rate_limits::limit_by_address))
        .layer(CatchPanicLayer::custom(panic::internal_error))
        .layer(from_fn(problem::write_body))
        .layer(cors::layer(&app.config.http))
        .layer(from_fn_with_state(observe::observer(&app), telemetry::observe))
        .with_state(state())
}
