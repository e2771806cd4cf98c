//! Callers and their permissions.

use super::{AlbumId, AlbumRole, Edit, EditState, InviteId, InviteRole, Photo};

/// A signed-in user, from a JWT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The `sub` claim: 1 to 255 bytes, compared byte for byte.
    pub subject: String,
    /// The `name` claim.
    pub name: Option<String>,
}

/// The holder of an invite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guest {
    /// The identity of the guest.
    pub invite_id: InviteId,
    /// The album that the invite gives access to.
    pub album_id: AlbumId,
    pub role: InviteRole,
}

/// The author of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    User(User),
    Guest(Guest),
}

/// A caller's access to one album. Its existence proves that the caller may know of the album.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Host,
    Guest(Guest),
}

impl Access {
    #[must_use]
    pub fn role(&self) -> AlbumRole {
        match self {
            Self::Host => AlbumRole::Host,
            Self::Guest(guest) => guest.role.into(),
        }
    }

    /// None for the host.
    #[must_use]
    pub fn invite_id(&self) -> Option<InviteId> {
        match self {
            Self::Host => None,
            Self::Guest(guest) => Some(guest.invite_id),
        }
    }

    /// Whether this caller added the photo.
    #[must_use]
    pub fn is_uploader(&self, photo: &Photo) -> bool {
        self.invite_id() == photo.uploader.invite_id
    }

    /// Whether the caller may know that the photo exists.
    #[must_use]
    pub fn sees(&self, photo: &Photo) -> bool {
        match self.role() {
            AlbumRole::Host => true,
            AlbumRole::View | AlbumRole::Contribute => photo.is_public() || self.is_uploader(photo),
            AlbumRole::Drop => self.is_uploader(photo),
        }
    }

    #[must_use]
    pub fn may_add(&self) -> bool {
        !matches!(self.role(), AlbumRole::View)
    }

    /// Whether the caller may follow the album's events.
    #[must_use]
    pub fn may_follow(&self) -> bool {
        !matches!(self.role(), AlbumRole::Drop)
    }

    /// Whether the caller, who sees the photo, may know that this edit of it exists.
    #[must_use]
    pub fn sees_edit(&self, photo: &Photo, edit: &Edit) -> bool {
        edit.state == EditState::Ready || self.owns(photo)
    }

    /// Whether the caller may fetch the original, change, edit and delete the photo.
    #[must_use]
    pub fn owns(&self, photo: &Photo) -> bool {
        self.role() == AlbumRole::Host || self.is_uploader(photo)
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::domain::{PhotoId, PhotoState, Uploader, Visibility};

    fn photo(invite_id: Option<InviteId>, state: PhotoState, visibility: Visibility) -> Photo {
        Photo {
            id: PhotoId::generate(),
            album_id: AlbumId::generate(),
            state,
            visibility,
            uploader: Uploader { invite_id, name: None },
            caption: None,
            content_type: "image/jpeg".into(),
            bytes: 1,
            sha256: None,
            width: None,
            height: None,
            taken_at: None,
            camera: None,
            placeholder: None,
            renditions: Vec::new(),
            reject_reason: None,
            version: 1,
            created_at: DateTime::UNIX_EPOCH,
            ready_at: None,
        }
    }

    #[test]
    fn roles_limit_which_photos_are_seen() {
        let album_id = AlbumId::generate();
        let (mine, other) = (InviteId::generate(), InviteId::generate());
        let guest = |role| Access::Guest(Guest { invite_id: mine, album_id, role });
        let public = photo(Some(other), PhotoState::Ready, Visibility::Visible);
        let pending = photo(Some(other), PhotoState::Ready, Visibility::PendingReview);
        let processing = photo(Some(other), PhotoState::Processing, Visibility::Visible);
        let own_hidden = photo(Some(mine), PhotoState::Ready, Visibility::Hidden);
        let by_host = photo(None, PhotoState::Processing, Visibility::Visible);
        for (role, sees) in [
            (InviteRole::View, [true, false, false, true, false]),
            (InviteRole::Contribute, [true, false, false, true, false]),
            (InviteRole::Drop, [false, false, false, true, false]),
        ] {
            let got = [&public, &pending, &processing, &own_hidden, &by_host].map(|p| guest(role).sees(p));
            assert_eq!(got, sees, "{role:?}");
        }
        assert!([&public, &pending, &processing, &own_hidden, &by_host].into_iter().all(|p| Access::Host.sees(p)));
        assert!(Access::Host.owns(&own_hidden) && Access::Host.is_uploader(&by_host));
        assert!(!Access::Host.is_uploader(&own_hidden) && !guest(InviteRole::View).owns(&public));
    }
}
