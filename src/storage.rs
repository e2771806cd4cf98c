//! Storage of originals and renditions, and the signed URLs that open them.
//!
//! Keys are `originals/xx/ID` and `renditions/xx/ID/NAME`, where `xx` is the last byte of the id, which is random. They
//! are paths in a folder or keys in a bucket.
//!
//! In a folder, an original is complete and synced to disk before its name exists; uploads in progress are in
//! `incoming/`. Renditions can be made again, so they are renamed into place without a sync. In S3, clients write
//! originals themselves, by URLs that are bound to what was declared.

mod cloudfront;
mod files;
mod presign;
mod s3;
mod signing;
mod uploads;

use std::{
    fs::File,
    io,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context;
use aws_config::SdkConfig;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use cloudfront::CloudFront;
pub use files::{CompletedUpload, Files, UploadWriter};
use presign::Presigner;
use s3::S3;
pub use signing::{SignedUrl, Signer, UrlError};
pub use uploads::UploadsInProgress;

use crate::{
    config,
    domain::{Photo, PhotoId, Sha256},
    telemetry::metrics,
};

const ORIGINALS: &str = "originals";
const RENDITIONS: &str = "renditions";

/// Lifetime of the URL of an original.
const ORIGINAL_TTL: Duration = Duration::from_mins(1);

/// How to send the bytes of a declared photo.
#[derive(Debug, Serialize, ToSchema)]
pub struct Upload {
    /// `PUT`.
    pub method: String,
    /// Bound to the photo, its length, type and checksum.
    pub url: String,
    /// Headers to send with it.
    pub headers: std::collections::BTreeMap<String, String>,
    /// When the URL expires.
    pub expires_at: DateTime<Utc>,
}

/// Records duration and failure of a storage operation. A missing object is not a failure.
pub(crate) async fn observe<T>(operation: &'static str, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let started = Instant::now();
    let result = work.await;
    let label = [("operation", operation)];
    metrics::STORAGE_OPERATION_DURATION.with(&label).record(started.elapsed().as_secs_f64());
    if result.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::NotFound) {
        metrics::STORAGE_OPERATION_FAILURES.with(&label).increment(1);
    }
    result
}

/// Counts the bytes transferred by a storage operation.
pub(crate) fn count_bytes(operation: &'static str, bytes: u64) {
    metrics::STORAGE_BYTES.with(&[("operation", operation)]).increment(bytes);
}

/// An original that is open for reading.
#[derive(Debug)]
pub struct Original {
    pub file: File,
    /// Known if the file was fetched from S3.
    pub sha256: Option<Sha256>,
}

#[derive(Clone)]
enum Backend {
    Files(Files),
    S3(Arc<S3>),
}

/// The objects of photos, and the keys that sign their URLs.
#[derive(Clone)]
pub struct Storage {
    backend: Backend,
    signer: Arc<Signer>,
    cloudfront: Option<Arc<CloudFront>>,
    public_url: Arc<str>,
    url_window: Duration,
}

impl Storage {
    /// Opens and prepares the folder, or builds a client of the bucket without a call.
    pub fn open(config: &config::Storage, http: &config::Http, sdk: Option<&SdkConfig>) -> anyhow::Result<Self> {
        let (backend, cloudfront) = match &config.place {
            config::Place::Files(folder) => (Backend::Files(Files::open(folder)?), None),
            config::Place::S3(s3) => {
                let sdk = sdk.context("storage in S3 needs an AWS configuration")?;
                let cloudfront = s3.cloudfront.as_ref().map(CloudFront::new).transpose()?;
                (Backend::S3(Arc::new(S3::new(s3, sdk)?)), cloudfront.map(Arc::new))
            }
        };
        Ok(Self {
            backend,
            signer: Arc::new(Signer::new(&config.signing_keys)),
            cloudfront,
            public_url: http.public("").into(),
            url_window: config.url_window,
        })
    }

    /// The folder; none with S3.
    pub fn files(&self) -> Option<&Files> {
        match &self.backend {
            Backend::Files(files) => Some(files),
            Backend::S3(_) => None,
        }
    }

