//! The integration tests: the service on a real port, on a real MySQL or MariaDB server with a database for each test,
//! with real files, real images and real decoder processes. One binary, one folder for each area, one file for each
//! subject.
//!
//! `TEST_DB=mysql` or `TEST_DB=mariadb` selects the database server; without it the one that is found is used. The
//! client of the tests checks every response against the OpenAPI document.
//!
//! `harness` replaces what belongs to AWS: an emulator provides S3, SQS, SNS, DynamoDB, Step Functions and IAM
//! (`harness::aws`); small servers provide IAM sign-in to RDS and its replica, the instance metadata service, Secrets
//! Manager and STS. `harness::tests` and `aws::emulator` test these replacements themselves.

mod api;
mod aws;
mod chaos;
mod cli;
mod deploy;
mod harness;
mod jobs;
