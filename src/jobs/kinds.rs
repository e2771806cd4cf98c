//! The jobs, one file each.

pub mod apply_edit;
pub(super) mod publish_events;
pub(super) mod purge_album;
pub(super) mod purge_photo;
pub(super) mod render_photo;
pub mod sync_read_model;
