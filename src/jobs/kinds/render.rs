//! The job that makes a photo's renditions.

use std::time::Instant;

use anyhow::Context;
use chrono::{DateTime, TimeDelta, Utc};
use imaging::{Filter, Rendered, TakenAt};

use crate::{
    app::{App, AppState},
    db::{self, Tx, photo_event},
    domain::{EventKind, Photo, PhotoId, PhotoState, Rendition, Sha256},
    jobs::queue::Claim,
    telemetry::metrics,
};
use crate::{
    jobs::{End, complete},
    sandbox::SandboxError,
};

/// After so many crashes of its decoder a picture is rejected; before that the machine gets the benefit of the doubt.
pub(crate) const CRASHES: u32 = 3;

/// What the decoder made of a photo.
pub(crate) enum Verdict {
    Rendered(Rendered),
    Rejected { code: String, reason: String },
}

pub(crate) async fn run(app: &AppState, claim: &Claim) -> anyhow::Result<End> {
    let id = PhotoId::from(claim.subject);
    let mut session = app.db.session().await?;
    let photo = db::photos::get(&mut session, id).await?;
    drop(session);
    let Some(photo) = photo else { return complete(app, claim).await };
    match photo.state {
        PhotoState::Processing => {}
        PhotoState::Ready => return repair(app, claim, &photo).await,
        PhotoState::AwaitingUpload | PhotoState::Rejected | PhotoState::Expired => return complete(app, claim).await,
    }
    let mut rendered = photo;
    let (verdict, digest) = judge(app, &rendered, &[], last(claim)).await?;
    match verdict {
        Verdict::Rendered(result) => {
            store(app, id, &result).await?;
            ready(&mut rendered, result);
        }
        Verdict::Rejected { code, reason } => {
            tracing::info!(code, reason, "rejected");
            metrics::PHOTOS_REJECTED.with(&[("reason", code)]).increment(1);
            rendered.state = PhotoState::Rejected;
            rendered.reject_reason = Some(reason);
        }
    }
    finish(app, claim, rendered, digest).await
}

/// Whether one more crash is held against the picture.
fn last(claim: &Claim) -> bool {
    claim.attempt >= CRASHES
}

/// What becomes of a photo, with filters for an edit; and the digest of its bytes if it was found on the way. A crash is held
/// against the picture if it is the `last` one.
pub(crate) async fn judge(
    app: &App,
    photo: &Photo,
    filters: &[Filter],
    last: bool,
) -> anyhow::Result<(Verdict, Option<Sha256>)> {
    let declared = photo.content_type.parse().context("the declared type")?;
    let rejected = |code: &str, reason: &str| Verdict::Rejected { code: code.to_owned(), reason: reason.to_owned() };
    let opened = app.storage.open_original(photo.id, |head| imaging::recognise(head, declared).map(drop)).await;
    let original = match opened.context("the original can't be opened")? {
        Ok(original) => original,
        Err(rejection) => return Ok((rejected(rejection.code(), &rejection.to_string()), None)),
    };
    let same = photo.sha256.zip(original.sha256).is_none_or(|(known, found)| known == found);
    anyhow::ensure!(same, "the original is not what was uploaded");
    let started = Instant::now();
    let outcome = app.sandbox.develop(original.file, declared, filters).await;
    metrics::IMAGING_DURATION.record(started.elapsed().as_secs_f64());
    let verdict = match outcome {
        Ok(rendered) => Verdict::Rendered(rendered),
        Err(SandboxError::Rejected(rejection)) => rejected(rejection.code(), &rejection.to_string()),
        Err(SandboxError::TimedOut) => rejected("too_costly", "the picture takes too long to decode"),
        Err(SandboxError::OutOfMemory) => rejected("too_costly", "the picture takes too much memory to decode"),
        Err(error @ SandboxError::Crashed { .. }) if last => {
            tracing::error!(%error, "the decoder crashed again");
            rejected("undecodable", "the picture can't be decoded")
        }
        Err(error) => return Err(error.into()),
    };
    Ok((verdict, original.sha256))
}

async fn store(app: &App, id: PhotoId, rendered: &Rendered) -> anyhow::Result<()> {
    let files = rendered.renditions.iter().map(|r| (describe(r).file_name(), r.bytes.clone())).collect();
    app.storage.put_renditions(id, files).await.context("the renditions can't be stored")
}

