//! The most recent slow or failed requests, for `GET /slow`; without secrets.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde::Serialize;

const CAPACITY: usize = 100;

/// A buffer of the most recent slow or failed requests.
pub struct SlowRequests {
    threshold: Duration,
    requests: Mutex<VecDeque<SlowRequest>>,
}

#[derive(Debug, Clone, Serialize)]
pub struct SlowRequest {
    /// When the request ended.
    pub at: DateTime<Utc>,
    pub method: String,
    /// The route's template.
    pub route: String,
    /// None if the client disconnected before the response.
    pub status: Option<u16>,
    pub outcome: &'static str,
    /// Until the response head.
    pub duration_seconds: f64,
    /// The part of it spent waiting for database connections.
    pub database_wait_seconds: f64,
    /// The kind of caller.
    pub principal: &'static str,
    /// As in `x-request-id`.
    pub request_id: String,
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// The detail of the error response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'static str>,
}

impl SlowRequests {
    /// Keeps requests that take at least `threshold`, and failed ones.
    pub fn new(threshold: Duration) -> Self {
        Self { threshold, requests: Mutex::default() }
    }

    pub(crate) fn record(&self, duration: Duration, request: impl FnOnce() -> SlowRequest, failed: bool) {
        if duration < self.threshold && !failed {
            return;
        }
        let request = request();
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.truncate(CAPACITY - 1);
        requests.push_front(request);
    }

    /// Newest first.
    pub fn list(&self) -> Vec<SlowRequest> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}
