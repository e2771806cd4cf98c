//! The integration tests: the real router on a real port, a real MySQL or MariaDB over its socket with a database for
//! each test, real files, real pictures, real decoding processes. One binary, one file for each subject.
//!
//! The database server is the one that is found; `TEST_DB=mysql` or `TEST_DB=mariadb` names one. Every answer that a
//! test gets is held against the OpenAPI document.
//!
//! What belongs to AWS is stood in for, under `support`: S3, SQS, SNS, DynamoDB, Step Functions and IAM by an emulator
//! (`support::cloud`), sign-in to RDS by IAM, its failures and its replica, the metadata service, Secrets Manager and STS.
//! `bed` and `cloud` hold the stand-ins themselves to what they promise.

mod support;

mod albums;
mod announce;
mod aws;
mod bad_photos;
mod bed;
mod cloud;
mod cloudwatch;
mod commands;
mod database;
mod deploy;
mod dev;
mod disk;
mod edits;
mod events;
mod faults;
mod flow;
mod idempotency;
mod identity;
mod install;
mod invites;
mod json;
mod lambda;
mod listener;
mod nlb;
mod openapi;
mod overload;
mod photos;
mod rds;
mod read_model;
mod s3;
mod secrets;
mod slow;
mod sns;
mod sqs;
mod sweep;
mod telemetry;
mod uploads;
mod worker;
mod workflow;
