//! Storage in a folder.

use std::{
    fs::File,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::SystemTime,
};

use aws_lc_rs::digest;
use tokio::{fs, io::AsyncWriteExt};
use uuid::Uuid;

use super::{ORIGINALS, RENDITIONS, count_bytes, observe, original_key, renditions_key};
use crate::domain::{PhotoId, Rendition, Sha256};

const INCOMING: &str = "incoming";

/// Memory for one upload, in bytes.
const UPLOAD_BUFFER: usize = 64 * 1024;

/// The folder; cheap to clone.
#[derive(Debug, Clone)]
pub struct Files {
    root: Arc<Path>,
}

impl Files {
    /// Opens a folder, creates missing subfolders and checks that it is writable.
    pub fn open(root: &Path) -> io::Result<Self> {
        let context =
            |error: io::Error| io::Error::new(error.kind(), format!("storage folder {}: {error}", root.display()));
        for area in [ORIGINALS, RENDITIONS, INCOMING] {
            std::fs::create_dir_all(root.join(area)).map_err(context)?;
        }
        let files = Self { root: root.into() };
        files.probe().map_err(context)?;
        Ok(files)
    }

    /// Writes and removes a small file.
    pub fn probe(&self) -> io::Result<()> {
        let path = self.root.join(INCOMING).join(format!("probe-{}", Uuid::now_v7()));
        let written = std::fs::write(&path, b"darkroom");
        written.and(std::fs::remove_file(&path))
    }

    /// Begins an upload.
    pub async fn begin_upload(&self) -> io::Result<UploadWriter> {
        let path = self.root.join(INCOMING).join(Uuid::now_v7().to_string());
        // The guard is created with the file, so that a caller that is cancelled meanwhile leaves no file.
        let create = move || File::create_new(&path).map(|file| (file, TempFile(Some(path))));
        let (file, temp) = tokio::task::spawn_blocking(create).await??;
        let mut file = fs::File::from_std(file);
        file.set_max_buf_size(UPLOAD_BUFFER);
        Ok(UploadWriter { file, temp, bytes: 0, digest: digest::Context::new(&digest::SHA256) })
    }

    /// Opens an original for reading.
    pub(crate) async fn open_original(&self, id: PhotoId) -> io::Result<File> {
        let path = self.original_path(id);
        tokio::task::spawn_blocking(move || File::open(path)).await?
    }

