//! A circuit breaker: after a failure a server is not called for a while, because another one can answer instead.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

#[derive(Debug)]
pub(crate) struct Breaker {
    open_time: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open_until: Option<Instant>,
    /// Whether the last call failed.
    is_failing: bool,
}

impl Breaker {
    /// A failure opens the breaker for `open_time`.
    pub(crate) fn new(open_time: Duration) -> Self {
        Self { open_time, state: Mutex::default() }
    }

    /// Whether the server may be called. After the open time one call is allowed; further ones are refused until it has
    /// a result.
    pub(crate) fn allows_call(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if state.open_until.is_some_and(|until| now < until) {
            return false;
        }
        state.open_until = state.is_failing.then_some(now + self.open_time);
        true
    }

    /// Returns whether this is the first success after a failure.
    pub(crate) fn record_success(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *state).is_failing
    }

    /// Returns whether this is the first failure after a success.
    pub(crate) fn record_failure(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.open_until = Some(Instant::now() + self.open_time);
        !std::mem::replace(&mut state.is_failing, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_after_failure_and_probes_once() {
        let breaker = Breaker::new(Duration::from_hours(1));
        assert!(breaker.allows_call() && !breaker.record_success() && breaker.allows_call());
        assert!(breaker.record_failure() && !breaker.record_failure());
        assert!(!breaker.allows_call());
        breaker.state.lock().unwrap().open_until = Some(Instant::now());
        assert!(breaker.allows_call() && !breaker.allows_call());
        assert!(breaker.record_success() && breaker.allows_call() && breaker.allows_call());
    }
}
