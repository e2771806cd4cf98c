//! A bucket of S3. Keys are the paths of files: `originals/xx/ID` and `renditions/xx/ID/NAME`.
//!
//! An original is written by its uploader with `If-None-Match: *`, once, and never by us. Renditions never change, which is
//! what they tell caches.

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

use super::{ORIGINALS, Original, RENDITIONS, files::finish, original_key, presign::Presigner, renditions_key};
use crate::{
    aws::{Failure, credentials::Keys},
    config,
    domain::{PhotoId, Sha256},
};

/// What is read of an original before the rest is asked for, in bytes.
const HEAD: u64 = 64 * 1024;
/// A call that has not begun to answer by then is given up and tried again; the bytes of an object may take longer.
const ATTEMPT: Duration = Duration::from_secs(10);
/// The longest time for a call with all its tries.
const CALL: Duration = Duration::from_secs(25);
/// A rendition never changes under its key.
const FOREVER: &str = "public, max-age=31536000, immutable";

/// The bucket.
#[derive(Debug)]
pub struct S3 {
    client: Client,
    bucket: String,
    kms_key: Option<String>,
    region: String,
    keys: Keys,
    /// The bucket's address, which the SDK knows how to make.
    base: OnceCell<Url>,
}

impl S3 {
    /// A client of the bucket; nothing is asked yet.
    ///
    /// # Errors
    /// There is no provider of credentials.
    pub fn new(config: &config::S3, shared: &SdkConfig) -> io::Result<Self> {
        let timeouts = TimeoutConfig::builder().operation_attempt_timeout(ATTEMPT).operation_timeout(CALL).build();
        let settings = sdk::Builder::from(shared).timeout_config(timeouts).force_path_style(config.path_style).build();
        Ok(Self {
            client: Client::from_conf(settings),
            bucket: config.bucket.clone(),
            kms_key: config.kms_key.clone(),
            region: shared.region().map(ToString::to_string).unwrap_or_default(),
            keys: Keys::of(shared).map_err(io::Error::other)?,
            base: OnceCell::new(),
        })
    }

    /// What signs URLs of the bucket just now.
    ///
    /// # Errors
    /// There are no credentials.
    pub(crate) async fn presigner(&self) -> io::Result<Presigner> {
        let credentials = self.keys.current().await.map_err(io::Error::other)?;
        let base = self.base.get_or_try_init(|| self.find_base()).await?.clone();
        Ok(Presigner { base, region: self.region.clone(), credentials })
    }

    async fn find_base(&self) -> io::Result<Url> {
        const KEY: &str = "key";
        let soon = PresigningConfig::expires_in(Duration::from_mins(1)).map_err(io::Error::other)?;
        let signed = self.client.get_object().bucket(&self.bucket).key(KEY).presigned(soon).await;
        let signed = signed.map_err(failed)?;
        let address = signed.uri().split('?').next().and_then(|url| url.strip_suffix(KEY)).unwrap_or_default();
        address.parse().map_err(io::Error::other)
    }

    /// The headers that an upload has to send besides its type, and that its URL is bound to.
    pub(crate) fn upload_headers(&self, sha256: Option<&Sha256>) -> Vec<(&'static str, String)> {
        let mut headers = vec![("if-none-match", "*".to_owned())];
        headers.extend(sha256.map(|digest| ("x-amz-checksum-sha256", STANDARD.encode(digest.0))));
        if let Some(key) = &self.kms_key {
            headers.push(("x-amz-server-side-encryption", "aws:kms".to_owned()));
            headers.push(("x-amz-server-side-encryption-aws-kms-key-id", key.clone()));
        }
        headers
    }

    /// Whether the bucket answers.
    ///
    /// # Errors
    /// What S3 says.
    pub async fn probe(&self) -> io::Result<()> {
        // Not HEAD, whose answer says nothing of why it is a no.
        let look = self.client.list_objects_v2().bucket(&self.bucket).prefix(ORIGINALS).max_keys(1);
        look.send().await.map(drop).map_err(failed)
    }

