//! The service on AWS: each service that it uses, and all of them at once.

pub(crate) mod cloudwatch;
mod emulator;
mod end_to_end;
pub(crate) mod lambda;
pub(crate) mod rds;
mod read_model;
mod s3;
mod secrets;
mod sns;
mod sqs;
mod step_functions;
