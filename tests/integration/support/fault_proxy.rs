//! A proxy before the emulator of AWS that does to calls what networks and services in trouble do. The `Host` header
//! stays as the client has signed it, so that signatures hold.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::body::{Body, Bytes};
use http_body_util::BodyExt;
use hyper::{Request, Response, body::Incoming, service::service_fn};
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
    counted: AtomicU64,
    hit: AtomicU64,
}

impl FaultProxy {
    /// Passes everything on to an endpoint, at first without a fault.
    pub async fn start(endpoint: &str) -> Self {
        let target = endpoint.strip_prefix("http://").expect("an endpoint in clear text").to_owned();
        let shared =
            Arc::new(Shared { target, rule: Mutex::new(None), counted: AtomicU64::new(0), hit: AtomicU64::new(0) });
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

    async fn forward(&self, request: Request<Incoming>) -> Result<Response<Body>, String> {
        let told = |error: &dyn std::fmt::Display| format!("{}: {error}", self.target);
        let stream = TcpStream::connect(&self.target).await.map_err(|error| told(&error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| told(&error))?;
        tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(|error| told(&error))?;
        Ok(answer.map(Body::new))
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
async fn refused(request: Request<Incoming>, service: &str, status: u16, code: &str) -> Result<Response<Body>, String> {
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
