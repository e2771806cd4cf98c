//! The circuit breaker and request deadlines.

pub mod breaker;
pub mod deadline;
