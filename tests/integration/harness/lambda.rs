//! An AWS Lambda function: the program as its `bootstrap`, and the Lambda runtime API.
//!
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>

use std::{
    collections::HashMap,
    fs::OpenOptions,
    process::{ExitStatus, Stdio},
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
    process::{KillOnDrop, darkroom, send},
};

/// The trace header of every invocation.
pub const TRACE: &str = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1";

/// The response or error of an invocation.
pub type Outcome = Result<Value, Value>;

/// The function's process; killed when dropped.
pub struct Function {
    child: KillOnDrop,
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
    /// Starts the program for a handler, as Lambda does.
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
        Self { child: KillOnDrop(command.spawn().expect("the program starts")), log, shared }
    }

    /// Invokes the function with a timeout of 30 s.
    pub async fn invoke(&self, payload: Value) -> Outcome {
        self.invoke_within(Duration::from_secs(30), payload).await
    }

    /// Invokes the function with another timeout, which the function sees as its deadline.
    pub async fn invoke_within(&self, limit: Duration, payload: Value) -> Outcome {
        let (tell, outcome) = oneshot::channel();
        let id = Uuid::now_v7().to_string();
        self.shared.under_way.lock().unwrap().insert(id.clone(), tell);
        self.shared.events.send(Event { id, ends: SystemTime::now() + limit, payload }).expect("a receiver");
        let outcome = tokio::time::timeout(DEADLINE, outcome).await;
        outcome.unwrap_or_else(|_| panic!("no answer:\n{}", self.log())).expect("an answer")
    }

    /// The output so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log.path()).expect("the log")
    }

    /// Sends SIGTERM, as Lambda does for functions with an extension, and waits for the exit.
    pub async fn stop(&mut self) -> ExitStatus {
        send(self.child.id(), Signal::TERM);
        self.ended().await
    }

    /// Waits for the exit.
    pub async fn ended(&mut self) -> ExitStatus {
        eventually("ended", async || self.child.try_wait().expect("a child")).await
    }

    /// The reported initialization error.
    pub fn init_error(&self) -> Option<Value> {
        self.shared.init_error.lock().unwrap().clone()
    }
}

/// Waits for an event without a timeout.
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

/// Some JSON bodies have no JSON content type.
fn json(body: &[u8]) -> Value {
    serde_json::from_slice(body).expect("JSON")
}

impl Shared {
    /// The id of the invocation is the second to last path segment.
    fn end(&self, at: &Uri, outcome: Outcome) -> StatusCode {
        let id = at.path().rsplit('/').nth(1).expect("a route with an id");
        match self.under_way.lock().unwrap().remove(id) {
            Some(tell) => {
                // The test may have stopped waiting.
                let _unheard = tell.send(outcome);
                StatusCode::ACCEPTED
            }
            None => StatusCode::NOT_FOUND,
        }
    }
}
