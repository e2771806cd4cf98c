//! The directory of the database: its layout, its atomic creation, its socket and its log.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use super::programs::{self, Program, Version};
use super::{DirLock, Flavour, ServerChoice, StartError};

/// The longest path of a unix socket on Linux, in bytes (`sun_path` without the terminating zero).
const SOCKET_PATH_MAX: usize = 107;
/// The end of the log that is read for an error message, in bytes.
const TAIL_BYTES: u64 = 16 * 1024;
/// The number of its lines that are shown.
const TAIL_LINES: usize = 15;

/// Log messages about a full disk (ENOSPC is 28).
const DISK_FULL: [&str; 6] =
    ["No space left on device", "Errcode: 28", "errno: 28", "error: 28", "error 28", "error number 28"];
/// Log messages about a missing permission (EACCES is 13).
const PERMISSION_DENIED: [&str; 5] = ["Permission denied", "Errcode: 13", "errno: 13", "error: 13", "error number 13"];

/// The paths of one database.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    log: PathBuf,
    socket: PathBuf,
}

/// `name=path` as one command-line argument, also for a path that is not UTF-8.
pub(crate) fn option(name: &str, path: &Path) -> OsString {
    let mut word = OsString::from(name);
    word.push("=");
    word.push(path);
    word
}

impl Folder {
    /// The database in a locked directory. Creates nothing, except for a long path the directory of the socket.
    pub(crate) fn new(dir: &DirLock) -> Result<Self, StartError> {
        let path = dir.dir().join("db");
        let socket = socket_path(&path)?;
        Ok(Self { path, log: dir.dir().join("db.log"), socket })
    }

    /// The server's data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// The server's temporary files.
    pub(crate) fn tmp(&self) -> PathBuf {
        self.path.join("tmp")
    }

    /// The server's pid file, for people: this module finds the process without it.
    pub(crate) fn pid_file(&self) -> PathBuf {
        self.path.join("server.pid")
    }

    /// The unix socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether the database was created; it is complete, because it is renamed to this path when it is.
    pub(crate) fn exists(&self) -> bool {
        self.path.exists()
    }

    /// An I/O error in this directory; a full disk is [`StartError::DiskFull`].
    pub(crate) fn error(&self, source: io::Error) -> StartError {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                // The final path, also during the creation.
                StartError::DiskFull { path: self.log.with_extension("") }
            }
            _ => StartError::Folder { path: self.path.clone(), source },
        }
    }

    /// Finds the server for this directory: the product that created it, and not an older release.
    pub(crate) async fn choose_program(&self, choice: ServerChoice) -> Result<Program, StartError> {
        let made_by = if self.exists() { Some(self.recorded_program()?) } else { None };
        let chosen = match choice {
            ServerChoice::Auto => None,
            ServerChoice::MySql => Some(Flavour::MySql),
            ServerChoice::MariaDb => Some(Flavour::MariaDb),
        };
        let Some((made_by, last)) = made_by else {
            return find_program(chosen).await;
        };
        let other = |wanted| StartError::OtherFlavour { path: self.path.clone(), made_by, wanted };
        if let Some(wanted) = chosen.filter(|chosen| *chosen != made_by) {
            return Err(other(wanted));
        }
        let program = match find_program(Some(made_by)).await {
            Err(StartError::NoServer { .. }) if chosen.is_none() => {
                return Err(other(find_program(None).await?.flavour));
            }
            found => found?,
        };
        if program.version.is_older_release_than(last) {
            return Err(StartError::Newer {
                path: self.path.clone(),
                flavour: made_by,
                last: last.to_string(),
                found: program.version.to_string(),
            });
        }
        Ok(program)
    }

    /// The directory beside this one in which a new database is created.
    pub(crate) fn draft(&self) -> Self {
        Self { path: self.path.with_extension("new"), log: self.log.clone(), socket: self.socket.clone() }
    }

    /// Creates the directory and its parts for the user of this process only: access to the socket is root access to
    /// the database.
    pub(crate) fn prepare(&self) -> Result<(), StartError> {
        // A killed server leaves both, and the next one may take the pid in the lock file for a running owner.
        self.remove_socket_files();
        let make = |path: &Path| DirBuilder::new().mode(0o700).recursive(true).create(path);
        make(&self.data()).and_then(|()| make(&self.tmp())).map_err(|e| self.error(e))
    }

    /// Renames a complete database to this path.
    pub(crate) fn adopt(&self, new: &Self) -> Result<(), StartError> {
        fs::rename(&new.path, &self.path).map_err(|e| self.error(e))
    }

    /// Removes the directory if it exists.
    pub(crate) fn remove(&self) -> Result<(), StartError> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.error(error)),
            _ => Ok(()),
        }
    }

    /// Records the server that opened the database, for the next start.
    pub(crate) fn record_program(&self, program: &Program) -> Result<(), StartError> {
        let flavour = match program.flavour {
            Flavour::MySql => "mysql",
            Flavour::MariaDb => "mariadb",
        };
        let (path, new) = (self.path.join("made-by"), self.path.join("made-by.new"));
        fs::write(&new, format!("{flavour} {}\n", program.version))
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|e| self.error(e))
    }

    /// The server that last opened the database.
    fn recorded_program(&self) -> Result<(Flavour, Version), StartError> {
        let path = self.path.join("made-by");
        let foreign = |detail: String| StartError::Folder {
            path: self.path.clone(),
            source: io::Error::new(io::ErrorKind::InvalidData, format!("it is not a database of darkroom ({detail})")),
        };
        let text = fs::read_to_string(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => foreign("made-by is missing".to_owned()),
            _ => self.error(e),
        })?;
        let (flavour, version) = text.trim().split_once(' ').unwrap_or_default();
        match (flavour, Version::parse(version)) {
            ("mysql", Some(version)) => Ok((Flavour::MySql, version)),
            ("mariadb", Some(version)) => Ok((Flavour::MariaDb, version)),
            _ => Err(foreign(format!("made-by contains {:?}", text.trim()))),
        }
    }

    /// Writes statements to a file and opens it, for the standard input of a server.
    pub(crate) fn write_statements(&self, statements: &str) -> Result<File, StartError> {
        let path = self.path.join("bootstrap.sql");
        fs::write(&path, statements).and_then(|()| File::open(&path)).map_err(|e| self.error(e))
    }

    /// A new log file; the one of the run before is kept as `db.log.old`.
    pub(crate) fn new_log(&self) -> Result<File, StartError> {
        if self.log.exists() {
            fs::rename(&self.log, self.log.with_extension("log.old")).map_err(|e| self.error(e))?;
        }
        File::options().create_new(true).append(true).open(&self.log).map_err(|e| self.error(e))
    }

    /// The error of a server that failed: the cause if the log has a known one, else the end of the log.
    pub(crate) fn failure(&self, what: &str) -> StartError {
        let tail = tail(&self.log).unwrap_or_else(|error| format!("(unreadable: {error})"));
        let shows = |signs: &[&str]| signs.iter().any(|sign| tail.contains(sign));
        if shows(&DISK_FULL) {
            return self.error(io::ErrorKind::StorageFull.into());
        }
        let mut what = what.to_owned();
        if shows(&PERMISSION_DENIED) {
            what.push_str("; permission denied, perhaps by an AppArmor profile of the installed server");
        }
        let lines: Vec<&str> = tail.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
        StartError::Failed { what, log: self.log.clone(), tail }
    }

    /// Removes the socket after a clean stop, and its directory if that was created for the socket alone.
    pub(crate) fn remove_socket(&self) {
        self.remove_socket_files();
        if !self.socket.starts_with(&self.path)
            && let Some(folder) = self.socket.parent()
        {
            // The next start uses it again if it stays.
            let _left = fs::remove_dir(folder);
        }
    }

    /// Removes the socket and the server's lock file of it. Usually there are none.
    fn remove_socket_files(&self) {
        for path in [self.socket.clone(), self.socket.with_extension("sock.lock")] {
            // If it stays, the server reports it in its log.
            let _absent = fs::remove_file(path);
        }
    }
}

