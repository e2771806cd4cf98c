//! The jobs that remove what was deleted.

use anyhow::Context;

use super::read_model;
use crate::jobs::{End, complete};
use crate::{
    app::AppState,
    db,
    domain::{AlbumId, PhotoId},
    jobs::queue::Claim,
};

/// How many photos of an album are removed before the database is asked for more.
const BATCH: u32 = 100;

/// The row is gone already; its objects go now.
pub(crate) async fn photo(app: &AppState, claim: &Claim) -> anyhow::Result<End> {
    app.storage.remove(PhotoId::from(claim.subject)).await.context("objects can't be removed")?;
    complete(app, claim).await
}

/// Objects before rows: what is cut off in between is found again by its rows.
pub(crate) async fn album(app: &AppState, claim: &Claim) -> anyhow::Result<End> {
    let id = AlbumId::from(claim.subject);
    loop {
        let mut session = app.db.session().await?;
        let photos = db::photos::some_of(&mut session, id, BATCH).await?;
        drop(session);
        if photos.is_empty() {
            break;
        }
        for photo in photos {
            app.storage.remove(photo).await.context("objects can't be removed")?;
            let mut session = app.db.session().await?;
            db::photos::delete(&mut session, photo).await?;
        }
    }
    read_model::forget(app, id).await?;
    let mut session = app.db.session().await?;
    while db::albums::remove_some(&mut session, id).await? > 0 {}
    drop(session);
    complete(app, claim).await
}
