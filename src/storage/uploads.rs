//! Uploads in progress.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

use crate::domain::PhotoId;

/// The uploads in progress, at most one for each photo: a client that starts again has given its last one up, and one
/// signed URL cannot take all the places.
#[derive(Debug, Default)]
pub struct UploadsInProgress(Mutex<HashMap<PhotoId, CancellationToken>>);

/// An upload in progress, until it is dropped.
pub struct UploadGuard<'a> {
    uploads: &'a UploadsInProgress,
    id: PhotoId,
    superseded: CancellationToken,
}

impl UploadsInProgress {
    fn lock(&self) -> MutexGuard<'_, HashMap<PhotoId, CancellationToken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers an upload, and cancels an earlier one of the same photo.
    pub fn begin(&self, id: PhotoId) -> UploadGuard<'_> {
        let superseded = CancellationToken::new();
        if let Some(older) = self.lock().insert(id, superseded.clone()) {
            older.cancel();
        }
        UploadGuard { uploads: self, id, superseded }
    }
}

impl UploadGuard<'_> {
    /// Waits until the same upload has started again.
    pub async fn superseded(&self) {
        self.superseded.cancelled().await;
    }
}

impl Drop for UploadGuard<'_> {
    fn drop(&mut self) {
        // A superseded upload's place belongs to the newer one.
        if !self.superseded.is_cancelled() {
            self.uploads.lock().remove(&self.id);
        }
    }
}
