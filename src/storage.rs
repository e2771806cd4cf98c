//! Originals and renditions: where their bytes are, and the signed URLs that open them.
//!
//! Kept in files: `originals/xx/ID`, `renditions/xx/ID/NAME`, and `incoming/` for uploads under way, where `xx`
//! are the last two digits of the id, which are random. An original is complete and on disk before its name
//! exists. Renditions can be made again from it, so they are renamed into place without waiting for the disk.

mod files;
mod signing;

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use aws_config::SdkConfig;
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

pub use files::{Files, Incoming, Received};
pub use signing::{SignedUrl, Signer, UrlError};

use crate::{
    config,
    domain::{Photo, PhotoId, Rendition},
    telemetry::metrics,
};

/// How long the URL of an original is good for.
const ORIGINAL_TTL: Duration = Duration::from_mins(1);

/// How to send the bytes of a declared photo.
#[derive(Debug, Serialize, ToSchema)]
pub struct Upload {
    /// `PUT`.
    pub method: String,
    /// Where to. Bound to the photo, its length, type and checksum.
    pub url: String,
    /// Headers to send with it.
    pub headers: std::collections::BTreeMap<String, String>,
    /// Until when the URL is good.
    pub expires_at: DateTime<Utc>,
}

/// Measures an operation of storage. That an object is not there is an answer, no failure.
pub(crate) async fn measured<T>(operation: &'static str, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let begun = Instant::now();
    let outcome = work.await;
    let label = [("operation", operation.to_owned())];
    metrics::STORAGE_SECONDS.with(&label).record(begun.elapsed().as_secs_f64());
    if outcome.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::NotFound) {
        metrics::STORAGE_FAILURES.with(&label).increment(1);
    }
    outcome
}

/// Counts bytes that an operation has moved.
pub(crate) fn moved(operation: &'static str, bytes: u64) {
    metrics::STORAGE_BYTES.with(&[("operation", operation.to_owned())]).increment(bytes);
}

/// Photos in files, and the key that signs their URLs.
#[derive(Clone)]
pub struct Storage {
    files: Files,
    signer: Arc<Signer>,
    public_url: Arc<str>,
    url_window: Duration,
}

impl Storage {
    /// Opens the folder and makes what is missing in it.
    ///
    /// # Errors
    /// The folder can't be made or written to; the error names it.
    pub fn open(config: &config::Storage, http: &config::Http, sdk: Option<&SdkConfig>) -> io::Result<Self> {
        let config::Place::Files(folder) = &config.place else {
            return Err(io::Error::other(format!("{} has no client for {sdk:?}", config.place)));
        };
        Ok(Self {
            files: Files::open(folder)?,
            signer: Arc::new(Signer::new(&config.signing_keys)),
            public_url: http.public("").into(),
            url_window: config.url_window,
        })
    }

    /// The bytes.
    #[must_use]
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// The signatures.
    #[must_use]
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// The URL to send a declared photo's bytes to.
    #[must_use]
    pub fn upload(&self, photo: &Photo, expires_at: DateTime<Utc>) -> Upload {
        let digest = photo.sha256.map(|digest| format!("&sha256={digest}")).unwrap_or_default();
        let path =
            format!("/v1/uploads/{}?bytes={}&content_type={}{digest}", photo.id, photo.bytes, photo.content_type);
        Upload {
            method: "PUT".to_owned(),
            url: format!("{}{}", self.public_url, self.signer.sign("PUT", &path, expires_at)),
            headers: [("content-type".to_owned(), photo.content_type.clone())].into(),
            expires_at,
        }
    }

    /// The URL of a rendition: the same for one window, and good for one to two.
    #[must_use]
    pub fn rendition_url(&self, id: PhotoId, rendition: &Rendition, now: DateTime<Utc>) -> String {
        let path = format!("/v1/renditions/{id}/{}?", rendition.file_name());
        format!("{}{}", self.public_url, self.signer.sign("GET", &path, self.window_end(id, now)))
    }

    /// When the URLs of a photo's renditions change next but one: they are equal while this is.
    #[must_use]
    pub fn window_end(&self, id: PhotoId, now: DateTime<Utc>) -> DateTime<Utc> {
        let window = i64::try_from(self.url_window.as_secs()).unwrap_or(i64::MAX / 4).max(1);
        // Each photo changes at a moment of its own, so that caches aren't emptied all at once.
        let offset = i64::from(u32::from_be_bytes(*id.as_uuid().as_bytes().last_chunk().expect("16 bytes"))) % window;
        let start = (now.timestamp() - offset).div_euclid(window) * window + offset;
        DateTime::from_timestamp(start + 2 * window, 0).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    /// A short-lived URL of the original.
    #[must_use]
    pub fn original_url(&self, photo: &Photo, now: DateTime<Utc>) -> String {
        let path = format!("/v1/originals/{}?content_type={}", photo.id, photo.content_type);
        format!("{}{}", self.public_url, self.signer.sign("GET", &path, now + ORIGINAL_TTL))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rendition_urls_stay_the_same_for_a_window_and_live_for_one_to_two() {
        let dir = std::env::temp_dir().join(format!("darkroom-storage-{}", uuid::Uuid::now_v7()));
        let storage = Storage {
            files: Files::open(&dir).unwrap(),
            signer: Arc::new(Signer::new(&["k".repeat(32).into()])),
            public_url: "https://p.example".into(),
            url_window: Duration::from_hours(1),
        };
        let id = PhotoId::generate();
        let t0 = Utc::now();
        let first = storage.window_end(id, t0);
        let changes: Vec<u64> = (1..7200)
            .filter(|s| {
                storage.window_end(id, t0 + Duration::from_secs(*s))
                    != storage.window_end(id, t0 + Duration::from_secs(*s - 1))
            })
            .collect();
        assert_eq!(changes.len(), 2, "{changes:?}");
        assert_eq!(changes[1] - changes[0], 3600);
        let left = first - t0;
        assert!(left.num_seconds() >= 3599 && left.num_seconds() <= 7200, "{left}");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
