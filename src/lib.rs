//! Darkroom: a photo-sharing service for events. A host opens an album, guests add photos through an invite link, and
//! everyone sees thumbnails within seconds.
//!
//! # Module overview
//!
//! A module uses only modules below it in this table.
//!
//! | module | purpose |
//! |---|---|
//! | `main`, `cli` | parse the command line, dispatch, exit code |
//! | [`commands`] | one function per command that an operator runs |
//! | [`dev`] | `darkroom dev`: a private database server and a development identity |
//! | [`client`] | `darkroom upload` |
//! | [`lambda`] | the AWS Lambda functions: the same handlers and jobs |
//! | [`runtime`] | start-up, signals, background tasks, shutdown |
//! | [`http`] | router, OpenAPI, routes, middleware, errors, authentication, idempotency |
//! | [`jobs`] | the `Job` trait, registry, runner, retry policy, reconciler, SQS |
//! | [`services`] | use cases: rules, transaction and lock order, called by routes, jobs and Lambda alike |
//! | [`app`] | composition root: builds the components |
//! | [`health`] | health checks of the dependencies |
//! | [`overload`] | admission control and rate limits |
//! | [`server`] | listeners, connection timeouts, client address, PROXY protocol, TLS |
//! | [`identity`] | verifies JWTs against a key set |
//! | [`sandbox`] | decodes pictures in confined child processes |
//! | [`notifications`] | publishes events to SNS, a webhook and the log |
//! | [`read_model`] | the DynamoDB projection of albums |
//! | [`storage`] | originals and renditions: files, S3, signed URLs, `CloudFront` |
//! | [`db`] | pool, sessions, transactions, credentials, and all SQL |
//! | [`aws`] | configuration, credentials and error advice for the AWS SDK |
//! | [`domain`] | albums, photos, invites, events, edits, ids and their rules |
//! | `resilience` | circuit breaker, request deadlines, backoff |
//! | [`telemetry`] | logs, metrics, traces, request ids |
//! | [`config`] | loads and validates the settings |
//!
//! `crates/imaging` decodes pictures and makes renditions. `docs/architecture.md` follows real operations through the
//! code.

#![forbid(unsafe_code)]

pub mod app;
pub mod aws;
pub mod cli;
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
