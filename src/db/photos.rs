//! Photos.

use chrono::{DateTime, Utc};
use sqlx::{MySql, MySqlExecutor, QueryBuilder};
use uuid::Uuid;

use super::{
    edits,
    error::{Error, Result},
    invites,
    reconciler::OVERDUE_INTERVAL,
    session::Session,
    time::{as_datetime, now},
};
use crate::domain::{
    Access, AlbumId, AlbumRole, Caller, Guest, InviteId, InviteRole, Photo, PhotoId, PhotoState, Sha256, Uploader,
    Visibility,
};

/// The columns of [`Row`], of `photos p`.
macro_rules! photo_columns {
    () => {
        "p.id, p.album_id, p.invite_id, p.uploader_name, p.state, p.visibility, p.caption, p.content_type, p.bytes, \
         p.sha256, p.width, p.height, p.taken_at, p.camera, p.placeholder, p.renditions, p.reject_reason, p.version, \
         p.created_at, p.ready_at"
    };
}
pub(super) use photo_columns;

statements! {
    INSERT = "INSERT INTO photos (id, album_id, invite_id, uploader_name, state, visibility, caption, content_type,
        bytes, sha256, dedup, created_at, sweep_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    FIND_DUPLICATE = "SELECT ", photo_columns!(), " FROM photos p WHERE p.album_id = ? AND p.dedup = ?";
    FIND_FOR_HOST = "SELECT ", photo_columns!(), " FROM photos p JOIN albums a ON a.id = p.album_id
        WHERE p.id = ? AND a.deleted_at IS NULL AND a.host = ?";
    FIND_FOR_GUEST = "SELECT ", photo_columns!(), " FROM photos p JOIN albums a ON a.id = p.album_id
        WHERE p.id = ? AND a.deleted_at IS NULL AND p.album_id = ?";
    GET = "SELECT ", photo_columns!(), " FROM photos p WHERE p.id = ?";
    LOCK = "SELECT ", photo_columns!(), " FROM photos p WHERE p.id = ? FOR UPDATE";
    SET_UPLOADED = "UPDATE photos SET state = 'processing', version = version + 1, sweep_at = ? WHERE id = ?";
    SET_SHA256 = "UPDATE photos SET sha256 = ? WHERE id = ?";
    SET_DEDUP = "UPDATE IGNORE photos SET dedup = ? WHERE id = ? AND dedup IS NULL";
    SAVE_RESULT = "UPDATE photos SET state = ?, width = ?, height = ?, taken_at = ?, camera = ?, placeholder = ?,
        renditions = ?, reject_reason = ?, ready_at = ?, version = version + 1, sweep_at = NULL WHERE id = ?";
    UPDATE = "UPDATE photos SET caption = ?, visibility = ?, version = ? WHERE id = ?";
    DECLARE_AGAIN = "UPDATE photos SET bytes = ?, content_type = ?, sweep_at = ?
        WHERE id = ? AND state = 'awaiting_upload'";
    EXPIRE = "UPDATE photos SET state = 'expired', dedup = NULL, version = version + 1, sweep_at = NULL WHERE id = ?";
    DELETE = "DELETE FROM photos WHERE id = ?";
    IDS_OF_ALBUM = "SELECT id FROM photos WHERE album_id = ? LIMIT ?";
}

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

