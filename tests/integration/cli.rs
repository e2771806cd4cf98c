//! The command line and what operators see: logs, metrics and traces.

mod commands;
mod dev;
mod telemetry;
