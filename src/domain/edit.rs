//! An edit: filters on a photo, giving renditions of its own; its states and its steps.

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};
use imaging::Filter;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{AlbumId, EditId, PhotoId, Rendition, photo::words};

/// The most edits of one photo that have not failed.
pub const MOST_EDITS: u64 = 50;

/// The most edits of one photo in all: who asks for what can't be made comes to an end, too.
pub const MOST_ASKED: u64 = 500;

/// How long an edit waits for the host. The state machine in `deploy/stacks/messaging.yaml` waits as long.
pub const REVIEW_TIME: TimeDelta = TimeDelta::days(7);

words!(
    /// Where an edit is on its way.
    EditState {
        /// The host has to agree first.
        PendingReview = "pending_review",
        /// A worker makes its renditions.
        Processing = "processing",
        /// Its renditions are there.
        Ready = "ready",
        /// It was refused, or can't be made; `fail_reason` says why.
        Failed = "failed",
    }
);

words!(
    /// What is to be done next for an edit that is not failed; each may be done again without harm.
    EditStep {
        /// Whether the filters fit the photo, and whether the host has to agree.
        Validate = "validate",
        /// Its renditions are made and stored.
        Apply = "apply",
        /// It becomes ready, and the album's events tell.
        File = "file",
        /// Those who listen are told.
        Announce = "announce",
    }
);

/// What a state machine waits with for a decision: whoever has it can make the decision, so no debug print shows it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskToken(String);

impl TaskToken {
    /// The token itself.
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
    /// Its id.
    pub id: EditId,
    /// The photo that it is of.
    pub photo_id: PhotoId,
    /// The photo's album.
    pub album_id: AlbumId,
    /// Where it is on its way.
    pub state: EditState,
    /// What is to be done next; none when nothing is.
    pub step: Option<EditStep>,
    /// What it does to the photo.
    pub filters: Vec<Filter>,
    /// Its derived pictures, from the step `file` on.
    pub renditions: Vec<Rendition>,
    /// Why it failed, for people.
    pub fail_reason: Option<String>,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// When its renditions were there.
    pub ready_at: Option<DateTime<Utc>>,
}

impl Edit {
    /// The last part of a rendition's key and URL among those of its photo, e.g. `EDIT/thumb.jpg`.
    #[must_use]
    pub fn rendition_name(&self, rendition: &Rendition) -> String {
        format!("{}/{}", self.id, rendition.file_name())
    }

    /// Whether nothing was decided of it yet.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.state, EditState::PendingReview | EditState::Processing)
    }
}
