//! `darkroom project`: the read model, brought up to date or made anew.

use std::path::Path;

use anyhow::Context;

use crate::{app, config::Mistakes, db, jobs::kinds::sync_read_model, read_model::ReadModel, telemetry::LogStream};

/// How many albums are looked up at a time.
const BATCH: u32 = 100;

/// Projects what is left to project; with `anew` everything, and what has no row is removed.
///
/// # Errors
/// Mistakes in the configuration, a read model that is off among them; the database's or the table's.
pub async fn project(file: Option<&Path>, anew: bool) -> anyhow::Result<()> {
    let (config, _) = super::configure(file, LogStream::Stderr).await?;
    let sdk = Box::pin(app::aws_sdk_config(&config)).await;
    let model = ReadModel::new(&config.read_model, sdk.as_ref())?;
    let model = model.ok_or_else(|| Mistakes::one("read_model.kind is \"none\": there is nothing to project into"))?;
    let db = db::Db::new(&config.database);
    let told = if anew {
        let done = sync_read_model::rebuild(&db, &model).await?;
        format!("{} albums and {} photos written anew, {} items removed", done.albums, done.photos, done.removed)
    } else {
        let mut albums = 0;
        loop {
            let mut session = db.session().await.with_context(|| config.database.described())?;
            let due = db::read_model::pending_albums(&mut session, false, BATCH).await?;
            drop(session);
            if due.is_empty() {
                break format!("{albums} albums projected");
            }
            for id in due {
                sync_read_model::sync_album(&db, &model, id).await?;
                albums += 1;
            }
        }
    };
    println!("{told}");
    db.close().await;
    Ok(())
}
