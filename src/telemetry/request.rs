//! One id, one log line and the RED metrics for each request.

use std::{fmt, sync::Arc, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode},
    middleware::Next,
    response::Response,
};
use chrono::Utc;
use opentelemetry::KeyValue;
use tracing::{Instrument, info_span};
use uuid::Uuid;

use super::{
    Scope, Slow, SlowRequest, Trace, metrics,
    spans::{self, Span, SpanKind},
    trace::amzn_root,
};
use crate::server::Peer;

const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Where the gateway's own id of a request may stand. API Gateway sends none by itself: a mapping of its integration puts
/// `context.requestId` or `context.extendedRequestId` under one of these names, which it uses in its own answers.
const GATEWAY_IDS: [&str; 2] = ["x-amzn-requestid", "x-amz-apigw-id"];
/// The longest id that is taken over from a client.
const MAX_ID_BYTES: usize = 128;

/// An id that somebody else gave.
fn given(headers: &HeaderMap, name: impl axum::http::header::AsHeaderName) -> Option<&str> {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.filter(|id| !id.is_empty() && id.len() <= MAX_ID_BYTES)
}

/// A request's id: the client's or gateway's, else a new one.
#[derive(Debug, Clone, Default)]
pub struct RequestId(Arc<str>);

impl RequestId {
    fn of(request: &Request) -> Self {
        match given(request.headers(), HEADER) {
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

/// How a request ended, in metrics and logs. What turns a request away for a reason of its own puts it into the
/// extensions of its answer; all else is told by the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answered.
    Ok,
    /// The client's mistake.
    ClientError,
    /// Ours.
    ServerError,
    /// Turned away, for there is too much to do.
    Shed,
    /// Turned away, for this client asks too much.
    Limited,
    /// The client did not wait for the answer.
    Cancelled,
}

impl Outcome {
    fn of(response: &Response) -> Self {
        let told = response.extensions().get().copied();
        told.unwrap_or_else(|| match response.status() {
            StatusCode::TOO_MANY_REQUESTS => Self::Limited,
            status if status.is_server_error() => Self::ServerError,
            status if status.is_client_error() => Self::ClientError,
            _ => Self::Ok,
        })
    }

    /// The word of metrics and logs.
    #[must_use]
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

/// A request under way. It is told of exactly once: when it is answered, or when it is dropped before.
struct UnderWay {
    id: RequestId,
    scope: Scope,
    slow: Arc<Slow>,
    method: Method,
    route: String,
    client: Option<String>,
    gateway_id: Option<String>,
    amzn_root: Option<String>,
    started: Instant,
    told: bool,
}

impl UnderWay {
    fn begin(request: &Request, slow: Arc<Slow>) -> Self {
        metrics::HTTP_IN_FLIGHT.increment(1.0);
        let headers = request.headers();
        let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str);
        Self {
            id: RequestId::of(request),
            scope: Scope::new(Trace::of(headers)),
            slow,
            // Others would make a label of whatever a client writes.
            method: known(request.method()),
            route: route.to_owned(),
            client: request.extensions().get::<Peer>().map(|peer| peer.client_ip(headers).to_string()),
            gateway_id: GATEWAY_IDS.iter().find_map(|name| given(headers, *name)).map(str::to_owned),
            amzn_root: amzn_root(headers),
            started: Instant::now(),
            told: false,
        }
    }

    /// Counts and logs it.
    fn tell(&mut self, outcome: Outcome, status: Option<u16>) {
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        metrics::HTTP_IN_FLIGHT.decrement(1.0);
        let (time, word, method, route) = (self.started.elapsed(), outcome.as_str(), &self.method, &self.route);
        let duration_seconds = time.as_secs_f64();
        let labels = [("route", route.clone()), ("method", method.to_string()), ("outcome", word.to_owned())];
        metrics::HTTP_REQUEST_DURATION.with(&labels).record(duration_seconds);
        let [route_label, method_label, outcome_label] = labels;
        let status_label = ("status", status.map_or_else(|| "none".to_owned(), |status| status.to_string()));
        metrics::HTTP_REQUESTS.with(&[route_label, method_label, status_label, outcome_label]).increment(1);
        let (trace_id, principal, request_id) = (self.scope.trace().id(), self.scope.principal(), &self.id);
        let (client_ip, gateway_request_id) = (self.client.as_deref(), self.gateway_id.as_deref());
        let amzn_trace_id = self.amzn_root.as_deref();
        // One line, whose fields stand beside each other: what is searched for most.
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(parent: None, %method, route, status, outcome = word, duration_seconds, principal, %request_id,
                    trace_id, amzn_trace_id, gateway_request_id, client_ip, "request completed")
            };
        }
        // What is turned away must cost next to nothing.
        if route.starts_with("/health") || outcome == Outcome::Shed {
            line!(debug);
        } else {
            line!(info);
        }
        let request = || SlowRequest {
            at: Utc::now(),
            method: method.to_string(),
            route: route.clone(),
            status,
            outcome: word,
            duration_seconds,
            database_wait_seconds: self.scope.database_wait().as_secs_f64(),
            principal,
            request_id: request_id.to_string(),
            trace_id: trace_id.clone(),
            error: self.scope.failure(),
        };
        spans::record(&self.scope.trace(), || Span {
            name: format!("{method} {route}"),
            kind: SpanKind::Server,
            took: time,
            failed: outcome == Outcome::ServerError,
            attributes: self.attributes(word, status),
        });
        // These take long by nature: for what happens, or for their clients.
        if !waits(route) || outcome == Outcome::ServerError {
            let failed = outcome != Outcome::Shed && status.is_some_and(|status| status >= 500);
            self.slow.note(time, request, failed);
        }
    }
}

