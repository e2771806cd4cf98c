//! Killed processes, failing dependencies and overload.

pub(crate) mod crashes;
mod database_outages;
mod full_disk;
mod nlb;
mod overload;
pub(crate) mod slow_aws;
