//! The HTTP API: `router.rs` has the table of routes, `routes/` one file per resource, `middleware/` one layer per file.

mod actuator;
pub mod auth;
pub mod error;
mod etag;
pub mod extract;
pub mod gateway;
pub mod idempotency;
mod middleware;
mod openapi;
pub mod operations;
pub mod pagination;
mod response;
mod router;
pub mod routes;

pub use router::{openapi_document, router};
