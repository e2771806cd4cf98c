//! Photos: declare, list, read, change, delete.

use std::io;

use chrono::{DateTime, TimeDelta, Utc};
use imaging::MediaType;

use super::{
    Error, ExpectedVersion, Result,
    access::{AlbumContext, ReadContext, ViewerAlbum},
};
use crate::{
    app::App,
    db::{self, Db, Done, Tx, jobs::PURGE_PHOTO, photo_event, photos::Page},
    domain::{
        Access, AlbumRole, Caller, Caption, DisplayName, EventKind, Photo, PhotoId, PhotoState, Sha256, Uploader,
        Visibility,
    },
    storage::{OriginalUrls, RenditionUrls},
};

/// How often a concurrent declaration of the same bytes may interfere.
const MAX_RACES: u32 = 4;

const ALBUM_CLOSED: Error = Error::Conflict("the album is closed");

/// A photo whose bytes will be uploaded.
#[derive(Debug)]
pub struct Declaration {
    pub content_type: MediaType,
    pub bytes: u64,
    pub sha256: Option<Sha256>,
    pub caption: Option<Caption>,
    pub guest_name: Option<DisplayName>,
}

/// The photo of a declaration.
#[derive(Debug)]
pub struct Declared {
    pub photo: Photo,
    /// False if an earlier declaration of the same bytes created it.
    pub is_new: bool,
    /// Until when the upload URL is valid; none if no upload is due.
    pub upload_expires_at: Option<DateTime<Utc>>,
}

/// Changes of a photo; none leaves a value as it is.
#[derive(Debug)]
pub struct PhotoChanges {
    /// `Some(None)` removes it.
    pub caption: Option<Option<Caption>>,
    pub visibility: Option<Visibility>,
}

/// What signs the URLs of renditions.
pub async fn rendition_urls(app: &App) -> Result<RenditionUrls> {
    app.storage.rendition_urls(db::now()).await.map_err(signing_failed)
}

/// What signs the URLs of originals and uploads.
pub async fn original_urls(app: &App) -> Result<OriginalUrls> {
    app.storage.original_urls(db::now()).await.map_err(signing_failed)
}

fn signing_failed(error: io::Error) -> Error {
    Error::Unavailable("URLs cannot be signed", error.into())
}

/// Declares a photo. The same bytes again give the photo that exists, for an upload if its bytes are still missing and
/// the caller is its uploader.
pub async fn declare(
    mut tx: Tx,
    context: &AlbumContext,
    declaration: &Declaration,
    url_ttl: TimeDelta,
) -> Result<Done<Declared>> {
    // The share lock excludes a concurrent delete or close.
    let album = db::albums::lock_shared(tx.session(), context.album.id).await?.ok_or(Error::NotFound)?;
    let (access, now) = (&context.access, db::now());
    let expires_at = DateTime::from_timestamp((now + url_ttl).timestamp(), 0).unwrap_or(now);
    // An upload that begins before the URL expires may take as long again.
    let upload_ends = expires_at + url_ttl;
    let upload = |photo, is_new| Declared { photo, is_new, upload_expires_at: Some(expires_at) };
    let own_key = declaration.sha256.map(|digest| digest.among(access.invite_id()));
    let mut dedup = if access.role() == AlbumRole::Drop { own_key } else { declaration.sha256.map(|digest| digest.0) };
    for _ in 0..MAX_RACES {
        if let Some(key) = dedup
            && let Some(mut photo) = db::photos::find_duplicate(tx.session(), album.id, &key).await?
        {
            let is_awaited = photo.state == PhotoState::AwaitingUpload;
            if is_awaited && access.is_uploader(&photo) {
                if album.closed {
                    return Err(ALBUM_CLOSED);
                }
                photo.bytes = declaration.bytes;
                declaration.content_type.as_str().clone_into(&mut photo.content_type);
                db::photos::declare_again(tx.session(), &photo, upload_ends).await?;
                return Ok(tx.done(upload(photo, false)));
            }
            if !is_awaited && access.sees(&photo) {
                return Ok(tx.done(Declared { photo, is_new: false, upload_expires_at: None }));
            }
            // Another guest's photo, which this caller may not know of, or whose bytes may never arrive.
            dedup = own_key;
            if own_key != Some(key) {
                continue;
            }
        }
        if album.closed {
            return Err(ALBUM_CLOSED);
        }
        let photo = new_photo(context, declaration, album.review, now);
        if db::photos::insert(tx.session(), &photo, dedup.as_ref(), upload_ends).await? {
            if let Some(invite_id) = photo.uploader.invite_id
                && !db::invites::take_photo(tx.session(), invite_id).await?
            {
                return Err(Error::Conflict("this invite has no photos left, or was revoked"));
            }
            return Ok(tx.done(upload(photo, true)));
        }
    }
    Err(Error::Busy("the same photo is being added by others; try again"))
}

fn new_photo(context: &AlbumContext, declaration: &Declaration, review: bool, now: DateTime<Utc>) -> Photo {
    let invite_id = context.access.invite_id();
    let name = match &context.caller {
        Caller::User(user) => user.name.as_deref().and_then(|name| DisplayName::parse(name).ok()),
        Caller::Guest(_) => declaration.guest_name.clone(),
    };
    Photo {
        id: PhotoId::generate(),
        album_id: context.album.id,
        state: PhotoState::AwaitingUpload,
        visibility: if review && invite_id.is_some() { Visibility::PendingReview } else { Visibility::Visible },
        uploader: Uploader { invite_id, name: name.map(Into::into) },
        caption: declaration.caption.clone().map(Into::into),
        content_type: declaration.content_type.as_str().to_owned(),
        bytes: declaration.bytes,
        sha256: declaration.sha256,
        width: None,
        height: None,
        taken_at: None,
        camera: None,
        placeholder: None,
        renditions: Vec::new(),
        reject_reason: None,
        version: 1,
        created_at: now,
        ready_at: None,
    }
}

