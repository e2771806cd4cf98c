//! Makes the renditions of an uploaded photo.

use std::time::Instant;

use anyhow::Context;
use chrono::{DateTime, TimeDelta, Utc};
use imaging::{Filter, Rendered, TakenAt};
use uuid::Uuid;

use crate::{
    app::{App, AppState},
    db::{
        self, Tx,
        jobs::{Claim, Queue, RENDER_PHOTO},
        photo_event,
    },
    domain::{EventKind, Photo, PhotoId, PhotoState, Rendition, Sha256},
    jobs::{
        job::{Completion, Job, complete, complete_in},
        retry::Retry,
    },
    sandbox::SandboxError,
    telemetry::metrics,
};

/// An original whose decoder process crashed in this many attempts is rejected; earlier crashes may be the machine's
/// fault.
pub(crate) const MAX_CRASHES: u32 = 3;

pub(crate) struct RenderPhoto;

impl Job for RenderPhoto {
    const NAME: &'static str = RENDER_PHOTO.name;
    const FORMER_NAMES: &'static [&'static str] = &["develop"];
    const QUEUE: Queue = RENDER_PHOTO.queue;
    const RETRY: Retry = Retry::Limited;

    async fn run(app: &AppState, claim: &Claim) -> anyhow::Result<Completion> {
        let id = PhotoId::from(claim.subject);
        let mut session = app.db.session().await?;
        let photo = db::photos::get(&mut session, id).await?;
        drop(session);
        let Some(mut photo) = photo else { return complete(app, claim).await };
        match photo.state {
            PhotoState::Processing => {}
            PhotoState::Ready => return restore_renditions(app, claim, &photo).await,
            PhotoState::AwaitingUpload | PhotoState::Rejected | PhotoState::Expired => {
                return complete(app, claim).await;
            }
        }
        let (result, digest) = render_original(app, &photo, &[], is_last_crash(claim)).await?;
        match result {
            RenderResult::Rendered(rendered) => {
                store(app, id, &rendered).await?;
                set_ready(&mut photo, rendered);
            }
            RenderResult::Rejected { code, reason } => {
                tracing::info!(code, reason, "photo rejected");
                metrics::PHOTOS_REJECTED.with(&[("reason", code)]).increment(1);
                photo.state = PhotoState::Rejected;
                photo.reject_reason = Some(reason);
            }
        }
        finish(app, claim, photo, digest).await
    }

    /// Rejects the photo.
    async fn abandon(tx: &mut Tx, id: Uuid) -> db::Result<()> {
        if let Some(found) = db::photos::get(tx.session(), id.into()).await?
            && db::albums::lock(tx.session(), found.album_id).await?.is_some()
            && let Some(mut photo) = db::photos::lock(tx.session(), found.id).await?
            && photo.state == PhotoState::Processing
        {
            photo.state = PhotoState::Rejected;
            photo.reject_reason = Some("the photo could not be processed".to_owned());
            save_result(tx, &photo).await?;
        }
        Ok(())
    }
}

/// What came of decoding an original.
pub(crate) enum RenderResult {
    Rendered(Rendered),
    /// Another attempt would fail in the same way. `reason` is for people, `code` for the metric.
    Rejected {
        code: String,
        reason: String,
    },
}

fn is_last_crash(claim: &Claim) -> bool {
    claim.attempt >= MAX_CRASHES
}

/// Makes renditions of an original, with the filters of an edit. Returns the SHA-256 of the original where opening it
/// computes one. `reject_crash` is whether a crash of the decoder rejects the original.
pub(crate) async fn render_original(
    app: &App,
    photo: &Photo,
    filters: &[Filter],
    reject_crash: bool,
) -> anyhow::Result<(RenderResult, Option<Sha256>)> {
    let declared = photo.content_type.parse().context("the declared type")?;
    let rejected =
        |code: &str, reason: &str| RenderResult::Rejected { code: code.to_owned(), reason: reason.to_owned() };
    let opened = app.storage.open_original(photo.id, |head| imaging::recognise(head, declared).map(drop)).await;
    let original = match opened.context("the original can't be opened")? {
        Ok(original) => original,
        Err(rejection) => return Ok((rejected(rejection.code(), &rejection.to_string()), None)),
    };
    let is_same = photo.sha256.zip(original.sha256).is_none_or(|(known, found)| known == found);
    anyhow::ensure!(is_same, "the SHA-256 of the original is not that of the upload");
    let started = Instant::now();
    let rendered = app.sandbox.render(original.file, declared, filters).await;
    metrics::IMAGING_DURATION.record(started.elapsed().as_secs_f64());
    let result = match rendered {
        Ok(rendered) => RenderResult::Rendered(rendered),
        Err(SandboxError::Rejected(rejection)) => rejected(rejection.code(), &rejection.to_string()),
        Err(SandboxError::TimedOut) => rejected("too_costly", "the picture takes too long to decode"),
        Err(SandboxError::OutOfMemory) => rejected("too_costly", "the picture takes too much memory to decode"),
        Err(error @ SandboxError::Crashed { .. }) if reject_crash => {
            tracing::error!(%error, "the decoder crashed again");
            rejected("undecodable", "the picture can't be decoded")
        }
        Err(error) => return Err(error.into()),
    };
    Ok((result, original.sha256))
}

