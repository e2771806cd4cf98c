//! The last requests that were slow or failed, for `GET /slow`: what an operator wants to see first, without any secret.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde::Serialize;

/// How many requests are kept.
const KEPT: usize = 100;

/// The last slow or failed requests.
pub struct Slow {
    threshold: Duration,
    last: Mutex<VecDeque<SlowRequest>>,
}

/// One of them.
#[derive(Debug, Clone, Serialize)]
pub struct SlowRequest {
    /// When it was answered, or given up.
    pub at: DateTime<Utc>,
    /// The method.
    pub method: String,
    /// The route's template.
    pub route: String,
    /// None for one whose client went away.
    pub status: Option<u16>,
    /// How it ended.
    pub outcome: &'static str,
    /// Time to the head of its answer.
    pub duration_seconds: f64,
    /// Of these, the wait for database connections.
    pub database_wait_seconds: f64,
    /// The kind of who asked.
    pub principal: &'static str,
    /// As in its `x-request-id`.
    pub request_id: String,
    /// Its trace, 32 hexadecimal digits.
    pub trace_id: String,
    /// What its client was told of a failure of ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'static str>,
}

impl Slow {
    /// Keeps requests that took so long, and those that failed.
    #[must_use]
    pub fn new(threshold: Duration) -> Self {
        Self { threshold, last: Mutex::default() }
    }

    /// Keeps a request if it was slow or failed.
    pub(crate) fn note(&self, time: Duration, request: impl FnOnce() -> SlowRequest, failed: bool) {
        if time < self.threshold && !failed {
            return;
        }
        let request = request();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.truncate(KEPT - 1);
        last.push_front(request);
    }

    /// The last ones, newest first.
    #[must_use]
    pub fn last(&self) -> Vec<SlowRequest> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}
