//! The bodies of error responses.

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderValue, header},
    middleware::Next,
    response::Response,
};

use crate::{http::error::Problem, telemetry::RequestId};

/// Writes the body of each [`Problem`], and turns error statuses of libraries, such as 416, into problems.
pub async fn write_body(request: Request, next: Next) -> Response {
    let id = request.extensions().get::<RequestId>().cloned().unwrap_or_default();
    let mut response = next.run(request).await;
    // A JSON body is our own: `/health` answers 503 with details.
    let is_json = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    let problem = match response.extensions_mut().remove::<Problem>() {
        None if !is_json => Problem::of_status(response.status()),
        problem => problem,
    };
    let Some(mut problem) = problem else { return response };
    problem.request_id = id.to_string();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.remove(header::CONTENT_LENGTH);
    *response.body_mut() = Body::from(serde_json::to_vec(&problem).expect("a problem is JSON"));
    response
}
