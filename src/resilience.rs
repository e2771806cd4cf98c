//! Circuit breaker, request deadlines and backoff.

pub mod backoff;
pub mod breaker;
pub mod deadline;
