//! A function of AWS Lambda: the real program as its `bootstrap`, and a stand-in of the API by which Lambda hands it events.
//!
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>

use std::{
    collections::HashMap,
    fs::OpenOptions,
    process::{Child, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::NamedTempFile;
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot};
use uuid::Uuid;

use super::{
    DEADLINE, eventually,
    instance_metadata::serve,
    process::{darkroom, send},
};

/// The trace that every invocation belongs to.
pub const TRACE: &str = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1";

/// What an invocation came to: the answer, or the error that Lambda was told.
pub type Outcome = Result<Value, Value>;

/// The function's process; killed when dropped.
pub struct Function {
    child: Child,
    log: NamedTempFile,
    shared: Arc<Shared>,
}

struct Shared {
    events: mpsc::UnboundedSender<Event>,
    waiting: AsyncMutex<mpsc::UnboundedReceiver<Event>>,
    under_way: Mutex<HashMap<String, oneshot::Sender<Outcome>>>,
    init_error: Mutex<Option<Value>>,
}

struct Event {
    id: String,
    ends: SystemTime,
    payload: Value,
}

impl Function {
    /// Starts the program as Lambda does, for a handler.
    pub async fn start(handler: &str, environment: &[(String, String)]) -> Self {
        let (events, waiting) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            events,
            waiting: AsyncMutex::new(waiting),
            under_way: Mutex::default(),
            init_error: Mutex::default(),
        });
        let router = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/response", post(answered))
            .route("/2018-06-01/runtime/invocation/{id}/error", post(failed))
            .route("/2018-06-01/runtime/init/error", post(init_failed))
            .with_state(Arc::clone(&shared));
        let api = serve(router).await;
        let log = NamedTempFile::new().expect("a log file");
        let mut command = darkroom(&[], environment);
        let appended = || OpenOptions::new().append(true).open(log.path()).expect("the log file");
        command.stdin(Stdio::null()).stdout(appended()).stderr(appended());
        command.env("AWS_LAMBDA_RUNTIME_API", api.trim_start_matches("http://")).env("_HANDLER", handler);
        command.env("AWS_LAMBDA_FUNCTION_NAME", "darkroom").env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST");
        command.env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "1024");
        Self { child: command.spawn().expect("the program starts"), log, shared }
    }

    /// Hands it an event, and waits for what it makes of it within 30 s.
    pub async fn invoke(&self, payload: Value) -> Outcome {
        self.invoke_within(Duration::from_secs(30), payload).await
    }

    /// The same within another time, of which the function is told.
    pub async fn invoke_within(&self, limit: Duration, payload: Value) -> Outcome {
        let (tell, outcome) = oneshot::channel();
        let id = Uuid::now_v7().to_string();
        self.shared.under_way.lock().unwrap().insert(id.clone(), tell);
        self.shared.events.send(Event { id, ends: SystemTime::now() + limit, payload }).expect("somebody listens");
        let outcome = tokio::time::timeout(DEADLINE, outcome).await;
        outcome.unwrap_or_else(|_| panic!("no answer:\n{}", self.log())).expect("an answer")
    }

    /// All that it has said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log.path()).expect("the log")
    }

    /// Asks it to end, as Lambda does where there is an extension, and waits for the end.
    pub async fn stop(&mut self) -> ExitStatus {
        send(self.child.id(), Signal::TERM);
        self.ended().await
    }

    /// Waits for the end.
    pub async fn ended(&mut self) -> ExitStatus {
        eventually("ended", async || self.child.try_wait().expect("a child")).await
    }

    /// What it has told Lambda of its start, if that failed.
    pub fn init_error(&self) -> Option<Value> {
        self.shared.init_error.lock().unwrap().clone()
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for an event, however long.
async fn next(State(shared): State<Arc<Shared>>) -> Response {
    let event = shared.waiting.lock().await.recv().await.expect("a sender is kept");
    let ends = event.ends.duration_since(SystemTime::UNIX_EPOCH).expect("this century").as_millis().to_string();
    let headers = [
        ("lambda-runtime-aws-request-id", event.id.as_str()),
        ("lambda-runtime-deadline-ms", &ends),
        ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:eu-west-1:123456789012:function:darkroom"),
        ("lambda-runtime-trace-id", TRACE),
    ];
    (headers, event.payload.to_string()).into_response()
}

async fn answered(State(shared): State<Arc<Shared>>, at: Uri, answer: Bytes) -> StatusCode {
    shared.end(&at, Ok(json(&answer)))
}

async fn failed(State(shared): State<Arc<Shared>>, at: Uri, error: Bytes) -> StatusCode {
    shared.end(&at, Err(json(&error)))
}

async fn init_failed(State(shared): State<Arc<Shared>>, error: Bytes) -> StatusCode {
    *shared.init_error.lock().unwrap() = Some(json(&error));
    StatusCode::ACCEPTED
}

/// Not everything that is JSON is sent as such.
fn json(body: &[u8]) -> Value {
    serde_json::from_slice(body).expect("JSON")
}

impl Shared {
    /// The invocation's id is the last but one segment of the path.
    fn end(&self, at: &Uri, outcome: Outcome) -> StatusCode {
        let id = at.path().rsplit('/').nth(1).expect("a route with an id");
        match self.under_way.lock().unwrap().remove(id) {
            Some(tell) => {
                // A test that does not wait any more does not care.
                let _unheard = tell.send(outcome);
                StatusCode::ACCEPTED
            }
            None => StatusCode::NOT_FOUND,
        }
    }
}
