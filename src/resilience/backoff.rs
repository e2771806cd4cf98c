//! Delays before retries, and random durations that spread the work of many instances over time.
//!
//! A function of our own rather than a crate such as `backon`: most callers need the delay for a number that they have
//! stored, such as a job's attempts, rather than a loop that retries a call.

use std::time::Duration;

/// The delay before a retry, the first of which is number 0: `initial`, doubled with each retry up to `max`. The second
/// half of it is random, so that what failed together is not retried together.
#[must_use]
pub fn delay(initial: Duration, max: Duration, retry: u32) -> Duration {
    let half = initial.saturating_mul(1 << retry.min(20)).min(max) / 2;
    half + random_below(half)
}

/// A random duration below `limit`, or zero.
#[must_use]
pub fn random_below(limit: Duration) -> Duration {
    let mut bytes = [0; 4];
    // Without random numbers only the jitter is lost.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    limit.mul_f64(f64::from(u32::from_le_bytes(bytes)) / 2_f64.powi(32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delay_doubles_up_to_maximum() {
        let seconds = Duration::from_secs;
        for (retry, full) in [(0, 2), (1, 4), (3, 16), (4, 20), (40, 20)] {
            let delay = delay(seconds(2), seconds(20), retry);
            assert!((seconds(full) / 2..seconds(full)).contains(&delay), "{retry}: {delay:?}");
        }
    }
}
