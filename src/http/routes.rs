//! The handlers, one file per resource.

pub mod albums;
pub mod edits;
pub mod events;
pub mod health;
pub mod invites;
pub mod join;
pub mod metrics;
pub mod objects;
pub mod photos;
