//! What a request or a job is known by in the code that works for it, however deep: its trace, who asks, where time went.
//!
//! It belongs to the task. What is spawned has none, unless it enters one.

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

/// One request or job. Cheap to clone; all clones are the same one.
#[derive(Clone)]
pub struct Scope(Arc<Facts>);

struct Facts {
    trace: Trace,
    principal: OnceLock<&'static str>,
    failure: OnceLock<&'static str>,
    database_wait_us: AtomicU64,
}

impl Scope {
    /// A new one.
    #[must_use]
    pub fn new(trace: Trace) -> Self {
        Self(Arc::new(Facts {
            trace,
            principal: OnceLock::new(),
            failure: OnceLock::new(),
            database_wait_us: AtomicU64::new(0),
        }))
    }

    /// Runs what works for it.
    pub async fn enter<F: Future>(self, work: F) -> F::Output {
        CURRENT.scope(self, work).await
    }

    /// Its trace.
    #[must_use]
    pub fn trace(&self) -> Trace {
        self.0.trace
    }

    /// The kind of who asked; `none` for who did not say.
    #[must_use]
    pub fn principal(&self) -> &'static str {
        self.0.principal.get().unwrap_or(&"none")
    }

    /// Why it failed, in words that anybody may read.
    pub(crate) fn failure(&self) -> Option<&'static str> {
        self.0.failure.get().copied()
    }

    /// How long it waited for database connections, all together.
    pub(crate) fn database_wait(&self) -> Duration {
        Duration::from_micros(self.0.database_wait_us.load(Ordering::Relaxed))
    }
}

/// The trace of what the caller works for.
#[must_use]
pub fn trace() -> Option<Trace> {
    CURRENT.try_with(Scope::trace).ok()
}

/// Notes who asks: `user`, or an invite's role.
pub fn set_principal(kind: &'static str) {
    let _ = CURRENT.try_with(|scope| scope.0.principal.set(kind));
}

/// Notes why a request fails, in words that anybody may read; the first reason stays.
pub fn set_failure(why: &'static str) {
    let _ = CURRENT.try_with(|scope| scope.0.failure.set(why));
}

/// Notes a wait for a database connection.
pub fn waited_for_database(time: Duration) {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let _ = CURRENT.try_with(|scope| scope.0.database_wait_us.fetch_add(micros, Ordering::Relaxed));
}
