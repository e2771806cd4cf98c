//! The functions of AWS Lambda: the same program as their `bootstrap`, on a runtime of the family `provided`.
//!
//! The handler that a function is configured with, `_HANDLER`, says which it is:
//!
//! | handler | invoked by | what it does |
//! |---|---|---|
//! | `api` | API Gateway (REST and HTTP), a function URL | answers a request as the main listener does |
//! | `develop` | SQS | acts on a batch of messages as a worker does; answers which have to come again |
//! | `step` | a state machine of Step Functions | does a step of an edit; answers what comes next |
//! | `migrate` | whoever deploys | makes the database, its users and its schema |
//! | `announce` | a schedule | announces events, and sends jobs that are due to the queue: both outboxes |
//!
//! Between invocations a function is frozen, and it may be ended at any moment: what is to last is in the database, and
//! what was measured is told before each answer. Nothing is begun that the time of an invocation does not reach for.
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
pub use start::{Function, UnknownHandler, is_bootstrap};

use crate::{
    app::AppState,
    http,
    resilience::deadline,
    runtime::{shutdown_signal, spawn_maintenance, write_metrics},
    telemetry,
};

/// What is left of an invocation's time for metrics and the answer.
const LAST_STEPS: Duration = Duration::from_millis(500);
/// How long a process that is told to end has: Lambda kills it after 500 ms, or 300 ms with an internal extension alone.
const LAST_CALLS: Duration = Duration::from_millis(250);

/// Answers invocations until the process is told to end, which Lambda does only where the function has an extension.
///
/// # Errors
/// [`Mistakes`](crate::config::Mistakes), [`UnknownHandler`], and whatever else stands in the way of a start: Lambda is told, too. The
/// runtime's API does not answer.
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
            let work = |event| invoke(Function::Migrate, event, |_, _| migrate::bring_up(&database));
            until(&stop, Runtime::new(service_fn(work)).run()).await
        }
        Started::Serve(function, app) => serve(function, &app, &stop).await,
    };
    telemetry::spans::finish(LAST_CALLS).await;
    ended
}

/// Invocations until the end.
async fn until(
    stop: &CancellationToken,
    invocations: impl Future<Output = Result<(), lambda_runtime::Error>>,
) -> anyhow::Result<()> {
    tokio::select! {
        ended = invocations => ended.map_err(|error| anyhow::anyhow!("the runtime's API: {error}")),
        () = stop.cancelled() => Ok(()),
    }
}

/// Invocations that need all of the service.
async fn serve(function: Function, app: &AppState, stop: &CancellationToken) -> anyhow::Result<()> {
    let background = spawn_maintenance(app);
    let router = http::router(app.clone());
    let work = async |event| {
        let outcome = invoke(function, event, |payload, context| act(function, app, &router, payload, context)).await;
        write_metrics(app);
        outcome
    };
    let ended = until(stop, Runtime::new(service_fn(work)).run()).await;
    background.iter().for_each(tokio::task::JoinHandle::abort);
    app.draining.cancel();
    if tokio::time::timeout(LAST_CALLS, app.db.close()).await.is_err() {
        tracing::warn!("statements that were still under way are left to the database");
    }
    ended
}

/// One invocation. An error is for Lambda: whoever invoked sees it, and may try again.
async fn invoke<F: Future<Output = anyhow::Result<Value>>>(
    function: Function,
    event: LambdaEvent<Value>,
    work: impl FnOnce(Value, Context) -> F,
) -> Result<Value, Diagnostic> {
    let LambdaEvent { payload, context } = event;
    let span = info_span!("invocation", function = function.as_str(), request_id = context.request_id);
    let time = time_left(&context);
    // Boxed: the runtime holds it beside much else.
    let work = Box::pin(deadline::within(time, work(payload, context)));
    let outcome = async {
        let outcome = work.await.unwrap_or_else(|_| Err(anyhow::anyhow!("the invocation's time was over")));
        outcome.inspect_err(|error| tracing::error!(error = format!("{error:#}"), "an invocation failed"))
    };
    outcome.instrument(span).await.map_err(|error| Diagnostic {
        error_type: format!("Darkroom.{}", function.as_str()),
        error_message: format!("{error:#}"),
    })
}

async fn act(
    function: Function,
    app: &AppState,
    router: &Router,
    payload: Value,
    context: Context,
) -> anyhow::Result<Value> {
    match function {
        Function::Api => api::answer(app, router, payload, &context).await,
        Function::Develop => worker::process_batch(app, payload).await,
        Function::Step => step::run_step(app, payload).await,
        Function::Announce => notifications::run(app).await,
        Function::Migrate => migrate::bring_up(&app.config.database).await,
    }
}

/// For the work; the last steps are taken off.
fn time_left(context: &Context) -> Duration {
    let left = context.deadline().duration_since(SystemTime::now()).unwrap_or_default();
    left.saturating_sub(LAST_STEPS)
}
