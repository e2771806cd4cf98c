//! Times as the tables hold them.

use chrono::{DateTime, NaiveDateTime, SubsecRound, Utc};

/// The current time in milliseconds, the precision of the tables: what is returned now is what will be read later.
#[must_use]
pub fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(3)
}

/// A time of any year as a parameter. sqlx sends a `DateTime` as a TIMESTAMP, which MariaDB stores as NULL before 1970
/// and after January 2038; this is sent as a DATETIME, the type of the column.
pub(crate) fn as_datetime(time: DateTime<Utc>) -> NaiveDateTime {
    time.naive_utc()
}

/// Microseconds of a query as the seconds of a gauge: 0 for NULL and for times in the future.
pub(crate) fn gauge_seconds(micros: Option<i64>) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    let micros = micros.unwrap_or(0).max(0) as f64;
    micros / 1e6
}
