//! The task-local context of a request or job: its trace, the kind of caller, the reason of a failure, the time spent
//! waiting for the database. Spawned tasks have none unless they enter one.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::Trace;

tokio::task_local! {
    static CURRENT: Scope;
}

/// The context of one request or job; clones share it.
#[derive(Clone)]
pub struct Scope(Arc<Fields>);

struct Fields {
    trace: Trace,
    principal: OnceLock<&'static str>,
    failure: OnceLock<&'static str>,
    database_wait_us: AtomicU64,
}

impl Scope {
    pub fn new(trace: Trace) -> Self {
        Self(Arc::new(Fields {
            trace,
            principal: OnceLock::new(),
            failure: OnceLock::new(),
            database_wait_us: AtomicU64::new(0),
        }))
    }

    /// Runs a future within this scope.
    pub async fn enter<F: Future>(self, work: F) -> F::Output {
        CURRENT.scope(self, work).await
    }

    pub(crate) fn trace(&self) -> Trace {
        self.0.trace
    }

    /// The kind of caller; `none` without authentication.
    pub(crate) fn principal(&self) -> &'static str {
        self.0.principal.get().unwrap_or(&"none")
    }

    /// The public reason of the failure.
    pub(crate) fn failure(&self) -> Option<&'static str> {
        self.0.failure.get().copied()
    }

    /// The total time spent waiting for database connections.
    pub(crate) fn database_wait(&self) -> Duration {
        Duration::from_micros(self.0.database_wait_us.load(Ordering::Relaxed))
    }
}

/// The trace of the current scope.
pub fn trace() -> Option<Trace> {
    CURRENT.try_with(Scope::trace).ok()
}

/// Sets the kind of caller in the current scope: `user`, or an invite's role.
pub fn set_principal(kind: &'static str) {
    let _ = CURRENT.try_with(|scope| scope.0.principal.set(kind));
}

/// Sets the reason of the failure in the current scope, without secrets; the first one is kept.
pub fn set_failure(reason: &'static str) {
    let _ = CURRENT.try_with(|scope| scope.0.failure.set(reason));
}

/// Adds to the time spent waiting for database connections in the current scope.
pub fn add_database_wait(time: Duration) {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let _ = CURRENT.try_with(|scope| scope.0.database_wait_us.fetch_add(micros, Ordering::Relaxed));
}
