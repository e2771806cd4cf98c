//! Logs, metrics and request ids.

pub mod metrics;
mod request;

use std::io::IsTerminal;

use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter, Registry, filter::filter_fn, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

pub use request::{RequestId, observe};

use crate::config::{Log, LogFormat};

/// Changes the log level while the process runs.
#[derive(Clone)]
pub struct LogLevel(reload::Handle<EnvFilter, Registry>);

impl LogLevel {
    /// The filter in force.
    #[must_use]
    pub fn get(&self) -> String {
        self.0.with_current(ToString::to_string).unwrap_or_default()
    }

    /// Puts another filter in force.
    ///
    /// # Errors
    /// The text is no filter.
    pub fn set(&self, filter: &str) -> anyhow::Result<()> {
        Ok(self.0.reload(Log::filter(filter)?)?)
    }
}

/// At these levels the AWS SDK tells whole requests: session tokens of presigned ones, and what the metadata service said.
fn is_indiscreet(metadata: &Metadata<'_>) -> bool {
    *metadata.level() > Level::INFO && metadata.target().starts_with("aws_")
}

/// Starts logging to standard error: standard output belongs to the command's own answer.
///
/// # Errors
/// The filter of the configuration is no filter, or logging has been started already.
pub fn start_logging(config: &Log) -> anyhow::Result<LogLevel> {
    let (filter, handle) = reload::Layer::new(Log::filter(&config.level)?);
    let terminal = std::io::stderr().is_terminal();
    let json = match config.format {
        LogFormat::Auto => !terminal,
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    let lines = fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter).with(filter_fn(|metadata| !is_indiscreet(metadata)));
    if json {
        registry.with(lines.json().flatten_event(true).with_current_span(true).with_span_list(false)).try_init()?;
    } else {
        registry.with(lines.with_ansi(terminal).with_target(false)).try_init()?;
    }
    Ok(LogLevel(handle))
}
