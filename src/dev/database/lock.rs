//! A lock of a directory, which the kernel releases when its process ends for any reason.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::StartError;

/// The lock file. It is not removed: only its lock has a meaning.
const LOCK_FILE: &str = "darkroom.lock";

/// A directory that is locked for this process until this value is dropped.
#[derive(Debug)]
pub struct DirLock {
    dir: PathBuf,
    /// Closing it releases the lock. Child processes do not inherit it (close-on-exec).
    _file: File,
}

impl DirLock {
    /// Creates the directory if there is none, and locks it without waiting: [`StartError::Busy`] when another process
    /// has it.
    pub fn acquire(dir: &Path) -> Result<Self, StartError> {
        let unusable = |source: io::Error| StartError::Folder { path: dir.to_owned(), source };
        std::fs::create_dir_all(dir).map_err(unusable)?;
        let dir = dir.canonicalize().map_err(unusable)?;
        let path = dir.join(LOCK_FILE);
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // The message is correct without the pid.
                let pid = file.read_to_string(&mut pid).ok().and_then(|_| pid.trim().parse().ok());
                return Err(StartError::Busy { dir, pid });
            }
            Err(TryLockError::Error(e)) => return Err(unusable(e)),
        }
        file.set_len(0).map_err(unusable)?;
        writeln!(file, "{}", std::process::id()).map_err(unusable)?;
        Ok(Self { dir, _file: file })
    }

    /// The absolute path of the directory, without symbolic links.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_a_directory_once() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("not yet there");
        let first = DirLock::acquire(&dir).unwrap();
        let refusal = DirLock::acquire(&dir).unwrap_err().to_string();
        assert!(refusal.starts_with("another darkroom dev is running in "), "{refusal}");
        assert!(refusal.ends_with(&format!("(pid {})", std::process::id())), "{refusal}");
        drop(first);
        DirLock::acquire(&dir).unwrap();
    }

    #[test]
    fn error_names_the_path() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let refusal = DirLock::acquire(file.path()).unwrap_err().to_string();
        assert!(refusal.contains(file.path().to_str().unwrap()), "{refusal}");
    }
}
