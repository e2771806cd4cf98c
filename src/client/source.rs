//! The files of this machine: which of them are meant, what they are, and their digests.
//!
//! The type of a file is recognised by its first bytes, never by its name. Files are read in small pieces, one after
//! the other.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use aws_lc_rs::digest;
use imaging::{MediaType, Rejection, Sniffed, sniff};
use tokio_util::sync::CancellationToken;

use crate::domain::Sha256;

/// How much of a file is in memory while it is read.
const BUFFER: usize = 256 * 1024;

/// A file to upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Where it is.
    pub path: PathBuf,
    /// Its size when it was found.
    pub bytes: u64,
    /// Whether it was found in a directory; what is no picture there was not meant.
    pub searched: bool,
}

/// What a list of paths means.
#[derive(Debug, Default)]
pub struct Found {
    /// The files, in order.
    pub items: Vec<Item>,
    /// What can't be read, and why.
    pub unreadable: Vec<(PathBuf, String)>,
}

/// A file that can be uploaded.
#[derive(Debug, Clone, Copy)]
pub struct Picture {
    /// By its first bytes.
    pub media_type: MediaType,
    /// Its size.
    pub bytes: u64,
    /// Of all its bytes.
    pub sha256: Sha256,
}

/// Why a file can't be uploaded.
#[derive(Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It is no picture at all.
    Other(String),
    /// It can't be read, or is a picture of a kind that is not taken.
    Refused(String),
}

/// The files themselves, and the files in the directories. Hidden files in directories are left out, and links to
/// directories are not followed. Opens no file.
pub fn find(paths: &[PathBuf], stop: &CancellationToken) -> Found {
    let mut found = Found::default();
    for path in paths {
        match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => search(path.clone(), &mut found, stop),
            Ok(meta) => found.items.push(Item { path: path.clone(), bytes: meta.len(), searched: false }),
            Err(error) => found.unreadable.push((path.clone(), unreadable(&error))),
        }
    }
    found
}

fn search(root: PathBuf, found: &mut Found, stop: &CancellationToken) {
    let mut left = vec![root];
    while let Some(directory) = left.pop().filter(|_| !stop.is_cancelled()) {
        let entries = fs::read_dir(&directory)
            .and_then(|entries| entries.map(|entry| entry.map(|e| e.path())).collect::<io::Result<Vec<_>>>());
        let mut entries = match entries {
            Ok(entries) => entries,
            Err(error) => {
                found.unreadable.push((directory, unreadable(&error)));
                continue;
            }
        };
        // Cameras number their pictures, so this is the order in which they were taken.
        entries.sort();
        let before = left.len();
        for path in entries {
            if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
                continue;
            }
            match fs::metadata(&path) {
                Ok(meta) if meta.is_dir() && !path.is_symlink() => left.push(path),
                Ok(meta) if meta.is_file() => found.items.push(Item { path, bytes: meta.len(), searched: true }),
                Ok(_) => {}
                Err(error) => found.unreadable.push((path, unreadable(&error))),
            }
        }
        left[before..].reverse();
    }
}

/// Reads a file from beginning to end.
///
/// # Errors
/// It is no picture that can be uploaded, or can't be read.
pub async fn examine(path: &Path, stop: &CancellationToken) -> Result<Picture, Unfit> {
    let (path, stop) = (path.to_owned(), stop.clone());
    let read = tokio::task::spawn_blocking(move || read(&path, &stop)).await;
    read.unwrap_or_else(|_| Err(Unfit::Refused("can't be read".into())))
}

fn read(path: &Path, stop: &CancellationToken) -> Result<Picture, Unfit> {
    let failed = |error: io::Error| Unfit::Refused(unreadable(&error));
    // Looked at before it is opened: to open a pipe is to wait for its writer.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(Unfit::Other("is not a file".into()));
    }
    let mut file = File::open(path).map_err(failed)?;
    let mut buffer = vec![0; BUFFER];
    let mut digest = digest::Context::new(&digest::SHA256);
    let (mut bytes, mut media_type) = (0, None);
    loop {
        let length = fill(&mut file, &mut buffer).map_err(failed)?;
        let chunk = &buffer[..length];
        if media_type.is_none() {
            media_type = Some(picture(chunk)?);
        }
        digest.update(chunk);
        bytes += length as u64;
        if length < buffer.len() {
            break;
        }
        if stop.is_cancelled() {
            return Err(Unfit::Refused("interrupted".into()));
        }
    }
    let mut sha256 = Sha256([0; 32]);
    sha256.0.copy_from_slice(digest.finish().as_ref());
    media_type
        .map(|media_type| Picture { media_type, bytes, sha256 })
        .ok_or_else(|| Unfit::Refused(Rejection::Empty.to_string()))
}