/// A page of the photos that the caller may see, from the read model if it has the page.
pub async fn list(app: &App, album: ViewerAlbum, page: &Page) -> Result<Vec<Photo>> {
    if let Some(model) = &app.read_model
        && album.is_from_read_model()
        && page.shows_all_public()
        && let Some(photos) = model.photos(album.context().album.id, page).await
    {
        return Ok(photos);
    }
    let context = album.from_database(&app.db).await?;
    let (access, album_id) = (&context.access, context.album.id);
    let list = |mut session| async move { db::photos::list(&mut session, access, album_id, page).await };
    Ok(app.db.read_from_replica(context.freshness, list).await?)
}

/// One photo, for reading only.
pub async fn read(db: &Db, context: &ReadContext, id: PhotoId) -> Result<Photo> {
    let caller = &context.caller;
    let find = |mut session| async move { db::photos::find(&mut session, caller, id).await };
    let (photo, _) = db.read_from_replica(context.freshness, find).await?.ok_or(Error::NotFound)?;
    Ok(photo)
}

/// A photo that the caller may see, and its access to the album.
pub async fn find(db: &Db, caller: &Caller, id: PhotoId) -> Result<(Photo, Access)> {
    let find = |mut session| async move { db::photos::find(&mut session, caller, id).await };
    db.read(find).await?.ok_or(Error::NotFound)
}

/// Changes a photo. Without a difference nothing is written and no event recorded.
pub async fn update(
    db: &Db,
    caller: &Caller,
    id: PhotoId,
    changes: &PhotoChanges,
    expected: &ExpectedVersion,
) -> Result<Photo> {
    let (photo, access) = find(db, caller, id).await?;
    if !access.owns(&photo) {
        return Err(Error::Forbidden("only the uploader and the host may change a photo"));
    }
    if changes.visibility.is_some() && access != Access::Host {
        return Err(Error::Forbidden("only the host may change who sees a photo"));
    }
    let album_id = photo.album_id;
    db.transaction(|mut tx| async move {
        db::albums::lock(tx.session(), album_id).await?.ok_or(Error::NotFound)?;
        let mut photo = db::photos::lock(tx.session(), id).await?.ok_or(Error::NotFound)?;
        expected.check(photo.version)?;
        let (was_public, before) = (photo.is_public(), (photo.caption.clone(), photo.visibility));
        if let Some(caption) = &changes.caption {
            photo.caption = caption.clone().map(Into::into);
        }
        photo.visibility = changes.visibility.unwrap_or(photo.visibility);
        if before == (photo.caption.clone(), photo.visibility) {
            return Ok(tx.done(photo));
        }
        let is_public = photo.is_public();
        photo.version += 1;
        db::photos::update(tx.session(), &photo).await?;
        db::albums::count_public(tx.session(), album_id, was_public, is_public).await?;
        // For viewers a photo that is hidden disappears.
        let public_kind = match (was_public, is_public) {
            (_, true) => Some(EventKind::PhotoUpdated),
            (true, false) => Some(EventKind::PhotoRemoved),
            (false, false) => None,
        };
        tx.record(album_id, photo_event(&photo, EventKind::PhotoUpdated, public_kind)).await?;
        Ok(tx.done(photo))
    })
    .await
}

/// Deletes a photo; a job removes its objects.
pub async fn delete(db: &Db, caller: &Caller, id: PhotoId, expected: &ExpectedVersion) -> Result<()> {
    let (photo, access) = find(db, caller, id).await?;
    if !access.owns(&photo) {
        return Err(Error::Forbidden("only the uploader and the host may delete a photo"));
    }
    let album_id = photo.album_id;
    db.transaction(|mut tx| async move {
        db::albums::lock(tx.session(), album_id).await?.ok_or(Error::NotFound)?;
        let photo = db::photos::lock(tx.session(), id).await?.ok_or(Error::NotFound)?;
        expected.check(photo.version)?;
        db::photos::delete(tx.session(), id).await?;
        db::albums::count_public(tx.session(), album_id, photo.is_public(), false).await?;
        if let (PhotoState::AwaitingUpload, Some(invite_id)) = (photo.state, photo.uploader.invite_id) {
            db::invites::return_photo(tx.session(), invite_id).await?;
        }
        let removed = EventKind::PhotoRemoved;
        tx.record(album_id, photo_event(&photo, removed, photo.is_public().then_some(removed))).await?;
        tx.enqueue(PURGE_PHOTO, id.as_uuid()).await?;
        Ok(tx.done(()))
    })
    .await
}

/// A short-lived URL of the original.
pub async fn original_url(app: &App, caller: &Caller, id: PhotoId) -> Result<String> {
    let (photo, access) = find(&app.db, caller, id).await?;
    if !access.owns(&photo) {
        return Err(Error::Forbidden("only the uploader and the host may fetch the original"));
    }
    if matches!(photo.state, PhotoState::AwaitingUpload | PhotoState::Expired) {
        return Err(Error::Conflict("the original has not been uploaded yet"));
    }
    Ok(original_urls(app).await?.download(&photo))
}
