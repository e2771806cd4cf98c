//! Photos: the statements behind lists, single reads and each step of a photo's way.

use chrono::{DateTime, Utc};
use sqlx::{MySql, MySqlExecutor, QueryBuilder};
use uuid::Uuid;

use super::{Error, Result, Session};
use crate::domain::{
    Access, AlbumId, AlbumRole, Caller, InviteId, Photo, PhotoId, PhotoState, Sha256, Uploader, Visibility,
};

pub(crate) const SELECT: &str = "SELECT p.id, p.album_id, p.invite_id, p.uploader_name, p.state, p.visibility, p.caption, p.content_type, p.bytes,
 p.sha256, p.width, p.height, p.taken_at, p.camera, p.placeholder, p.renditions, p.reject_reason, p.version, p.created_at, p.ready_at
 FROM photos p";

from_row! {
    pub(crate) struct Row {
        id: Uuid,
        album_id: Uuid,
        invite_id: Option<Uuid>,
        uploader_name: Option<String>,
        state: String,
        visibility: String,
        caption: Option<String>,
        content_type: String,
        bytes: u64,
        sha256: Option<Vec<u8>>,
        width: Option<u32>,
        height: Option<u32>,
        taken_at: Option<DateTime<Utc>>,
        camera: Option<String>,
        placeholder: Option<Vec<u8>>,
        renditions: Option<String>,
        reject_reason: Option<String>,
        version: u32,
        created_at: DateTime<Utc>,
        ready_at: Option<DateTime<Utc>>,
    }
}

impl TryFrom<Row> for Photo {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self> {
        const CORRUPT: Error = Error::Corrupt("photos");
        let sha256 = row.sha256.map(|bytes| bytes.try_into().map(Sha256).map_err(|_| CORRUPT)).transpose()?;
        let renditions = row.renditions.map(|json| serde_json::from_str(&json).map_err(|_| CORRUPT)).transpose()?;
        Ok(Self {
            id: row.id.into(),
            album_id: row.album_id.into(),
            state: PhotoState::parse(&row.state).ok_or(CORRUPT)?,
            visibility: Visibility::parse(&row.visibility).ok_or(CORRUPT)?,
            uploader: Uploader { invite_id: row.invite_id.map(InviteId::from), name: row.uploader_name },
            caption: row.caption,
            content_type: row.content_type,
            bytes: row.bytes,
            sha256,
            width: row.width,
            height: row.height,
            taken_at: row.taken_at,
            camera: row.camera,
            placeholder: row.placeholder,
            renditions: renditions.unwrap_or_default(),
            reject_reason: row.reject_reason,
            version: row.version,
            created_at: row.created_at,
            ready_at: row.ready_at,
        })
    }
}

