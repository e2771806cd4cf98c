//! Files and folders.

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

use super::{ORIGINALS, RENDITIONS, measured, moved, original_key, renditions_key};
use crate::domain::{PhotoId, Rendition, Sha256};

const INCOMING: &str = "incoming";

/// What one upload may hold in memory on its way to the disk, in bytes.
const UPLOAD_BUFFER: usize = 64 * 1024;

/// The folder. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Files {
    root: Arc<Path>,
}

impl Files {
    /// Opens a folder, makes what is missing in it and tries to write.
    ///
    /// # Errors
    /// Not a folder, or not writable; the error names it.
    pub fn open(root: &Path) -> io::Result<Self> {
        let explain =
            |error: io::Error| io::Error::new(error.kind(), format!("storage folder {}: {error}", root.display()));
        for area in [ORIGINALS, RENDITIONS, INCOMING] {
            std::fs::create_dir_all(root.join(area)).map_err(explain)?;
        }
        let files = Self { root: root.into() };
        files.probe().map_err(explain)?;
        Ok(files)
    }

    /// Writes and removes a small file.
    ///
    /// # Errors
    /// What the file system says.
    pub fn probe(&self) -> io::Result<()> {
        let path = self.root.join(INCOMING).join(format!("probe-{}", Uuid::now_v7()));
        let outcome = std::fs::write(&path, b"darkroom");
        let removed = std::fs::remove_file(&path);
        outcome.and(removed)
    }

    /// Begins to take an upload.
    ///
    /// # Errors
    /// The file can't be made.
    pub async fn incoming(&self) -> io::Result<Incoming> {
        let path = self.root.join(INCOMING).join(Uuid::now_v7().to_string());
        // Made together with what removes it: whoever gives up while it is being made leaves nothing.
        let make = move || File::create_new(&path).map(|file| (file, Partial(Some(path))));
        let (file, partial) = tokio::task::spawn_blocking(make).await??;
        let mut file = fs::File::from_std(file);
        file.set_max_buf_size(UPLOAD_BUFFER);
        Ok(Incoming { file, partial, bytes: 0, digest: digest::Context::new(&digest::SHA256) })
    }

    /// Opens an original for reading.
    pub(crate) async fn open_original(&self, id: PhotoId) -> io::Result<File> {
        let path = self.original_path(id);
        tokio::task::spawn_blocking(move || File::open(path)).await?
    }