/// What is kept of a rendition beside its bytes.
pub(crate) fn describe(made: &imaging::Rendition) -> Rendition {
    Rendition {
        name: made.size.clone(),
        content_type: made.format.media_type().as_str().to_owned(),
        width: made.width,
        height: made.height,
        bytes: made.bytes.len() as u64,
    }
}

fn ready(photo: &mut Photo, rendered: Rendered) {
    photo.state = PhotoState::Ready;
    photo.width = Some(rendered.width);
    photo.height = Some(rendered.height);
    photo.taken_at = rendered.taken_at.map(in_utc);
    photo.camera = rendered.camera;
    photo.renditions = rendered.renditions.iter().map(describe).collect();
    photo.placeholder = Some(rendered.placeholder);
    photo.ready_at = Some(db::now());
}

/// A camera that writes no offset is taken to mean UTC.
fn in_utc(taken: TakenAt) -> DateTime<Utc> {
    (taken.local - TimeDelta::minutes(taken.offset_minutes.unwrap_or(0).into())).and_utc()
}

/// Files what became of the photo, numbers the event and completes the job, in one transaction.
async fn finish(app: &App, claim: &Claim, result: Photo, digest: Option<Sha256>) -> anyhow::Result<End> {
    enum Filed {
        Yes,
        Gone,
        Lost,
    }
    let made = &result;
    let filed = app
        .db
        .transaction(|mut tx| async move {
            let album = db::albums::lock(tx.session(), made.album_id).await?;
            let current = db::photos::lock(tx.session(), made.id).await?;
            if !db::jobs::complete(tx.session(), claim).await? {
                return Ok::<_, db::Error>(tx.done(Filed::Lost));
            }
            let (Some(_), Some(current)) = (album, current) else { return Ok(tx.done(Filed::Gone)) };
            if current.state == PhotoState::Processing {
                // The host may have changed caption or visibility meanwhile; those stay as they are.
                let photo = Photo { visibility: current.visibility, caption: current.caption, ..made.clone() };
                if let Some(digest) = digest {
                    db::photos::set_digest(tx.session(), &photo, &digest).await?;
                }
                file(&mut tx, &photo).await?;
            }
            Ok(tx.done(Filed::Yes))
        })
        .await?;
    match filed {
        Filed::Lost => Ok(End::Lost),
        Filed::Yes => {
            if result.state == PhotoState::Ready {
                metrics::PHOTOS_READY.increment(1);
            }
            Ok(End::Done)
        }
        Filed::Gone => {
            // Deleted while we worked: the purge may have gone by before our renditions were written.
            app.storage.remove(result.id).await.context("objects of a deleted photo can't be removed")?;
            Ok(End::Done)
        }
    }
}

/// Writes what became of a locked photo of a locked album, and numbers the event.
async fn file(tx: &mut Tx, photo: &Photo) -> db::Result<()> {
    db::photos::settle(tx.session(), photo).await?;
    db::albums::count_public(tx.session(), photo.album_id, false, photo.is_public()).await?;
    let (kind, public) = if photo.state == PhotoState::Ready {
        (EventKind::PhotoReady, photo.is_public())
    } else {
        (EventKind::PhotoRejected, false)
    };
    tx.record(photo.album_id, photo_event(photo, kind, public.then_some(kind))).await
}

/// Rejects a photo whose dead job an operator drops: nothing else would ever settle it.
pub(crate) async fn abandon(tx: &mut Tx, id: PhotoId) -> db::Result<()> {
    if let Some(found) = db::photos::get(tx.session(), id).await?
        && db::albums::lock(tx.session(), found.album_id).await?.is_some()
        && let Some(mut photo) = db::photos::lock(tx.session(), found.id).await?
        && photo.state == PhotoState::Processing
    {
        photo.state = PhotoState::Rejected;
        photo.reject_reason = Some("the photo could not be processed".to_owned());
        file(tx, &photo).await?;
    }
    Ok(())
}

/// Makes the renditions of a ready photo once more, because storage has lost some. Nobody is told.
async fn repair(app: &App, claim: &Claim, photo: &Photo) -> anyhow::Result<End> {
    match judge(app, photo, &[], last(claim)).await?.0 {
        Verdict::Rendered(rendered) => store(app, photo.id, &rendered).await?,
        Verdict::Rejected { reason, .. } => {
            anyhow::bail!("a ready photo's renditions are lost and can't be made again: {reason}")
        }
    }
    complete(app, claim).await
}
