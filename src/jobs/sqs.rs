//! Jobs that Amazon SQS carries to workers.

pub mod client;
pub mod consumer;
pub mod message;
