//! An album: a collection of photos with one host.

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::{AlbumId, InviteRole};

/// An album as stored.
#[derive(Debug, Clone)]
pub struct Album {
    /// Its id.
    pub id: AlbumId,
    /// Its title, as typed.
    pub title: String,
    /// Whether new photos wait for the host's review before guests see them.
    pub review: bool,
    /// Whether it takes no more photos.
    pub closed: bool,
    /// Photos that are ready and visible.
    pub photo_count: u32,
    /// The number of its latest event; 0 before the first.
    pub last_seq: u64,
    /// Grows with each change; the entity tag is made of it.
    pub version: u32,
    /// When it was opened.
    pub created_at: DateTime<Utc>,
    /// When its title or settings last changed.
    pub updated_at: DateTime<Utc>,
}

/// What the caller is to an album.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AlbumRole {
    /// Owns it.
    Host,
    /// Sees it.
    View,
    /// Sees it and adds to it.
    Contribute,
    /// Adds to it and sees only its own photos.
    Drop,
}

impl From<InviteRole> for AlbumRole {
    fn from(role: InviteRole) -> Self {
        match role {
            InviteRole::View => Self::View,
            InviteRole::Contribute => Self::Contribute,
            InviteRole::Drop => Self::Drop,
        }
    }
}
