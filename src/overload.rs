//! Overload protection: admission control and rate limits. Both know no HTTP; `http::middleware` applies them.

pub mod admission;
pub mod rate_limits;
