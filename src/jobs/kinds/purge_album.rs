//! Removes a deleted album: objects, read model, rows. Objects go before their rows, by which an interrupted job finds
//! them again.

use super::sync_read_model;
use crate::{
    app::AppState,
    db::{
        self,
        jobs::{Claim, PURGE_ALBUM, Queue},
    },
    domain::AlbumId,
    jobs::{
        job::{Completion, Job, complete},
        retry::Retry,
    },
};
use anyhow::Context;

/// Photos read at a time.
const BATCH: u32 = 100;

pub(crate) struct PurgeAlbum;

impl Job for PurgeAlbum {
    const NAME: &'static str = PURGE_ALBUM.name;
    const QUEUE: Queue = PURGE_ALBUM.queue;
    const RETRY: Retry = Retry::Limited;
    const RESUMES: bool = true;

    async fn run(app: &AppState, claim: &Claim) -> anyhow::Result<Completion> {
        let id = AlbumId::from(claim.subject);
        loop {
            let mut session = app.db.session().await?;
            let photos = db::photos::ids_of_album(&mut session, id, BATCH).await?;
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
        sync_read_model::remove_album(app, id).await?;
        let mut session = app.db.session().await?;
        while db::albums::delete_some_rows(&mut session, id).await? > 0 {}
        drop(session);
        complete(app, claim).await
    }
}
