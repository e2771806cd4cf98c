//! Events: the changes in an album, numbered 1, 2, 3 ... without gaps.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Access, AlbumRole, EditId, InviteId, PhotoId, photo::string_enum};

string_enum!(
    /// The kind of a change.
    EventKind {
        /// A photo has its renditions.
        PhotoReady = "photo.ready",
        /// An upload is not a usable picture.
        PhotoRejected = "photo.rejected",
        /// A caption or the visibility changed.
        PhotoUpdated = "photo.updated",
        /// A photo was deleted.
        PhotoRemoved = "photo.removed",
        /// An edit has its renditions.
        EditReady = "edit.ready",
        /// An edit was refused or cannot be applied.
        EditFailed = "edit.failed",
        /// The title or a setting of the album changed.
        AlbumUpdated = "album.updated",
    }
);

/// One change in an album.
#[derive(Debug, Clone)]
pub struct Event {
    pub seq: u64,
    /// The kind for the host and the photo's uploader.
    pub kind: EventKind,
    /// The kind for those who see only public photos: `photo.removed` for a photo that the host hides, none for what
    /// concerns no public photo.
    pub public_kind: Option<EventKind>,
    pub photo_id: Option<PhotoId>,
    pub edit_id: Option<EditId>,
    /// The invite that the photo was added with.
    pub uploader: Option<InviteId>,
    pub at: DateTime<Utc>,
    /// The trace of the change, in the format of W3C's `traceparent` header.
    pub traceparent: Option<String>,
}

impl Event {
    /// The kind for a reader; none if the reader may not see the event.
    #[must_use]
    pub fn kind_for(&self, reader: &Access) -> Option<EventKind> {
        let own = self.uploader.is_some() && self.uploader == reader.invite_id();
        if own || reader.role() == AlbumRole::Host { Some(self.kind) } else { self.public_kind }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{AlbumId, Guest, InviteRole};

    #[test]
    fn event_kind_depends_on_viewer() {
        let (album_id, invite_id) = (AlbumId::generate(), InviteId::generate());
        let event = Event {
            seq: 1,
            kind: EventKind::PhotoUpdated,
            public_kind: Some(EventKind::PhotoRemoved),
            photo_id: None,
            edit_id: None,
            uploader: Some(invite_id),
            at: DateTime::UNIX_EPOCH,
            traceparent: None,
        };
        let guest = |invite_id| Access::Guest(Guest { invite_id, album_id, role: InviteRole::Contribute });
        assert_eq!(event.kind_for(&Access::Host), Some(EventKind::PhotoUpdated));
        assert_eq!(event.kind_for(&guest(invite_id)), Some(EventKind::PhotoUpdated));
        assert_eq!(event.kind_for(&guest(InviteId::generate())), Some(EventKind::PhotoRemoved));
    }
}
