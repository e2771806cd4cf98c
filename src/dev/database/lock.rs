//! One process per data folder: a lock that the system itself takes back when its holder dies, however it dies.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::StartError;

/// The lock's file in the data folder; it stays there, and only holding its lock means anything.
const LOCK_FILE: &str = "darkroom.lock";

/// A data folder that is ours alone for as long as this value lives.
#[derive(Debug)]
pub struct DirLock {
    dir: PathBuf,
    /// Closing it, by hand or by death, frees the folder. Children don't inherit it (close-on-exec).
    _file: File,
}

impl DirLock {
    /// Makes the folder if there is none, and takes it without waiting.
    ///
    /// # Errors
    /// [`StartError::Busy`] when another process has it, [`StartError::Folder`] when it can't be made or written.
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
                // Without its number the message is poorer and still right.
                let pid = file.read_to_string(&mut pid).ok().and_then(|_| pid.trim().parse().ok());
                return Err(StartError::Busy { dir, pid });
            }
            Err(TryLockError::Error(e)) => return Err(unusable(e)),
        }
        file.set_len(0).map_err(unusable)?;
        writeln!(file, "{}", std::process::id()).map_err(unusable)?;
        Ok(Self { dir, _file: file })
    }

    /// The folder, absolute and without symbolic links.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_holder_at_a_time() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("not yet there");
        let first = DirLock::acquire(&dir).unwrap();
        let refusal = DirLock::acquire(&dir).unwrap_err().to_string();
        assert!(refusal.starts_with("another darkroom dev runs in "), "{refusal}");
        assert!(refusal.ends_with(&format!("(pid {})", std::process::id())), "{refusal}");
        drop(first);
        DirLock::acquire(&dir).unwrap();
    }

    #[test]
    fn names_file_in_place_of_folder() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let refusal = DirLock::acquire(file.path()).unwrap_err().to_string();
        assert!(refusal.contains(file.path().to_str().unwrap()), "{refusal}");
    }
}
