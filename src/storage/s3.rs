//! Storage in an S3 bucket, with the keys `originals/xx/ID` and `renditions/xx/ID/NAME`.
//!
//! An original is written once, by its uploader, with `If-None-Match: *`. Renditions are immutable.

use std::{
    fmt,
    fs::File,
    io::{self, ErrorKind, Write},
    time::{Duration, SystemTime},
};

use aws_config::SdkConfig;
use aws_lc_rs::digest;
use aws_sdk_s3::{
    Client,
    config::{self as sdk, timeout::TimeoutConfig},
    error::{ProvideErrorMetadata, SdkError},
    presigning::PresigningConfig,
    primitives::ByteStream,
    types::{ChecksumMode, Delete, MultipartUpload, ObjectIdentifier, ServerSideEncryption},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use tokio::sync::OnceCell;
use url::Url;

use super::{ORIGINALS, Original, RENDITIONS, files::sha256, original_key, presign::Presigner, renditions_key};
use crate::{
    aws::{AwsError, credentials::CredentialCache},
    config,
    domain::{PhotoId, Sha256},
};

/// The part of an original that is fetched first, in bytes.
const HEAD_BYTES: u64 = 64 * 1024;
/// Until the response begins; its body may take longer.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// For a call with its retries.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(25);
const IMMUTABLE: &str = "public, max-age=31536000, immutable";

#[derive(Debug)]
pub struct S3 {
    client: Client,
    bucket: String,
    kms_key: Option<String>,
    region: String,
    credentials: CredentialCache,
    /// The bucket's URL, as the SDK builds it.
    base: OnceCell<Url>,
}

impl S3 {
    /// Builds a client without a call.
    pub fn new(config: &config::S3, shared: &SdkConfig) -> io::Result<Self> {
        let timeouts =
            TimeoutConfig::builder().operation_attempt_timeout(ATTEMPT_TIMEOUT).operation_timeout(OPERATION_TIMEOUT);
        let settings =
            sdk::Builder::from(shared).timeout_config(timeouts.build()).force_path_style(config.path_style).build();
        Ok(Self {
            client: Client::from_conf(settings),
            bucket: config.bucket.clone(),
            kms_key: config.kms_key.clone(),
            region: shared.region().map(ToString::to_string).unwrap_or_default(),
            credentials: CredentialCache::new(shared).map_err(io::Error::other)?,
            base: OnceCell::new(),
        })
    }

    /// Signs URLs of the bucket with the current credentials.
    pub(crate) async fn presigner(&self) -> io::Result<Presigner> {
        let credentials = self.credentials.get().await.map_err(io::Error::other)?;
        let base = self.base.get_or_try_init(|| self.resolve_base()).await?.clone();
        Ok(Presigner { base, region: self.region.clone(), credentials })
    }

    async fn resolve_base(&self) -> io::Result<Url> {
        const KEY: &str = "key";
        let config = PresigningConfig::expires_in(Duration::from_mins(1)).map_err(io::Error::other)?;
        let signed = self.client.get_object().bucket(&self.bucket).key(KEY).presigned(config).await;
        let signed = signed.map_err(io_error)?;
        let base = signed.uri().split('?').next().and_then(|url| url.strip_suffix(KEY)).unwrap_or_default();
        base.parse().map_err(io::Error::other)
    }

    /// The headers that an upload must send besides its content type; its URL is bound to them.
    pub(crate) fn upload_headers(&self, sha256: Option<&Sha256>) -> Vec<(&'static str, String)> {
        let mut headers = vec![("if-none-match", "*".to_owned())];
        headers.extend(sha256.map(|digest| ("x-amz-checksum-sha256", STANDARD.encode(digest.0))));
        if let Some(key) = &self.kms_key {
            headers.push(("x-amz-server-side-encryption", "aws:kms".to_owned()));
            headers.push(("x-amz-server-side-encryption-aws-kms-key-id", key.clone()));
        }
        headers
    }

    /// Checks access to the bucket.
    pub async fn probe(&self) -> io::Result<()> {
        // Not HeadBucket, whose response has no error code.
        let list = self.client.list_objects_v2().bucket(&self.bucket).prefix(ORIGINALS).max_keys(1);
        list.send().await.map(drop).map_err(io_error)
    }

    /// Size of an original, and its digest if the uploader declared one.
    pub(crate) async fn stat_original(&self, id: PhotoId) -> io::Result<Option<(u64, Option<Sha256>)>> {
        let head = self.client.head_object().bucket(&self.bucket).key(original_key(id));
        match head.checksum_mode(ChecksumMode::Enabled).send().await {
            Ok(head) => {
                let bytes = u64::try_from(head.content_length().unwrap_or_default()).unwrap_or_default();
                Ok(Some((bytes, head.checksum_sha256().and_then(decode_sha256))))
            }
            Err(error) => match io_error(error) {
                error if error.kind() == ErrorKind::NotFound => Ok(None),
                error => Err(error),
            },
        }
    }

    /// Fetches an original into an unnamed file. The rest is not fetched if `check_head` rejects the first bytes.
    pub(crate) async fn fetch_original<E>(
        &self,
        id: PhotoId,
        check_head: impl Fn(&[u8]) -> Result<(), E>,
    ) -> io::Result<Result<Original, E>> {
        let key = original_key(id);
        let get = || self.client.get_object().bucket(&self.bucket).key(&key);
        let head = get().range(format!("bytes=0-{}", HEAD_BYTES - 1)).send().await;
        let head = match head.map_err(io_error) {
            Ok(head) => head,
            // An empty object has no range.
            Err(error) if error.kind() == ErrorKind::InvalidInput => get().send().await.map_err(io_error)?,
            Err(error) => return Err(error),
        };
        let total = head.content_range().and_then(|range| range.rsplit('/').next()?.parse::<u64>().ok());
        let etag = head.e_tag().map(ToOwned::to_owned);
        let first = head.body.collect().await.map_err(interrupted)?.into_bytes();
        if let Err(rejection) = check_head(&first) {
            return Ok(Err(rejection));
        }
        let mut file = tempfile::tempfile()?;
        let mut hash = digest::Context::new(&digest::SHA256);
        let mut bytes = first.len() as u64;
        hash.update(&first);
        file.write_all(&first)?;
        if total.is_some_and(|total| total > bytes) {
            // With If-Match, so that parts of two objects are never combined.
            let rest = get().range(format!("bytes={bytes}-")).set_if_match(etag).send().await;
            let mut rest = rest.map_err(io_error)?.body;
            while let Some(chunk) = rest.try_next().await.map_err(interrupted)? {
                hash.update(&chunk);
                bytes += chunk.len() as u64;
                file = write(file, chunk.to_vec()).await?;
            }
        }
        if total.is_some_and(|total| total != bytes) {
            return Err(interrupted("S3 sent fewer bytes than the object has"));
        }
        Ok(Ok(Original { file, sha256: Some(sha256(hash)) }))
    }

    /// Writes renditions; each appears whole or not at all.
    pub(crate) async fn put_renditions(&self, id: PhotoId, renditions: Vec<(String, Vec<u8>)>) -> io::Result<()> {
        let folder = renditions_key(id);
        let puts = renditions.into_iter().map(|(name, bytes)| {
            let mut put = self
                .client
                .put_object()
                .bucket(&self.bucket)
                .key(format!("{folder}/{name}"))
                .content_type(super::media_type_of(&name))
                .cache_control(IMMUTABLE)
                .body(ByteStream::from(bytes));
            if let Some(key) = &self.kms_key {
                put = put.server_side_encryption(ServerSideEncryption::AwsKms).ssekms_key_id(key);
            }
            async move { put.send().await.map(drop).map_err(io_error) }
        });
        futures_util::future::try_join_all(puts).await.map(drop)
    }

    /// Removes all objects of a photo.
    pub(crate) async fn remove(&self, id: PhotoId) -> io::Result<()> {
        let mut keys = vec![original_key(id)];
        self.list(&format!("{}/", renditions_key(id)), |key, _| keys.push(key.to_owned())).await?;
        // The limit of one call.
        for keys in keys.chunks(1000) {
            let objects = keys.iter().map(|key| ObjectIdentifier::builder().key(key).build());
            let objects = objects.collect::<Result<Vec<_>, _>>().map_err(io::Error::other)?;
            let delete = Delete::builder().set_objects(Some(objects)).quiet(true).build().map_err(io::Error::other)?;
            let output = self.client.delete_objects().bucket(&self.bucket).delete(delete).send().await;
            if let Some(error) = output.map_err(io_error)?.errors().first() {
                let (code, message) = (error.code().unwrap_or_default(), error.message().unwrap_or_default());
                return Err(io::Error::other(AwsError::service(code, message)));
            }
        }
        Ok(())
    }

    /// The photos with objects older than `cutoff` in one of the 256 shards.
    pub(crate) async fn photos_in_shard(&self, shard: u8, cutoff: SystemTime) -> io::Result<Vec<PhotoId>> {
        let mut ids = Vec::new();
        for area in [ORIGINALS, RENDITIONS] {
            let prefix = format!("{area}/{shard:02x}/");
            self.list(&prefix, |key, modified| {
                let id = key[prefix.len()..].split('/').next().and_then(|name| name.parse::<PhotoId>().ok());
                ids.extend(id.filter(|_| modified <= cutoff));
            })
            .await?;
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// Aborts multipart uploads that began before `cutoff`. The service begins none, but those of others are billed and
    /// appear in no list of objects.
    pub(crate) async fn remove_incomplete_uploads(&self, cutoff: SystemTime) -> io::Result<usize> {
        let mut removed = 0;
        // The bucket may have other users.
        for area in [ORIGINALS, RENDITIONS] {
            let prefix = format!("{area}/");
            let (mut key, mut id, mut more) = (None, None, true);
            while more {
                let list = self.client.list_multipart_uploads().bucket(&self.bucket).prefix(&prefix);
                let page = list.set_key_marker(key).set_upload_id_marker(id).send().await.map_err(io_error)?;
                for upload in page.uploads() {
                    let initiated = upload.initiated().and_then(|at| SystemTime::try_from(*at).ok());
                    if initiated.is_some_and(|at| at <= cutoff) && self.abort(upload).await? {
                        removed += 1;
                    }
                }
                more = page.is_truncated() == Some(true);
                (key, id) = (page.next_key_marker, page.next_upload_id_marker);
            }
        }
        Ok(removed)
    }

    /// Aborts a multipart upload; false if it no longer exists.
    async fn abort(&self, upload: &MultipartUpload) -> io::Result<bool> {
        let (Some(key), Some(id)) = (upload.key(), upload.upload_id()) else { return Ok(false) };
        let abort = self.client.abort_multipart_upload().bucket(&self.bucket).key(key).upload_id(id);
        match abort.send().await.map_err(io_error) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Calls `each` for every object under a prefix, with its modification time.
    async fn list(&self, prefix: &str, mut each: impl FnMut(&str, SystemTime)) -> io::Result<()> {
        let mut pages = self.client.list_objects_v2().bucket(&self.bucket).prefix(prefix).into_paginator().send();
        while let Some(page) = pages.next().await {
            for object in page.map_err(io_error)?.contents() {
                let modified = object.last_modified().and_then(|at| SystemTime::try_from(*at).ok());
                if let Some(key) = object.key() {
                    each(key, modified.unwrap_or(SystemTime::UNIX_EPOCH));
                }
            }
        }
        Ok(())
    }
}

/// Writes on a blocking thread.
async fn write(mut file: File, chunk: Vec<u8>) -> io::Result<File> {
    tokio::task::spawn_blocking(move || file.write_all(&chunk).map(|()| file)).await?
}

/// A response body that ended early, which is retried.
fn interrupted(cause: impl fmt::Display) -> io::Error {
    io::Error::other(AwsError::interrupted(cause))
}

fn decode_sha256(base64: &str) -> Option<Sha256> {
    STANDARD.decode(base64).ok()?.try_into().ok().map(Sha256)
}

/// An error of S3 as one of the file system, so that both backends fail alike; it contains the [`AwsError`].
fn io_error<E>(error: SdkError<E>) -> io::Error
where
    E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    let status = error.raw_response().map(|response| response.status().as_u16());
    let error = AwsError::from(error);
    // A response to HEAD has no body, and so no code.
    match (error.code.as_deref(), status) {
        (Some("NoSuchKey" | "NoSuchUpload" | "NotFound"), _) | (None, Some(404)) => {
            io::Error::new(ErrorKind::NotFound, error)
        }
        (Some("AccessDenied"), _) => io::Error::new(ErrorKind::PermissionDenied, error),
        (None, Some(403)) => {
            io::Error::new(ErrorKind::PermissionDenied, AwsError::service("AccessDenied", "S3 answers 403"))
        }
        (Some("InvalidRange"), _) | (None, Some(416)) => io::Error::new(ErrorKind::InvalidInput, error),
        _ => io::Error::other(error),
    }
}
