//! The items of the table: their keys, and the JSON document in each.
//!
//! | `pk` | `sk` | `seq` | `json` |
//! |---|---|---|---|
//! | `album#ID` | `album` | the latest event that it includes | title, settings, count, version, times |
//! | `album#ID` | `photo#ID` | the latest event when it was read | what pages show of the photo |
//! | `invite#HASH` | `invite` | 1 when created, 2 when revoked | album, invite, role, expiry |
//!
//! Ids are in lower case with hyphens, so photos sort as in MySQL; `HASH` is the token's SHA-256 in 64 lower-case
//! hexadecimal digits. An item without `json` is a tombstone: its row is gone, and an older write can't restore it.
//! `expires_at`, in seconds since the epoch, is DynamoDB's time to live.

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    db::read_model::{DELETED, Invite},
    domain::{
        Album, AlbumId, Guest, InviteId, InviteRole, Photo, PhotoId, PhotoState, Rendition, Sha256, Uploader,
        Visibility,
    },
};

/// The lifetime of a tombstone. A write that is delayed by more would restore what is gone; the lease of a worker and
/// the retries of a call end within minutes.
const TOMBSTONE: TimeDelta = TimeDelta::days(7);

/// The `sk` of an album and of an invite.
const ALBUM: &str = "album";
const INVITE: &str = "invite";
const PHOTO: &str = "photo#";

/// The primary key of an item.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// The partition key.
    pub pk: String,
    /// The sort key.
    pub sk: String,
}

/// What an item represents.
#[derive(Debug, PartialEq, Eq)]
pub enum Subject {
    /// An album.
    Album(AlbumId),
    /// A photo of an album.
    Photo(AlbumId, PhotoId),
    /// The invite whose token has this hash.
    Invite([u8; 32]),
}

impl Key {
    /// The key of an album.
    #[must_use]
    pub fn album(id: AlbumId) -> Self {
        Self { pk: partition(id), sk: ALBUM.to_owned() }
    }

    /// The key of a photo.
    #[must_use]
    pub fn photo(album_id: AlbumId, id: PhotoId) -> Self {
        Self { pk: partition(album_id), sk: format!("{PHOTO}{id}") }
    }

    /// The key of an invite.
    #[must_use]
    pub fn invite(token_hash: &[u8; 32]) -> Self {
        Self { pk: format!("invite#{}", Sha256(*token_hash)), sk: INVITE.to_owned() }
    }

    /// What the item represents; `None` when the key is not one of the read model.
    #[must_use]
    pub fn subject(&self) -> Option<Subject> {
        if let Some(hash) = self.pk.strip_prefix("invite#") {
            return Sha256::from_hex(hash).filter(|_| self.sk == INVITE).map(|Sha256(hash)| Subject::Invite(hash));
        }
        let album_id = self.pk.strip_prefix("album#")?.parse().ok()?;
        match self.sk.strip_prefix(PHOTO) {
            Some(id) => id.parse().ok().map(|id| Subject::Photo(album_id, id)),
            None => (self.sk == ALBUM).then_some(Subject::Album(album_id)),
        }
    }
}

/// The partition of an album.
#[must_use]
pub fn partition(id: AlbumId) -> String {
    format!("album#{id}")
}

/// The lowest and the highest `sk` of an album's photos that come after `after` in the order of the list.
#[must_use]
pub fn range(after: Option<PhotoId>, oldest_first: bool) -> (String, String) {
    let sk = |bits: u128| format!("{PHOTO}{}", PhotoId::from(uuid::Uuid::from_u128(bits)));
    let (mut low, mut high) = (0, u128::MAX);
    match after.map(|id| id.as_uuid().as_u128()) {
        Some(id) if oldest_first => low = id.saturating_add(1),
        Some(id) => high = id.saturating_sub(1),
        None => {}
    }
    (sk(low), sk(high))
}

/// An item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its primary key.
    pub key: Key,
    /// Its number: writes replace only lower ones.
    pub seq: u64,
    /// The document; `None` in a tombstone.
    pub json: Option<String>,
    /// When DynamoDB may delete it.
    pub expires_at: Option<DateTime<Utc>>,
}

impl Item {
    fn of(key: Key, seq: u64, document: &impl Serialize) -> Self {
        let json = serde_json::to_string(document).expect("the documents have only string keys");
        Self { key, seq, json: Some(json), expires_at: None }
    }

    /// The tombstone of a row that is gone since an event.
    #[must_use]
    pub fn tombstone(key: Key, seq: u64, now: DateTime<Utc>) -> Self {
        Self { key, seq, json: None, expires_at: Some(now + TOMBSTONE) }
    }

    /// The tombstone of an album, with the highest number.
    #[must_use]
    pub fn deleted(id: AlbumId, now: DateTime<Utc>) -> Self {
        Self::tombstone(Key::album(id), DELETED, now)
    }

    fn read<'a, T: Deserialize<'a>>(&'a self) -> Option<T> {
        serde_json::from_str(self.json.as_deref()?).ok()
    }

