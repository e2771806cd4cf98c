//! Albums: create, list, change, delete.

use super::{Error, ExpectedVersion, Result};
use crate::{
    app::App,
    db::{self, Db, Done, Tx, events::NewEvent, jobs::PURGE_ALBUM},
    domain::{Album, AlbumId, EventKind, Title},
    read_model::items::Item,
};

/// Changes of an album; none leaves a value as it is.
#[derive(Debug)]
pub struct AlbumChanges {
    pub title: Option<Title>,
    pub review: Option<bool>,
    pub closed: Option<bool>,
}

/// Creates an album of the user `host`.
pub async fn create(mut tx: Tx, host: &str, title: &Title, review: bool) -> Result<Done<Album>> {
    let album = db::albums::insert(tx.session(), host, title, review, db::now()).await?;
    Ok(tx.done(album))
}

/// A page of the albums of the user `host`, newest first.
pub async fn list(db: &Db, host: &str, before: Option<AlbumId>, limit: u32) -> Result<Vec<Album>> {
    let list = |mut session| async move { db::albums::list(&mut session, host, before, limit).await };
    Ok(db.read(list).await?)
}

/// Changes an album. Without a difference nothing is written and no event recorded.
pub async fn update(db: &Db, id: AlbumId, changes: &AlbumChanges, expected: &ExpectedVersion) -> Result<Album> {
    db.transaction(|mut tx| async move {
        let mut album = db::albums::lock(tx.session(), id).await?.ok_or(Error::NotFound)?;
        expected.check(album.version)?;
        let before = (album.title.clone(), album.review, album.closed);
        if let Some(title) = &changes.title {
            title.as_str().clone_into(&mut album.title);
        }
        album.review = changes.review.unwrap_or(album.review);
        album.closed = changes.closed.unwrap_or(album.closed);
        if before == (album.title.clone(), album.review, album.closed) {
            return Ok(tx.done(album));
        }
        album.version += 1;
        album.updated_at = db::now();
        db::albums::update(tx.session(), &album).await?;
        let kind = EventKind::AlbumUpdated;
        let event = NewEvent { kind, public_kind: Some(kind), photo_id: None, edit_id: None, uploader: None };
        tx.record(album.id, event).await?;
        Ok(tx.done(album))
    })
    .await
}

/// Hides an album at once; a job removes its photos and objects.
pub async fn delete(app: &App, id: AlbumId, expected: &ExpectedVersion) -> Result<()> {
    app.db
        .transaction(|mut tx| async move {
            let album = db::albums::lock(tx.session(), id).await?.ok_or(Error::NotFound)?;
            expected.check(album.version)?;
            db::albums::mark_deleted(tx.session(), id, db::now()).await?;
            tx.project(id).await?;
            tx.enqueue(PURGE_ALBUM, id.as_uuid()).await?;
            Ok::<_, Error>(tx.done(()))
        })
        .await?;
    if let Some(model) = &app.read_model {
        model.write_now(&Item::deleted(id, db::now())).await;
    }
    Ok(())
}