impl UnderWay {
    /// By the names of <https://opentelemetry.io/docs/specs/semconv/http/http-spans/>, and of our log lines.
    fn attributes(&self, outcome: &'static str, status: Option<u16>) -> Vec<KeyValue> {
        let mut all = vec![
            KeyValue::new("http.request.method", self.method.to_string()),
            KeyValue::new("http.route", self.route.clone()),
            KeyValue::new("darkroom.outcome", outcome),
            KeyValue::new("darkroom.principal", self.scope.principal()),
            KeyValue::new("darkroom.request_id", self.id.to_string()),
            KeyValue::new("darkroom.database_wait_seconds", self.scope.database_wait().as_secs_f64()),
        ];
        all.extend(status.map(|status| KeyValue::new("http.response.status_code", i64::from(status))));
        all
    }
}

/// One whose client goes away is dropped.
impl Drop for UnderWay {
    fn drop(&mut self) {
        self.tell(Outcome::Cancelled, None);
    }
}

/// Whether a route waits for events, or for a client's bytes.
fn waits(route: &str) -> bool {
    route.ends_with("/events") || route.starts_with("/v1/uploads/")
}

fn known(method: &Method) -> Method {
    let known = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
    if known.contains(method) { method.clone() } else { Method::from_bytes(b"OTHER").expect("a word") }
}

/// The outermost layer of a route. Paths are logged as route templates: a real path may hold an id, never a secret,
/// but a query may hold a signature.
pub async fn observe(State(slow): State<Arc<Slow>>, mut request: Request, next: Next) -> Response {
    let mut under_way = UnderWay::begin(&request, slow);
    let (id, scope) = (under_way.id.clone(), under_way.scope.clone());
    request.extensions_mut().insert(id.clone());
    let span =
        info_span!("request", request_id = %id, trace_id = scope.trace().id(), client_ip = under_way.client.as_deref());
    let mut response = scope.enter(next.run(request)).instrument(span).await;
    under_way.tell(Outcome::of(&response), Some(response.status().as_u16()));
    if let Ok(id) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(HEADER, id);
    }
    response
}
