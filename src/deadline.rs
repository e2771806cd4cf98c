//! The time that a request has: its budget reaches everything that is done for it, wherever that waits.

use std::time::Duration;

use tokio::time::{Instant, error::Elapsed, timeout_at};

tokio::task_local! {
    static ENDS: Instant;
}

/// Does some work within a time. What the work waits for can ask for [`ends`].
///
/// # Errors
/// The time is over; the work was dropped where it stood.
pub async fn within<F: Future>(limit: Duration, work: F) -> Result<F::Output, Elapsed> {
    let ends = Instant::now() + limit;
    timeout_at(ends, ENDS.scope(ends, work)).await
}

/// When the time of the work at hand is over, if it has one: there is no use in waiting beyond that.
#[must_use]
pub fn ends() -> Option<Instant> {
    ENDS.try_with(|ends| *ends).ok()
}
