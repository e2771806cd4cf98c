//! The job that brings the read model of an album up to date, from the rows as they are now. It may run anywhere, any number
//! of times and at once: what is written is conditional.

use std::collections::{BTreeSet, HashMap, hash_map::Entry};

use chrono::Utc;

use crate::jobs::{End, complete};
use crate::{
    app::{App, AppState},
    aws::Failure,
    db::{
        self, Db,
        read_model::{self, DELETED, Numbered},
    },
    domain::{AlbumId, InviteId, PhotoId},
    jobs::queue::Claim,
    read_model::{
        Over, ReadModel,
        items::{Item, Key, Subject},
    },
};

/// How many events, photos or invites are handled at a time.
const BATCH: u32 = 100;

/// What a rebuild did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Rebuilt {
    /// Albums written anew.
    pub albums: u64,
    /// Photos written anew.
    pub photos: u64,
    /// Photos and invites removed that had no row.
    pub removed: u64,
}

pub(crate) async fn run(app: &AppState, claim: &Claim) -> anyhow::Result<End> {
    let id = AlbumId::from(claim.subject);
    // Switched off since; when it is switched on again the sweep finds what is left to project.
    let Some(model) = &app.read_model else { return complete(app, claim).await };
    loop {
        album(&app.db, model, id).await?;
        if let Some(end) = complete_if_all(app, claim, id).await? {
            return Ok(end);
        }
    }
}

/// What commits meanwhile finds this job still there and adds none, so the job may end only while the album is locked and
/// nothing of it is left to project.
async fn complete_if_all(app: &AppState, claim: &Claim, id: AlbumId) -> anyhow::Result<Option<End>> {
    app.db
        .transaction(|mut tx| async move {
            if read_model::lock_and_look(tx.session(), id).await? {
                return Ok(tx.done(None));
            }
            let end = if db::jobs::complete(tx.session(), claim).await? { End::Done } else { End::Lost };
            Ok(tx.done(Some(end)))
        })
        .await
}

/// Projects what is left of an album.
///
/// # Errors
/// The database's or the table's; what was written stays.
pub async fn album(db: &Db, model: &ReadModel, id: AlbumId) -> anyhow::Result<()> {
    loop {
        let mut session = db.session().await?;
        let Some(standing) = read_model::standing(&mut session, id).await? else {
            drop(session);
            model.remove_album(id).await.map_err(unwritten)?;
            return Ok(());
        };
        if standing.deleted {
            drop(session);
            model.remove_album(id).await.map_err(unwritten)?;
            return Ok(read_model::set_projected(&mut db.session().await?, id, DELETED).await?);
        }
        let mut events = db::events::after(&mut session, id, standing.projected, BATCH).await?;
        let all = events.len() < BATCH as usize;
        // A later one than the album's row tells of is for the next round.
        events.retain(|event| event.seq <= standing.album.last_seq);
        let reached = if all { standing.album.last_seq } else { events.last().map_or(0, |event| event.seq) };
        let ids: BTreeSet<PhotoId> = events.iter().filter_map(|event| event.photo_id).collect();
        let photos = read_model::photos(&mut session, id, &ids.into_iter().collect::<Vec<_>>()).await?;
        drop(session);
        model.write(&items(id, &photos), Over::Older).await.map_err(unwritten)?;
        if all {
            invites(db, model, id).await?;
            // The album last: who finds it finds all photos that it counts.
            model.write(&[Item::album(&standing.album)], Over::Older).await.map_err(unwritten)?;
        }
        read_model::set_projected(&mut db.session().await?, id, reached).await?;
        if all {
            return Ok(());
        }
    }
}

/// Projects the invites of an album that are left.
async fn invites(db: &Db, model: &ReadModel, id: AlbumId) -> anyhow::Result<()> {
    loop {
        let mut session = db.session().await?;
        let due = read_model::invites_due(&mut session, id, BATCH).await?;
        drop(session);
        if due.is_empty() {
            return Ok(());
        }
        let items: Vec<Item> = due.iter().map(Item::invite).collect();
        model.write(&items, Over::Older).await.map_err(unwritten)?;
        let mut session = db.session().await?;
        for invite in &due {
            read_model::set_invite_projected(&mut session, invite).await?;
        }
    }
}

