//! Telemetry: metrics, log lines, traces and slow requests. Each test starts its own process, because a process has
//! one metrics registry and one log.

mod export;
mod metrics;
mod requests;
mod traces;

use serde_json::Value;

use crate::harness::{eventually, process::Process};

/// Waits for log lines with this message that match, and returns them.
async fn lines(process: &Process, message: &str, fits: impl Fn(&Value) -> bool) -> Vec<Value> {
    eventually(&format!("a line `{message}` in the log"), async || {
        let log = process.log();
        let all = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let fitting: Vec<Value> = all.filter(|line| line["message"] == message && fits(line)).collect();
        (!fitting.is_empty()).then_some(fitting)
    })
    .await
}

/// The log line of a request.
async fn line_of(process: &Process, request_id: &str) -> Value {
    let mut all = lines(process, "request completed", |line| line["request_id"] == request_id).await;
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}
