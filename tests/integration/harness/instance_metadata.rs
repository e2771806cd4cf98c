//! Sources of AWS credentials: the instance metadata service of EC2 (version 2, with session tokens) and the
//! credentials endpoint of ECS and EKS.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, put},
};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::json;
use tokio::net::TcpListener;

use super::iam::{Key, REGION};

pub const ROLE: &str = "darkroom-api";
pub const INSTANCE: &str = "i-0123456789abcdef0";
const SESSION: &str = "a-session-of-the-metadata-service";
const AUTHORIZATION: &str = "an-authorization-of-the-container";

/// Serves until the test's runtime ends; returns the address.
pub async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

/// Both services at one address, with the same credentials.
pub struct MetadataService {
    url: String,
    shared: Arc<Shared>,
}

struct Shared {
    credentials: Mutex<(Key, DateTime<Utc>)>,
    /// The target lifecycle state of the Auto Scaling group.
    target: Mutex<&'static str>,
    sessions: AtomicUsize,
    failing: AtomicBool,
    fetches: AtomicUsize,
}

impl MetadataService {
    /// Provides a key with this lifetime.
    pub async fn start(key: &Key, lasts: TimeDelta) -> Self {
        let shared = Arc::new(Shared {
            credentials: Mutex::new((key.clone(), Utc::now() + lasts)),
            target: Mutex::new("InService"),
            sessions: AtomicUsize::new(0),
            failing: AtomicBool::new(false),
            fetches: AtomicUsize::new(0),
        });
        let router = Router::new()
            .route("/latest/api/token", put(session))
            .route("/latest/meta-data/iam/security-credentials/", get(role))
            .route(&format!("/latest/meta-data/iam/security-credentials/{ROLE}"), get(machine))
            .route("/latest/meta-data/placement/region", get(region))
            .route("/latest/meta-data/instance-id", get(instance))
            .route("/latest/meta-data/autoscaling/target-lifecycle-state", get(target))
            .route("/container", get(container))
            .with_state(Arc::clone(&shared));
        Self { url: serve(router).await, shared }
    }

    /// Provides another key.
    pub fn replace(&self, key: &Key, lasts: TimeDelta) {
        *self.shared.credentials.lock().unwrap() = (key.clone(), Utc::now() + lasts);
    }

    /// Sets the target lifecycle state, such as `Terminated`.
    pub fn aim(&self, state: &'static str) {
        *self.shared.target.lock().unwrap() = state;
    }

    /// The number of session requests, failed ones included.
    pub fn sessions(&self) -> usize {
        self.shared.sessions.load(Ordering::Relaxed)
    }

    /// Whether every request is answered 500.
    pub fn fail(&self, failing: bool) {
        self.shared.failing.store(failing, Ordering::Relaxed);
    }

    /// The number of credential requests, failed ones included.
    pub fn fetches(&self) -> usize {
        self.shared.fetches.load(Ordering::Relaxed)
    }

    /// The environment variable that points the AWS SDKs to the metadata service.
    pub fn environment(&self) -> Vec<(String, String)> {
        vec![("AWS_EC2_METADATA_SERVICE_ENDPOINT".to_owned(), self.url.clone())]
    }

    /// The environment variables that point the AWS SDKs to the container credentials.
    pub fn container_environment(&self) -> Vec<(String, String)> {
        vec![
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI".to_owned(), format!("{}/container", self.url)),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN".to_owned(), AUTHORIZATION.to_owned()),
        ]
    }
}

impl Shared {
    fn check_failing(&self) -> Result<(), StatusCode> {
        if self.failing.load(Ordering::Relaxed) { Err(StatusCode::INTERNAL_SERVER_ERROR) } else { Ok(()) }
    }

    /// Version 2 requires a session token.
    fn check_session(&self, headers: &HeaderMap) -> Result<(), StatusCode> {
        self.check_failing()?;
        let session = headers.get("x-aws-ec2-metadata-token");
        if session.is_some_and(|session| session == SESSION) { Ok(()) } else { Err(StatusCode::UNAUTHORIZED) }
    }

    fn document(&self) -> serde_json::Value {
        let (key, expires) = &*self.credentials.lock().unwrap();
        json!({
            "Code": "Success",
            "Type": "AWS-HMAC",
            "LastUpdated": Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true),
            "AccessKeyId": key.id,
            "SecretAccessKey": key.secret,
            "Token": key.session_token,
            "Expiration": expires.to_rfc3339_opts(SecondsFormat::Secs, true),
        })
    }
}

async fn session(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Result<Response, StatusCode> {
    shared.sessions.fetch_add(1, Ordering::Relaxed);
    shared.check_failing()?;
    let ttl = headers.get("x-aws-ec2-metadata-token-ttl-seconds").ok_or(StatusCode::BAD_REQUEST)?;
    let seconds = ttl.to_str().ok().and_then(|ttl| ttl.parse().ok());
    if !seconds.is_some_and(|seconds: u32| (1..=21600).contains(&seconds)) {
        return Err(StatusCode::BAD_REQUEST);
    }
    Ok(([("x-aws-ec2-metadata-token-ttl-seconds", ttl)], SESSION).into_response())
}

async fn role(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Result<&'static str, StatusCode> {
    shared.check_session(&headers).map(|()| ROLE)
}

async fn region(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Result<&'static str, StatusCode> {
    shared.check_session(&headers).map(|()| REGION)
}

async fn instance(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Result<&'static str, StatusCode> {
    shared.check_session(&headers).map(|()| INSTANCE)
}

async fn target(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Result<&'static str, StatusCode> {
    shared.check_session(&headers).map(|()| *shared.target.lock().unwrap())
}

async fn machine(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Result<String, StatusCode> {
    shared.fetches.fetch_add(1, Ordering::Relaxed);
    shared.check_session(&headers)?;
    Ok(shared.document().to_string())
}

async fn container(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Result<String, StatusCode> {
    shared.fetches.fetch_add(1, Ordering::Relaxed);
    shared.check_failing()?;
    let given = headers.get("authorization");
    if given.is_none_or(|given| given != AUTHORIZATION) {
        return Err(StatusCode::UNAUTHORIZED);
    }
    Ok(shared.document().to_string())
}
