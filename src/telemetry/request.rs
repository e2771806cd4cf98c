//! One id, one log line and the RED metrics for each request.

use std::{fmt, sync::Arc, time::Instant};

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderName, HeaderValue},
    middleware::Next,
    response::Response,
};
use tracing::{Instrument, info, info_span};
use uuid::Uuid;

use super::metrics;
use crate::net::Peer;

const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// The longest id that is taken over from a client.
const MAX_ID_BYTES: usize = 128;

/// A request's id: the client's or gateway's, else a new one.
#[derive(Debug, Clone, Default)]
pub struct RequestId(Arc<str>);

impl RequestId {
    fn of(request: &Request) -> Self {
        let given = request.headers().get(HEADER).and_then(|value| value.to_str().ok());
        match given.filter(|id| !id.is_empty() && id.len() <= MAX_ID_BYTES) {
            Some(id) => Self(id.into()),
            None => Self(Uuid::now_v7().to_string().into()),
        }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Counts a request that is under way, however it ends.
struct InFlight;

impl InFlight {
    fn begin() -> Self {
        metrics::HTTP_IN_FLIGHT.increment(1.0);
        Self
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        metrics::HTTP_IN_FLIGHT.decrement(1.0);
    }
}

/// The outermost layer of a route. Paths are logged as route templates: a real path may hold an id, never a secret,
/// but a query may hold a signature.
pub async fn observe(mut request: Request, next: Next) -> Response {
    let id = RequestId::of(&request);
    request.extensions_mut().insert(id.clone());
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "unmatched".to_owned(), |path| path.as_str().to_owned());
    let method = request.method().clone();
    let client = request.extensions().get::<Peer>().map(|peer| peer.client(request.headers()).to_string());
    let span = info_span!("request", request_id = %id, client);
    let (started, under_way) = (Instant::now(), InFlight::begin());
    async move {
        let mut response = next.run(request).await;
        let _under_way = under_way;
        let seconds = started.elapsed().as_secs_f64();
        let status = response.status().as_u16();
        metrics::http_request(&route, method.as_str(), status, seconds);
        if route.starts_with("/health") {
            tracing::debug!(%method, route, status, seconds, "answered");
        } else {
            info!(%method, route, status, seconds, "answered");
        }
        if let Ok(id) = HeaderValue::from_str(&id.0) {
            response.headers_mut().insert(HEADER, id);
        }
        response
    }
    .instrument(span)
    .await
}
