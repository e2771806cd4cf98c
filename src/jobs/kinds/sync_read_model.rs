//! Updates the read model of an album from the current rows. Safe to run concurrently and repeatedly, because writes
//! are conditional on the version.

use std::collections::{BTreeSet, HashMap, hash_map::Entry};

use chrono::Utc;

use crate::{
    app::{App, AppState},
    aws::AwsError,
    db::{
        self, Db,
        jobs::{Claim, Queue, SYNC_READ_MODEL},
        read_model::{self, DELETED, NumberedPhoto},
    },
    domain::{AlbumId, InviteId, PhotoId},
    jobs::{
        job::{Completion, Job, complete, complete_in},
        retry::Retry,
    },
    read_model::{
        Overwrite, ReadModel,
        items::{Item, Key, Subject},
    },
};

/// Events, photos or invites read at a time.
const BATCH: u32 = 100;

pub(crate) struct SyncReadModel;

impl Job for SyncReadModel {
    const NAME: &'static str = SYNC_READ_MODEL.name;
    const FORMER_NAMES: &'static [&'static str] = &["project"];
    const QUEUE: Queue = SYNC_READ_MODEL.queue;
    /// Until it succeeds, viewers see old pages and revoked invites work.
    const RETRY: Retry = Retry::Forever;

    async fn run(app: &AppState, claim: &Claim) -> anyhow::Result<Completion> {
        let id = AlbumId::from(claim.subject);
        // Turned off since the job was enqueued. When it is turned on again, the reconciler finds the albums to update.
        let Some(model) = &app.read_model else { return complete(app, claim).await };
        loop {
            sync_album(&app.db, model, id).await?;
            if let Some(completion) = complete_if_synced(app, claim, id).await? {
                return Ok(completion);
            }
        }
    }
}

/// The counts of a rebuild.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Rebuilt {
    pub albums: u64,
    pub photos: u64,
    /// Photos and invites without a row, which were removed.
    pub removed: u64,
}

/// A transaction that changes the album finds this job and enqueues none. So the job ends only while the album is
/// locked and nothing is left to write.
async fn complete_if_synced(app: &AppState, claim: &Claim, id: AlbumId) -> anyhow::Result<Option<Completion>> {
    app.db
        .transaction(|mut tx| async move {
            if read_model::lock_and_check_pending(tx.session(), id).await? {
                return Ok(tx.done(None));
            }
            let completion = complete_in(&mut tx, claim).await?;
            Ok(tx.done(Some(completion)))
        })
        .await
}

/// Writes the changes of an album that the read model does not have yet. After an error, what was written stays.
pub async fn sync_album(db: &Db, model: &ReadModel, id: AlbumId) -> anyhow::Result<()> {
    loop {
        let mut session = db.session().await?;
        let Some(state) = read_model::projection(&mut session, id).await? else {
            drop(session);
            model.remove_album(id).await.map_err(with_context)?;
            return Ok(());
        };
        if state.deleted {
            drop(session);
            model.remove_album(id).await.map_err(with_context)?;
            return Ok(read_model::set_projected(&mut db.session().await?, id, DELETED).await?);
        }
        let mut events = db::events::after(&mut session, id, state.projected, BATCH).await?;
        let is_last_batch = events.len() < BATCH as usize;
        // Events after the album row was read belong to the next round.
        events.retain(|event| event.seq <= state.album.last_seq);
        let reached = if is_last_batch { state.album.last_seq } else { events.last().map_or(0, |event| event.seq) };
        let ids: BTreeSet<PhotoId> = events.iter().filter_map(|event| event.photo_id).collect();
        let photos = read_model::photos(&mut session, id, &ids.into_iter().collect::<Vec<_>>()).await?;
        drop(session);
        model.write(&items(id, &photos), Overwrite::Older).await.map_err(with_context)?;
        if is_last_batch {
            sync_invites(db, model, id).await?;
            // The album last, so that a reader who finds it finds all photos that it counts.
            model.write(&[Item::album(&state.album)], Overwrite::Older).await.map_err(with_context)?;
        }
        read_model::set_projected(&mut db.session().await?, id, reached).await?;
        if is_last_batch {
            return Ok(());
        }
    }
}

async fn sync_invites(db: &Db, model: &ReadModel, id: AlbumId) -> anyhow::Result<()> {
    loop {
        let mut session = db.session().await?;
        let due = read_model::pending_invites(&mut session, id, BATCH).await?;
        drop(session);
        if due.is_empty() {
            return Ok(());
        }
        let items: Vec<Item> = due.iter().map(Item::invite).collect();
        model.write(&items, Overwrite::Older).await.map_err(with_context)?;
        let mut session = db.session().await?;
        for invite in &due {
            read_model::set_invite_projected(&mut session, invite).await?;
        }
    }
}

/// Removes a deleted album from the read model while its rows still name the items.
pub(crate) async fn remove_album(app: &App, id: AlbumId) -> anyhow::Result<()> {
    let Some(model) = &app.read_model else { return Ok(()) };
    model.remove_album(id).await.map_err(with_context)?;
    let mut after = InviteId::from(uuid::Uuid::nil());
    loop {
        let mut session = app.db.session().await?;
        let some = read_model::invites(&mut session, id, after, BATCH).await?;
        drop(session);
        let Some(last) = some.last() else { return Ok(()) };
        after = last.guest.invite_id;
        let keys: Vec<Key> = some.iter().map(|invite| Key::invite(&invite.token_hash)).collect();
        model.remove(&keys).await.map_err(with_context)?;
    }
}

