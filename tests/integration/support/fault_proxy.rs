//! A proxy before the emulator of AWS that does to calls what networks and services in trouble do, and knows which they were.
//! The `Host` header stays as the client has signed it, so that signatures hold.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::body::{Body, Bytes};
use futures_util::stream;
use http_body_util::BodyExt;
use hyper::{Method, Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is answered with this status (500 or 503) and never gets there.
    Status(u16),
    /// It is refused as one too many, in the service's own words.
    Throttle,
    /// It is refused with this code.
    Refuse(&'static str),
    /// It comes later.
    Delay(Duration),
    /// The connection ends before it gets there.
    Cut,
    /// It is done, and the connection ends before the answer.
    LoseAnswer,
    /// It is done, and the connection ends in the middle of what the answer holds.
    CutBody,
}

/// The calls that a fault happens to.
#[derive(Debug, Clone)]
struct Rule {
    fault: Fault,
    /// Each so-many-th of them.
    every: u64,
    /// The name of the service in signatures: `s3`, `sqs`, `sns`, `dynamodb`, `states`.
    service: Option<&'static str>,
}

/// The proxy; it ends when dropped.
pub struct FaultProxy {
    /// Where it is.
    pub url: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    target: String,
    rule: Mutex<Option<Rule>>,
    calls: Mutex<BTreeSet<String>>,
    counted: AtomicU64,
    hit: AtomicU64,
}

impl FaultProxy {
    /// Passes everything on to an endpoint, at first without a fault.
    pub async fn start(endpoint: &str) -> Self {
        let target = endpoint.strip_prefix("http://").expect("an endpoint in clear text").to_owned();
        let shared = Arc::new(Shared {
            target,
            rule: Mutex::new(None),
            calls: Mutex::default(),
            counted: AtomicU64::new(0),
            hit: AtomicU64::new(0),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { url, shared, task }
    }

    /// From now on this happens to each so-many-th call; to every one with 1. The first is the so-many-th.
    pub fn every(&self, every: u64, fault: Fault) {
        self.set(Some(Rule { fault, every, service: None }));
    }

    /// The same for the calls of one service, by its name in signatures: `s3`, `sqs`, `sns`, `dynamodb`, `states`.
    pub fn every_of(&self, service: &'static str, every: u64, fault: Fault) {
        self.set(Some(Rule { fault, every, service: Some(service) }));
    }

    /// From now on all is well.
    pub fn heal(&self) {
        self.set(None);
    }

    /// How many calls something has happened to.
    pub fn hit(&self) -> u64 {
        self.shared.hit.load(Ordering::Relaxed)
    }

    /// All that was called, in the words of policies: `s3:GetObject`.
    pub fn calls(&self) -> BTreeSet<String> {
        self.shared.calls.lock().unwrap().clone()
    }

    fn set(&self, rule: Option<Rule>) {
        *self.shared.rule.lock().unwrap() = rule;
        self.shared.counted.store(0, Ordering::Relaxed);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(move |request| call(Arc::clone(&shared), request));
            // A client that went away, and a fault that ends the connection, are errors here.
            let _ended =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// An error ends the connection without a word.
async fn call(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, String> {
    let service = signed_for(&request);
    let request = read_query(request, &service).await?;
    let action = action(&request, &service);
    shared.calls.lock().unwrap().insert(action);
    match shared.fault_for(&service) {
        None => shared.forward(request).await,
        Some(Fault::Status(status)) => refused(request, &service, status, trouble(&service, status)).await,
        Some(Fault::Throttle) => {
            refused(request, &service, if service == "s3" { 503 } else { 400 }, throttling(&service)).await
        }
        Some(Fault::Refuse(code)) => refused(request, &service, 403, code).await,
        Some(Fault::Delay(time)) => {
            tokio::time::sleep(time).await;
            shared.forward(request).await
        }
        Some(Fault::Cut) => Err("cut".to_owned()),
        Some(Fault::LoseAnswer) => {
            // All of it: the service has done what it was asked.
            let answer = shared.forward(request).await?;
            answer.into_body().collect().await.map_err(|error| error.to_string())?;
            Err("the answer is lost".to_owned())
        }
        Some(Fault::CutBody) => {
            let (head, body) = shared.forward(request).await?.into_parts();
            let all = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
            let half = all.slice(..all.len() / 2);
            let cut = (!all.is_empty()).then(|| Err(std::io::Error::other("cut")));
            let parts = stream::iter([Ok(half)].into_iter().chain(cut));
            Ok(Response::from_parts(head, Body::from_stream(parts)))
        }
    }
}

impl Shared {
    fn fault_for(&self, service: &str) -> Option<Fault> {
        let rule = self.rule.lock().unwrap().clone()?;
        if rule.service.is_some_and(|wanted| wanted != service) {
            return None;
        }
        let nth = self.counted.fetch_add(1, Ordering::Relaxed) + 1;
        nth.is_multiple_of(rule.every).then(|| {
            self.hit.fetch_add(1, Ordering::Relaxed);
            rule.fault
        })
    }

    async fn forward(&self, request: Request<Body>) -> Result<Response<Body>, String> {
        let told = |error: &dyn std::fmt::Display| format!("{}: {error}", self.target);
        let stream = TcpStream::connect(&self.target).await.map_err(|error| told(&error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| told(&error))?;
        tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(|error| told(&error))?;
        Ok(answer.map(Body::new))
    }
}

/// The query protocol says in the body which call it is; that is read, and kept for later.
async fn read_query(request: Request<Incoming>, service: &str) -> Result<Request<Body>, String> {
    let (mut parts, body) = request.into_parts();
    if service != "sns" {
        return Ok(Request::from_parts(parts, Body::new(body)));
    }
    let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
    let action =
        url::form_urlencoded::parse(&body).find(|(name, _)| name == "Action").map(|(_, value)| value.into_owned());
    parts.extensions.insert(Query(action.unwrap_or_default()));
    Ok(Request::from_parts(parts, Body::from(body)))
}

/// The call that a body of the query protocol names.
#[derive(Clone)]
struct Query(String);

/// The right that a call takes, in the words of policies.
fn action(request: &Request<Body>, service: &str) -> String {
    let target = request.headers().get("x-amz-target").and_then(|value| value.to_str().ok()?.rsplit('.').next());
    let name = match (request.extensions().get::<Query>(), target) {
        (Some(Query(name)), _) => name,
        (None, Some(target)) if service == "sqs" => target.trim_end_matches("Batch"),
        (None, Some(target)) => target,
        (None, None) => s3_action(request),
    };
    format!("{service}:{name}")
}

/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html>
fn s3_action(request: &Request<Body>) -> &'static str {
    // /BUCKET or /BUCKET/KEY
    let of_object = request.uri().path().trim_matches('/').contains('/');
    let query = request.uri().query().unwrap_or_default();
    let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
    match (request.method(), of_object) {
        (&Method::GET | &Method::HEAD, true) => "GetObject",
        (&Method::PUT, true) => "PutObject",
        (&Method::DELETE, true) if has("uploadId") => "AbortMultipartUpload",
        (&Method::DELETE, true) => "DeleteObject",
        (&Method::POST, false) if has("delete") => "DeleteObject",
        (&Method::GET, false) if has("uploads") => "ListBucketMultipartUploads",
        (&Method::GET | &Method::HEAD, false) => "ListBucket",
        _ => "SomethingElse",
    }
}

/// The service that a request is signed for: in its header, or in a presigned URL.
fn signed_for(request: &Request<Incoming>) -> String {
    let header = request.headers().get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let query = request.uri().query().unwrap_or_default().replace("%2F", "/");
    // KEY/DAY/REGION/SERVICE/aws4_request
    let scope =
        header.split_once("Credential=").or_else(|| query.split_once("X-Amz-Credential=")).map(|(_, rest)| rest);
    scope.and_then(|scope| scope.split('/').nth(3)).unwrap_or_default().to_owned()
}

/// What a service calls trouble of its own.
fn trouble(service: &str, status: u16) -> &'static str {
    match (service, status) {
        ("s3", 500) => "InternalError",
        ("dynamodb", 500) => "InternalServerError",
        (_, 500) => "InternalFailure",
        _ => "ServiceUnavailable",
    }
}

/// What a service calls one call too many.
fn throttling(service: &str) -> &'static str {
    match service {
        "s3" => "SlowDown",
        "sns" => "Throttling",
        "dynamodb" => "ProvisionedThroughputExceededException",
        _ => "ThrottlingException",
    }
}

/// An answer in the shape of the service. What it was sent is read first: a client that is still sending would take the
/// early answer for a broken connection.
async fn refused(request: Request<Body>, service: &str, status: u16, code: &str) -> Result<Response<Body>, String> {
    request.into_body().collect().await.map_err(|error| error.to_string())?;
    let (content_type, body) = match service {
        "s3" => ("application/xml", format!("<Error><Code>{code}</Code><Message>a fault</Message></Error>")),
        "sns" => (
            "text/xml",
            format!("<ErrorResponse><Error><Code>{code}</Code><Message>a fault</Message></Error></ErrorResponse>"),
        ),
        _ => ("application/x-amz-json-1.0", format!("{{\"__type\":\"com.amazonaws#{code}\",\"message\":\"a fault\"}}")),
    };
    let answer = Response::builder().status(status).header("content-type", content_type);
    Ok(answer.body(Body::from(Bytes::from(body))).expect("a good answer"))
}
