//! Originals and renditions: where their bytes are, and the signed URLs that open them.
//!
//! `originals/xx/ID` and `renditions/xx/ID/NAME`, where `xx` are the last two digits of the id, which are random: paths in a
//! folder, or keys in a bucket.
//!
//! In files an original is complete and on disk before its name exists; uploads under way are in `incoming/`. Renditions
//! can be made again from it, so they are renamed into place without waiting for the disk. In S3 clients write originals
//! themselves, by URLs that are bound to what was declared.

mod cloudfront;
mod files;
mod presign;
mod s3;
mod signing;

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
pub use files::{Files, Incoming, Received};
use presign::Presigner;
use s3::S3;
pub use signing::{SignedUrl, Signer, UrlError};

use crate::{
    config,
    domain::{Photo, PhotoId, Sha256},
    telemetry::metrics,
};

const ORIGINALS: &str = "originals";
const RENDITIONS: &str = "renditions";

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
    let label = [("operation", operation)];
    metrics::STORAGE_OPERATION_DURATION.with(&label).record(begun.elapsed().as_secs_f64());
    if outcome.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::NotFound) {
        metrics::STORAGE_OPERATION_FAILURES.with(&label).increment(1);
    }
    outcome
}

/// Counts bytes that an operation has moved.
pub(crate) fn moved(operation: &'static str, bytes: u64) {
    metrics::STORAGE_BYTES.with(&[("operation", operation)]).increment(bytes);
}

/// An original that is open for reading.
#[derive(Debug)]
pub struct Original {
    /// Its bytes.
    pub file: File,
    /// Its digest, where it was read on the way.
    pub sha256: Option<Sha256>,
}

/// Where the bytes are.
#[derive(Clone)]
enum Place {
    Files(Files),
    S3(Arc<S3>),
}

/// The photos' bytes, and the keys that sign their URLs.
#[derive(Clone)]
pub struct Storage {
    place: Place,
    signer: Arc<Signer>,
    cloudfront: Option<Arc<CloudFront>>,
    public_url: Arc<str>,
    url_window: Duration,
}

impl Storage {
    /// Opens the folder and makes what is missing in it; or makes a client of the bucket, which asks nothing yet.
    ///
    /// # Errors
    /// The folder can't be made or written to, and the error names it. A key of CloudFront that is none.
    pub fn open(config: &config::Storage, http: &config::Http, sdk: Option<&SdkConfig>) -> anyhow::Result<Self> {
        let (place, cloudfront) = match &config.place {
            config::Place::Files(folder) => (Place::Files(Files::open(folder)?), None),
            config::Place::S3(s3) => {
                let sdk = sdk.context("the bucket needs a configuration of AWS's clients")?;
                let cloudfront = s3.cloudfront.as_ref().map(CloudFront::new).transpose()?;
                (Place::S3(Arc::new(S3::new(s3, sdk)?)), cloudfront.map(Arc::new))
            }
        };
        Ok(Self {
            place,
            signer: Arc::new(Signer::new(&config.signing_keys)),
            cloudfront,
            public_url: http.public("").into(),
            url_window: config.url_window,
        })
    }

    /// The folder, where photos are kept in one.
    #[must_use]
    pub fn files(&self) -> Option<&Files> {
        match &self.place {
            Place::Files(files) => Some(files),
            Place::S3(_) => None,
        }
    }

    /// The signatures of our own URLs and cursors.
    #[must_use]
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// What signs URLs of renditions for now. Those of `CloudFront` need no credentials of AWS.
    ///
    /// # Errors
    /// There are no credentials of AWS.
    pub async fn links(&self, now: DateTime<Utc>) -> io::Result<Links> {
        let presigner = match (&self.place, &self.cloudfront) {
            (Place::S3(s3), None) => Some(Box::pin(s3.presigner()).await?),
            _ => None,
        };
        Ok(Links { storage: self.clone(), presigner, now })
    }

