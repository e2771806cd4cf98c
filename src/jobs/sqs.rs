//! The default queue over Amazon SQS: sends due jobs, and acts on messages and S3 notifications.

pub mod client;
pub mod consumer;
pub mod message;
