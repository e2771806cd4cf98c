//! Darkroom: photo sharing for events. A host opens an album, guests add photos by an invite link, everybody sees
//! thumbnails within seconds.
//!
//! The map of the house. Arrows point down only: whoever stands higher may use whoever stands lower.
//!
//! | area | what it is for |
//! |---|---|
//! | `main` | the command line |
//! | [`lambda`] | the functions of AWS Lambda: the same handlers and jobs |
//! | [`command`] | one function for each verb that runs the service |
//! | [`dev`] | `darkroom dev`: a private database server and a development identity |
//! | [`client`] | `darkroom upload` |
//! | [`app`] | builds what a command needs, owns the shared state |
//! | [`net`] | listeners and drain |
//! | [`http`] | the route table, one file per resource, problems, identity, idempotency |
//! | [`identity`] | who signed in: JWTs against a key set |
//! | [`worker`] | the loop, one file per job, the sweep, the processes that decode |
//! | [`announce`] | where events go |
//! | [`queue`] | jobs: leases and the rules of trying again |
//! | [`storage`] | originals and renditions, signed URLs |
//! | [`read_model`] | what viewers' pages are read from under a crowd |
//! | [`db`] | the pool, transactions, all SQL |
//! | [`domain`] | the words of the product and their rules; knows nobody |
//! | [`aws`] | what AWS's clients start from, and what their errors ask an operator to do |
//! | `breaker` | leaves alone for a while what fails |
//! | `deadline` | the time that a request has, for all that waits in its name |
//! | [`telemetry`] | logs, metrics, traces, request ids |
//! | [`config`] | what an operator can set |
//!
//! Pictures are opened and rendered by `crates/imaging`.
//!
//! Walks through real operations stand in `docs/architecture.md`.

#![forbid(unsafe_code)]

pub mod app;
pub mod aws;
pub mod client;
pub mod commands;
pub mod config;
pub mod db;
pub mod dev;
pub mod domain;
pub mod health;
pub mod http;
pub mod identity;
pub mod jobs;
pub mod lambda;
pub mod notifications;
pub mod overload;
pub mod read_model;
mod resilience;
pub mod runtime;
pub mod sandbox;
pub mod server;
pub mod services;
pub mod storage;
pub mod telemetry;