    /// What signs URLs of originals for now.
    ///
    /// # Errors
    /// There are no credentials of AWS.
    pub async fn original_links(&self, now: DateTime<Utc>) -> io::Result<OriginalLinks> {
        let bucket = match &self.place {
            Place::Files(_) => None,
            Place::S3(s3) => Some((Box::pin(s3.presigner()).await?, s3.clone())),
        };
        Ok(OriginalLinks { storage: self.clone(), bucket, now })
    }

    /// Whether photos can be kept: a file is written and removed, or the bucket is asked whether it is there.
    ///
    /// # Errors
    /// What stands in the way.
    pub async fn probe(&self) -> io::Result<()> {
        match &self.place {
            Place::Files(files) => {
                let files = files.clone();
                tokio::task::spawn_blocking(move || files.probe()).await?
            }
            Place::S3(s3) => Box::pin(s3.probe()).await,
        }
    }

    /// Opens an original for reading. One in S3 is fetched, unless `goes_on` refuses its first bytes.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn open_original<E>(
        &self,
        id: PhotoId,
        goes_on: impl Fn(&[u8]) -> Result<(), E>,
    ) -> io::Result<Result<Original, E>> {
        measured("open_original", async {
            match &self.place {
                Place::Files(files) => Ok(Ok(Original { file: files.open_original(id).await?, sha256: None })),
                // Boxed, as all that hold a client's call: their futures are large.
                Place::S3(s3) => Box::pin(s3.fetch_original(id, goes_on)).await,
            }
        })
        .await
    }

    /// Size of an original and its digest where that is known; none when it is not there.
    ///
    /// # Errors
    /// It can't be read.
    pub async fn measure_original(&self, id: PhotoId) -> io::Result<Option<(u64, Option<Sha256>)>> {
        measured("measure_original", async {
            match &self.place {
                Place::Files(files) => {
                    let found = files.measure_original(id).await?;
                    Ok(found.map(|(bytes, digest)| (bytes, Some(digest))))
                }
                Place::S3(s3) => Box::pin(s3.measure_original(id)).await,
            }
        })
        .await
    }

    /// Writes renditions of a photo, by their names; each appears whole or not at all.
    ///
    /// # Errors
    /// What the file system or S3 says; a disk may be full.
    pub async fn put_renditions(&self, id: PhotoId, renditions: Vec<(String, Vec<u8>)>) -> io::Result<()> {
        let bytes = renditions.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        measured("put_renditions", async {
            match &self.place {
                Place::Files(files) => files.put_renditions(id, renditions).await,
                Place::S3(s3) => Box::pin(s3.put_renditions(id, renditions)).await,
            }
        })
        .await?;
        moved("put_renditions", bytes);
        Ok(())
    }

    /// Removes all objects of a photo; that they are gone already is fine.
    ///
    /// # Errors
    /// What the file system or S3 says.
    pub async fn remove(&self, id: PhotoId) -> io::Result<()> {
        measured("remove", async {
            match &self.place {
                Place::Files(files) => files.remove(id).await,
                Place::S3(s3) => Box::pin(s3.remove(id)).await,
            }
        })
        .await
    }

    /// The photos that have objects older than `cutoff` in one of the 256 shards.
    ///
    /// # Errors
    /// What the file system or S3 says.
    pub async fn photos_in_shard(&self, shard: u8, cutoff: SystemTime) -> io::Result<Vec<PhotoId>> {
        match &self.place {
            Place::Files(files) => files.photos_in_shard(shard, cutoff).await,
            Place::S3(s3) => Box::pin(s3.photos_in_shard(shard, cutoff)).await,
        }
    }

    /// Removes what uploads that were cut off left behind before `cutoff`; answers how many.
    ///
    /// # Errors
    /// What the file system or S3 says.
    pub async fn remove_partials(&self, cutoff: SystemTime) -> io::Result<usize> {
        match &self.place {
            Place::Files(files) => files.remove_partials(cutoff).await,
            Place::S3(s3) => Box::pin(s3.remove_partials(cutoff)).await,
        }
    }

    /// A URL of our own listener.
    fn own(&self, method: &str, path: &str, until: DateTime<Utc>) -> String {
        format!("{}{}", self.public_url, self.signer.sign(method, path, until))
    }

    /// When the URLs of a photo's renditions change next but one: they are equal while this is.
    fn window_end(&self, id: PhotoId, now: DateTime<Utc>) -> DateTime<Utc> {
        let window = self.window();
        // Each photo changes at a moment of its own, so that caches aren't emptied all at once.
        let offset = i64::from(u32::from_be_bytes(*id.as_uuid().as_bytes().last_chunk().expect("16 bytes"))) % window;
        let start = (now.timestamp() - offset).div_euclid(window) * window + offset;
        DateTime::from_timestamp(start + 2 * window, 0).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    /// In seconds.
    fn window(&self) -> i64 {
        i64::try_from(self.url_window.as_secs()).unwrap_or(i64::MAX / 4).max(1)
    }
}

