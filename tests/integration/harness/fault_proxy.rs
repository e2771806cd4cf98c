//! A proxy in front of the AWS emulator that injects network and service faults, repeats and reorders messages as a
//! standard queue may, and records calls and callers. It keeps the `Host` header as the client has signed it, so that
//! signatures stay valid.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::body::{Body, Bytes};
use futures_util::stream;
use http_body_util::BodyExt;
use hyper::{Method, Request, Response, body::Incoming, header, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The proxy answers with this status (500 or 503).
    Status(u16),
    /// The proxy answers with the service's throttling error.
    Throttle,
    /// The proxy answers with this error code.
    Refuse(&'static str),
    /// The proxy forwards the call later, even if the caller has given up.
    Delay(Duration),
    /// The proxy closes the connection and does not forward the call.
    Cut,
    /// The proxy forwards the call and closes the connection before the response.
    LoseAnswer,
    /// The proxy forwards the call and closes the connection within the response body.
    CutBody,
}

/// A rule that injects faults.
#[derive(Debug, Clone)]
struct Rule {
    /// Injected in turn.
    faults: Vec<Fault>,
    /// Applies to each n-th call.
    every: u64,
    /// The name of the service in signatures: `s3`, `sqs`, `sns`, `dynamodb`, `states`.
    service: Option<&'static str>,
}

/// The running proxy; it ends when dropped.
pub struct FaultProxy {
    pub url: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    target: String,
    rule: Mutex<Option<Rule>>,
    calls: Mutex<BTreeSet<String>>,
    agents: Mutex<BTreeSet<(String, String)>>,
    counted: AtomicU64,
    hit: AtomicU64,
    /// Messages that are due for a second delivery, if messages are repeated.
    again: Mutex<Option<VecDeque<Value>>>,
    repeated: AtomicU64,
}

impl FaultProxy {
    /// Forwards everything to an endpoint, without faults at first.
    pub async fn start(endpoint: &str) -> Self {
        let target = endpoint.strip_prefix("http://").expect("an endpoint in clear text").to_owned();
        let shared = Arc::new(Shared {
            target,
            rule: Mutex::new(None),
            calls: Mutex::default(),
            agents: Mutex::default(),
            counted: AtomicU64::new(0),
            hit: AtomicU64::new(0),
            again: Mutex::new(None),
            repeated: AtomicU64::new(0),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { url, shared, task }
    }

    /// Injects a fault into each n-th call.
    pub fn every(&self, every: u64, fault: Fault) {
        self.every_in_turn(every, &[fault]);
    }

    /// Injects several faults in turn.
    pub fn every_in_turn(&self, every: u64, faults: &[Fault]) {
        self.set(Some(Rule { faults: faults.into(), every, service: None }));
    }

    /// Injects a fault into each n-th call of one service, by its name in signatures: `s3`, `sqs`, `sns`, `dynamodb`,
    /// `states`.
    pub fn every_of(&self, service: &'static str, every: u64, fault: Fault) {
        self.set(Some(Rule { faults: vec![fault], every, service: Some(service) }));
    }

    /// Stops injecting faults.
    pub fn clear_faults(&self) {
        self.set(None);
    }

    /// The number of calls with an injected fault.
    pub fn faults_injected(&self) -> u64 {
        self.shared.hit.load(Ordering::Relaxed)
    }

    /// All calls as actions of policies: `s3:GetObject`.
    pub fn calls(&self) -> BTreeSet<String> {
        self.shared.calls.lock().unwrap().clone()
    }

    /// Service and user agent of all calls, without presigned URLs.
    pub fn agents(&self) -> BTreeSet<(String, String)> {
        self.shared.agents.lock().unwrap().clone()
    }

    /// Delivers each message twice, the second time in a later response, and reverses the messages of a response: a
    /// standard queue guarantees neither single delivery nor order.
    pub fn repeat_and_reorder_messages(&self) {
        self.shared.again.lock().unwrap().get_or_insert_default();
    }

    /// The number of messages that were delivered a second time.
    pub fn repeated(&self) -> u64 {
        self.shared.repeated.load(Ordering::Relaxed)
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
            // Errors: a disconnected client, and faults that close the connection.
            let _ended =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// An error closes the connection without a response.
async fn call(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, String> {
    let service = signed_for(&request);
    if let Some(agent) = agent(&request) {
        shared.agents.lock().unwrap().insert((service.clone(), agent));
    }
    let request = read(request, &service).await?;
    let action = action(&request, &service);
    shared.calls.lock().unwrap().insert(action.clone());
    match shared.fault_for(&service) {
        None if action == "sqs:ReceiveMessage" => shared.receive(request).await,
        None => shared.forward(request).await,
        Some(Fault::Status(status)) => refused(request, &service, status, trouble(&service, status)).await,
        Some(Fault::Throttle) => {
            refused(request, &service, if service == "s3" { 503 } else { 400 }, throttling(&service)).await
        }
        Some(Fault::Refuse(code)) => refused(request, &service, 403, code).await,
        Some(Fault::Delay(time)) => {
            let (parts, body) = request.into_parts();
            let request = Request::from_parts(parts, Body::from(whole(body).await?));
            let late = tokio::spawn(async move {
                tokio::time::sleep(time).await;
                shared.forward(request).await
            });
            late.await.map_err(|error| error.to_string())?
        }
        Some(Fault::Cut) => Err("cut".to_owned()),
        Some(Fault::LoseAnswer) => {
            // The whole response: the service has completed the call.
            let answer = shared.forward(request).await?;
            whole(answer.into_body()).await?;
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
            let turn = usize::try_from(nth / rule.every - 1).expect("a count of calls");
            rule.faults[turn % rule.faults.len()]
        })
    }

    /// Messages of a queue, repeated and reordered if enabled.
    async fn receive(&self, request: Request<Body>) -> Result<Response<Body>, String> {
        if self.again.lock().unwrap().is_none() {
            return self.forward(request).await;
        }
        let (parts, body) = request.into_parts();
        let asked = whole(body).await?;
        let most = serde_json::from_slice::<Value>(&asked).ok().and_then(|asked| asked["MaxNumberOfMessages"].as_u64());
        let answer = self.forward(Request::from_parts(parts, Body::from(asked))).await?;
        let (mut parts, body) = answer.into_parts();
        let mut told = whole(body).await?;
        if let Ok(mut answer) = serde_json::from_slice::<Value>(&told)
            && parts.status.is_success()
        {
            let new = answer["Messages"].as_array().cloned().unwrap_or_default();
            answer["Messages"] = self.muddled(new, usize::try_from(most.unwrap_or(1)).expect("a few"));
            told = answer.to_string().into();
            parts.headers.insert(header::CONTENT_LENGTH, told.len().into());
        }
        Ok(Response::from_parts(parts, Body::from(told)))
    }

    /// Messages of an earlier response, then new ones in reverse order, up to the requested number.
    fn muddled(&self, new: Vec<Value>, most: usize) -> Value {
        let mut again = self.again.lock().unwrap();
        let again = again.get_or_insert_default();
        let repeated = again.len().min(most.saturating_sub(new.len()));
        self.repeated.fetch_add(repeated as u64, Ordering::Relaxed);
        let given: Vec<Value> = again.drain(..repeated).chain(new.iter().rev().cloned()).collect();
        again.extend(new);
        given.into()
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

/// Reads a whole body into memory.
async fn whole<B: hyper::body::Body<Error: std::fmt::Display>>(body: B) -> Result<Bytes, String> {
    Ok(body.collect().await.map_err(|error| error.to_string())?.to_bytes())
}

/// The user agent of a signed call, from the two headers of the AWS SDKs.
fn agent(request: &Request<Incoming>) -> Option<String> {
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    header("authorization")?;
    Some([header("user-agent"), header("x-amz-user-agent")].map(Option::unwrap_or_default).join(" "))
}

/// Reads the body of a query protocol request, which names the action.
async fn read(request: Request<Incoming>, service: &str) -> Result<Request<Body>, String> {
    let (mut parts, body) = request.into_parts();
    if service != "sns" {
        return Ok(Request::from_parts(parts, Body::new(body)));
    }
    let body = whole(body).await?;
    let action =
        url::form_urlencoded::parse(&body).find(|(name, _)| name == "Action").map(|(_, value)| value.into_owned());
    parts.extensions.insert(Query(action.unwrap_or_default()));
    Ok(Request::from_parts(parts, Body::from(body)))
}

/// The action that a query protocol body names.
#[derive(Clone)]
struct Query(String);

/// The policy action of a call.
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

/// The service in the signature of a request or presigned URL.
fn signed_for(request: &Request<Incoming>) -> String {
    let header = request.headers().get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let query = request.uri().query().unwrap_or_default().replace("%2F", "/");
    // KEY/DAY/REGION/SERVICE/aws4_request
    let scope =
        header.split_once("Credential=").or_else(|| query.split_once("X-Amz-Credential=")).map(|(_, rest)| rest);
    scope.and_then(|scope| scope.split('/').nth(3)).unwrap_or_default().to_owned()
}

/// A service's error code for an internal error.
fn trouble(service: &str, status: u16) -> &'static str {
    match (service, status) {
        ("s3", 500) => "InternalError",
        ("dynamodb", 500) => "InternalServerError",
        (_, 500) => "InternalFailure",
        _ => "ServiceUnavailable",
    }
}

/// A service's error code for throttling.
fn throttling(service: &str) -> &'static str {
    match service {
        "s3" => "SlowDown",
        "sns" => "Throttling",
        "dynamodb" => "ProvisionedThroughputExceededException",
        _ => "ThrottlingException",
    }
}

/// An error response in the format of the service. The request body is read first, because a client that is still
/// sending would see a broken connection.
async fn refused(request: Request<Body>, service: &str, status: u16, code: &str) -> Result<Response<Body>, String> {
    whole(request.into_body()).await?;
    let (content_type, body) = match service {
        "s3" => ("application/xml", format!("<Error><Code>{code}</Code><Message>a fault</Message></Error>")),
        "sns" => (
            "text/xml",
            format!("<ErrorResponse><Error><Code>{code}</Code><Message>a fault</Message></Error></ErrorResponse>"),
        ),
        _ => ("application/x-amz-json-1.0", format!("{{\"__type\":\"com.amazonaws#{code}\",\"message\":\"a fault\"}}")),
    };
    let answer = Response::builder().status(status).header("content-type", content_type);
    Ok(answer.body(Body::from(Bytes::from(body))).expect("a successful response"))
}
