//! The time that a request has: its budget reaches everything that is done for it, wherever that waits.

use std::time::Duration;

use tokio::time::{Instant, error::Elapsed, timeout_at};

tokio::task_local! {
    static BUDGET: Budget;
}

#[derive(Clone, Copy)]
struct Budget {
    begun: Instant,
    ends: Instant,
}

/// What is left of a budget is too little to begin something with; what goes on with work that can come again gives it back.
const LAST: Duration = Duration::from_secs(1);

/// Does some work within a time, and within that of the work around it. What the work waits for can ask for [`ends`].
///
/// # Errors
/// The time is over; the work was dropped where it stood.
pub async fn within<F: Future>(limit: Duration, work: F) -> Result<F::Output, Elapsed> {
    let begun = Instant::now();
    let ends = self::ends().map_or(begun + limit, |around| around.min(begun + limit));
    timeout_at(ends, BUDGET.scope(Budget { begun, ends }, work)).await
}

/// When the time of the work at hand is over, if it has one: there is no use in waiting beyond that.
#[must_use]
pub fn ends() -> Option<Instant> {
    budget().map(|budget| budget.ends)
}

/// Whether what began then has had at least half of the whole time; never, for work without a budget.
#[must_use]
pub fn had_half_since(then: Instant) -> bool {
    budget().is_some_and(|Budget { begun, ends }| then.elapsed() >= (ends - begun) / 2)
}

fn budget() -> Option<Budget> {
    BUDGET.try_with(|budget| *budget).ok()
}

/// Whether there is time to begin something; always, for work without a budget.
#[must_use]
pub fn is_ahead() -> bool {
    ends().is_none_or(|ends| Instant::now() + LAST < ends)
}

/// Waits until there is only time to end what goes on; for ever, for work without a budget.
pub async fn is_near() {
    match ends() {
        Some(ends) => tokio::time::sleep_until(ends - LAST.min(ends.duration_since(Instant::now()))).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_inner_budget_reaches_no_further_than_the_one_around_it() {
        let begun = Instant::now();
        let inner = async {
            assert!(is_ahead());
            is_near().await;
            assert!(!is_ahead());
            assert!(begun.elapsed() >= LAST);
            assert!(had_half_since(begun) && !had_half_since(Instant::now()));
            std::future::pending::<()>().await;
        };
        let inner = within(Duration::from_mins(1), inner);
        assert!(within(2 * LAST, inner).await.expect("the inner one ends").is_err());
        assert!((2 * LAST..10 * LAST).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        assert!(is_ahead() && ends().is_none() && !had_half_since(begun));
        // Less than what is left for the end, at all.
        within(LAST / 10, is_near()).await.expect("at once");
    }
}
