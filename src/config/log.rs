//! `[log]`: what is logged, and how.

use std::time::Duration;

use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use super::source::Source;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// One JSON object a line.
    Json,
    /// For eyes.
    Text,
}

/// `[log]`: what is logged, and how.
#[derive(Debug, Clone)]
pub struct Log {
    /// A filter as of `tracing-subscriber`: `info`, `darkroom=debug,info`.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
    /// A request that takes so long is shown at `/slow`.
    pub slow_request_threshold: Duration,
}

impl Log {
    pub(crate) fn read(s: &mut Source) -> Self {
        let level = s.get("log.level", "info".to_owned());
        if let Err(error) = Self::filter(&level) {
            s.check(false, "log.level", error);
        }
        Self {
            level,
            format: s.get("log.format", LogFormat::Auto),
            slow_request_threshold: s.duration("log.slow_request_threshold", "1s"),
        }
    }

    /// Reads a filter. A word alone has to be a level: `verbose` would be taken for the name of a module, and all else
    /// would be silent.
    ///
    /// # Errors
    /// The text is no filter.
    pub fn filter(text: &str) -> anyhow::Result<EnvFilter> {
        const LEVELS: [&str; 6] = ["trace", "debug", "info", "warn", "error", "off"];
        for word in text.split(',').map(str::trim).filter(|word| !word.contains(['=', '['])) {
            let level = LEVELS.contains(&word.to_ascii_lowercase().as_str());
            anyhow::ensure!(level, "`{word}` is no level: write one of {}, or module=level", LEVELS.join(", "));
        }
        Ok(EnvFilter::builder().parse(text)?)
    }
}