/// Removes what the read model has of a deleted album while its rows are still there to tell of it: afterwards nobody would
/// know. Whoever deleted it may not have known of the read model.
pub(crate) async fn forget(app: &App, id: AlbumId) -> anyhow::Result<()> {
    let Some(model) = &app.read_model else { return Ok(()) };
    model.remove_album(id).await.map_err(unwritten)?;
    let mut after = InviteId::from(uuid::Uuid::nil());
    loop {
        let mut session = app.db.session().await?;
        let some = read_model::invites(&mut session, id, after, BATCH).await?;
        drop(session);
        let Some(last) = some.last() else { return Ok(()) };
        after = last.guest.invite_id;
        let keys: Vec<Key> = some.iter().map(|invite| Key::invite(&invite.token_hash)).collect();
        model.remove(&keys).await.map_err(unwritten)?;
    }
}

/// Writes everything anew, and removes what has no row. Safe while the service runs.
///
/// # Errors
/// The database's or the table's; what was done stays done.
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
        let (keys, more) = model.all_keys(next.as_ref()).await.map_err(unwritten)?;
        rebuilt.removed += remove_dead(db, model, keys).await?;
        next = more;
        if next.is_none() {
            return Ok(rebuilt);
        }
    }
}

async fn rebuild_album(db: &Db, model: &ReadModel, id: AlbumId, rebuilt: &mut Rebuilt) -> anyhow::Result<()> {
    let mut session = db.session().await?;
    let standing = read_model::standing(&mut session, id).await?;
    drop(session);
    let Some(standing) = standing.filter(|standing| !standing.deleted) else { return Ok(()) };
    let mut shown = BTreeSet::new();
    let mut after = PhotoId::from(uuid::Uuid::nil());
    loop {
        let mut session = db.session().await?;
        let photos = read_model::public_photos(&mut session, id, after, BATCH).await?;
        drop(session);
        let Some((last, ..)) = photos.last() else { break };
        after = *last;
        shown.extend(photos.iter().map(|(id, ..)| *id));
        model.write(&items(id, &photos), Over::OlderOrSame).await.map_err(unwritten)?;
        rebuilt.photos += photos.len() as u64;
    }
    let mut next = None;
    loop {
        let (keys, more) = model.keys_of(id, next.as_ref()).await.map_err(unwritten)?;
        let others: Vec<PhotoId> = keys
            .iter()
            .filter_map(|key| match key.subject() {
                Some(Subject::Photo(_, photo)) if !shown.contains(&photo) => Some(photo),
                _ => None,
            })
            .collect();
        // Read again: one of them may have become public meanwhile.
        for some in others.chunks(BATCH as usize) {
            let mut session = db.session().await?;
            let photos = read_model::photos(&mut session, id, some).await?;
            drop(session);
            model.write(&items(id, &photos), Over::OlderOrSame).await.map_err(unwritten)?;
        }
        next = more;
        if next.is_none() {
            break;
        }
    }
    rebuild_invites(db, model, id).await?;
    model.write(&[Item::album(&standing.album)], Over::OlderOrSame).await.map_err(unwritten)?;
    read_model::set_projected(&mut db.session().await?, id, standing.album.last_seq).await?;
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
        model.write(&items, Over::OlderOrSame).await.map_err(unwritten)?;
        let mut session = db.session().await?;
        for invite in &some {
            read_model::set_invite_projected(&mut session, invite).await?;
        }
    }
}

/// Removes those of some items whose album or invite has no row. Ids and tokens are never used again.
async fn remove_dead(db: &Db, model: &ReadModel, keys: Vec<Key>) -> anyhow::Result<u64> {
    let mut session = db.session().await?;
    let (mut dead, mut ended, mut lives) = (Vec::new(), Vec::new(), HashMap::new());
    for key in keys {
        let alive = match key.subject() {
            Some(Subject::Album(id) | Subject::Photo(id, _)) => {
                if let Entry::Vacant(unknown) = lives.entry(id) {
                    unknown.insert(read_model::album_lives(&mut session, id).await?);
                }
                lives[&id]
            }
            Some(Subject::Invite(hash)) => read_model::invite_lives(&mut session, &hash).await?,
            // Somebody else's, in a table that should be ours alone.
            None => true,
        };
        match key.subject() {
            // A write that is under way must not bring it back.
            Some(Subject::Album(id)) if !alive => ended.push(Item::deleted(id, Utc::now())),
            _ if !alive => dead.push(key),
            _ => {}
        }
    }
    drop(session);
    model.write(&ended, Over::Older).await.map_err(unwritten)?;
    model.remove(&dead).await.map_err(unwritten)?;
    Ok(dead.len() as u64)
}

fn items(album_id: AlbumId, photos: &[Numbered]) -> Vec<Item> {
    let now = Utc::now();
    photos.iter().map(|(id, seq, photo)| Item::photo(album_id, *id, *seq, photo.as_ref(), now)).collect()
}

fn unwritten(failure: Failure) -> Failure {
    failure.of("the read model")
}
