//! Finds the server programs, their products and versions.

use std::env;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{Flavour, StartError};

/// Directories of server programs that are often missing in a user's PATH.
const SERVER_DIRS: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/usr/libexec"];

/// A version of a server: major, minor, patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version(pub(crate) u16, pub(crate) u16, pub(crate) u16);

impl Version {
    /// Parses the leading `10.11.19` of `10.11.19-MariaDB-deb12u1`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let numbers = text.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
        let mut numbers = numbers.split('.').map(str::parse);
        Some(Self(numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?))
    }

    /// Whether a server of this version may fail to open the data of version `last`.
    pub(crate) fn is_older_release_than(self, last: Self) -> bool {
        (self.0, self.1) < (last.0, last.1)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// An installed server program.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) flavour: Flavour,
    pub(crate) version: Version,
}

impl Program {
    /// Runs the program for its version. Blocks for some 50 ms.
    fn probe(path: PathBuf) -> Result<Self, StartError> {
        let unusable = |detail: String| StartError::Unusable { path: path.clone(), detail };
        let output = Command::new(&path)
            .args(["--no-defaults", "--version"])
            .stdin(Stdio::null())
            .output()
            .map_err(|e| unusable(e.to_string()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let Some((flavour, version)) = read_version(&text) else {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(unusable(
                format!("it does not print its version ({}) {}{}", output.status, text, said).trim().to_owned(),
            ));
        };
        Ok(Self { path, flavour, version })
    }

    /// The error of a program that can't be run.
    pub(crate) fn unusable(&self, error: &std::io::Error) -> StartError {
        StartError::Unusable { path: self.path.clone(), detail: error.to_string() }
    }

    /// The statements that create MariaDB's system tables, with a root user without a password, as `mariadb-install-db`
    /// runs them. That script is not used: it needs programs of other packages, resolves the host name, and changes the
    /// owner of files of the installed server.
    pub(crate) fn system_tables(&self) -> Result<String, StartError> {
        let unusable = |detail: String| StartError::Unusable { path: self.path.clone(), detail };
        let beside = self.path.canonicalize().ok().and_then(|path| Some(path.parent()?.parent()?.to_owned()));
        let prefixes = beside.into_iter().chain(["/usr".into(), "/usr/local".into()]);
        let folders =
            prefixes.flat_map(|prefix| ["share/mysql", "share/mariadb", "share"].map(|name| prefix.join(name)));
        // The names of the files differ between releases.
        let (folder, brand) = folders
            .flat_map(|folder| ["mysql", "mariadb"].map(|brand| (folder.clone(), brand)))
            .find(|(folder, brand)| folder.join(format!("{brand}_system_tables.sql")).is_file())
            .ok_or_else(|| unusable("its mysql_system_tables.sql is missing: install the whole package".to_owned()))?;
        let mut statements = "CREATE DATABASE mysql;\nUSE mysql;\nSET @auth_root_socket = NULL;\n".to_owned();
        for part in ["system_tables", "performance_tables", "system_tables_data"] {
            let path = folder.join(format!("{brand}_{part}.sql"));
            statements += &std::fs::read_to_string(&path).map_err(|e| unusable(format!("{}: {e}", path.display())))?;
        }
        Ok(statements)
    }
}

/// Parses the output of `mysqld --version`.
fn read_version(text: &str) -> Option<(Flavour, Version)> {
    let version = text.split_once("Ver ")?.1.trim_start();
    let flavour = if text.contains("MariaDB") { Flavour::MariaDb } else { Flavour::MySql };
    Some((flavour, Version::parse(version)?))
}

/// The first working server, `mysqld` before `mariadbd`, of the wanted product if one is wanted. `mysqld` may be a
/// MariaDB: the output of `--version` decides. Blocks.
pub(crate) fn find(wanted: Option<Flavour>) -> Result<Program, StartError> {
    for (variable, name) in [("DARKROOM_MYSQLD", "mysqld"), ("DARKROOM_MARIADBD", "mariadbd")] {
        let program = match env::var_os(variable).filter(|value| !value.is_empty()) {
            // An explicit path: a mistake in it is an error.
            Some(path) => Some(Program::probe(path.into())?),
            None => in_path(name).and_then(|path| Program::probe(path).ok()),
        };
        if let Some(program) = program.filter(|program| wanted.is_none_or(|flavour| flavour == program.flavour)) {
            return Ok(program);
        }
    }
    Err(StartError::NoServer { wanted })
}

/// The first executable of that name in the PATH and [`SERVER_DIRS`].
pub(crate) fn in_path(name: &str) -> Option<PathBuf> {
    first_in(&search_path(), name)
}

/// The directories of the PATH, and [`SERVER_DIRS`].
fn search_path() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).chain(SERVER_DIRS.map(PathBuf::from)).collect()
}

/// The first executable file `name` in these directories.
fn first_in(folders: &[PathBuf], name: &str) -> Option<PathBuf> {
    folders
        .iter()
        .map(|folder| folder.join(name))
        .find(|path| path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognises_products_by_version_output() {
        let said = |text| read_version(text).unwrap();
        assert_eq!(
            said("/usr/sbin/mysqld  Ver 9.7.4 for Linux on x86_64 ((Debian))"),
            (Flavour::MySql, Version(9, 7, 4))
        );
        assert_eq!(
            said("/usr/sbin/mysqld  Ver 8.0.36-28 for Linux on x86_64 (Percona Server (GPL), Release 28)"),
            (Flavour::MySql, Version(8, 0, 36))
        );
        assert_eq!(
            said("mysqld  Ver 10.11.19-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian 12)"),
            (Flavour::MariaDb, Version(10, 11, 19))
        );
        assert_eq!(read_version("GNU bash, version 5"), None);
    }

    #[test]
    fn older_patch_release_is_compatible() {
        assert!(Version(8, 4, 9).is_older_release_than(Version(9, 0, 0)));
        assert!(Version(10, 6, 99).is_older_release_than(Version(10, 11, 0)));
        assert!(!Version(9, 7, 3).is_older_release_than(Version(9, 7, 4)));
        assert!(!Version(9, 7, 3).is_older_release_than(Version(8, 9, 4)));
    }
}