    /// Signs the service's own URLs and cursors.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// URLs of renditions as of `now`. Those of CloudFront need no AWS credentials.
    pub async fn rendition_urls(&self, now: DateTime<Utc>) -> io::Result<RenditionUrls> {
        let presigner = match (&self.backend, &self.cloudfront) {
            (Backend::S3(s3), None) => Some(Box::pin(s3.presigner()).await?),
            _ => None,
        };
        Ok(RenditionUrls { storage: self.clone(), presigner, now })
    }

    /// URLs of originals as of `now`.
    pub async fn original_urls(&self, now: DateTime<Utc>) -> io::Result<OriginalUrls> {
        let bucket = match &self.backend {
            Backend::Files(_) => None,
            Backend::S3(s3) => Some((Box::pin(s3.presigner()).await?, s3.clone())),
        };
        Ok(OriginalUrls { storage: self.clone(), bucket, now })
    }

    /// Checks the storage: writes and removes a file, or lists the bucket.
    pub async fn probe(&self) -> io::Result<()> {
        match &self.backend {
            Backend::Files(files) => {
                let files = files.clone();
                tokio::task::spawn_blocking(move || files.probe()).await?
            }
            Backend::S3(s3) => Box::pin(s3.probe()).await,
        }
    }

    /// Opens an original for reading. One in S3 is fetched, unless `check_head` rejects its first bytes. The error is
    /// `NotFound` if there is none.
    pub async fn open_original<E>(
        &self,
        id: PhotoId,
        check_head: impl Fn(&[u8]) -> Result<(), E>,
    ) -> io::Result<Result<Original, E>> {
        observe("open_original", async {
            match &self.backend {
                Backend::Files(files) => Ok(Ok(Original { file: files.open_original(id).await?, sha256: None })),
                // Boxed, like all calls of clients: their futures are large.
                Backend::S3(s3) => Box::pin(s3.fetch_original(id, check_head)).await,
            }
        })
        .await
    }

    /// Size of an original, and its digest if known; none if it does not exist.
    pub async fn stat_original(&self, id: PhotoId) -> io::Result<Option<(u64, Option<Sha256>)>> {
        observe("stat_original", async {
            match &self.backend {
                Backend::Files(files) => {
                    let stat = files.stat_original(id).await?;
                    Ok(stat.map(|(bytes, digest)| (bytes, Some(digest))))
                }
                Backend::S3(s3) => Box::pin(s3.stat_original(id)).await,
            }
        })
        .await
    }

    /// Writes renditions of a photo, by name; each appears whole or not at all.
    pub async fn put_renditions(&self, id: PhotoId, renditions: Vec<(String, Vec<u8>)>) -> io::Result<()> {
        let bytes = renditions.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        observe("put_renditions", async {
            match &self.backend {
                Backend::Files(files) => files.put_renditions(id, renditions).await,
                Backend::S3(s3) => Box::pin(s3.put_renditions(id, renditions)).await,
            }
        })
        .await?;
        count_bytes("put_renditions", bytes);
        Ok(())
    }

    /// Removes all objects of a photo, if there are any.
    pub async fn remove(&self, id: PhotoId) -> io::Result<()> {
        observe("remove", async {
            match &self.backend {
                Backend::Files(files) => files.remove(id).await,
                Backend::S3(s3) => Box::pin(s3.remove(id)).await,
            }
        })
        .await
    }

    /// The photos with objects older than `cutoff` in one of the 256 shards.
    pub async fn photos_in_shard(&self, shard: u8, cutoff: SystemTime) -> io::Result<Vec<PhotoId>> {
        match &self.backend {
            Backend::Files(files) => files.photos_in_shard(shard, cutoff).await,
            Backend::S3(s3) => Box::pin(s3.photos_in_shard(shard, cutoff)).await,
        }
    }

    /// Removes incomplete uploads that began before `cutoff`; returns how many.
    pub async fn remove_incomplete_uploads(&self, cutoff: SystemTime) -> io::Result<usize> {
        match &self.backend {
            Backend::Files(files) => files.remove_incomplete_uploads(cutoff).await,
            Backend::S3(s3) => Box::pin(s3.remove_incomplete_uploads(cutoff)).await,
        }
    }

