//! Middleware of the main listener.

pub mod admission;
pub mod rate_limits;