/// Writes everything again and removes items without a row. Safe while the service runs; after an error, what was done
/// stays done.
pub async fn rebuild(db: &Db, model: &ReadModel) -> anyhow::Result<Rebuilt> {
    let (mut rebuilt, mut after) = (Rebuilt::default(), AlbumId::from(uuid::Uuid::nil()));
    loop {
        let mut session = db.session().await?;
        let ids = read_model::albums_after(&mut session, after, BATCH).await?;
        drop(session);
        let Some(last) = ids.last() else { break };
        after = *last;
        for id in ids {
            rebuild_album(db, model, id, &mut rebuilt).await?;
        }
    }
    let mut next = None;
    loop {
        let (keys, more) = model.all_keys(next.as_ref()).await.map_err(with_context)?;
        rebuilt.removed += remove_orphans(db, model, keys).await?;
        next = more;
        if next.is_none() {
            return Ok(rebuilt);
        }
    }
}

async fn rebuild_album(db: &Db, model: &ReadModel, id: AlbumId, rebuilt: &mut Rebuilt) -> anyhow::Result<()> {
    let mut session = db.session().await?;
    let state = read_model::projection(&mut session, id).await?;
    drop(session);
    let Some(state) = state.filter(|state| !state.deleted) else { return Ok(()) };
    let mut shown = BTreeSet::new();
    let mut after = PhotoId::from(uuid::Uuid::nil());
    loop {
        let mut session = db.session().await?;
        let photos = read_model::public_photos(&mut session, id, after, BATCH).await?;
        drop(session);
        let Some((last, ..)) = photos.last() else { break };
        after = *last;
        shown.extend(photos.iter().map(|(id, ..)| *id));
        model.write(&items(id, &photos), Overwrite::OlderOrSame).await.map_err(with_context)?;
        rebuilt.photos += photos.len() as u64;
    }
    let mut next = None;
    loop {
        let (keys, more) = model.album_keys(id, next.as_ref()).await.map_err(with_context)?;
        let others: Vec<PhotoId> = keys
            .iter()
            .filter_map(|key| match key.subject() {
                Some(Subject::Photo(_, photo)) if !shown.contains(&photo) => Some(photo),
                _ => None,
            })
            .collect();
        // Read again, because a photo may have become public since.
        for some in others.chunks(BATCH as usize) {
            let mut session = db.session().await?;
            let photos = read_model::photos(&mut session, id, some).await?;
            drop(session);
            model.write(&items(id, &photos), Overwrite::OlderOrSame).await.map_err(with_context)?;
        }
        next = more;
        if next.is_none() {
            break;
        }
    }
    rebuild_invites(db, model, id).await?;
    model.write(&[Item::album(&state.album)], Overwrite::OlderOrSame).await.map_err(with_context)?;
    read_model::set_projected(&mut db.session().await?, id, state.album.last_seq).await?;
    rebuilt.albums += 1;
    Ok(())
}

async fn rebuild_invites(db: &Db, model: &ReadModel, id: AlbumId) -> anyhow::Result<()> {
    let mut after = InviteId::from(uuid::Uuid::nil());
    loop {
        let mut session = db.session().await?;
        let some = read_model::invites(&mut session, id, after, BATCH).await?;
        drop(session);
        let Some(last) = some.last() else { return Ok(()) };
        after = last.guest.invite_id;
        let items: Vec<Item> = some.iter().map(Item::invite).collect();
        model.write(&items, Overwrite::OlderOrSame).await.map_err(with_context)?;
        let mut session = db.session().await?;
        for invite in &some {
            read_model::set_invite_projected(&mut session, invite).await?;
        }
    }
}

/// Removes items whose album or invite has no row. Ids and tokens are never reused.
async fn remove_orphans(db: &Db, model: &ReadModel, keys: Vec<Key>) -> anyhow::Result<u64> {
    let mut session = db.session().await?;
    let (mut orphans, mut deleted_albums, mut existing) = (Vec::new(), Vec::new(), HashMap::new());
    for key in keys {
        let exists = match key.subject() {
            Some(Subject::Album(id) | Subject::Photo(id, _)) => {
                if let Entry::Vacant(unknown) = existing.entry(id) {
                    unknown.insert(read_model::album_exists(&mut session, id).await?);
                }
                existing[&id]
            }
            Some(Subject::Invite(hash)) => read_model::invite_exists(&mut session, &hash).await?,
            // Not written by this service.
            None => true,
        };
        match key.subject() {
            // Replaced by a tombstone, so that a concurrent write does not restore it.
            Some(Subject::Album(id)) if !exists => deleted_albums.push(Item::deleted(id, Utc::now())),
            _ if !exists => orphans.push(key),
            _ => {}
        }
    }
    drop(session);
    model.write(&deleted_albums, Overwrite::Older).await.map_err(with_context)?;
    model.remove(&orphans).await.map_err(with_context)?;
    Ok(orphans.len() as u64)
}

fn items(album_id: AlbumId, photos: &[NumberedPhoto]) -> Vec<Item> {
    let now = Utc::now();
    photos.iter().map(|(id, seq, photo)| Item::photo(album_id, *id, *seq, photo.as_ref(), now)).collect()
}

fn with_context(failure: AwsError) -> AwsError {
    failure.context("the read model")
}
