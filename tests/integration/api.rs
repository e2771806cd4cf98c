//! The HTTP API on a local database and local files, and the listener in front of it.

mod albums;
mod authentication;
mod events;
mod idempotency;
mod invites;
mod listener;
mod malformed_requests;
mod openapi;
mod photos;
mod sql_statements;
mod uploads;
mod walkthrough;
