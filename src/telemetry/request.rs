//! One id, one log line and the metrics of each request.
//!
//! tower-http's request-id layer accepts an id of any length from the client, so the id is handled here.

use std::{fmt, net::IpAddr, sync::Arc, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header::AsHeaderName},
    middleware::Next,
    response::Response,
};
use chrono::Utc;
use opentelemetry::KeyValue;
use tracing::{Instrument, info_span};
use uuid::Uuid;

use super::{
    Scope, SlowRequest, SlowRequests, Trace, metrics,
    spans::{self, Span, SpanKind},
    trace::amzn_root,
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Headers that may carry API Gateway's own request id. The gateway sends none by itself; a parameter mapping of the
/// integration sets one of these to `context.requestId` or `context.extendedRequestId`.
const GATEWAY_IDS: [&str; 2] = ["x-amzn-requestid", "x-amz-apigw-id"];
/// Longer ids from clients are ignored.
const MAX_ID_BYTES: usize = 128;

fn id_header(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&str> {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.filter(|id| !id.is_empty() && id.len() <= MAX_ID_BYTES)
}

/// The id of a request: the client's or gateway's `x-request-id`, or a new `UUIDv7`.
#[derive(Debug, Clone, Default)]
pub struct RequestId(Arc<str>);

impl RequestId {
    fn from_request(request: &Request) -> Self {
        match id_header(request.headers(), REQUEST_ID) {
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

/// The outcome of a request in metrics and logs: an extension of the response if there is one, else derived from the
/// status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestOutcome {
    Ok,
    ClientError,
    ServerError,
    /// Rejected by load shedding.
    Shed,
    /// Rejected by a rate limit.
    Limited,
    /// The client disconnected before the response.
    Cancelled,
}

impl RequestOutcome {
    fn from_response(response: &Response) -> Self {
        let given = response.extensions().get().copied();
        given.unwrap_or_else(|| match response.status() {
            StatusCode::TOO_MANY_REQUESTS => Self::Limited,
            status if status.is_server_error() => Self::ServerError,
            status if status.is_client_error() => Self::ClientError,
            _ => Self::Ok,
        })
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ClientError => "client_error",
            Self::ServerError => "server_error",
            Self::Shed => "shed",
            Self::Limited => "limited",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What [`observe`] needs besides the request.
#[derive(Clone)]
pub struct RequestObserver {
    pub slow_requests: Arc<SlowRequests>,
    /// The client's address, as far as trusted headers reveal it.
    pub client_ip: fn(&Request) -> Option<IpAddr>,
}

/// A request in flight. It is reported once: when the response is ready, or when the request is dropped before.
struct InFlight {
    id: RequestId,
    scope: Scope,
    slow_requests: Arc<SlowRequests>,
    method: Method,
    route: String,
    client_ip: Option<String>,
    gateway_id: Option<String>,
    amzn_root: Option<String>,
    started: Instant,
    reported: bool,
}

impl InFlight {
    fn new(request: &Request, observer: RequestObserver) -> Self {
        metrics::HTTP_IN_FLIGHT.increment(1.0);
        let headers = request.headers();
        let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str);
        Self {
            id: RequestId::from_request(request),
            scope: Scope::new(Trace::from_headers(headers)),
            slow_requests: observer.slow_requests,
            method: method_label(request.method()),
            route: route.to_owned(),
            client_ip: (observer.client_ip)(request).map(|ip| ip.to_string()),
            gateway_id: GATEWAY_IDS.iter().find_map(|name| id_header(headers, *name)).map(str::to_owned),
            amzn_root: amzn_root(headers),
            started: Instant::now(),
            reported: false,
        }
    }

    /// Records metrics, the log line and the span, unless that was done before.
    fn report(&mut self, outcome: RequestOutcome, status: Option<u16>) {
        if std::mem::replace(&mut self.reported, true) {
            return;
        }
        metrics::HTTP_IN_FLIGHT.decrement(1.0);
        let (duration, outcome_label) = (self.started.elapsed(), outcome.as_str());
        self.record_metrics(duration.as_secs_f64(), outcome_label, status);
        self.log(duration.as_secs_f64(), outcome, status);
        spans::record(&self.scope.trace(), || Span {
            name: format!("{} {}", self.method, self.route),
            kind: SpanKind::Server,
            duration,
            failed: outcome == RequestOutcome::ServerError,
            attributes: self.attributes(outcome_label, status),
        });
        // These routes wait for events or for the client's bytes, so their duration says nothing.
        let waits = self.route.ends_with("/events") || self.route.starts_with("/v1/uploads/");
        if !waits || outcome == RequestOutcome::ServerError {
            let failed = outcome != RequestOutcome::Shed && status.is_some_and(|status| status >= 500);
            let request = || self.slow_request(duration.as_secs_f64(), outcome_label, status);
            self.slow_requests.record(duration, request, failed);
        }
    }

    fn record_metrics(&self, duration_seconds: f64, outcome: &'static str, status: Option<u16>) {
        let labels =
            [("route", self.route.clone()), ("method", self.method.to_string()), ("outcome", outcome.to_owned())];
        metrics::HTTP_REQUEST_DURATION.with(&labels).record(duration_seconds);
        let [route, method, outcome] = labels;
        let status = ("status", status.map_or_else(|| "none".to_owned(), |status| status.to_string()));
        metrics::HTTP_REQUESTS.with(&[route, method, status, outcome]).increment(1);
    }

    fn log(&self, duration_seconds: f64, outcome: RequestOutcome, status: Option<u16>) {
        let (method, route, request_id) = (&self.method, &self.route, &self.id);
        let (trace_id, principal) = (self.scope.trace().id(), self.scope.principal());
        let (client_ip, gateway_request_id) = (self.client_ip.as_deref(), self.gateway_id.as_deref());
        let (amzn_trace_id, outcome_label) = (self.amzn_root.as_deref(), outcome.as_str());
        macro_rules! log {
            ($level:ident) => {
                tracing::$level!(parent: None, %method, route, status, outcome = outcome_label, duration_seconds,
                    principal, %request_id, trace_id, amzn_trace_id, gateway_request_id, client_ip, "request completed")
            };
        }
        // Load shedding must stay cheap.
        if route.starts_with("/health") || outcome == RequestOutcome::Shed {
            log!(debug);
        } else {
            log!(info);
        }
    }

    fn slow_request(&self, duration_seconds: f64, outcome: &'static str, status: Option<u16>) -> SlowRequest {
        SlowRequest {
            at: Utc::now(),
            method: self.method.to_string(),
            route: self.route.clone(),
            status,
            outcome,
            duration_seconds,
            database_wait_seconds: self.scope.database_wait().as_secs_f64(),
            principal: self.scope.principal(),
            request_id: self.id.to_string(),
            trace_id: self.scope.trace().id(),
            error: self.scope.failure(),
        }
    }

    /// Named as in <https://opentelemetry.io/docs/specs/semconv/http/http-spans/> and in the log line.
    fn attributes(&self, outcome: &'static str, status: Option<u16>) -> Vec<KeyValue> {
        let mut attributes = vec![
            KeyValue::new("http.request.method", self.method.to_string()),
            KeyValue::new("http.route", self.route.clone()),
            KeyValue::new("darkroom.outcome", outcome),
            KeyValue::new("darkroom.principal", self.scope.principal()),
            KeyValue::new("darkroom.request_id", self.id.to_string()),
            KeyValue::new("darkroom.database_wait_seconds", self.scope.database_wait().as_secs_f64()),
        ];
        attributes.extend(status.map(|status| KeyValue::new("http.response.status_code", i64::from(status))));
        attributes
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.report(RequestOutcome::Cancelled, None);
    }
}

/// Clients may send any method; unknown ones become `OTHER`, so that they don't make labels.
fn method_label(method: &Method) -> Method {
    let known = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
    if known.contains(method) { method.clone() } else { Method::from_bytes(b"OTHER").expect("a valid method") }
}

/// The outermost middleware of a route. Routes are logged as templates and without a query, which may hold a signature.
pub async fn observe(State(observer): State<RequestObserver>, mut request: Request, next: Next) -> Response {
    let mut in_flight = InFlight::new(&request, observer);
    let (id, scope) = (in_flight.id.clone(), in_flight.scope.clone());
    request.extensions_mut().insert(id.clone());
    let (trace_id, client_ip) = (scope.trace().id(), in_flight.client_ip.as_deref());
    let span = info_span!("request", request_id = %id, trace_id, client_ip);
    let mut response = scope.enter(next.run(request)).instrument(span).await;
    in_flight.report(RequestOutcome::from_response(&response), Some(response.status().as_u16()));
    if let Ok(id) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}