/// Signs URLs of originals, all as of one moment.
pub struct OriginalLinks {
    storage: Storage,
    bucket: Option<(Presigner, Arc<S3>)>,
    now: DateTime<Utc>,
}

impl OriginalLinks {
    /// The URL to send a declared photo's bytes to.
    #[must_use]
    pub fn upload(&self, photo: &Photo, expires_at: DateTime<Utc>) -> Upload {
        let mut headers = vec![("content-type", photo.content_type.clone())];
        let (url, expires_at) = match &self.bucket {
            None => {
                let digest = photo.sha256.map(|digest| format!("&sha256={digest}")).unwrap_or_default();
                let path = format!(
                    "/v1/uploads/{}?bytes={}&content_type={}{digest}",
                    photo.id, photo.bytes, photo.content_type
                );
                (self.storage.own("PUT", &path, expires_at), expires_at)
            }
            Some((presigner, s3)) => {
                headers.extend(s3.upload_headers(photo.sha256.as_ref()));
                // Every client sends the length by itself, and a browser lets no page set it.
                let length = photo.bytes.to_string();
                let signed: Vec<(&str, &str)> = headers
                    .iter()
                    .map(|(name, value)| (*name, value.as_str()))
                    .chain([("content-length", length.as_str())])
                    .collect();
                let url = presigner.sign("PUT", &original_key(photo.id), &signed, self.now, expires_at);
                (url, presigner.ends_at().map_or(expires_at, |end| end.min(expires_at)))
            }
        };
        let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Upload { method: "PUT".to_owned(), url, headers, expires_at }
    }

    /// A short-lived URL of the original.
    #[must_use]
    pub fn original(&self, photo: &Photo) -> String {
        let until = self.now + ORIGINAL_TTL;
        if let Some((presigner, _)) = &self.bucket {
            let key = format!("{}?response-content-disposition=attachment", original_key(photo.id));
            return presigner.sign("GET", &key, &[], self.now, until);
        }
        self.storage.own("GET", &format!("/v1/originals/{}?content_type={}", photo.id, photo.content_type), until)
    }
}

/// Signs URLs of renditions, all as of one moment.
pub struct Links {
    storage: Storage,
    /// Where S3 itself shows them.
    presigner: Option<Presigner>,
    now: DateTime<Utc>,
}

impl Links {
    /// The URL of a rendition by its name: the same for one window, and good for one to two.
    #[must_use]
    pub fn rendition(&self, id: PhotoId, name: &str) -> String {
        let until = self.window_end(id);
        match (&self.storage.cloudfront, &self.presigner) {
            (Some(cloudfront), _) => cloudfront.sign(&renditions_key(id), name, until),
            (None, Some(presigner)) => {
                let from = self.storage.window_end(id, self.now) - TimeDelta::seconds(2 * self.storage.window());
                presigner.sign("GET", &format!("{}/{name}", renditions_key(id)), &[], from, until)
            }
            (None, None) => self.storage.own("GET", &format!("/v1/renditions/{id}/{name}?"), until),
        }
    }

