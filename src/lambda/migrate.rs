//! The function `migrate`: the database, its users and the schema, once for each release, before anything of it serves.
//!
//! Any event will do. It runs under a role of its own: it alone may read the master user's secret and sign in as who
//! changes tables.

use serde_json::{Value, json};

use crate::{commands, config::Database};

/// Does what `darkroom migrate` does; answers how many migrations the schema has now.
pub(crate) async fn bring_up(database: &Database) -> anyhow::Result<Value> {
    let level = commands::bring_up(database).await?;
    Ok(json!({ "applied": level.applied, "pending": level.pending.len() }))
}