async fn store(app: &App, id: PhotoId, rendered: &Rendered) -> anyhow::Result<()> {
    let files = rendered.renditions.iter().map(|made| (rendition_row(made).file_name(), made.bytes.clone())).collect();
    app.storage.put_renditions(id, files).await.context("the renditions can't be stored")
}

/// What the database keeps of a rendition.
pub(crate) fn rendition_row(made: &imaging::Rendition) -> Rendition {
    Rendition {
        name: made.size.clone(),
        content_type: made.format.media_type().as_str().to_owned(),
        width: made.width,
        height: made.height,
        bytes: made.bytes.len() as u64,
    }
}

fn set_ready(photo: &mut Photo, rendered: Rendered) {
    photo.state = PhotoState::Ready;
    photo.width = Some(rendered.width);
    photo.height = Some(rendered.height);
    photo.taken_at = rendered.taken_at.map(assume_utc);
    photo.camera = rendered.camera;
    photo.renditions = rendered.renditions.iter().map(rendition_row).collect();
    photo.placeholder = Some(rendered.placeholder);
    photo.ready_at = Some(db::now());
}

/// A camera that writes no offset is taken to mean UTC.
fn assume_utc(taken: TakenAt) -> DateTime<Utc> {
    (taken.local - TimeDelta::minutes(taken.offset_minutes.unwrap_or(0).into())).and_utc()
}

/// Saves the result, numbers the event and completes the job, in one transaction.
async fn finish(app: &App, claim: &Claim, result: Photo, digest: Option<Sha256>) -> anyhow::Result<Completion> {
    let photo = &result;
    let (completion, exists) = app
        .db
        .transaction(|mut tx| async move {
            let album = db::albums::lock(tx.session(), photo.album_id).await?;
            let current = db::photos::lock(tx.session(), photo.id).await?.filter(|_| album.is_some());
            let completion = complete_in(&mut tx, claim).await?;
            if let Some(current) = &current
                && completion == Completion::Done
                && current.state == PhotoState::Processing
            {
                // Caption and visibility may have changed since the photo was read.
                let caption = current.caption.clone();
                let photo = Photo { visibility: current.visibility, caption, ..photo.clone() };
                if let Some(digest) = digest {
                    db::photos::set_digest(tx.session(), &photo, &digest).await?;
                }
                save_result(&mut tx, &photo).await?;
            }
            Ok::<_, db::Error>(tx.done((completion, current.is_some())))
        })
        .await?;
    if completion == Completion::Done && !exists {
        // The purge job may have run before these renditions were stored.
        app.storage.remove(result.id).await.context("objects of a deleted photo can't be removed")?;
    } else if completion == Completion::Done && result.state == PhotoState::Ready {
        metrics::PHOTOS_READY.increment(1);
    }
    Ok(completion)
}

/// Writes the final state of a locked photo in a locked album, and numbers the event.
async fn save_result(tx: &mut Tx, photo: &Photo) -> db::Result<()> {
    db::photos::save_result(tx.session(), photo).await?;
    db::albums::count_public(tx.session(), photo.album_id, false, photo.is_public()).await?;
    let (kind, is_public) = match photo.state {
        PhotoState::Ready => (EventKind::PhotoReady, photo.is_public()),
        _ => (EventKind::PhotoRejected, false),
    };
    tx.record(photo.album_id, photo_event(photo, kind, is_public.then_some(kind))).await
}

/// Makes the renditions of a ready photo again, because storage has lost some. There is no event.
async fn restore_renditions(app: &App, claim: &Claim, photo: &Photo) -> anyhow::Result<Completion> {
    match render_original(app, photo, &[], is_last_crash(claim)).await?.0 {
        RenderResult::Rendered(rendered) => store(app, photo.id, &rendered).await?,
        RenderResult::Rejected { reason, .. } => {
            anyhow::bail!("a ready photo's renditions are lost and can't be made again: {reason}")
        }
    }
    complete(app, claim).await
}
