//! The HTTP contract: the route table below, one file per resource, and what all of them share.

mod actuator;
pub mod auth;
pub mod error;
mod etag;
pub mod extract;
pub mod gateway;
pub mod idempotency;
mod middleware;
pub mod operations;
pub mod pagination;
mod response;
pub mod routes;

use std::{any::Any, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, Method, header},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{Html, IntoResponse, Redirect, Response},
    routing::get,
};
use tower_http::{catch_panic::CatchPanicLayer, cors::CorsLayer, set_header::SetResponseHeaderLayer};
use utoipa::{
    Modify, OpenApi,
    openapi::security::{Http, HttpAuthScheme, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::{
    app::{App, AppState},
    config,
    resilience::deadline,
    server::Peer,
    telemetry::{self, RequestObserver},
};
use error::HttpError;
use middleware::{admission, rate_limits};
use routes::{albums, edits, events, health, invites, objects, photos};

/// How long a browser may keep the answer of a CORS preflight.
const PREFLIGHT_AGE: Duration = Duration::from_hours(1);
/// The longest upload, however steadily it comes.
const UPLOAD: Duration = Duration::from_mins(30);
/// API Gateway gives up on a request after 29 s.
const GATEWAY: Duration = Duration::from_secs(28);

#[derive(OpenApi)]
#[openapi(
    info(title = "Darkroom", description = "Photo sharing for events: a host opens an album, guests add photos by an invite link."),
    modifiers(&Schemes)
)]
struct Description;

struct Schemes;

impl Modify for Schemes {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let bearer = || Http::new(HttpAuthScheme::Bearer);
        let mut jwt = bearer();
        jwt.bearer_format = Some("JWT".into());
        let mut invite = bearer();
        invite.description = Some("An invite token, `dki_...`".into());
        let components = api.components.get_or_insert_default();
        components.add_security_scheme("jwt", SecurityScheme::Http(jwt));
        components.add_security_scheme("invite", SecurityScheme::Http(invite));
    }
}

/// The routes of the contract, with their description.
fn contract() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(Description::openapi())
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

/// The route that waits for events. A wait costs nothing, so nobody who waits is turned away.
fn waiting() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(events::list))
}

/// The route that waits for its clients' bytes.
fn uploading() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(objects::upload))
}

/// The routes of balancers, which are never turned away.
fn checked() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(health::live)).routes(routes!(health::ready))
}

/// The OpenAPI 3.1 document.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    let mut api = contract().merge(waiting()).merge(uploading()).merge(checked()).into_openapi();
    name_operations(&mut api);
    env!("CARGO_PKG_VERSION").clone_into(&mut api.info.version);
    api
}

/// A handler's name is its own in its file only. Programs that write clients want names that are in all of the document.
fn name_operations(api: &mut utoipa::openapi::OpenApi) {
    for item in api.paths.paths.values_mut() {
        let methods = [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete];
        for operation in methods.into_iter().flatten() {
            if let (Some([tag, ..]), Some(name)) = (operation.tags.as_deref(), &mut operation.operation_id) {
                *name = format!("{tag}_{name}");
            }
        }
    }
}

/// The document, and the page that shows it, which change with the release only. Swagger UI would ask validator.swagger.io
/// about the document.
fn docs() -> Router<AppState> {
    let page = SwaggerUi::new("/docs").url("/openapi.json", openapi()).config(Config::default().validator_url("none"));
    let lasting =
        |answer: &Response| answer.status().is_success().then_some(HeaderValue::from_static("public, max-age=300"));
    Router::from(page).layer(SetResponseHeaderLayer::overriding(header::CACHE_CONTROL, lasting))
}

/// Everything that the main listener answers.
#[expect(clippy::needless_pass_by_value, reason = "the router keeps its state")]
pub fn router(app: AppState) -> Router {
    let shared = || app.clone();
    let (routes, _) = contract()
        .layer(from_fn_with_state(shared(), admission::admit))
        .layer(from_fn_with_state(app.config.http.request_timeout, within_time))
        .merge(
            waiting()
                .layer(from_fn_with_state(shared(), admission::admit_unless_long_poll))
                .layer(from_fn_with_state(GATEWAY, within_time)),
        )
        .merge(
            uploading()
                .layer(from_fn_with_state(shared(), admission::admit_upload))
                .layer(from_fn_with_state(UPLOAD, within_time)),
        )
        .merge(checked())
        .split_for_parts();
    let answer = |error: fn() -> HttpError| move || async move { error() };
    routes
        .merge(docs())
        .route("/join", get(join))
        .route("/", get(|| async { Redirect::temporary("/docs/") }))
        .fallback(answer(|| HttpError::NotFound))
        .method_not_allowed_fallback(answer(|| HttpError::MethodNotAllowed))
        .layer(from_fn_with_state(shared(), rate_limits::limit_by_address))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn(error::finish))
        .layer(cors(&app.config.http))
        .layer(from_fn_with_state(observer(&app), telemetry::observe))
        .with_state(shared())
}

fn observer(app: &App) -> RequestObserver {
    RequestObserver {
        slow_requests: app.slow_requests.clone(),
        client_ip: |request| request.extensions().get::<Peer>().map(|peer| peer.client_ip(request.headers())),
    }
}

/// The guests' page that invite links lead to. It needs no outside host; the invite stays behind the `#`.
async fn join() -> impl IntoResponse {
    const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src * data: blob:; connect-src *; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, Html(include_str!("../web/join.html")))
}

/// A request that takes too long is given up, and with it what it has under way: transactions roll back.
async fn within_time(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    match deadline::within(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            HttpError::Unavailable("it took too long", anyhow::anyhow!("no answer within {limit:?}")).into_response()
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the signature that CatchPanicLayer asks for")]
fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text =
        panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
    HttpError::Internal(anyhow::anyhow!("a handler panicked: {}", text.unwrap_or_default())).into_response()
}

fn cors(config: &config::Http) -> CorsLayer {
    let origins: Vec<HeaderValue> = config.cors_origins.iter().filter_map(|origin| origin.parse().ok()).collect();
    let exposed = ["x-request-id", "idempotency-replayed"].map(HeaderName::from_static);
    let layer = CorsLayer::new()
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::IF_MATCH,
            header::IF_NONE_MATCH,
            HeaderName::from_static("idempotency-key"),
        ])
        .expose_headers(
            [header::ETAG, header::LOCATION, header::RETRY_AFTER].into_iter().chain(exposed).collect::<Vec<_>>(),
        )
        .max_age(PREFLIGHT_AGE);
    if config.cors_origins.iter().any(|origin| origin == "*") {
        layer.allow_origin(tower_http::cors::Any)
    } else {
        layer.allow_origin(origins)
    }
}
