//! `darkroom check`: every configured dependency tried for real, a row each, and for what fails what to do about it.

mod database;
mod dependencies;

use std::{fmt::Display, path::Path, time::Instant};

use crate::{app, identity::Verifier, runtime::startup, server::Tls, telemetry::LogStream};

/// The table, printed as it grows.
struct Table {
    well: bool,
}

/// A failure, and what to do about it where that isn't plain.
struct Failure {
    told: String,
    advice: Option<String>,
}

impl From<String> for Failure {
    fn from(told: String) -> Self {
        Self { told, advice: None }
    }
}

impl Failure {
    fn with(told: impl Display, advice: &str) -> Self {
        Self { told: told.to_string(), advice: Some(advice.to_owned()) }
    }
}

type Outcome = Result<String, Failure>;

impl Table {
    fn begin() -> Self {
        println!("{:<20} {:<7} {:>8}  detail", "what", "state", "ms");
        Self { well: true }
    }

    /// Prints a row; answers whether it is well.
    fn row(&mut self, what: &str, started: Instant, outcome: Outcome) -> bool {
        let ms = started.elapsed().as_secs_f64() * 1e3;
        // The SDK tells some things in many lines.
        let in_one_line = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
        match outcome {
            Ok(detail) => {
                println!("{what:<20} {:<7} {ms:>8.1}  {detail}", "ok");
                true
            }
            Err(Failure { told, advice }) => {
                println!("{what:<20} {:<7} {ms:>8.1}  {}", "FAILED", in_one_line(told));
                if let Some(advice) = advice {
                    println!("{:>37}  -> {advice}", "");
                }
                self.well = false;
                false
            }
        }
    }

    /// A row for what can't be tried because of a row above.
    fn skip(&mut self, what: &str) {
        println!("{what:<20} {:<7} {:>8}  not tried: see above", "skipped", "");
        self.well = false;
    }
}

/// Prints a table; answers whether all is well.
///
/// # Errors
/// Mistakes in the configuration.
pub async fn check(file: Option<&Path>) -> anyhow::Result<bool> {
    let (config, _) = startup::configure(file, LogStream::Stderr).await?;
    let mut table = Table::begin();
    table.row("config", Instant::now(), Ok(format!("{} settings", config.effective.len())));
    let sdk = Box::pin(app::aws_sdk_config(&config)).await;
    database::check(&config.database, &mut table).await;
    dependencies::check(&config, sdk.as_ref(), &mut table).await;
    if let Some(files) = &config.http.tls {
        let (opened, shown) = (Tls::open(files), files.certificate.display());
        let outcome = opened.map(|_| format!("{shown} and its key")).map_err(|error| format!("{error:#}").into());
        table.row("listener.tls", Instant::now(), outcome);
    }
    let (verifier, started) = (Verifier::new(&config.identity), Instant::now());
    verifier.refresh().await;
    let keys = verifier.state();
    let outcome = keys.last_error.map_or_else(|| Ok(format!("{} keys", keys.keys)), |error| Err(error.into()));
    table.row("identity", started, outcome);
    Ok(table.well)
}
