//! SIGHUP: the configuration is read again, and what may change in a running process does. All of it or nothing.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::PoisonError,
};

use tokio::signal::unix::{SignalKind, signal};

use crate::runtime::{startup, systemd};
use crate::{app::App, app::AppState, config::Log};

/// Settings that a running process takes over, by what their names begin with.
const TAKEN_OVER: [&str; 3] = ["limits.", "log.level", "http.tls_"];

/// Reloads at each SIGHUP, for ever.
///
/// # Errors
/// The signal can't be caught.
pub(crate) fn on_hangup(app: AppState, file: Option<PathBuf>) -> anyhow::Result<impl Future<Output = ()>> {
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        while hangup.recv().await.is_some() {
            if app.draining.is_cancelled() {
                continue;
            }
            systemd::reloading();
            match reload(&app, file.as_deref()).await {
                Ok(()) => tracing::info!("the configuration was read again"),
                Err(error) => {
                    tracing::error!(
                        error = format!("{error:#}"),
                        "the new configuration is refused; the old one stays"
                    );
                }
            }
            systemd::ready();
        }
    })
}

async fn reload(app: &App, file: Option<&Path>) -> anyhow::Result<()> {
    // A new secret is for the next start, so none that is held is asked for: limits and certificates change without it.
    let fresh = startup::load_config(file, &app.config.told).await?;
    // What can fail comes first.
    match (&app.tls, &fresh.http.tls) {
        (Some(tls), Some(files)) => tls.reload(files)?,
        (None, None) => {}
        _ => anyhow::bail!("TLS on the listener can't be switched on or off in a running process"),
    }
    if let Some(level) = &app.log_level {
        debug_assert!(Log::filter(&fresh.log.level).is_ok(), "checked when it was read");
        level.set(&fresh.log.level)?;
    }
    app.limits.send_replace(fresh.limits);
    let mut effective = app.effective.lock().unwrap_or_else(PoisonError::into_inner);
    let (taken_over, others): (Vec<_>, Vec<_>) =
        changes(&effective, &fresh.effective).partition(|key| TAKEN_OVER.iter().any(|begin| key.starts_with(begin)));
    if !others.is_empty() {
        tracing::warn!(settings = others.join(", "), "these have changed too, and need a restart");
    }
    for key in taken_over {
        match fresh.effective.get(&key) {
            Some(value) => effective.insert(key, value.clone()),
            None => effective.remove(&key),
        };
    }
    Ok(())
}

/// The keys that differ.
fn changes<'a>(
    old: &'a BTreeMap<String, String>,
    new: &'a BTreeMap<String, String>,
) -> impl Iterator<Item = String> + use<'a> {
    let keys: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    keys.into_iter().filter(|key| old.get(*key) != new.get(*key)).cloned()
}
