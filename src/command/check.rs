//! `darkroom check`: every configured dependency tried for real, a row each.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    db::{self, Db},
    identity::Verifier,
    storage::Storage,
};

/// The longest look at one dependency.
const LOOK: Duration = Duration::from_secs(10);

/// Prints a table; answers whether all is well.
///
/// # Errors
/// Mistakes in the configuration.
pub async fn check(file: Option<&Path>) -> anyhow::Result<bool> {
    let (config, _) = super::configure(file)?;
    println!("{:<12} {:<6} {:>8}  detail", "what", "state", "ms");
    let mut well = row("config", Instant::now(), &Ok(format!("{} settings", config.effective.len())));
    let started = Instant::now();
    let storage = Storage::open(&config.storage, &config.http);
    let writable = format!("{} can be written to", config.storage.directory.display());
    well &= row("storage", started, &storage.map(|_| writable).map_err(|error| error.to_string()));
    let (db, started) = (Db::new(&config.database), Instant::now());
    let place = config.database.described();
    let version = within(database(&db)).await;
    let told = version.map(|v| format!("{place}: {v}")).map_err(|error| format!("{place}: {error}"));
    well &= row("database", started, &told);
    let started = Instant::now();
    well &= row("schema", started, &within(schema(&db)).await);
    db.close().await;
    let (verifier, started) = (Verifier::new(&config.identity), Instant::now());
    verifier.refresh().await;
    let keys = verifier.state();
    well &= row("identity", started, &keys.last_error.map_or_else(|| Ok(format!("{} keys", keys.keys)), Err));
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

async fn database(db: &Db) -> anyhow::Result<String> {
    let mut connection = db.acquire().await?;
    Ok(db::server_version(&mut connection).await?)
}

async fn schema(db: &Db) -> anyhow::Result<String> {
    let level = db::migrations::check(db).await?;
    anyhow::ensure!(
        level.pending.is_empty(),
        "{} migrations have not run; run `darkroom migrate`",
        level.pending.len()
    );
    Ok(format!("{} migrations", level.applied))
}
