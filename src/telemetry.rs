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

pub use request::{Outcome, RequestId, observe};
pub use scope::Scope;
pub use slow::{Slow, SlowRequest};
pub use trace::Trace;

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

/// At these levels the AWS SDK tells whole requests: session tokens of presigned ones, and what the metadata service said; and
/// Lambda's runtime whole events, with what their headers hold.
fn is_indiscreet(metadata: &Metadata<'_>) -> bool {
    *metadata.level() > Level::INFO
        && ["aws_", "lambda_runtime"].iter().any(|source| metadata.target().starts_with(source))
}

/// Where log lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, which journald and containers collect: of commands that serve.
    Output,
    /// The same, with all that a line stands within, an invocation's id first: of functions of AWS Lambda.
    Function,
    /// Standard error: of commands whose answer is on standard output.
    Error,
}

/// Starts logging.
///
/// # Errors
/// The filter of the configuration is no filter, or logging has been started already.
pub fn start_logging(config: &Log, stream: Stream) -> anyhow::Result<LogLevel> {
    let (filter, handle) = reload::Layer::new(Log::filter(&config.level)?);
    let (terminal, writer) = match stream {
        Stream::Output | Stream::Function => (std::io::stdout().is_terminal(), BoxMakeWriter::new(std::io::stdout)),
        Stream::Error => (std::io::stderr().is_terminal(), BoxMakeWriter::new(std::io::stderr)),
    };
    let json = match config.format {
        LogFormat::Auto => !terminal,
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    let lines = fmt::layer().with_writer(writer);
    let registry = tracing_subscriber::registry().with(filter).with(filter_fn(|metadata| !is_indiscreet(metadata)));
    if json {
        registry
            .with(lines.json().flatten_event(true).with_current_span(true).with_span_list(stream == Stream::Function))
            .try_init()?;
    } else {
        registry.with(lines.with_ansi(terminal).with_target(false)).try_init()?;
    }
    Ok(LogLevel(handle))
}
