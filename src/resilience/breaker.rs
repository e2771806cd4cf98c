//! A breaker: what has failed is left alone for a while, because somebody else can answer meanwhile.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Whether a server that others can stand in for is worth asking.
#[derive(Debug)]
pub(crate) struct Breaker {
    rest: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Until when it is left alone.
    until: Option<Instant>,
    /// It has not answered since its last failure.
    failing: bool,
}

impl Breaker {
    /// After a failure it is left alone for `rest`.
    pub(crate) fn new(rest: Duration) -> Self {
        Self { rest, state: Mutex::default() }
    }

    /// Whether it may be asked. After a rest one caller goes first; the others wait for what it finds.
    pub(crate) fn may_be_asked(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if state.until.is_some_and(|until| now < until) {
            return false;
        }
        state.until = state.failing.then_some(now + self.rest);
        true
    }

    /// Notes an answer; true when it is the first one after a failure.
    pub(crate) fn answered(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *state).failing
    }

    /// Notes a failure; true when it is the first one after an answer.
    pub(crate) fn failed(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.until = Some(Instant::now() + self.rest);
        !std::mem::replace(&mut state.failing, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_after_failure_and_probes_once() {
        let breaker = Breaker::new(Duration::from_hours(1));
        assert!(breaker.may_be_asked() && !breaker.answered() && breaker.may_be_asked());
        assert!(breaker.failed() && !breaker.failed());
        assert!(!breaker.may_be_asked());
        // The rest is over.
        breaker.state.lock().unwrap().until = Some(Instant::now());
        assert!(breaker.may_be_asked() && !breaker.may_be_asked());
        assert!(breaker.answered() && breaker.may_be_asked() && breaker.may_be_asked());
    }
}
