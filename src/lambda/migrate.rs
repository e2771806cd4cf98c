//! The function `migrate`: the database, its users and the schema, once for each release, before anything of it serves.
//!
//! Any event will do. It runs under a role of its own: it alone may read the master user's secret and sign in as who
//! changes tables.

use serde_json::{Value, json};

use crate::{command, config::Database};

/// Does what `darkroom migrate` does; answers how many migrations the schema has now.
pub(super) async fn bring_up(database: &Database) -> anyhow::Result<Value> {
    let level = command::bring_up(database).await?;
    Ok(json!({ "applied": level.applied, "pending": level.pending.len() }))
}