/// Inserts a declared photo. False, and nothing is written, when the album has a photo with the same `dedup`.
pub async fn insert(
    session: &mut Session,
    photo: &Photo,
    dedup: Option<&[u8; 32]>,
    upload_ends: DateTime<Utc>,
) -> Result<bool> {
    let inserted = sqlx::query(INSERT)
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
    match inserted {
        Ok(_) => Ok(true),
        Err(sqlx::Error::Database(e)) if e.is_unique_violation() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The photo of an album with this `dedup`.
pub async fn find_duplicate(session: &mut Session, album_id: AlbumId, dedup: &[u8; 32]) -> Result<Option<Photo>> {
    let query = sqlx::query_as(FIND_DUPLICATE).bind(album_id.as_uuid()).bind(&dedup[..]);
    to_photo(query.fetch_optional(session).await?)
}

/// A photo that the caller may see, and the caller's access to its album.
pub async fn find(executor: impl MySqlExecutor<'_>, caller: &Caller, id: PhotoId) -> Result<Option<(Photo, Access)>> {
    let (query, access) = match caller {
        Caller::User(user) => {
            (sqlx::query_as(FIND_FOR_HOST).bind(id.as_uuid()).bind(user.subject.as_bytes()), Access::Host)
        }
        Caller::Guest(guest) => {
            (sqlx::query_as(FIND_FOR_GUEST).bind(id.as_uuid()).bind(guest.album_id.as_uuid()), Access::Guest(*guest))
        }
    };
    let photo = to_photo(query.fetch_optional(executor).await?)?;
    Ok(photo.filter(|photo| access.sees(photo)).map(|photo| (photo, access)))
}

/// A photo by its id, for workers.
pub async fn get(executor: impl MySqlExecutor<'_>, id: PhotoId) -> Result<Option<Photo>> {
    to_photo(sqlx::query_as(GET).bind(id.as_uuid()).fetch_optional(executor).await?)
}

/// Locks a photo until the end of the transaction, and returns it. Lock its album first where both are needed.
pub async fn lock(session: &mut Session, id: PhotoId) -> Result<Option<Photo>> {
    to_photo(sqlx::query_as(LOCK).bind(id.as_uuid()).fetch_optional(session).await?)
}

/// The filter, order and position of a page of photos.
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
    /// The maximum number of photos.
    pub limit: u32,
}

impl Page {
    /// Whether the filter lets all public photos pass.
    #[must_use]
    pub fn shows_all_public(&self) -> bool {
        self.state.is_none_or(|state| state == PhotoState::Ready)
            && self.visibility.is_none_or(|visibility| visibility == Visibility::Visible)
    }
}

/// A page of the photos of an album that the caller may see.
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

/// The statement of [`list`]; public for benches, which print its plan.
///
/// Values that a filter leaves open become one range each, because only then an index returns each range in the order
/// of the list. The ids of the ranges are merged before any row is read, so a page costs the same in an album of any
/// size.
#[must_use]
pub fn list_query(access: &Access, album_id: AlbumId, page: &Page) -> QueryBuilder<MySql> {
    let ranges = ranges(access, album_id, page);
    if let [range] = &ranges[..] {
        let mut query = QueryBuilder::new(concat!("SELECT ", photo_columns!(), " FROM photos p"));
        push_range(&mut query, range, page);
        return query;
    }
    let order = if page.oldest_first { "" } else { " DESC" };
    // The ids first, then their photos: the optimizer must not reorder the join.
    let mut query = QueryBuilder::new(concat!("SELECT STRAIGHT_JOIN ", photo_columns!(), " FROM ("));
    for (number, range) in ranges.iter().enumerate() {
        query.push(if number == 0 { "(" } else { " UNION DISTINCT (" }).push("SELECT p.id FROM photos p");
        push_range(&mut query, range, page);
        query.push(")");
    }
    query.push(" ORDER BY id").push(order).push(" LIMIT ").push_bind(page.limit);
    query.push(") page JOIN photos p ON p.id = page.id ORDER BY page.id").push(order);
    query
}

/// A statement of [`list`] for each combination of index, filter, order and position.
pub(super) fn list_examples() -> Vec<String> {
    let (album_id, invite_id) = (AlbumId::generate(), InviteId::generate());
    let contributor = Guest { invite_id, album_id, role: InviteRole::Contribute };
    let dropper = Guest { role: InviteRole::Drop, ..contributor };
    let page = Page { state: None, visibility: None, oldest_first: false, after: None, limit: 10 };
    let pages = [
        page,
        Page { oldest_first: true, after: Some(PhotoId::generate()), ..page },
        Page { state: Some(PhotoState::Ready), ..page },
        Page { state: Some(PhotoState::Ready), visibility: Some(Visibility::Hidden), ..page },
    ];
    let callers = [Access::Host, Access::Guest(contributor), Access::Guest(dropper)];
    let queries = callers.iter().flat_map(|access| pages.iter().map(|page| list_query(access, album_id, page)));
    queries.map(|query| query.sql().as_str().to_owned()).collect()
}

/// The photos of one album or invite, all or those of one visibility and state: a range of one index.
struct Range {
    /// The invite with which they were added; `None` for all photos of the album.
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
    let sees_album = matches!(access.role(), AlbumRole::View | AlbumRole::Contribute);
    if own.is_some() && sees_album && page.shows_all_public() {
        all.push(range(None, Some((Visibility::Visible, PhotoState::Ready))));
    }
    all
}

/// Each pair of visibility and state that the filter lets pass; a single `None` without a filter.
fn exacts(page: &Page) -> Vec<Option<(Visibility, PhotoState)>> {
    if page.state.is_none() && page.visibility.is_none() {
        return vec![None];
    }
    let states = page.state.map_or(PhotoState::ALL.to_vec(), |state| vec![state]);
    let visibilities = page.visibility.map_or(Visibility::ALL.to_vec(), |visibility| vec![visibility]);
    visibilities.iter().flat_map(|v| states.iter().map(|s| Some((*v, *s)))).collect()
}

/// The index is forced, because the optimizer may prefer the primary key, which has the same order, and scan the photos
/// of all other albums.
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

/// Records that a photo is uploaded, with its digest where it is known already.
pub async fn set_uploaded(session: &mut Session, photo: &Photo, digest: Option<&Sha256>) -> Result<()> {
    sqlx::query(SET_UPLOADED).bind(now() + OVERDUE_INTERVAL).bind(photo.id.as_uuid()).execute(&mut *session).await?;
    if let Some(digest) = digest {
        set_digest(session, photo, digest).await?;
    }
    note_change(session, photo).await
}

/// Records the digest of an upload. A photo that was declared without `dedup` gets the digest as its `dedup`, unless
/// another photo of the album has it already.
pub async fn set_digest(session: &mut Session, photo: &Photo, digest: &Sha256) -> Result<()> {
    if photo.sha256.is_some() {
        return Ok(());
    }
    sqlx::query(SET_SHA256).bind(&digest.0[..]).bind(photo.id.as_uuid()).execute(&mut *session).await?;
    set_dedup(session, photo.id, &digest.0).await
}

/// Sets the `dedup` of a photo that has none, unless another photo of the album has it already.
pub async fn set_dedup(session: &mut Session, id: PhotoId, dedup: &[u8; 32]) -> Result<()> {
    sqlx::query(SET_DEDUP).bind(&dedup[..]).bind(id.as_uuid()).execute(session).await?;
    Ok(())
}

/// Records a change of the uploader's invite: the declaration and the upload of a photo have no event.
async fn note_change(session: &mut Session, photo: &Photo) -> Result<()> {
    match photo.uploader.invite_id {
        Some(invite_id) => invites::note_change(session, invite_id).await,
        None => Ok(()),
    }
}

/// Writes the result of processing a locked photo: its state and its metadata.
pub async fn save_result(session: &mut Session, photo: &Photo) -> Result<()> {
    let renditions = serde_json::to_string(&photo.renditions).map_err(|_| Error::Corrupt("photos"))?;
    sqlx::query(SAVE_RESULT)
        .bind(photo.state.as_str())
        .bind(photo.width)
        .bind(photo.height)
        .bind(photo.taken_at.map(as_datetime))
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
pub async fn update(session: &mut Session, photo: &Photo) -> Result<()> {
    sqlx::query(UPDATE)
        .bind(&photo.caption)
        .bind(photo.visibility.as_str())
        .bind(photo.version)
        .bind(photo.id.as_uuid())
        .execute(session)
        .await?;
    Ok(())
}

/// Writes size, content type and deadline of a photo that is declared again before its upload.
pub async fn declare_again(session: &mut Session, photo: &Photo, upload_ends: DateTime<Utc>) -> Result<()> {
    sqlx::query(DECLARE_AGAIN)
        .bind(photo.bytes)
        .bind(&photo.content_type)
        .bind(upload_ends)
        .bind(photo.id.as_uuid())
        .execute(&mut *session)
        .await?;
    note_change(session, photo).await
}

/// Expires a locked photo whose upload never came; the same bytes may then be declared again.
pub async fn expire(session: &mut Session, id: PhotoId) -> Result<()> {
    sqlx::query(EXPIRE).bind(id.as_uuid()).execute(session).await?;
    Ok(())
}

/// Deletes a photo and its edits.
pub async fn delete(session: &mut Session, id: PhotoId) -> Result<()> {
    edits::delete_of_photo(session, id).await?;
    sqlx::query(DELETE).bind(id.as_uuid()).execute(session).await?;
    Ok(())
}

/// Some photos of an album that is being deleted.
pub async fn ids_of_album(executor: impl MySqlExecutor<'_>, album_id: AlbumId, limit: u32) -> Result<Vec<PhotoId>> {
    let query = sqlx::query_scalar::<_, Uuid>(IDS_OF_ALBUM).bind(album_id.as_uuid()).bind(limit);
    Ok(query.fetch_all(executor).await?.into_iter().map(PhotoId::from).collect())
}

fn to_photo(row: Option<Row>) -> Result<Option<Photo>> {
    row.map(Photo::try_from).transpose()
}
