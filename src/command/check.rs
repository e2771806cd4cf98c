//! `darkroom check`: every configured dependency tried for real, a row each.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    app::{App, AppState},
    db,
};

/// The longest look at one dependency.
const LOOK: Duration = Duration::from_secs(10);

/// Prints a table; answers whether all is well.
///
/// # Errors
/// Mistakes in the configuration.
pub async fn check(file: Option<&Path>) -> anyhow::Result<bool> {
    let (config, level) = super::configure(file)?;
    println!("{:<12} {:<6} {:>8}  detail", "what", "state", "ms");
    let mut well = row("config", Instant::now(), &Ok(format!("{} settings", config.effective.len())));
    let started = Instant::now();
    let app = match App::build(config, Some(level)) {
        Ok(app) => app,
        Err(error) => return Ok(row("storage", started, &Err(format!("{error:#}")))),
    };
    well &= row("storage", started, &Ok(format!("{} can be written to", app.config.storage.directory.display())));
    let started = Instant::now();
    well &= row("database", started, &within(database(&app)).await);
    let started = Instant::now();
    well &= row("schema", started, &within(schema(&app)).await);
    let started = Instant::now();
    app.verifier.refresh().await;
    let keys = app.verifier.state();
    well &= row("identity", started, &keys.last_error.map_or_else(|| Ok(format!("{} keys", keys.keys)), Err));
    app.db.close().await;
    Ok(well)
}

fn row(what: &str, started: Instant, outcome: &Result<String, String>) -> bool {
    let (state, detail) = match outcome {
        Ok(detail) => ("ok", detail),
        Err(error) => ("FAILED", error),
    };
    println!("{what:<12} {state:<6} {:>8.1}  {detail}", started.elapsed().as_secs_f64() * 1e3);
    outcome.is_ok()
}

async fn within(look: impl Future<Output = anyhow::Result<String>>) -> Result<String, String> {
    match tokio::time::timeout(LOOK, look).await {
        Ok(outcome) => outcome.map_err(|error| format!("{error:#}")),
        Err(_) => Err(format!("no answer within {LOOK:?}")),
    }
}

async fn database(app: &AppState) -> anyhow::Result<String> {
    let mut connection = app.db.acquire().await?;
    Ok(db::server_version(&mut connection).await?)
}

async fn schema(app: &AppState) -> anyhow::Result<String> {
    let level = db::migrations::check(&app.db).await?;
    anyhow::ensure!(
        level.pending.is_empty(),
        "{} migrations have not run; run `darkroom migrate`",
        level.pending.len()
    );
    Ok(format!("{} migrations", level.applied))
}