    /// An album in its current state, numbered by its latest event.
    #[must_use]
    pub fn album(album: &Album) -> Self {
        let document = AlbumDocument {
            title: album.title.clone(),
            review: album.review,
            closed: album.closed,
            photo_count: album.photo_count,
            version: album.version,
            created_at: album.created_at,
            updated_at: album.updated_at,
        };
        Self::of(Key::album(album.id), album.last_seq, &document)
    }

    /// The album of this item.
    #[must_use]
    pub fn to_album(&self, id: AlbumId) -> Option<Album> {
        let document: AlbumDocument = self.read()?;
        Some(Album {
            id,
            title: document.title,
            review: document.review,
            closed: document.closed,
            photo_count: document.photo_count,
            last_seq: self.seq,
            version: document.version,
            created_at: document.created_at,
            updated_at: document.updated_at,
        })
    }

    /// A photo in its state at an event; a tombstone unless it is public.
    #[must_use]
    pub fn photo(album_id: AlbumId, id: PhotoId, seq: u64, photo: Option<&Photo>, now: DateTime<Utc>) -> Self {
        let key = Key::photo(album_id, id);
        match photo.filter(|photo| photo.is_public()) {
            Some(photo) => Self::of(key, seq, &PhotoDocument::new(photo)),
            None => Self::tombstone(key, seq, now),
        }
    }

    /// The photo of this item.
    #[must_use]
    pub fn to_photo(&self) -> Option<Photo> {
        let Subject::Photo(album_id, id) = self.key.subject()? else { return None };
        self.read::<PhotoDocument>()?.into_photo(album_id, id)
    }

    /// An invite; DynamoDB deletes it a day after it has expired.
    #[must_use]
    pub fn invite(invite: &Invite) -> Self {
        let document = InviteDocument {
            album_id: invite.guest.album_id,
            invite_id: invite.guest.invite_id,
            role: invite.guest.role,
            expires_at: invite.expires_at,
            revoked: invite.revoked,
        };
        let expires_at = invite.expires_at.and_then(|at| at.checked_add_signed(TimeDelta::days(1)));
        Self { expires_at, ..Self::of(Key::invite(&invite.token_hash), invite.version().into(), &document) }
    }

    /// The invite of this item.
    #[must_use]
    pub fn to_invite(&self) -> Option<Invite> {
        let Subject::Invite(token_hash) = self.key.subject()? else { return None };
        let document: InviteDocument = self.read()?;
        let guest = Guest { invite_id: document.invite_id, album_id: document.album_id, role: document.role };
        Some(Invite { token_hash, guest, expires_at: document.expires_at, revoked: document.revoked })
    }
}

#[derive(Serialize, Deserialize)]
struct AlbumDocument {
    title: String,
    review: bool,
    closed: bool,
    photo_count: u32,
    version: u32,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

#[derive(Serialize, Deserialize)]
struct InviteDocument {
    album_id: AlbumId,
    invite_id: InviteId,
    role: InviteRole,
    expires_at: Option<DateTime<Utc>>,
    revoked: bool,
}

/// A public photo: it is ready and visible, and has no reason for a rejection.
#[derive(Serialize, Deserialize)]
struct PhotoDocument {
    invite_id: Option<InviteId>,
    uploader_name: Option<String>,
    caption: Option<String>,
    content_type: String,
    bytes: u64,
    sha256: Option<String>,
    width: Option<u32>,
    height: Option<u32>,
    taken_at: Option<DateTime<Utc>>,
    camera: Option<String>,
    placeholder: Option<String>,
    renditions: Vec<Rendition>,
    version: u32,
    created_at: DateTime<Utc>,
    ready_at: Option<DateTime<Utc>>,
}

impl PhotoDocument {
    fn new(photo: &Photo) -> Self {
        Self {
            invite_id: photo.uploader.invite_id,
            uploader_name: photo.uploader.name.clone(),
            caption: photo.caption.clone(),
            content_type: photo.content_type.clone(),
            bytes: photo.bytes,
            sha256: photo.sha256.map(|digest| digest.to_string()),
            width: photo.width,
            height: photo.height,
            taken_at: photo.taken_at,
            camera: photo.camera.clone(),
            placeholder: photo.placeholder.as_ref().map(|hash| STANDARD.encode(hash)),
            renditions: photo.renditions.clone(),
            version: photo.version,
            created_at: photo.created_at,
            ready_at: photo.ready_at,
        }
    }

