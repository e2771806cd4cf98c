//! The names of the jobs and of the queues that carry them.

/// A job's name and its queue. The `jobs` module implements the jobs; code below it knows them by these constants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobName {
    pub name: &'static str,
    pub queue: Queue,
}

pub const RENDER_PHOTO: JobName = JobName { name: "render_photo", queue: Queue::Default };
pub const APPLY_EDIT: JobName = JobName { name: "apply_edit", queue: Queue::Default };
pub const PURGE_PHOTO: JobName = JobName { name: "purge_photo", queue: Queue::Default };
pub const PURGE_ALBUM: JobName = JobName { name: "purge_album", queue: Queue::Default };
pub const PUBLISH_EVENTS: JobName = JobName { name: "publish_events", queue: Queue::Outbox };
pub const SYNC_READ_MODEL: JobName = JobName { name: "sync_read_model", queue: Queue::Outbox };

/// Jobs that share workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// Carried by SQS where it is configured.
    Default,
    /// Jobs that pass committed changes on to other servers. They have workers of their own, so that a webhook that
    /// hangs does not delay photos.
    Outbox,
}

impl Queue {
    /// The value of the column `jobs.queue`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Outbox => "outbox",
        }
    }
}