    /// A signed URL of the service itself.
    fn own_url(&self, method: &str, path: &str, until: DateTime<Utc>) -> String {
        format!("{}{}", self.public_url, self.signer.sign(method, path, until))
    }

    /// The expiry of rendition URLs signed at `now`: the end of the window after the current one.
    fn window_end(&self, id: PhotoId, now: DateTime<Utc>) -> DateTime<Utc> {
        let window = self.window_seconds();
        // The windows of photos are shifted against each other, so that caches don't expire all at once.
        let offset = i64::from(u32::from_be_bytes(*id.as_uuid().as_bytes().last_chunk().expect("16 bytes"))) % window;
        let start = (now.timestamp() - offset).div_euclid(window) * window + offset;
        DateTime::from_timestamp(start + 2 * window, 0).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    fn window_seconds(&self) -> i64 {
        i64::try_from(self.url_window.as_secs()).unwrap_or(i64::MAX / 4).max(1)
    }
}

/// Signs URLs of originals.
pub struct OriginalUrls {
    storage: Storage,
    bucket: Option<(Presigner, Arc<S3>)>,
    now: DateTime<Utc>,
}

impl OriginalUrls {
    /// The URL to send a declared photo's bytes to.
    pub fn upload(&self, photo: &Photo, expires_at: DateTime<Utc>) -> Upload {
        let mut headers = vec![("content-type", photo.content_type.clone())];
        let (url, expires_at) = match &self.bucket {
            None => {
                let digest = photo.sha256.map(|digest| format!("&sha256={digest}")).unwrap_or_default();
                let path = format!(
                    "/v1/uploads/{}?bytes={}&content_type={}{digest}",
                    photo.id, photo.bytes, photo.content_type
                );
                (self.storage.own_url("PUT", &path, expires_at), expires_at)
            }
            Some((presigner, s3)) => {
                headers.extend(s3.upload_headers(photo.sha256.as_ref()));
                // Signed but not returned: every client sends the length by itself, and browsers let no page set it.
                let length = photo.bytes.to_string();
                let signed: Vec<(&str, &str)> = headers
                    .iter()
                    .map(|(name, value)| (*name, value.as_str()))
                    .chain([("content-length", length.as_str())])
                    .collect();
                let url = presigner.sign("PUT", &original_key(photo.id), &signed, self.now, expires_at);
                (url, presigner.expires_at().map_or(expires_at, |end| end.min(expires_at)))
            }
        };
        let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Upload { method: "PUT".to_owned(), url, headers, expires_at }
    }

    /// A short-lived URL to download the original.
    pub fn download(&self, photo: &Photo) -> String {
        let until = self.now + ORIGINAL_TTL;
        if let Some((presigner, _)) = &self.bucket {
            let key = format!("{}?response-content-disposition=attachment", original_key(photo.id));
            return presigner.sign("GET", &key, &[], self.now, until);
        }
        self.storage.own_url("GET", &format!("/v1/originals/{}?content_type={}", photo.id, photo.content_type), until)
    }
}

/// Signs URLs of renditions.
pub struct RenditionUrls {
    storage: Storage,
    /// Set where S3 itself serves renditions.
    presigner: Option<Presigner>,
    now: DateTime<Utc>,
}

impl RenditionUrls {
    /// The URL of a rendition by its name: constant for one window, valid for one to two.
    pub fn url(&self, id: PhotoId, name: &str) -> String {
        let until = self.expires_at(id);
        match (&self.storage.cloudfront, &self.presigner) {
            (Some(cloudfront), _) => cloudfront.sign(&renditions_key(id), name, until),
            (None, Some(presigner)) => {
                let window = TimeDelta::seconds(self.storage.window_seconds());
                let from = self.storage.window_end(id, self.now) - window * 2;
                presigner.sign("GET", &format!("{}/{name}", renditions_key(id)), &[], from, until)
            }
            (None, None) => self.storage.own_url("GET", &format!("/v1/renditions/{id}/{name}?"), until),
        }
    }

