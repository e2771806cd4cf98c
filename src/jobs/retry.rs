//! The retry policy: capped exponential backoff with jitter, then the dead-letter state.

use std::time::Duration;

use crate::{config, resilience};

/// While a service that jobs depend on is unavailable, they wait as after this many failed attempts.
const UNAVAILABLE_ATTEMPTS: u32 = 5;

/// How often a failing job is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    /// `worker.max_attempts` times; then it is dead until an operator retries or drops it.
    Limited,
    /// Until it succeeds, for jobs that later changes depend on.
    Forever,
}

/// What follows a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextAttempt {
    After(Duration),
    /// The failed attempt does not count, because a service that the job depends on was unavailable.
    UncountedAfter(Duration),
    DeadLetter,
}

impl Retry {
    pub(crate) fn is_exhausted(self, attempts: u32, settings: &config::Worker) -> bool {
        self == Self::Limited && attempts >= settings.max_attempts
    }

    pub(crate) fn next_attempt(self, attempts: u32, counts: bool, settings: &config::Worker) -> NextAttempt {
        if !counts {
            NextAttempt::UncountedAfter(backoff(UNAVAILABLE_ATTEMPTS, settings))
        } else if self.is_exhausted(attempts, settings) {
            NextAttempt::DeadLetter
        } else {
            NextAttempt::After(backoff(attempts, settings))
        }
    }
}

/// The delay after so many attempts.
pub(crate) fn backoff(attempts: u32, settings: &config::Worker) -> Duration {
    resilience::backoff::delay(settings.initial_backoff, settings.max_backoff, attempts.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_to_cap_then_ends() {
        let settings = config::Worker {
            enabled: true,
            concurrency: 1,
            poll_interval: Duration::from_secs(1),
            visibility_timeout: Duration::from_mins(1),
            max_attempts: 8,
            initial_backoff: Duration::from_secs(2),
            max_backoff: Duration::from_secs(20),
        };
        for (attempt, most) in [(1, 2), (2, 4), (3, 8), (4, 16), (5, 20), (7, 20)] {
            let NextAttempt::After(delay) = Retry::Limited.next_attempt(attempt, true, &settings) else {
                panic!("dead after {attempt}")
            };
            let most = Duration::from_secs(most);
            assert!(delay <= most && delay >= most / 2, "{attempt}: {delay:?}");
        }
        assert_eq!(Retry::Limited.next_attempt(8, true, &settings), NextAttempt::DeadLetter);
        for next in
            [Retry::Forever.next_attempt(u32::MAX, true, &settings), Retry::Limited.next_attempt(8, false, &settings)]
        {
            assert_ne!(next, NextAttempt::DeadLetter);
        }
    }
}
