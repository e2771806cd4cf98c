//! The jobs, one file each.

pub mod edit;
pub mod publish;
pub mod purge;
pub mod read_model;
pub mod render;
