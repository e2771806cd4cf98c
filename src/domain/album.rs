//! An album: a collection of photos with one host.

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::{AlbumId, InviteRole};

/// An album as stored.
#[derive(Debug, Clone)]
pub struct Album {
    pub id: AlbumId,
    pub title: String,
    /// Whether new photos of guests wait for the host's review.
    pub review: bool,
    /// Whether it takes no more photos.
    pub closed: bool,
    /// The number of photos that are ready and visible.
    pub photo_count: u32,
    /// The number of its latest event; 0 before the first.
    pub last_seq: u64,
    /// Increases with each change; part of the entity tag.
    pub version: u32,
    pub created_at: DateTime<Utc>,
    /// When its title or settings last changed.
    pub updated_at: DateTime<Utc>,
}

/// The caller's role in an album.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AlbumRole {
    Host,
    /// May view.
    View,
    /// May view and add.
    Contribute,
    /// May add, and view only its own photos.
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
