//! The words of the product and their rules: albums, invites, photos, edits, events and who may do what.
//!
//! Pure: no axum, no sqlx, no AWS, no clock but what is passed in. Everybody may use it; it uses nobody.

pub mod access;
pub mod album;
pub mod edit;
pub mod event;
pub mod ids;
pub mod invite;
pub mod photo;
pub mod text;

pub use access::{Access, Caller, Guest, User};
pub use album::{Album, AlbumRole};
pub use edit::{Edit, EditState, EditStep, TaskToken};
pub use event::{Event, EventKind};
pub use ids::{AlbumId, EditId, InviteId, PhotoId};
pub use invite::{Invite, InviteRole, InviteToken};
pub use photo::{Photo, PhotoState, Rendition, Sha256, Uploader, Visibility};
pub use text::{Caption, DisplayName, Label, Title};