    /// Size of an original, and its digest where its uploader gave one.
    pub(crate) async fn measure_original(&self, id: PhotoId) -> io::Result<Option<(u64, Option<Sha256>)>> {
        let ask = self.client.head_object().bucket(&self.bucket).key(original_key(id));
        match ask.checksum_mode(ChecksumMode::Enabled).send().await {
            Ok(told) => {
                let bytes = u64::try_from(told.content_length().unwrap_or_default()).unwrap_or_default();
                Ok(Some((bytes, told.checksum_sha256().and_then(digest_of))))
            }
            Err(error) => match failed(error) {
                error if error.kind() == ErrorKind::NotFound => Ok(None),
                error => Err(error),
            },
        }
    }

    /// Fetches an original into a file without a name. Its head comes first; when `goes_on` says no to it, the rest is left
    /// where it is.
    pub(crate) async fn fetch_original<E>(
        &self,
        id: PhotoId,
        goes_on: impl Fn(&[u8]) -> Result<(), E>,
    ) -> io::Result<Result<Original, E>> {
        let key = original_key(id);
        let ask = || self.client.get_object().bucket(&self.bucket).key(&key);
        let head = ask().range(format!("bytes=0-{}", HEAD - 1)).send().await;
        let head = match head.map_err(failed) {
            Ok(head) => head,
            // An empty object has no range.
            Err(error) if error.kind() == ErrorKind::InvalidInput => ask().send().await.map_err(failed)?,
            Err(error) => return Err(error),
        };
        let total = head.content_range().and_then(|range| range.rsplit('/').next()?.parse::<u64>().ok());
        let etag = head.e_tag().map(ToOwned::to_owned);
        let first = head.body.collect().await.map_err(cut)?.into_bytes();
        if let Err(no) = goes_on(&first) {
            return Ok(Err(no));
        }
        let mut file = tempfile::tempfile()?;
        let mut hash = digest::Context::new(&digest::SHA256);
        let mut bytes = first.len() as u64;
        hash.update(&first);
        file.write_all(&first)?;
        if total.is_some_and(|total| total > bytes) {
            // The very same object: originals don't change, and if one does all the same its halves are not put together.
            let rest = ask().range(format!("bytes={bytes}-")).set_if_match(etag).send().await;
            let mut rest = rest.map_err(failed)?.body;
            while let Some(chunk) = rest.try_next().await.map_err(cut)? {
                hash.update(&chunk);
                bytes += chunk.len() as u64;
                file = write(file, chunk.to_vec()).await?;
            }
        }
        if total.is_some_and(|total| total != bytes) {
            return Err(cut("S3 sent less than the object has"));
        }
        Ok(Ok(Original { file, sha256: Some(finish(hash)) }))
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
                .cache_control(FOREVER)
                .body(ByteStream::from(bytes));
            if let Some(key) = &self.kms_key {
                put = put.server_side_encryption(ServerSideEncryption::AwsKms).ssekms_key_id(key);
            }
            async move { put.send().await.map(drop).map_err(failed) }
        });
        futures_util::future::try_join_all(puts).await.map(drop)
    }

    /// Removes all objects of a photo.
    pub(crate) async fn remove(&self, id: PhotoId) -> io::Result<()> {
        let mut keys = vec![original_key(id)];
        self.list(&format!("{}/", renditions_key(id)), |key, _| keys.push(key.to_owned())).await?;
        // As many as one call takes.
        for some in keys.chunks(1000) {
            let objects = some.iter().map(|key| ObjectIdentifier::builder().key(key).build());
            let objects = objects.collect::<Result<Vec<_>, _>>().map_err(io::Error::other)?;
            let delete = Delete::builder().set_objects(Some(objects)).quiet(true).build().map_err(io::Error::other)?;
            let done = self.client.delete_objects().bucket(&self.bucket).delete(delete).send().await;
            if let Some(error) = done.map_err(failed)?.errors().first() {
                let (code, why) = (error.code().unwrap_or_default(), error.message().unwrap_or_default());
                return Err(io::Error::other(Failure::told(code, why)));
            }
        }
        Ok(())
    }

    /// The photos that have objects older than `cutoff` in one of the 256 shards.
    pub(crate) async fn photos_in_shard(&self, shard: u8, cutoff: SystemTime) -> io::Result<Vec<PhotoId>> {
        let mut found = Vec::new();
        for area in [ORIGINALS, RENDITIONS] {
            let prefix = format!("{area}/{shard:02x}/");
            self.list(&prefix, |key, modified| {
                let id = key[prefix.len()..].split('/').next().and_then(|name| name.parse::<PhotoId>().ok());
                found.extend(id.filter(|_| modified <= cutoff));
            })
            .await?;
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// Ends uploads in parts that were begun before `cutoff`. We begin none, but what somebody leaves there costs all the
    /// same, and no list of objects shows it.
    pub(crate) async fn remove_partials(&self, cutoff: SystemTime) -> io::Result<usize> {
        let mut removed = 0;
        // Ours alone: the bucket may have other tenants.
        for area in [ORIGINALS, RENDITIONS] {
            let prefix = format!("{area}/");
            let (mut key, mut id, mut more) = (None, None, true);
            while more {
                let list = self.client.list_multipart_uploads().bucket(&self.bucket).prefix(&prefix);
                let page = list.set_key_marker(key).set_upload_id_marker(id).send().await.map_err(failed)?;
                for upload in page.uploads() {
                    let begun = upload.initiated().and_then(|at| SystemTime::try_from(*at).ok());
                    if begun.is_some_and(|at| at <= cutoff) && self.abort(upload).await? {
                        removed += 1;
                    }
                }
                more = page.is_truncated() == Some(true);
                (key, id) = (page.next_key_marker, page.next_upload_id_marker);
            }
        }
        Ok(removed)
    }

    /// Ends an upload in parts; false when somebody else has done so.
    async fn abort(&self, upload: &MultipartUpload) -> io::Result<bool> {
        let (Some(key), Some(id)) = (upload.key(), upload.upload_id()) else { return Ok(false) };
        let end = self.client.abort_multipart_upload().bucket(&self.bucket).key(key).upload_id(id);
        match end.send().await.map_err(failed) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Each object under a prefix with its time, page by page.
    async fn list(&self, prefix: &str, mut each: impl FnMut(&str, SystemTime)) -> io::Result<()> {
        let mut pages = self.client.list_objects_v2().bucket(&self.bucket).prefix(prefix).into_paginator().send();
        while let Some(page) = pages.next().await {
            for object in page.map_err(failed)?.contents() {
                let modified = object.last_modified().and_then(|at| SystemTime::try_from(*at).ok());
                if let Some(key) = object.key() {
                    each(key, modified.unwrap_or(SystemTime::UNIX_EPOCH));
                }
            }
        }
        Ok(())
    }
}

/// Chunks are written beside the runtime's threads: a disk may be slow.
async fn write(mut file: File, chunk: Vec<u8>) -> io::Result<File> {
    tokio::task::spawn_blocking(move || file.write_all(&chunk).map(|()| file)).await?
}

/// Bytes that stopped on their way, which are worth another try.
fn cut(why: impl fmt::Display) -> io::Error {
    io::Error::other(Failure::cut(why))
}

fn digest_of(base64: &str) -> Option<Sha256> {
    STANDARD.decode(base64).ok()?.try_into().ok().map(Sha256)
}

/// An error of S3 as one of files: who asks for an object need not know where it is kept. What AWS said is inside.
fn failed<E>(error: SdkError<E>) -> io::Error
where
    E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    let status = error.raw_response().map(|response| response.status().as_u16());
    let failure = Failure::from(error);
    // An answer to HEAD has no body to tell a code in.
    match (failure.code.as_deref(), status) {
        (Some("NoSuchKey" | "NoSuchUpload" | "NotFound"), _) | (None, Some(404)) => {
            io::Error::new(ErrorKind::NotFound, failure)
        }
        (Some("AccessDenied"), _) => io::Error::new(ErrorKind::PermissionDenied, failure),
        (None, Some(403)) => {
            io::Error::new(ErrorKind::PermissionDenied, Failure::told("AccessDenied", "S3 answers 403"))
        }
        (Some("InvalidRange"), _) | (None, Some(416)) => io::Error::new(ErrorKind::InvalidInput, failure),
        _ => io::Error::other(failure),
    }
}
