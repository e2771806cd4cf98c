//! An edit: filters applied to a photo, with renditions of its own.

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};
use imaging::Filter;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{AlbumId, EditId, PhotoId, Rendition, photo::string_enum};

/// The most edits of one photo that have not failed.
pub const MAX_ACTIVE_EDITS: u64 = 50;

/// The most edits of one photo, failed ones included.
pub const MAX_EDITS: u64 = 500;

/// How long an edit waits for the host's review. `deploy/stacks/messaging.yaml` has the same time.
pub const REVIEW_TIMEOUT: TimeDelta = TimeDelta::days(7);

string_enum!(
    /// The state of an edit.
    EditState {
        /// The host has to approve it.
        PendingReview = "pending_review",
        /// A worker creates its renditions.
        Processing = "processing",
        /// Its renditions exist.
        Ready = "ready",
        /// It was refused or cannot be applied; `fail_reason` says why.
        Failed = "failed",
    }
);

string_enum!(
    /// The next step of an edit that has not failed. All steps are idempotent.
    EditStep {
        /// Checks whether the filters suit the photo and whether the host has to approve.
        Validate = "validate",
        /// Creates and stores the renditions.
        Apply = "apply",
        /// Sets the state `ready` and records the event.
        File = "file",
        /// Publishes the event.
        Announce = "announce",
    }
);

/// The token of a state machine's task that waits for a decision. Its bearer can decide, so debug output hides it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskToken(String);

impl TaskToken {
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for TaskToken {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for TaskToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TaskToken(redacted)")
    }
}

/// An edit as stored.
#[derive(Debug, Clone)]
pub struct Edit {
    pub id: EditId,
    pub photo_id: PhotoId,
    pub album_id: AlbumId,
    pub state: EditState,
    /// The next step, if there is one.
    pub step: Option<EditStep>,
    pub filters: Vec<Filter>,
    /// Set from the step `file` on.
    pub renditions: Vec<Rendition>,
    /// Why it failed, for its author.
    pub fail_reason: Option<String>,
    pub created_at: DateTime<Utc>,
    pub ready_at: Option<DateTime<Utc>>,
}

impl Edit {
    /// The last part of a rendition's key and URL, for example `EDIT_ID/thumb.jpg`.
    #[must_use]
    pub fn rendition_name(&self, rendition: &Rendition) -> String {
        format!("{}/{}", self.id, rendition.file_name())
    }

    /// Whether it is neither ready nor failed.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.state, EditState::PendingReview | EditState::Processing)
    }
}
