//! Uploads that have ended: the PUT handler reports those to files, S3 those to a bucket by a message; the reconciler
//! finds those that were not reported.

use std::io;

use super::{Error, Result};
use crate::{
    db::{self, Db, Tx, jobs::RENDER_PHOTO},
    domain::{InviteRole, Photo, PhotoId, PhotoState, Sha256},
    storage::{CompletedUpload, Files},
};

/// Keeps the bytes of a declared photo: the state, the name of the original and the job commit together. The bytes have
/// to fit `bytes` and `content_type` of the signed URL.
pub async fn accept(
    db: &Db,
    files: &Files,
    id: PhotoId,
    bytes: u64,
    content_type: &str,
    received: &CompletedUpload,
) -> Result<()> {
    db.transaction(|mut tx| async move {
        let photo = db::photos::lock(tx.session(), id).await?.ok_or(Error::NotFound)?;
        let is_declared = photo.bytes == bytes && photo.content_type == content_type;
        if photo.state != PhotoState::AwaitingUpload || !is_declared {
            return Err(Error::Conflict("this upload URL has been used, or the photo was declared again"));
        }
        received.persist(files, id).await.map_err(storage_failed)?;
        record(&mut tx, &photo, Some(&received.sha256)).await?;
        Ok(tx.done(()))
    })
    .await
}

/// The error of a failed write to storage.
pub fn storage_failed(error: io::Error) -> Error {
    Error::Unavailable("the photo cannot be stored", anyhow::Error::from(error).context("storage"))
}

/// Whether an upload makes a difference. S3 checks the expiry of a URL only when an upload begins, so a slow one may
/// end, with 200, after the reconciler has expired the photo.
pub(crate) fn is_awaited(state: PhotoState) -> bool {
    matches!(state, PhotoState::AwaitingUpload | PhotoState::Expired)
}

/// Records that the bytes of a locked photo have arrived as declared, and enqueues its job.
pub(crate) async fn record(tx: &mut Tx, photo: &Photo, digest: Option<&Sha256>) -> db::Result<()> {
    if photo.state == PhotoState::Expired {
        revive(tx, photo).await?;
    }
    db::photos::set_uploaded(tx.session(), photo, digest).await?;
    tx.enqueue(RENDER_PHOTO, photo.id.as_uuid()).await
}

/// Reverts the expiry of a photo: counts it for its invite and for deduplication again. S3 has answered 200, so an
/// invite without photos left is no reason to refuse it.
async fn revive(tx: &mut Tx, photo: &Photo) -> db::Result<()> {
    let mut role = None;
    if let Some(invite_id) = photo.uploader.invite_id {
        db::invites::take_photo(tx.session(), invite_id).await?;
        role = db::invites::role(tx.session(), invite_id).await?;
    }
    if let Some(digest) = photo.sha256 {
        if role != Some(InviteRole::Drop) {
            db::photos::set_dedup(tx.session(), photo.id, &digest.0).await?;
        }
        // For when another guest's photo has the first key, as in a declaration.
        db::photos::set_dedup(tx.session(), photo.id, &digest.among(photo.uploader.invite_id)).await?;
    }
    Ok(())
}
