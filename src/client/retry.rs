//! When to try again, and how long to wait before: capped exponential backoff with jitter, or as the server asks.

use std::time::Duration;

use super::failure::Failure;
use crate::resilience::backoff;

/// How patient the client is.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// How often a thing is tried in all.
    pub tries: u32,
    /// The wait after the first failure; it doubles each time.
    pub base: Duration,
    /// The longest wait of the client's own accord.
    pub cap: Duration,
    /// The longest wait that a server may ask for.
    pub longest: Duration,
    /// How long to go on waiting for photos to be ready while none gets ready.
    pub patience: Duration,
}

impl Policy {
    /// Some 20 to 30 seconds of trying, so that a restart of the server goes unnoticed.
    pub const USUAL: Self = Self {
        tries: 6,
        base: Duration::from_millis(500),
        cap: Duration::from_secs(15),
        longest: Duration::from_mins(2),
        patience: Duration::from_mins(2),
    };

    /// How long to wait after so many failures before this one.
    pub fn wait(&self, failures: u32, asked: Option<Duration>) -> Duration {
        let own = backoff::delay(self.base, self.cap, failures);
        asked.map_or(own, |asked| asked.min(self.longest) + own / 4)
    }
}

/// Repeats a call until it succeeds, fails permanently, or has used up its attempts. Reports each failure but the last.
///
/// # Errors
/// The last failure.
pub async fn run<T>(
    policy: &Policy,
    tell: impl Fn(&str),
    mut call: impl AsyncFnMut() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut failures = 0;
    loop {
        match call().await {
            Err(Failure::Passing { why, after }) if failures + 1 < policy.tries => {
                tell(&why);
                tokio::time::sleep(policy.wait(failures, after)).await;
                failures += 1;
            }
            end => return end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_to_cap_with_jitter() {
        let policy = Policy::USUAL;
        for (failures, full) in [(0, 0.5), (1, 1.0), (4, 8.0), (5, 15.0), (40, 15.0)] {
            for _ in 0..50 {
                let wait = policy.wait(failures, None).as_secs_f64();
                assert!((full / 2.0..=full).contains(&wait), "{failures}: {wait}");
            }
        }
    }

    #[test]
    fn honours_retry_after_up_to_limit() {
        let policy = Policy::USUAL;
        assert!(policy.wait(0, Some(Duration::from_secs(7))) >= Duration::from_secs(7));
        assert!(policy.wait(0, Some(Duration::from_hours(24))) < policy.longest + policy.cap);
    }
}