fn picture(head: &[u8]) -> Result<MediaType, Unfit> {
    if head.is_empty() {
        return Err(Unfit::Refused(Rejection::Empty.to_string()));
    }
    match sniff(head) {
        Sniffed::Picture(media_type) => Ok(media_type),
        Sniffed::Unsupported(kind) if kind.is_picture() => {
            Err(Unfit::Refused(Rejection::UnsupportedFormat(kind).to_string()))
        }
        Sniffed::Unsupported(kind) => Err(Unfit::Other(Rejection::UnsupportedFormat(kind).to_string())),
        Sniffed::Unknown => Err(Unfit::Other(Rejection::Unknown.to_string())),
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// Why a file can't be read.
pub fn unreadable(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "does not exist".into(),
        io::ErrorKind::PermissionDenied => "may not be read".into(),
        _ => format!("can't be read: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn with(files: &[(&str, &[u8])]) -> Self {
            let folder = Self(std::env::temp_dir().join(format!("darkroom-source-{}", uuid::Uuid::now_v7())));
            for (name, bytes) in files {
                let path = folder.0.join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            }
            folder
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn lists_directory_without_hidden_files() {
        let folder = Folder::with(&[
            ("b.jpg", b"1"),
            ("a/2.jpg", b"22"),
            ("a/1.jpg", b"1"),
            (".thumbnails/x.jpg", b"1"),
            ("._b.jpg", b"1"),
        ]);
        #[cfg(unix)]
        std::os::unix::fs::symlink(&folder.0, folder.0.join("a/loop")).unwrap();
        let missing = folder.0.join("missing.jpg");
        let found = find(&[folder.0.clone(), missing.clone(), folder.0.join("b.jpg")], &CancellationToken::new());
        let names: Vec<_> = found
            .items
            .iter()
            .map(|item| (item.path.strip_prefix(&folder.0).unwrap().to_str().unwrap(), item.bytes, item.searched))
            .collect();
        assert_eq!(names, [("b.jpg", 1, true), ("a/1.jpg", 1, true), ("a/2.jpg", 2, true), ("b.jpg", 1, false)]);
        assert_eq!(found.unreadable, [(missing, "does not exist".to_owned())]);
    }

    #[test]
    fn detects_type_and_digests_whole_file() {
        let long = [&b"\xff\xd8\xff\xe0"[..], &vec![7; 2 * BUFFER]].concat();
        let folder = Folder::with(&[
            ("long.txt", &long),
            ("exact", &long[..BUFFER]),
            ("x.jpg", b"hello"),
            ("y.jpg", b""),
            ("z.jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
        ]);
        let examine = |name: &str| read(&folder.0.join(name), &CancellationToken::new());
        for (name, bytes) in [("long.txt", &long[..]), ("exact", &long[..BUFFER])] {
            let picture = examine(name).unwrap();
            assert_eq!((picture.media_type, picture.bytes), (MediaType::Jpeg, bytes.len() as u64));
            assert_eq!(picture.sha256.0, digest::digest(&digest::SHA256, bytes).as_ref());
        }
        assert_eq!(examine("x.jpg").unwrap_err(), Unfit::Other("this file is not a photo".into()));
        assert_eq!(examine("y.jpg").unwrap_err(), Unfit::Refused("this file is empty".into()));
        assert_eq!(
            examine("z.jpg").unwrap_err(),
            Unfit::Refused("HEIC pictures are not supported yet; send a JPEG".into())
        );
        assert_eq!(examine("").unwrap_err(), Unfit::Other("is not a file".into()));
        assert_eq!(examine("none").unwrap_err(), Unfit::Refused("does not exist".into()));
    }
}
