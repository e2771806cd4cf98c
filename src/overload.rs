//! Admission control and rate limits.

pub mod admission;
pub mod rate_limits;
