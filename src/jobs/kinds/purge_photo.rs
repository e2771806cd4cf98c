//! Removes the objects of a deleted photo; its row is gone already.

use anyhow::Context;

use crate::{
    app::AppState,
    db::jobs::{Claim, PURGE_PHOTO, Queue},
    domain::PhotoId,
    jobs::{
        job::{Completion, Job, complete},
        retry::Retry,
    },
};

pub(crate) struct PurgePhoto;

impl Job for PurgePhoto {
    const NAME: &'static str = PURGE_PHOTO.name;
    const QUEUE: Queue = PURGE_PHOTO.queue;
    const RETRY: Retry = Retry::Limited;

    async fn run(app: &AppState, claim: &Claim) -> anyhow::Result<Completion> {
        app.storage.remove(PhotoId::from(claim.subject)).await.context("objects can't be removed")?;
        complete(app, claim).await
    }
}
