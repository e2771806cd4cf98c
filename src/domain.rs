//! Albums, invites, photos, edits and events, with their rules and permissions. No axum, sqlx or AWS, no clock: times
//! are arguments. Every module may use it; it depends on none.

pub mod access;
pub mod album;
pub mod edit;
pub mod event;
pub mod ids;
pub mod invite;
pub mod job;
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
