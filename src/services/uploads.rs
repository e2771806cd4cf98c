//! Uploads that have ended: S3 tells of most by a message, the sweep finds the others.

use crate::{
    db::{self, Tx, jobs::RENDER_PHOTO},
    domain::{InviteRole, Photo, PhotoState, Sha256},
};

/// Whether bytes make something of a photo. S3 looks at a URL's time only when an upload begins, so one that took long may
/// come to its end, and be answered 200, after the sweep has given it up.
pub(crate) fn is_awaited(state: PhotoState) -> bool {
    matches!(state, PhotoState::AwaitingUpload | PhotoState::Expired)
}

/// Notes that the bytes of a locked photo are there, as they were declared, and has it developed.
///
/// # Errors
/// The database's.
pub(crate) async fn take_in(tx: &mut Tx, photo: &Photo, digest: Option<&Sha256>) -> db::Result<()> {
    if photo.state == PhotoState::Expired {
        revive(tx, photo).await?;
    }
    db::photos::set_uploaded(tx.session(), photo, digest).await?;
    tx.enqueue(RENDER_PHOTO, photo.id.as_uuid()).await
}

/// Takes back what was done when a photo was given up: its place of the invite, and that its bytes may be declared anew. An
/// invite without any left does not undo S3's 200.
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
        // Where another guest's photo stands for these bytes, as when they were declared.
        db::photos::set_dedup(tx.session(), photo.id, &digest.among(photo.uploader.invite_id)).await?;
    }
    Ok(())
}