/// Declares a photo. `dedup` makes a later one with the same value in the same album a conflict: then the
/// answer is false and nothing is written.
///
/// # Errors
/// The database's.
pub async fn insert(
    session: &mut Session,
    photo: &Photo,
    dedup: Option<&[u8; 32]>,
    upload_ends: DateTime<Utc>,
) -> Result<bool> {
    let done = sqlx::query(
        "INSERT INTO photos (id, album_id, invite_id, uploader_name, state, visibility, caption, content_type, bytes, sha256, dedup,
         created_at, sweep_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(photo.id.as_uuid())
    .bind(photo.album_id.as_uuid())
    .bind(photo.uploader.invite_id.map(InviteId::as_uuid))
    .bind(&photo.uploader.name)
    .bind(photo.state.as_str())
    .bind(photo.visibility.as_str())
    .bind(&photo.caption)
    .bind(&photo.content_type)
    .bind(photo.bytes)
    .bind(photo.sha256.map(|digest| digest.0.to_vec()))
    .bind(dedup.map(|digest| &digest[..]))
    .bind(photo.created_at)
    .bind(upload_ends)
    .execute(session)
    .await;
    match done {
        Ok(_) => Ok(true),
        Err(sqlx::Error::Database(e)) if e.is_unique_violation() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The photo that an earlier declaration with the same `dedup` made.
///
/// # Errors
/// The database's.
pub async fn find_same(session: &mut Session, album_id: AlbumId, dedup: &[u8; 32]) -> Result<Option<Photo>> {
    let mut query = QueryBuilder::<MySql>::new(SELECT);
    query.push(" WHERE p.album_id = ").push_bind(album_id.as_uuid()).push(" AND p.dedup = ").push_bind(&dedup[..]);
    one(query.build_query_as().fetch_optional(session).await?)
}

/// A photo that the caller may see, and what the caller is to its album.
///
/// # Errors
/// The database's.
pub async fn find(executor: impl MySqlExecutor<'_>, caller: &Caller, id: PhotoId) -> Result<Option<(Photo, Access)>> {
    let mut query = QueryBuilder::<MySql>::new(SELECT);
    query
        .push(" JOIN albums a ON a.id = p.album_id WHERE p.id = ")
        .push_bind(id.as_uuid())
        .push(" AND a.deleted_at IS NULL AND ");
    let access = match caller {
        Caller::User(user) => {
            query.push("a.host = ").push_bind(user.subject.as_bytes());
            Access::Host
        }
        Caller::Guest(guest) => {
            query.push("p.album_id = ").push_bind(guest.album_id.as_uuid());
            Access::Guest(*guest)
        }
    };
    let photo = one(query.build_query_as().fetch_optional(executor).await?)?;
    Ok(photo.filter(|photo| access.sees(photo)).map(|photo| (photo, access)))
}

/// Any photo by its id, for workers.
///
/// # Errors
/// The database's.
pub async fn get(executor: impl MySqlExecutor<'_>, id: PhotoId) -> Result<Option<Photo>> {
    let mut query = QueryBuilder::<MySql>::new(SELECT);
    query.push(" WHERE p.id = ").push_bind(id.as_uuid());
    one(query.build_query_as().fetch_optional(executor).await?)
}

/// Locks a photo for the rest of the transaction and reads it. Lock its album first where both are needed.
///
/// # Errors
/// The database's.
pub async fn lock(session: &mut Session, id: PhotoId) -> Result<Option<Photo>> {
    let mut query = QueryBuilder::<MySql>::new(SELECT);
    query.push(" WHERE p.id = ").push_bind(id.as_uuid()).push(" FOR UPDATE");
    one(query.build_query_as().fetch_optional(session).await?)
}

/// Which photos a list shows, and from where on.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// Only photos in this state.
    pub state: Option<PhotoState>,
    /// Only photos of this visibility.
    pub visibility: Option<Visibility>,
    /// Oldest first instead of newest first.
    pub oldest_first: bool,
    /// The last photo of the page before.
    pub after: Option<PhotoId>,
    /// How many at most.
    pub limit: u32,
}

impl Page {
    /// Whether all photos are on the list that everybody sees.
    #[must_use]
    pub fn shows_all_public(&self) -> bool {
        self.state.is_none_or(|state| state == PhotoState::Ready)
            && self.visibility.is_none_or(|visibility| visibility == Visibility::Visible)
    }
}

/// A page of the photos of an album that the caller may see. Each branch is one range of one index, so that a
/// page costs the same in an album of any size.
///
/// # Errors
/// The database's.
pub async fn list(
    executor: impl MySqlExecutor<'_>,
    access: &Access,
    album_id: AlbumId,
    page: &Page,
) -> Result<Vec<Photo>> {
    let mut query = list_query(access, album_id, page);
    let rows: Vec<Row> = query.build_query_as().fetch_all(executor).await?;
    rows.into_iter().map(Photo::try_from).collect()
}

/// The statement of [`list`], apart so that benches can show its plan. What a filter leaves open is spelt out as one
/// range for each value, because only then an index gives each range in the order of the list; their ids are merged
/// before any row is read.
#[must_use]
pub fn list_query(access: &Access, album_id: AlbumId, page: &Page) -> QueryBuilder<MySql> {
    let ranges = ranges(access, album_id, page);
    let mut query = QueryBuilder::<MySql>::new("");
    if let [range] = &ranges[..] {
        query.push(SELECT);
        push_range(&mut query, range, page);
        return query;
    }
    let order = if page.oldest_first { "" } else { " DESC" };
    // The ids come first, their photos after them; no other way round.
    query.push(SELECT.replacen("SELECT", "SELECT STRAIGHT_JOIN", 1).replace("FROM photos p", "FROM ("));
    for (number, range) in ranges.iter().enumerate() {
        query.push(if number == 0 { "(" } else { " UNION DISTINCT (" }).push("SELECT p.id FROM photos p");
        push_range(&mut query, range, page);
        query.push(")");
    }
    query.push(" ORDER BY id").push(order).push(" LIMIT ").push_bind(page.limit);
    query.push(") page JOIN photos p ON p.id = page.id ORDER BY page.id").push(order);
    query
}

/// The photos of one album or invite, all of them or those of one visibility and state: one range of one index.
struct Range {
    /// Else the one that they were added with.
    invite: Option<Uuid>,
    album: Uuid,
    exact: Option<(Visibility, PhotoState)>,
}

fn ranges(access: &Access, album_id: AlbumId, page: &Page) -> Vec<Range> {
    let range = |invite: Option<InviteId>, exact| Range {
        invite: invite.map(InviteId::as_uuid),
        album: album_id.as_uuid(),
        exact,
    };
    let own = access.invite_id();
    let mut all: Vec<Range> = exacts(page).into_iter().map(|exact| range(own, exact)).collect();
    let follows = matches!(access.role(), AlbumRole::View | AlbumRole::Contribute);
    if own.is_some() && follows && page.shows_all_public() {
        all.push(range(None, Some((Visibility::Visible, PhotoState::Ready))));
    }
    all
}

/// Each visibility with each state that the page asks for; without a filter none in particular.
fn exacts(page: &Page) -> Vec<Option<(Visibility, PhotoState)>> {
    if page.state.is_none() && page.visibility.is_none() {
        return vec![None];
    }
    let states = page.state.map_or(PhotoState::ALL.to_vec(), |state| vec![state]);
    let visibilities = page.visibility.map_or(Visibility::ALL.to_vec(), |visibility| vec![visibility]);
    visibilities.iter().flat_map(|v| states.iter().map(|s| Some((*v, *s)))).collect()
}

/// The index is named, because the server would rather walk the primary key, which has the order too: past the
/// photos of all other albums.
fn push_range(query: &mut QueryBuilder<MySql>, range: &Range, page: &Page) {
    let index = match (range.invite, range.exact) {
        (None, None) => "photos_by_album",
        (None, Some(_)) => "photos_by_visibility",
        (Some(_), None) => "photos_by_invite",
        (Some(_), Some(_)) => "photos_by_invite_visibility",
    };
    let column = if range.invite.is_some() { "p.invite_id" } else { "p.album_id" };
    query.push(" FORCE INDEX (").push(index).push(") WHERE ").push(column).push(" = ");
    query.push_bind(range.invite.unwrap_or(range.album));
    if let Some((visibility, state)) = range.exact {
        query.push(" AND p.visibility = ").push_bind(visibility.as_str());
        query.push(" AND p.state = ").push_bind(state.as_str());
    }
    if let Some(id) = page.after {
        query.push(if page.oldest_first { " AND p.id > " } else { " AND p.id < " }).push_bind(id.as_uuid());
    }
    query
        .push(if page.oldest_first { " ORDER BY p.id LIMIT " } else { " ORDER BY p.id DESC LIMIT " })
        .push_bind(page.limit);
}

/// Notes that a photo's bytes have come, and their digest where it is known already.
///
/// # Errors
/// The database's.
pub async fn set_uploaded(session: &mut Session, photo: &Photo, digest: Option<&Sha256>) -> Result<()> {
    sqlx::query("UPDATE photos SET state = ?, version = version + 1, sweep_at = ? WHERE id = ?")
        .bind(PhotoState::Processing.as_str())
        .bind(super::now() + crate::db::reconciler::OVERDUE_INTERVAL)
        .bind(photo.id.as_uuid())
        .execute(&mut *session)
        .await?;
    if let Some(digest) = digest {
        set_digest(session, photo, digest).await?;
    }
    note_change(session, photo).await
}

/// Notes the digest of a photo's bytes. It keeps the `dedup` of its declaration; without one it gets the digest, unless
/// another photo of the album has that already.
///
/// # Errors
/// The database's.
pub async fn set_digest(session: &mut Session, photo: &Photo, digest: &Sha256) -> Result<()> {
    if photo.sha256.is_some() {
        return Ok(());
    }
    sqlx::query("UPDATE photos SET sha256 = ? WHERE id = ?")
        .bind(&digest.0[..])
        .bind(photo.id.as_uuid())
        .execute(&mut *session)
        .await?;
    set_dedup(session, photo.id, &digest.0).await
}

/// Has the same bytes known again by what stands for them, as after a declaration; unless another photo of the album has that.
///
/// # Errors
/// The database's.
pub async fn set_dedup(session: &mut Session, id: PhotoId, dedup: &[u8; 32]) -> Result<()> {
    sqlx::query("UPDATE IGNORE photos SET dedup = ? WHERE id = ? AND dedup IS NULL")
        .bind(&dedup[..])
        .bind(id.as_uuid())
        .execute(session)
        .await?;
    Ok(())
}

/// No event tells the uploader of a photo that is declared anew or whose bytes have come.
async fn note_change(session: &mut Session, photo: &Photo) -> Result<()> {
    match photo.uploader.invite_id {
        Some(invite_id) => super::invites::note_change(session, invite_id).await,
        None => Ok(()),
    }
}

/// Writes what became of a locked photo: its state, and what is known of it.
///
/// # Errors
/// The database's.
pub async fn settle(session: &mut Session, photo: &Photo) -> Result<()> {
    let renditions = serde_json::to_string(&photo.renditions).map_err(|_| Error::Corrupt("photos"))?;
    sqlx::query(
        "UPDATE photos SET state = ?, width = ?, height = ?, taken_at = ?, camera = ?, placeholder = ?, renditions = ?, reject_reason = ?,
         ready_at = ?, version = version + 1, sweep_at = NULL WHERE id = ?",
    )
    .bind(photo.state.as_str())
    .bind(photo.width)
    .bind(photo.height)
    .bind(photo.taken_at.map(super::any_year))
    .bind(&photo.camera)
    .bind(&photo.placeholder)
    .bind(renditions)
    .bind(&photo.reject_reason)
    .bind(photo.ready_at)
    .bind(photo.id.as_uuid())
    .execute(session)
    .await?;
    Ok(())
}

/// Writes caption and visibility of a locked photo.
///
/// # Errors
/// The database's.
pub async fn update(session: &mut Session, photo: &Photo) -> Result<()> {
    sqlx::query("UPDATE photos SET caption = ?, visibility = ?, version = ? WHERE id = ?")
        .bind(&photo.caption)
        .bind(photo.visibility.as_str())
        .bind(photo.version)
        .bind(photo.id.as_uuid())
        .execute(session)
        .await?;
    Ok(())
}

/// Declares a photo that still waits for its bytes once more: its size, its type and how long to wait.
///
/// # Errors
/// The database's.
pub async fn declare_again(session: &mut Session, photo: &Photo, upload_ends: DateTime<Utc>) -> Result<()> {
    sqlx::query("UPDATE photos SET bytes = ?, content_type = ?, sweep_at = ? WHERE id = ? AND state = ?")
        .bind(photo.bytes)
        .bind(&photo.content_type)
        .bind(upload_ends)
        .bind(photo.id.as_uuid())
        .bind(PhotoState::AwaitingUpload.as_str())
        .execute(&mut *session)
        .await?;
    note_change(session, photo).await
}

/// Gives up waiting for the bytes of a locked photo; the same bytes may then be declared anew.
///
/// # Errors
/// The database's.
pub async fn expire(session: &mut Session, id: PhotoId) -> Result<()> {
    sqlx::query("UPDATE photos SET state = ?, dedup = NULL, version = version + 1, sweep_at = NULL WHERE id = ?")
        .bind(PhotoState::Expired.as_str())
        .bind(id.as_uuid())
        .execute(session)
        .await?;
    Ok(())
}

/// Removes a photo's row, and those of its edits.
///
/// # Errors
/// The database's.
pub async fn delete(session: &mut Session, id: PhotoId) -> Result<()> {
    super::edits::delete_of(session, id).await?;
    sqlx::query("DELETE FROM photos WHERE id = ?").bind(id.as_uuid()).execute(session).await?;
    Ok(())
}

/// Some photos of an album that is being removed.
///
/// # Errors
/// The database's.
pub async fn some_of(executor: impl MySqlExecutor<'_>, album_id: AlbumId, limit: u32) -> Result<Vec<PhotoId>> {
    let ids: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM photos WHERE album_id = ? LIMIT ?")
        .bind(album_id.as_uuid())
        .bind(limit)
        .fetch_all(executor)
        .await?;
    Ok(ids.into_iter().map(PhotoId::from).collect())
}

fn one(row: Option<Row>) -> Result<Option<Photo>> {
    row.map(Photo::try_from).transpose()
}
