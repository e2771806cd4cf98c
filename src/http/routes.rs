//! The handlers, one file per resource.

pub mod albums;
pub mod edits;
pub mod events;
pub mod health;
pub mod invites;
pub mod objects;
pub mod photos;
