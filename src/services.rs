//! Use cases: rules, transaction and lock order, called by routes, jobs and Lambda alike.

pub mod uploads;
