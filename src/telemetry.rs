//! Logs, metrics, request ids and traces.

pub mod emf;
pub mod metrics;
pub mod recorder;
mod request;
pub mod scope;
mod slow;
pub mod spans;
mod trace;

use std::io::IsTerminal;

use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter, Registry,
    filter::filter_fn,
    fmt::{self, writer::BoxMakeWriter},
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};

pub use request::{RequestId, RequestObserver, RequestOutcome, observe};
pub use scope::Scope;
pub use slow::{SlowRequest, SlowRequests};
pub use trace::Trace;

use crate::config::{Log, LogFormat};

/// Changes the log filter at run time.
#[derive(Clone)]
pub struct LogLevel(reload::Handle<EnvFilter, Registry>);

impl LogLevel {
    /// The current filter.
    pub fn get(&self) -> String {
        self.0.with_current(ToString::to_string).unwrap_or_default()
    }

    /// Replaces the filter; fails if the text is not a valid one.
    pub fn set(&self, filter: &str) -> anyhow::Result<()> {
        Ok(self.0.reload(Log::filter(filter)?)?)
    }
}

/// Below `INFO` the AWS SDK logs whole requests with session tokens and answers of the metadata service, and Lambda's
/// runtime whole events with their headers.
fn may_log_secrets(metadata: &Metadata<'_>) -> bool {
    *metadata.level() > Level::INFO
        && ["aws_", "lambda_runtime"].iter().any(|prefix| metadata.target().starts_with(prefix))
}

/// Where log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output, collected by journald or a container runtime: for commands that serve.
    Stdout,
    /// Standard output with all enclosing spans, the invocation's first: for Lambda functions.
    Lambda,
    /// Standard error: for commands that print a result to standard output.
    Stderr,
}

/// Starts logging, once for the process.
pub fn start_logging(config: &Log, stream: LogStream) -> anyhow::Result<LogLevel> {
    let (filter, handle) = reload::Layer::new(Log::filter(&config.level)?);
    let (terminal, writer) = match stream {
        LogStream::Stdout | LogStream::Lambda => (std::io::stdout().is_terminal(), BoxMakeWriter::new(std::io::stdout)),
        LogStream::Stderr => (std::io::stderr().is_terminal(), BoxMakeWriter::new(std::io::stderr)),
    };
    let json = match config.format {
        LogFormat::Auto => !terminal,
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    let lines = fmt::layer().with_writer(writer);
    let registry = tracing_subscriber::registry().with(filter).with(filter_fn(|metadata| !may_log_secrets(metadata)));
    if json {
        registry
            .with(lines.json().flatten_event(true).with_current_span(true).with_span_list(stream == LogStream::Lambda))
            .try_init()?;
    } else {
        registry.with(lines.with_ansi(terminal).with_target(false)).try_init()?;
    }
    Ok(LogLevel(handle))
}