    /// The expiry of a photo's URLs: of the window, or of the AWS credentials that sign them.
    fn expires_at(&self, id: PhotoId) -> DateTime<Utc> {
        let end = self.storage.window_end(id, self.now);
        match (&self.storage.cloudfront, &self.presigner) {
            (None, Some(presigner)) => presigner.expires_at().map_or(end, |at| at.min(end)),
            _ => end,
        }
    }

    /// A tag that changes with the URLs of a photo: their expiry, and the key id of credentials with an unknown expiry.
    pub fn tag(&self, id: PhotoId) -> String {
        let end = self.expires_at(id).timestamp();
        match (&self.storage.cloudfront, &self.presigner) {
            (None, Some(presigner)) if presigner.has_unknown_expiry() => {
                format!("{end}-{}", presigner.credentials.access_key_id())
            }
            _ => end.to_string(),
        }
    }
}

fn original_key(id: PhotoId) -> String {
    format!("{ORIGINALS}/{}/{id}", shard(id))
}

/// The photo of an original's key; none for any other key.
pub fn photo_of_original(key: &str) -> Option<PhotoId> {
    let id = key.rsplit('/').next()?.parse().ok()?;
    (original_key(id) == key).then_some(id)
}

/// The folder of a photo's renditions, without a trailing `/`.
fn renditions_key(id: PhotoId) -> String {
    format!("{RENDITIONS}/{}/{id}", shard(id))
}

fn shard(id: PhotoId) -> String {
    format!("{:02x}", id.as_uuid().as_bytes()[15])
}

/// The media type of a rendition, from its name.
pub(crate) fn media_type_of(name: &str) -> &'static str {
    if name.rsplit('.').next() == Some("webp") { "image/webp" } else { "image/jpeg" }
}

#[cfg(test)]
mod tests {
    use aws_credential_types::Credentials;

    use super::*;

    fn storage_in(dir: &std::path::Path) -> Storage {
        Storage {
            backend: Backend::Files(Files::open(dir).unwrap()),
            signer: Arc::new(Signer::new(&["k".repeat(32).into()])),
            cloudfront: None,
            public_url: "https://p.example".into(),
            url_window: Duration::from_hours(1),
        }
    }

    /// The credentials of a Lambda function have a session token and no known expiry; a cached list must not keep URLs
    /// that older credentials signed.
    #[test]
    fn tag_identifies_temporary_credentials() {
        let dir = tempfile::tempdir().unwrap();
        let (storage, id, now) = (storage_in(dir.path()), PhotoId::generate(), Utc::now());
        let tag = |key: &str, token: Option<&str>, expiry: Option<SystemTime>| {
            let credentials = Credentials::new(key, "secret", token.map(str::to_owned), expiry, "test");
            let base = "https://bucket.example/".parse().unwrap();
            let presigner = Some(Presigner { base, region: "eu-west-1".to_owned(), credentials });
            RenditionUrls { storage: storage.clone(), presigner, now }.tag(id)
        };
        let end = storage.window_end(id, now).timestamp().to_string();
        assert_eq!(tag("AKIA1", None, None), end, "a long-lived key");
        assert_ne!(tag("ASIA1", Some("token"), None), tag("ASIA2", Some("token"), None));
        let soon = SystemTime::from(now + TimeDelta::minutes(5));
        let known = tag("ASIA1", Some("token"), Some(soon));
        assert_eq!(known, (now + TimeDelta::minutes(5)).timestamp().to_string());
        assert_eq!(known, tag("ASIA2", Some("token"), Some(soon)), "equally long valid");
    }

    #[test]
    fn rendition_urls_are_constant_for_a_window() {
        let dir = tempfile::tempdir().unwrap();
        let storage = storage_in(dir.path());
        let id = PhotoId::generate();
        let now = Utc::now();
        let first = storage.window_end(id, now);
        let changes: Vec<u64> = (1..7200)
            .filter(|s| {
                storage.window_end(id, now + Duration::from_secs(*s))
                    != storage.window_end(id, now + Duration::from_secs(*s - 1))
            })
            .collect();
        assert_eq!(changes.len(), 2, "{changes:?}");
        assert_eq!(changes[1] - changes[0], 3600);
        let left = first - now;
        assert!(left.num_seconds() >= 3599 && left.num_seconds() <= 7200, "{left}");
    }
}
