//! Background jobs: processing, edits, notifications and the reconciler.

mod edits;
mod invalid_photos;
mod notifications;
mod reconciler;
mod worker;
