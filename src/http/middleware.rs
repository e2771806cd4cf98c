//! Layers around the handlers.

pub mod admission;
pub mod cors;
pub mod deadline;
pub mod observe;
pub mod panic;
pub mod problem;
pub mod rate_limits;