    /// When the URLs of a photo's renditions change next but one: they are equal while this is. Those that credentials of
    /// AWS sign end with these.
    fn window_end(&self, id: PhotoId) -> DateTime<Utc> {
        let end = self.storage.window_end(id, self.now);
        match (&self.storage.cloudfront, &self.presigner) {
            (None, Some(presigner)) => presigner.ends_at().map_or(end, |at| at.min(end)),
            _ => end,
        }
    }

    /// What tells the URLs of a photo's renditions from others: when they change, and who signs, where nobody says when that ends.
    #[must_use]
    pub fn view(&self, id: PhotoId) -> String {
        let end = self.window_end(id).timestamp();
        match (&self.storage.cloudfront, &self.presigner) {
            (None, Some(presigner)) if presigner.may_end_any_time() => {
                format!("{end}-{}", presigner.credentials.access_key_id())
            }
            _ => end.to_string(),
        }
    }
}

fn original_key(id: PhotoId) -> String {
    format!("{ORIGINALS}/{}/{id}", shard(id))
}

/// The photo whose original a key is; none for any other key.
#[must_use]
pub fn photo_of_original(key: &str) -> Option<PhotoId> {
    let id = key.rsplit('/').next()?.parse().ok()?;
    (original_key(id) == key).then_some(id)
}

/// The folder of a photo's renditions, without a `/` at its end.
fn renditions_key(id: PhotoId) -> String {
    format!("{RENDITIONS}/{}/{id}", shard(id))
}

fn shard(id: PhotoId) -> String {
    format!("{:02x}", id.as_uuid().as_bytes()[15])
}

/// The type that a rendition's name tells.
pub(crate) fn media_type_of(name: &str) -> &'static str {
    if name.rsplit('.').next() == Some("webp") { "image/webp" } else { "image/jpeg" }
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::config::Credentials;

    use super::*;

    fn in_files(dir: &std::path::Path) -> Storage {
        Storage {
            place: Place::Files(Files::open(dir).unwrap()),
            signer: Arc::new(Signer::new(&["k".repeat(32).into()])),
            cloudfront: None,
            public_url: "https://p.example".into(),
            url_window: Duration::from_hours(1),
        }
    }

    /// In a function they are, and who has old URLs must not be told that they are still good.
    #[test]
    fn detects_urls_of_temporary_credentials() {
        let dir = tempfile::tempdir().unwrap();
        let (storage, id, now) = (in_files(dir.path()), PhotoId::generate(), Utc::now());
        let view = |key: &str, token: Option<&str>, expiry: Option<SystemTime>| {
            let credentials = Credentials::new(key, "secret", token.map(str::to_owned), expiry, "test");
            let base = "https://bucket.example/".parse().unwrap();
            let presigner = Some(Presigner { base, region: "eu-west-1".to_owned(), credentials });
            Links { storage: storage.clone(), presigner, now }.view(id)
        };
        let end = storage.window_end(id, now).timestamp().to_string();
        assert_eq!(view("AKIA1", None, None), end, "a key that ends when somebody takes it away");
        assert_ne!(view("ASIA1", Some("token"), None), view("ASIA2", Some("token"), None));
        let soon = SystemTime::from(now + TimeDelta::minutes(5));
        let known = view("ASIA1", Some("token"), Some(soon));
        assert_eq!(known, (now + TimeDelta::minutes(5)).timestamp().to_string());
        assert_eq!(known, view("ASIA2", Some("token"), Some(soon)), "as good as each other");
    }

    #[test]
    fn rendition_urls_are_stable_for_a_window() {
        let dir = tempfile::tempdir().unwrap();
        let storage = in_files(dir.path());
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
    }
}
