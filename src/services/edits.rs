//! Edits: create, list, read, review. The job `edit` applies them.

use imaging::Filter;

use super::{Error, FieldError, Result, photos};
use crate::{
    db::{self, Db, Done, Tx, events::NewEvent, jobs::APPLY_EDIT, photo_event},
    domain::{
        Access, Caller, Edit, EditId, EditState, EditStep, EventKind, Photo, PhotoId, PhotoState,
        edit::{MAX_ACTIVE_EDITS, MAX_EDITS},
    },
    telemetry::metrics,
};

/// The `fail_reason` of an edit that the host refused.
const REFUSED: &str = "the host refused it";

/// The host's decision on an edit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Approve,
    Refuse,
}

/// The photo of an edit to come, once the caller may edit it and the filters are valid.
pub async fn check(db: &Db, caller: &Caller, photo_id: PhotoId, filters: &[Filter]) -> Result<(Photo, Access)> {
    let (photo, access) = photos::find(db, caller, photo_id).await?;
    if !access.owns(&photo) {
        return Err(Error::Forbidden("only the uploader and the host may edit a photo"));
    }
    imaging::validate_filters(filters).map_err(|errors| {
        Error::Invalid(errors.into_iter().map(|error| FieldError::new(error.path, error.reason)).collect())
    })?;
    Ok((photo, access))
}

/// Creates an edit of a photo that [`check`] found, and enqueues its job. In a reviewed album a guest's edit waits for
/// the host.
pub async fn create(mut tx: Tx, photo: &Photo, access: Access, filters: &[Filter]) -> Result<Done<Edit>> {
    let album = db::albums::lock_shared(tx.session(), photo.album_id).await?.ok_or(Error::NotFound)?;
    let photo = db::photos::lock(tx.session(), photo.id).await?.ok_or(Error::NotFound)?;
    if photo.state != PhotoState::Ready {
        return Err(Error::Conflict("the photo is not ready"));
    }
    let (all, active) = db::edits::count(tx.session(), photo.id).await?;
    if active >= MAX_ACTIVE_EDITS || all >= MAX_EDITS {
        return Err(Error::Conflict("the photo has the maximum number of edits"));
    }
    let needs_review = album.review && access != Access::Host;
    let edit = Edit {
        id: EditId::generate(),
        photo_id: photo.id,
        album_id: album.id,
        state: if needs_review { EditState::PendingReview } else { EditState::Processing },
        step: Some(EditStep::Validate),
        filters: filters.to_vec(),
        renditions: Vec::new(),
        fail_reason: None,
        created_at: db::now(),
        ready_at: None,
    };
    db::edits::insert(tx.session(), &edit).await?;
    tx.enqueue(APPLY_EDIT, edit.id.as_uuid()).await?;
    Ok(tx.done(edit))
}

/// A page of the edits of a photo that the caller may see, newest first.
pub async fn list(db: &Db, access: &Access, photo: &Photo, before: Option<EditId>, limit: u32) -> Result<Vec<Edit>> {
    let list = |mut session| async move { db::edits::list(&mut session, access, photo, before, limit).await };
    Ok(db.read(list).await?)
}

/// An edit that the caller may see.
pub async fn read(db: &Db, caller: &Caller, photo_id: PhotoId, id: EditId) -> Result<Edit> {
    Ok(find(db, caller, photo_id, id).await?.0)
}

async fn find(db: &Db, caller: &Caller, photo_id: PhotoId, id: EditId) -> Result<(Edit, Photo, Access)> {
    let (photo, access) = photos::find(db, caller, photo_id).await?;
    let seen = &photo;
    let find = |mut session| async move { db::edits::find(&mut session, &access, seen, id).await };
    let edit = db.read(find).await?.ok_or(Error::NotFound)?;
    Ok((edit, photo, access))
}

/// Records the host's decision on an edit that waits for it, and wakes the edit's job.
pub async fn review(db: &Db, caller: &Caller, photo_id: PhotoId, id: EditId, decision: Decision) -> Result<Edit> {
    let (_, photo, access) = find(db, caller, photo_id, id).await?;
    if access != Access::Host {
        return Err(Error::Forbidden("only the host may decide on an edit"));
    }
    let album_id = photo.album_id;
    let edit = db
        .transaction(|mut tx| async move {
            db::albums::lock(tx.session(), album_id).await?.ok_or(Error::NotFound)?;
            let photo = db::photos::lock(tx.session(), photo_id).await?.ok_or(Error::NotFound)?;
            let edit = db::edits::lock(tx.session(), id).await?.ok_or(Error::NotFound)?;
            if edit.state != EditState::PendingReview {
                return Err(Error::Conflict("the edit does not wait for review"));
            }
            db::jobs::retry_dead_of(tx.session(), APPLY_EDIT, id.as_uuid()).await?;
            tx.enqueue(APPLY_EDIT, id.as_uuid()).await?;
            let edit = match decision {
                Decision::Approve => {
                    let edit = Edit { state: EditState::Processing, ..edit };
                    db::edits::advance(tx.session(), &edit).await?;
                    edit
                }
                Decision::Refuse => fail(&mut tx, edit, &photo, REFUSED).await?,
            };
            Ok(tx.done(edit))
        })
        .await?;
    if edit.state == EditState::Failed {
        metrics::EDITS.with(&[("outcome", "failed")]).increment(1);
    }
    Ok(edit)
}

/// Locks the album, the photo and the edit; none if one of them does not exist.
pub(crate) async fn lock(tx: &mut Tx, id: EditId) -> db::Result<Option<(Edit, Photo)>> {
    let Some(found) = db::edits::get(tx.session(), id).await? else { return Ok(None) };
    let album = db::albums::lock(tx.session(), found.album_id).await?;
    let photo = db::photos::lock(tx.session(), found.photo_id).await?;
    let edit = db::edits::lock(tx.session(), id).await?;
    Ok(edit.zip(album.and(photo)))
}

/// Fails a locked edit that is open, and records the event; viewers never knew of the edit.
pub(crate) async fn fail(tx: &mut Tx, edit: Edit, photo: &Photo, reason: &str) -> db::Result<Edit> {
    let edit = Edit { state: EditState::Failed, step: None, fail_reason: Some(reason.to_owned()), ..edit };
    db::edits::advance(tx.session(), &edit).await?;
    record_event(tx, &edit, photo, EventKind::EditFailed, None).await?;
    Ok(edit)
}

pub(crate) async fn record_event(
    tx: &mut Tx,
    edit: &Edit,
    photo: &Photo,
    kind: EventKind,
    public_kind: Option<EventKind>,
) -> db::Result<()> {
    let event = NewEvent { edit_id: Some(edit.id), ..photo_event(photo, kind, public_kind) };
    tx.record(edit.album_id, event).await
}
