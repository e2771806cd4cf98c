//! Events: what happened in an album, numbered 1, 2, 3 ... without gaps.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Access, AlbumRole, EditId, InviteId, PhotoId, photo::words};

words!(
    /// What happened.
    EventKind {
        /// A photo's renditions are there.
        PhotoReady = "photo.ready",
        /// A photo can't be a picture.
        PhotoRejected = "photo.rejected",
        /// A caption or the visibility changed.
        PhotoUpdated = "photo.updated",
        /// A photo is gone.
        PhotoRemoved = "photo.removed",
        /// An edit's renditions are there.
        EditReady = "edit.ready",
        /// An edit was refused, or can't be made.
        EditFailed = "edit.failed",
        /// The title or a setting of the album changed.
        AlbumUpdated = "album.updated",
    }
);

/// One thing that happened in an album.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its number in the album.
    pub seq: u64,
    /// What happened, for the host and the photo's uploader.
    pub kind: EventKind,
    /// What it means to those who see only public photos: a photo that the host hides is `photo.removed`
    /// to them. None when they learn nothing of it.
    pub public_kind: Option<EventKind>,
    /// The photo that it is about.
    pub photo_id: Option<PhotoId>,
    /// The edit of that photo that it is about.
    pub edit_id: Option<EditId>,
    /// The invite that the photo was added with.
    pub uploader: Option<InviteId>,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// The trace in which it happened, as W3C's `traceparent` writes it.
    pub traceparent: Option<String>,
}

impl Event {
    /// What the reader is shown: none for what it may not see.
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
