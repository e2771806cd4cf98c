//! The function `migrate`: creates the database and its users and migrates the schema, once per release, before other
//! functions of the release are invoked.
//!
//! The event is ignored. The function has a role of its own, which alone may read the master user's secret and sign in
//! as the user that changes tables.

use serde_json::{Value, json};

use crate::{config::Database, runtime::startup};

/// As `darkroom migrate`; returns the number of applied and pending migrations.
pub(crate) async fn bring_up(database: &Database) -> anyhow::Result<Value> {
    let level = startup::migrate(database).await?;
    Ok(json!({ "applied": level.applied, "pending": level.pending.len() }))
}