    /// Size and digest of an original, or none when it is not there.
    pub(crate) async fn measure_original(&self, id: PhotoId) -> io::Result<Option<(u64, Sha256)>> {
        let path = self.original_path(id);
        let read = move || match File::open(path) {
            Ok(mut file) => {
                let mut hash = Hash(digest::Context::new(&digest::SHA256));
                let bytes = io::copy(&mut file, &mut hash)?;
                Ok(Some((bytes, finish(hash.0))))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        tokio::task::spawn_blocking(read).await?
    }

    /// Where an original is, or will be.
    #[must_use]
    pub fn original_path(&self, id: PhotoId) -> PathBuf {
        self.root.join(original_key(id))
    }

    /// Where a rendition is, or will be.
    #[must_use]
    pub fn rendition_path(&self, id: PhotoId, file_name: &str) -> PathBuf {
        self.renditions_of(id).join(file_name)
    }

    /// Writes renditions: each appears whole or not at all. The disk may be full.
    pub(crate) async fn put_renditions(&self, id: PhotoId, renditions: Vec<(String, Vec<u8>)>) -> io::Result<()> {
        let (folder, incoming) = (self.renditions_of(id), self.root.join(INCOMING));
        let write = move || {
            for (file_name, bytes) in renditions {
                let target = folder.join(file_name);
                std::fs::create_dir_all(target.parent().expect("a rendition has a folder"))?;
                let partial = Partial(Some(incoming.join(Uuid::now_v7().to_string())));
                std::fs::write(partial.path(), bytes)?;
                partial.rename(&target)?;
            }
            Ok(())
        };
        tokio::task::spawn_blocking(write).await?
    }

    /// Those of some photos of which not all renditions are there in their full size.
    ///
    /// # Errors
    /// What the file system says.
    pub async fn incomplete(&self, photos: Vec<(PhotoId, Vec<Rendition>)>) -> io::Result<Vec<PhotoId>> {
        let files = self.clone();
        let is_there = move |id, rendition: &Rendition| {
            let path = files.rendition_path(id, &rendition.file_name());
            std::fs::metadata(path).is_ok_and(|metadata| metadata.len() == rendition.bytes)
        };
        let look = move || {
            let lacks = |(id, renditions): &(PhotoId, Vec<Rendition>)| !renditions.iter().all(|it| is_there(*id, it));
            photos.into_iter().filter(lacks).map(|(id, _)| id).collect()
        };
        Ok(tokio::task::spawn_blocking(look).await?)
    }

    /// Removes all objects of a photo; that they are gone already is fine.
    pub(crate) async fn remove(&self, id: PhotoId) -> io::Result<()> {
        let there = |outcome: io::Result<()>| match outcome {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        };
        there(fs::remove_dir_all(self.renditions_of(id)).await)?;
        there(fs::remove_file(self.original_path(id)).await)
    }

    /// The photos that have objects older than `cutoff` in one of the 256 shards.
    pub(crate) async fn photos_in_shard(&self, shard: u8, cutoff: SystemTime) -> io::Result<Vec<PhotoId>> {
        let files = self.clone();
        tokio::task::spawn_blocking(move || files.list_shard(shard, cutoff)).await?
    }

    fn list_shard(&self, shard: u8, cutoff: SystemTime) -> io::Result<Vec<PhotoId>> {
        let mut found = Vec::new();
        for area in [ORIGINALS, RENDITIONS] {
            let folder = self.root.join(area).join(format!("{shard:02x}"));
            found.extend(older(&folder, cutoff)?.into_iter().filter_map(|name| name.parse::<PhotoId>().ok()));
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// Removes what uploads that were cut off left behind before `cutoff`; answers how many files.
    pub(crate) async fn remove_partials(&self, cutoff: SystemTime) -> io::Result<usize> {
        let files = self.clone();
        tokio::task::spawn_blocking(move || files.remove_incoming(cutoff)).await?
    }

    fn remove_incoming(&self, cutoff: SystemTime) -> io::Result<usize> {
        let folder = self.root.join(INCOMING);
        let mut removed = 0;
        for name in older(&folder, cutoff)? {
            match std::fs::remove_file(folder.join(name)) {
                Ok(()) => removed += 1,
                // Its upload, or another sweep, was quicker.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }

    fn renditions_of(&self, id: PhotoId) -> PathBuf {
        self.root.join(renditions_key(id))
    }
}

/// An upload under way. Dropped before it is kept, it leaves nothing.
pub struct Incoming {
    file: fs::File,
    partial: Partial,
    bytes: u64,
    digest: digest::Context,
}

impl Incoming {
    /// Adds some bytes.
    ///
    /// # Errors
    /// The disk is full, or fails.
    pub async fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.bytes += chunk.len() as u64;
        self.digest.update(chunk);
        self.file.write_all(chunk).await
    }

    /// Bytes so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Ends the upload; all of it is on the disk when this answers.
    ///
    /// # Errors
    /// The disk is full, or fails.
    pub async fn finish(mut self) -> io::Result<Received> {
        measured("put_original", async {
            self.file.flush().await?;
            self.file.sync_data().await
        })
        .await?;
        moved("put_original", self.bytes);
        Ok(Received { partial: Mutex::new(Some(self.partial)), bytes: self.bytes, sha256: finish(self.digest) })
    }
}

/// A whole upload that has no place yet. Dropped before it is kept, it leaves nothing.
pub struct Received {
    partial: Mutex<Option<Partial>>,
    /// Its size.
    pub bytes: u64,
    /// Its digest.
    pub sha256: Sha256,
}

impl Received {
    /// Makes it the original of a photo, for good once this answers. The caller holds the photo's row locked,
    /// so that of two uploads only one gets here. A second call, of a transaction that is run again, does nothing.
    ///
    /// # Errors
    /// What the file system says.
    pub async fn keep(&self, files: &Files, id: PhotoId) -> io::Result<()> {
        let taken = self.partial.lock().expect("no holder of this lock panics").take();
        let Some(partial) = taken else { return Ok(()) };
        let target = files.original_path(id);
        let place = move || {
            let folder = target.parent().expect("an original has a folder");
            let new = !folder.exists();
            std::fs::create_dir_all(folder)?;
            partial.rename(&target)?;
            File::open(folder)?.sync_all()?;
            if new {
                File::open(folder.parent().expect("a shard has a folder"))?.sync_all()?;
            }
            Ok(())
        };
        measured("keep_original", async { tokio::task::spawn_blocking(place).await? }).await
    }
}

/// A file that is removed when dropped, unless it was renamed.
struct Partial(Option<PathBuf>);

impl Partial {
    fn path(&self) -> &Path {
        self.0.as_deref().expect("not renamed yet")
    }

    fn rename(mut self, target: &Path) -> io::Result<()> {
        std::fs::rename(self.path(), target)?;
        self.0 = None;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::warn!(%error, "an upload that was cut off left a file; the sweep will remove it");
        }
    }
}

struct Hash(digest::Context);

impl io::Write for Hash {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) fn finish(context: digest::Context) -> Sha256 {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    Sha256(bytes)
}

fn older(folder: &Path, cutoff: SystemTime) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        // An entry may go away while we look.
        let Ok(modified) = entry.metadata().and_then(|metadata| metadata.modified()) else { continue };
        if modified <= cutoff
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    Ok(names)
}