    /// Size and digest of an original; none if it does not exist.
    pub(crate) async fn stat_original(&self, id: PhotoId) -> io::Result<Option<(u64, Sha256)>> {
        let path = self.original_path(id);
        let read = move || match File::open(path) {
            Ok(mut file) => {
                let mut hasher = Hasher(digest::Context::new(&digest::SHA256));
                let bytes = io::copy(&mut file, &mut hasher)?;
                Ok(Some((bytes, sha256(hasher.0))))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        tokio::task::spawn_blocking(read).await?
    }

    /// The path of an original, whether it exists or not.
    pub fn original_path(&self, id: PhotoId) -> PathBuf {
        self.root.join(original_key(id))
    }

    /// The path of a rendition, whether it exists or not.
    pub fn rendition_path(&self, id: PhotoId, file_name: &str) -> PathBuf {
        self.renditions_folder(id).join(file_name)
    }

    /// Writes renditions; each appears whole or not at all.
    pub(crate) async fn put_renditions(&self, id: PhotoId, renditions: Vec<(String, Vec<u8>)>) -> io::Result<()> {
        let (folder, incoming) = (self.renditions_folder(id), self.root.join(INCOMING));
        let write = move || {
            for (file_name, bytes) in renditions {
                let target = folder.join(file_name);
                std::fs::create_dir_all(target.parent().expect("a rendition has a folder"))?;
                let temp = TempFile(Some(incoming.join(Uuid::now_v7().to_string())));
                std::fs::write(temp.path(), bytes)?;
                temp.rename(&target)?;
            }
            Ok(())
        };
        tokio::task::spawn_blocking(write).await?
    }

    /// Those of `photos` with a rendition that is missing or has another size.
    pub async fn photos_missing_renditions(&self, photos: Vec<(PhotoId, Vec<Rendition>)>) -> io::Result<Vec<PhotoId>> {
        let files = self.clone();
        let exists = move |id, rendition: &Rendition| {
            let path = files.rendition_path(id, &rendition.file_name());
            std::fs::metadata(path).is_ok_and(|metadata| metadata.len() == rendition.bytes)
        };
        let find = move || {
            let incomplete =
                |(id, renditions): &(PhotoId, Vec<Rendition>)| !renditions.iter().all(|it| exists(*id, it));
            photos.into_iter().filter(incomplete).map(|(id, _)| id).collect()
        };
        Ok(tokio::task::spawn_blocking(find).await?)
    }

    /// Removes all objects of a photo, if there are any.
    pub(crate) async fn remove(&self, id: PhotoId) -> io::Result<()> {
        let ignore_missing = |result: io::Result<()>| match result {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        };
        ignore_missing(fs::remove_dir_all(self.renditions_folder(id)).await)?;
        ignore_missing(fs::remove_file(self.original_path(id)).await)
    }

    /// The photos with objects older than `cutoff` in one of the 256 shards.
    pub(crate) async fn photos_in_shard(&self, shard: u8, cutoff: SystemTime) -> io::Result<Vec<PhotoId>> {
        let files = self.clone();
        tokio::task::spawn_blocking(move || files.list_shard(shard, cutoff)).await?
    }

    fn list_shard(&self, shard: u8, cutoff: SystemTime) -> io::Result<Vec<PhotoId>> {
        let mut ids = Vec::new();
        for area in [ORIGINALS, RENDITIONS] {
            let folder = self.root.join(area).join(format!("{shard:02x}"));
            ids.extend(names_before(&folder, cutoff)?.into_iter().filter_map(|name| name.parse::<PhotoId>().ok()));
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// Removes files of incomplete uploads that were modified before `cutoff`; returns how many.
    pub(crate) async fn remove_incomplete_uploads(&self, cutoff: SystemTime) -> io::Result<usize> {
        let files = self.clone();
        tokio::task::spawn_blocking(move || files.remove_incoming(cutoff)).await?
    }

    fn remove_incoming(&self, cutoff: SystemTime) -> io::Result<usize> {
        let folder = self.root.join(INCOMING);
        let mut removed = 0;
        for name in names_before(&folder, cutoff)? {
            match std::fs::remove_file(folder.join(name)) {
                Ok(()) => removed += 1,
                // The upload completed, or another reconciler removed it.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }

    fn renditions_folder(&self, id: PhotoId) -> PathBuf {
        self.root.join(renditions_key(id))
    }
}

/// An upload in progress; its file is removed if this is dropped.
pub struct UploadWriter {
    file: fs::File,
    temp: TempFile,
    bytes: u64,
    digest: digest::Context,
}

impl UploadWriter {
    /// Appends bytes.
    pub async fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.bytes += chunk.len() as u64;
        self.digest.update(chunk);
        self.file.write_all(chunk).await
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Syncs the file to disk.
    pub async fn finish(mut self) -> io::Result<CompletedUpload> {
        observe("put_original", async {
            self.file.flush().await?;
            self.file.sync_data().await
        })
        .await?;
        count_bytes("put_original", self.bytes);
        Ok(CompletedUpload { temp: Mutex::new(Some(self.temp)), bytes: self.bytes, sha256: sha256(self.digest) })
    }
}

/// A complete upload that is not an original yet; its file is removed if this is dropped.
pub struct CompletedUpload {
    temp: Mutex<Option<TempFile>>,
    pub bytes: u64,
    pub sha256: Sha256,
}

impl CompletedUpload {
    /// Renames the file to the original of a photo, durably. The caller holds the lock of the photo's row, so that only
    /// one of two uploads gets here. A second call, by a retried transaction, does nothing.
    pub async fn persist(&self, files: &Files, id: PhotoId) -> io::Result<()> {
        let temp = self.temp.lock().expect("no holder of this lock panics").take();
        let Some(temp) = temp else { return Ok(()) };
        let target = files.original_path(id);
        let rename = move || {
            let folder = target.parent().expect("an original has a folder");
            let new = !folder.exists();
            std::fs::create_dir_all(folder)?;
            temp.rename(&target)?;
            File::open(folder)?.sync_all()?;
            if new {
                File::open(folder.parent().expect("a shard has a folder"))?.sync_all()?;
            }
            Ok(())
        };
        observe("persist_original", async { tokio::task::spawn_blocking(rename).await? }).await
    }
}

/// A file that is removed on drop, unless it was renamed.
struct TempFile(Option<PathBuf>);

impl TempFile {
    fn path(&self) -> &Path {
        self.0.as_deref().expect("not renamed yet")
    }

    fn rename(mut self, target: &Path) -> io::Result<()> {
        std::fs::rename(self.path(), target)?;
        self.0 = None;
        Ok(())
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::warn!(%error, "file of an incomplete upload not removed, the reconciler will retry");
        }
    }
}

struct Hasher(digest::Context);

impl io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) fn sha256(context: digest::Context) -> Sha256 {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    Sha256(bytes)
}

/// The names of files and folders that were modified before `cutoff`.
fn names_before(folder: &Path, cutoff: SystemTime) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        // An entry may be removed meanwhile.
        let Ok(modified) = entry.metadata().and_then(|metadata| metadata.modified()) else { continue };
        if modified <= cutoff
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    Ok(names)
}