    fn into_photo(self, album_id: AlbumId, id: PhotoId) -> Option<Photo> {
        let sha256 = match self.sha256 {
            Some(hex) => Some(Sha256::from_hex(&hex)?),
            None => None,
        };
        let placeholder = match self.placeholder {
            Some(text) => Some(STANDARD.decode(text).ok()?),
            None => None,
        };
        Some(Photo {
            id,
            album_id,
            state: PhotoState::Ready,
            visibility: Visibility::Visible,
            uploader: Uploader { invite_id: self.invite_id, name: self.uploader_name },
            caption: self.caption,
            content_type: self.content_type,
            bytes: self.bytes,
            sha256,
            width: self.width,
            height: self.height,
            taken_at: self.taken_at,
            camera: self.camera,
            placeholder,
            renditions: self.renditions,
            reject_reason: None,
            version: self.version,
            created_at: self.created_at,
            ready_at: self.ready_at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn photo() -> Photo {
        Photo {
            id: PhotoId::generate(),
            album_id: AlbumId::generate(),
            state: PhotoState::Ready,
            visibility: Visibility::Visible,
            uploader: Uploader { invite_id: Some(InviteId::generate()), name: Some("Zoë".into()) },
            caption: Some("\"quoted\", #1 \u{1f600}".into()),
            content_type: "image/jpeg".into(),
            bytes: 5_000_000_000,
            sha256: Some(Sha256([7; 32])),
            width: Some(4000),
            height: Some(3000),
            taken_at: DateTime::from_timestamp_millis(-1_234_567),
            camera: None,
            placeholder: Some(vec![0, 255, 7]),
            renditions: vec![Rendition {
                name: "thumb".into(),
                content_type: "image/webp".into(),
                width: 320,
                height: 240,
                bytes: 9_000,
            }],
            reject_reason: None,
            version: 3,
            created_at: DateTime::from_timestamp_millis(1_700_000_000_123).unwrap(),
            ready_at: DateTime::from_timestamp_millis(1_700_000_001_456),
        }
    }

    #[test]
    fn documents_survive_a_round_trip() {
        let photo = photo();
        let item = Item::photo(photo.album_id, photo.id, 9, Some(&photo), Utc::now());
        assert_eq!((item.seq, item.expires_at), (9, None));
        assert_eq!(format!("{:?}", item.to_photo().unwrap()), format!("{photo:?}"));
        let album = Album {
            id: photo.album_id,
            title: "Ännchen's".into(),
            review: true,
            closed: false,
            photo_count: 12,
            last_seq: 44,
            version: 3,
            created_at: photo.created_at,
            updated_at: photo.created_at,
        };
        assert_eq!(format!("{:?}", Item::album(&album).to_album(album.id).unwrap()), format!("{album:?}"));
        let guest = Guest { invite_id: InviteId::generate(), album_id: album.id, role: InviteRole::Drop };
        let mut invite = Invite { token_hash: [0xab; 32], guest, expires_at: photo.ready_at, revoked: false };
        for version in [1, 2] {
            let item = Item::invite(&invite);
            assert_eq!((item.seq, item.expires_at), (version, photo.ready_at.map(|at| at + TimeDelta::days(1))));
            assert_eq!(format!("{:?}", item.to_invite().unwrap()), format!("{invite:?}"));
            invite.revoked = true;
        }
    }

    #[test]
    fn only_public_photos_have_documents() {
        let (shown, now) = (photo(), Utc::now());
        let hidden = Photo { visibility: Visibility::Hidden, ..photo() };
        let unready = Photo { state: PhotoState::Processing, ..photo() };
        let of = |photo: Option<&Photo>| Item::photo(shown.album_id, shown.id, 1, photo, now);
        assert!(of(Some(&shown)).json.is_some());
        for gone in [None, Some(&hidden), Some(&unready)] {
            assert_eq!((of(gone).json, of(gone).expires_at), (None, Some(now + TOMBSTONE)));
        }
        assert!(of(None).to_photo().is_none());
        let album = Item::deleted(shown.album_id, now);
        assert!(album.to_album(shown.album_id).is_none() && album.seq > u64::from(u32::MAX));
    }

    #[test]
    fn keys_sort_as_ids_and_have_subjects() {
        let (album, photos) = (AlbumId::generate(), (0..50).map(|_| PhotoId::generate()).collect::<Vec<_>>());
        let keys: Vec<Key> = photos.iter().map(|id| Key::photo(album, *id)).collect();
        assert!(keys.is_sorted_by_key(|key| key.sk.clone()));
        assert_eq!(keys[0].subject(), Some(Subject::Photo(album, photos[0])));
        assert_eq!(Key::album(album).subject(), Some(Subject::Album(album)));
        let invite = Key::invite(&[0x0f; 32]);
        assert_eq!(invite.pk, format!("invite#{}", "0f".repeat(32)));
        assert_eq!(invite.subject(), Some(Subject::Invite([0x0f; 32])));
        for (pk, sk) in [("album#x", "album"), ("invite#0f", "invite"), ("album#", "photo#"), ("user#1", "user")] {
            assert_eq!(Key { pk: pk.into(), sk: sk.into() }.subject(), None, "{pk} {sk}");
        }
    }

    #[test]
    fn range_starts_after_the_page_before() {
        let photos: Vec<PhotoId> = (0..3).map(|_| PhotoId::generate()).collect();
        let sks: Vec<String> = photos.iter().map(|id| Key::photo(AlbumId::generate(), *id).sk).collect();
        let inside = |(low, high): (String, String)| -> Vec<usize> {
            (0..3).filter(|n| sks[*n] >= low && sks[*n] <= high).collect()
        };
        assert_eq!(inside(range(None, false)), [0, 1, 2]);
        assert_eq!(inside(range(Some(photos[1]), false)), [0]);
        assert_eq!(inside(range(Some(photos[1]), true)), [2]);
        assert!(*ALBUM < *range(None, true).0, "the album is outside the range");
    }
}
