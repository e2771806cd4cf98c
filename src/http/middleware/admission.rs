//! Applies admission control: requests that are not admitted are answered with 503.

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::{
    app::AppState,
    http::{error::HttpError, extract},
    telemetry::RequestOutcome,
};

/// Admits a request once its whole body has been received, so that a slow client does not occupy the concurrency limit.
pub async fn admit(State(app): State<AppState>, request: Request, next: Next) -> Response {
    let request = match extract::buffer_body(request, app.config.http.max_body_bytes).await {
        Ok(request) => request,
        Err(error) => return error.into_response(),
    };
    let target_queue_delay = app.limits.borrow().target_queue_delay;
    match app.admission.admit(target_queue_delay).await {
        Some(_running) => next.run(request).await,
        None => refuse(),
    }
}

/// Admits requests for events; a long poll (`wait` above 0) costs nothing while it waits and is always admitted.
pub async fn admit_unless_long_poll(State(app): State<AppState>, request: Request, next: Next) -> Response {
    let query = request.uri().query().unwrap_or_default();
    let is_long_poll = url::form_urlencoded::parse(query.as_bytes()).any(|(key, value)| key == "wait" && value != "0");
    if is_long_poll { next.run(request).await } else { admit(State(app), request, next).await }
}

/// Admits uploads, which have a limit of their own: they take long, mostly waiting for their clients' bytes.
pub async fn admit_upload(State(app): State<AppState>, request: Request, next: Next) -> Response {
    match app.admission.try_admit_upload() {
        Some(_permit) => next.run(request).await,
        None => refuse(),
    }
}

fn refuse() -> Response {
    let mut response = HttpError::Overloaded.into_response();
    response.extensions_mut().insert(RequestOutcome::Shed);
    response
}
