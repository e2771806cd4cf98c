//! `darkroom read-model sync`.

use std::path::Path;

use anyhow::Context;

use crate::{
    app, config::Mistakes, db, jobs::kinds::sync_read_model, read_model::ReadModel, runtime::startup,
    telemetry::LogStream,
};

/// Albums looked up at a time.
const BATCH: u32 = 100;

/// Writes albums with pending changes to the read model; with `rebuild` writes all and removes items without a row.
pub async fn sync_read_model(file: Option<&Path>, rebuild: bool) -> anyhow::Result<()> {
    let (config, _) = startup::configure(file, LogStream::Stderr).await?;
    let sdk = Box::pin(app::aws_sdk_config(&config)).await;
    let model = ReadModel::new(&config.read_model, sdk.as_ref())?;
    let model = model.ok_or_else(|| Mistakes::one("read_model.kind is \"none\": there is nothing to project into"))?;
    let db = db::Db::new(&config.database);
    let summary = if rebuild {
        let done = sync_read_model::rebuild(&db, &model).await?;
        format!("{} albums and {} photos rewritten, {} items removed", done.albums, done.photos, done.removed)
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
    println!("{summary}");
    db.close().await;
    Ok(())
}