/// Finds the program on a thread that may block.
async fn find_program(wanted: Option<Flavour>) -> Result<Program, StartError> {
    tokio::task::spawn_blocking(move || programs::find(wanted))
        .await
        .unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
}

/// The socket inside the directory if its path is short enough, else in a private directory below the runtime or
/// temporary directory, named by the user and a hash of the path.
fn socket_path(folder: &Path) -> Result<PathBuf, StartError> {
    let fits = |path: &Path| path.as_os_str().len() <= SOCKET_PATH_MAX;
    let inside = folder.join("server.sock");
    if fits(&inside) {
        return Ok(inside);
    }
    let mut hasher = DefaultHasher::new();
    folder.as_os_str().as_bytes().hash(&mut hasher);
    let name = format!("darkroom-{}-{:016x}", geteuid().as_raw(), hasher.finish());
    let bases =
        [std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from), Some(std::env::temp_dir()), Some("/tmp".into())];
    let mut refused = io::Error::from(io::ErrorKind::InvalidFilename);
    for base in bases.into_iter().flatten().filter(|base| base.is_absolute()) {
        let private = base.join(&name);
        let socket = private.join("server.sock");
        if fits(&socket) {
            match make_private(&private) {
                Ok(()) => return Ok(socket),
                Err(error) => refused = error,
            }
        }
    }
    Err(StartError::Folder {
        path: folder.to_owned(),
        source: io::Error::new(
            refused.kind(),
            format!("its path is too long for a unix socket, and no other directory is usable: {refused}"),
        ),
    })
}

/// Creates a directory that only this user can access, or checks that the existing one is such: in a shared temporary
/// directory another user may have created a directory or a link of that name.
fn make_private(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made,
    }
    let there = fs::symlink_metadata(path)?;
    if there.is_dir() && there.uid() == geteuid().as_raw() && there.mode() & 0o777 == 0o700 {
        return Ok(());
    }
    let detail = format!("{} is not a private directory of this user", path.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, detail))
}

/// The end of a log; bytes that are not UTF-8 are replaced.
fn tail(log: &Path) -> io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_needs_a_private_directory() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, link) = (dir.path().join("ours"), dir.path().join("link"));
        make_private(&ours).unwrap();
        make_private(&ours).unwrap();
        std::os::unix::fs::symlink(&ours, &link).unwrap();
        assert_eq!(make_private(&link).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        let open = dir.path().join("open");
        DirBuilder::new().mode(0o755).create(&open).unwrap();
        assert_eq!(make_private(&open).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn full_disk_is_recognised_in_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(&DirLock::acquire(dir.path()).unwrap()).unwrap();
        let failure_of = |log: &str| {
            fs::write(&folder.log, log).unwrap();
            folder.failure("ended")
        };
        let full = "[ERROR] InnoDB: preallocating 12582912 bytes for file ./ibdata1 failed with error 28\nmore\n";
        assert!(matches!(failure_of(full), StartError::DiskFull { path } if path == folder.path));
        let long = failure_of(&"words\n".repeat(100_000));
        assert!(matches!(long, StartError::Failed { tail, .. } if tail.lines().count() == TAIL_LINES));
        let refused = failure_of("mysqld: Can't create file (OS errno: 13 - Permission denied)\n").to_string();
        assert!(refused.contains("AppArmor") && refused.contains("Can't create file"), "{refused}");
    }
}
