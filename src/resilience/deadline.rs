//! Request deadlines: a task-local deadline that everything done for a request or an invocation can read.

use std::time::Duration;

use tokio::time::{Instant, error::Elapsed, sleep_until, timeout_at};

tokio::task_local! {
    static CURRENT: Deadline;
}

#[derive(Clone, Copy)]
struct Deadline {
    started_at: Instant,
    ends_at: Instant,
}

/// When less than this is left, nothing new starts, and work that can be resumed stops.
const MIN_TIME_LEFT: Duration = Duration::from_secs(1);

/// Runs `work` for at most `limit`, and not beyond an enclosing deadline. At the deadline the work is dropped.
pub async fn within<F: Future>(limit: Duration, work: F) -> Result<F::Output, Elapsed> {
    let started_at = Instant::now();
    let ends_at = current().map_or(started_at + limit, |enclosing| enclosing.min(started_at + limit));
    timeout_at(ends_at, CURRENT.scope(Deadline { started_at, ends_at }, work)).await
}

/// The deadline of the current task, if it has one.
#[must_use]
pub fn current() -> Option<Instant> {
    deadline().map(|deadline| deadline.ends_at)
}

fn deadline() -> Option<Deadline> {
    CURRENT.try_with(|deadline| *deadline).ok()
}

/// Whether at least half of the whole time has passed since `started`; false without a deadline.
#[must_use]
pub fn is_half_spent_since(started: Instant) -> bool {
    deadline().is_some_and(|Deadline { started_at, ends_at }| started.elapsed() >= (ends_at - started_at) / 2)
}

/// Whether there is time to start something; true without a deadline.
#[must_use]
pub fn has_time_left() -> bool {
    current().is_none_or(|ends_at| Instant::now() + MIN_TIME_LEFT < ends_at)
}

/// Waits until there is only time to finish; for ever without a deadline.
pub async fn wait_until_near() {
    match current() {
        Some(ends_at) => sleep_until(ends_at - MIN_TIME_LEFT.min(ends_at.duration_since(Instant::now()))).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn inner_deadline_is_bounded_by_outer() {
        let started = Instant::now();
        let inner = async {
            assert!(has_time_left());
            wait_until_near().await;
            assert!(!has_time_left());
            assert!(started.elapsed() >= MIN_TIME_LEFT);
            assert!(is_half_spent_since(started) && !is_half_spent_since(Instant::now()));
            std::future::pending::<()>().await;
        };
        let inner = within(Duration::from_mins(1), inner);
        assert!(within(2 * MIN_TIME_LEFT, inner).await.expect("the inner deadline is the outer one").is_err());
        assert!((2 * MIN_TIME_LEFT..10 * MIN_TIME_LEFT).contains(&started.elapsed()), "{:?}", started.elapsed());
        assert!(has_time_left() && current().is_none() && !is_half_spent_since(started));
        // A deadline that is near from the start.
        within(MIN_TIME_LEFT / 10, wait_until_near()).await.expect("returns at once");
    }
}
