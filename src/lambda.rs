//! The service as functions of AWS Lambda: the same program as `bootstrap`, on a runtime of the family `provided`.
//!
//! The configured handler, `_HANDLER`, selects the function:
//!
//! | handler | invoked by | what it does |
//! |---|---|---|
//! | `api` | API Gateway (REST and HTTP), a function URL | serves an HTTP request |
//! | `develop` | SQS | handles a batch of messages as a worker does; returns those to be delivered again |
//! | `step` | a state machine of Step Functions | runs one step of an edit; returns the next one |
//! | `migrate` | a deployment | creates the database and its users and migrates the schema |
//! | `announce` | a schedule | publishes events and sends due jobs to the queue |
//!
//! Between invocations a function is frozen, and it may be ended at any moment: durable state is in the database, and
//! metrics are written before each response. No work begins for which the invocation has too little time left.
//!
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-custom.html>

mod api;
mod event;
mod migrate;
mod notifications;
mod start;
mod step;
mod worker;

use std::time::{Duration, SystemTime};

use axum::Router;
use lambda_runtime::{Context, Diagnostic, LambdaEvent, Runtime, service_fn};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span};

use start::Started;
pub use start::{Function, is_bootstrap};

use crate::{
    app::AppState,
    http,
    resilience::deadline,
    runtime::{shutdown_signal, spawn_maintenance, write_metrics},
    telemetry,
};

/// Reserved at the end of an invocation for metrics and the response.
const RESERVED_TIME: Duration = Duration::from_millis(500);
/// For the shutdown: Lambda kills the process after 500 ms, or 300 ms with only internal extensions.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(250);

/// Handles invocations until SIGTERM, which Lambda sends only to functions with an extension. A failed start is also
/// reported to Lambda.
pub async fn run() -> anyhow::Result<()> {
    let started = match Box::pin(start::start()).await {
        Ok(started) => started,
        Err(error) => {
            start::report(&error).await;
            return Err(error);
        }
    };
    let stop = shutdown_signal()?;
    let ended = match started {
        Started::Migrate(database) => {
            let handler = |event| invoke(Function::Migrate, event, |_, _| migrate::bring_up(&database));
            run_until(&stop, Runtime::new(service_fn(handler)).run()).await
        }
        Started::Serve(function, app) => serve(function, &app, &stop).await,
    };
    telemetry::spans::shutdown(SHUTDOWN_TIMEOUT).await;
    ended
}

async fn run_until(
    stop: &CancellationToken,
    invocations: impl Future<Output = Result<(), lambda_runtime::Error>>,
) -> anyhow::Result<()> {
    tokio::select! {
        ended = invocations => ended.map_err(|error| anyhow::anyhow!("Lambda runtime API: {error}")),
        () = stop.cancelled() => Ok(()),
    }
}

/// Handles invocations that need the whole service.
async fn serve(function: Function, app: &AppState, stop: &CancellationToken) -> anyhow::Result<()> {
    let background = spawn_maintenance(app);
    let router = http::router(app.clone());
    let handler = async |event| {
        let result = invoke(function, event, |payload, context| handle(function, app, &router, payload, context)).await;
        write_metrics(app);
        result
    };
    let ended = run_until(stop, Runtime::new(service_fn(handler)).run()).await;
    background.iter().for_each(tokio::task::JoinHandle::abort);
    app.draining.cancel();
    if tokio::time::timeout(SHUTDOWN_TIMEOUT, app.db.close()).await.is_err() {
        tracing::warn!("database connections not closed in time");
    }
    ended
}

/// Runs one invocation within its time. An error is returned to the invoker, which may retry.
async fn invoke<F: Future<Output = anyhow::Result<Value>>>(
    function: Function,
    event: LambdaEvent<Value>,
    handler: impl FnOnce(Value, Context) -> F,
) -> Result<Value, Diagnostic> {
    let LambdaEvent { payload, context } = event;
    let span = info_span!("invocation", function = function.as_str(), request_id = context.request_id);
    let time = time_left(&context);
    // Boxed, because the future is large.
    let work = Box::pin(deadline::within(time, handler(payload, context)));
    let result = async {
        let result = work.await.unwrap_or_else(|_| Err(anyhow::anyhow!("the invocation timed out")));
        result.inspect_err(|error| tracing::error!(error = format!("{error:#}"), "invocation failed"))
    };
    result.instrument(span).await.map_err(|error| Diagnostic {
        error_type: format!("Darkroom.{}", function.as_str()),
        error_message: format!("{error:#}"),
    })
}

async fn handle(
    function: Function,
    app: &AppState,
    router: &Router,
    payload: Value,
    context: Context,
) -> anyhow::Result<Value> {
    match function {
        Function::Api => api::handle(app, router, payload, &context).await,
        Function::Develop => worker::process_batch(app, payload).await,
        Function::Step => step::run_step(app, payload).await,
        Function::Announce => notifications::run(app).await,
        Function::Migrate => migrate::bring_up(&app.config.database).await,
    }
}

/// The time for the handler.
fn time_left(context: &Context) -> Duration {
    let left = context.deadline().duration_since(SystemTime::now()).unwrap_or_default();
    left.saturating_sub(RESERVED_TIME)
}
