//! An isolated copy of this machine's root file system for installing packages and running systemd:
//! `tests/scripts/isolated-root`.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use super::{
    process::{KillOnDrop, children},
    skip,
};

/// `EX_TEMPFAIL`: this machine does not allow namespaces.
const NOT_HERE: i32 = 75;

fn isolated_root() -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/isolated-root"));
    // Cargo sets variables that the program would read.
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

/// Runs a script in an isolated root with this folder, and returns its output; panics if it fails. `None` if this
/// machine does not allow it.
pub fn run(folder: &Path, script: &str) -> Option<String> {
    let output =
        isolated_root().arg(folder).args(["sh", "-euxc", script]).stdin(Stdio::null()).output().expect("a shell");
    let said = text(&output);
    if output.status.code() == Some(NOT_HERE) {
        skip(&said);
        return None;
    }
    assert!(output.status.success(), "{said}");
    Some(said)
}

/// An isolated root with a running systemd; it ends when dropped.
pub struct IsolatedMachine {
    /// Its systemd and all other processes of the namespace end with it.
    outside: KillOnDrop,
}

impl IsolatedMachine {
    /// Runs a script to prepare it, then systemd, which starts `default.target`.
    pub fn boot(folder: &Path, script: &str) -> Self {
        let log = std::fs::File::create(folder.join("boot.log")).expect("a log");
        let mut command = isolated_root();
        command.arg("--boot").arg(folder).args(["sh", "-euxc", script]).stdin(Stdio::null());
        let log = [log.try_clone().expect("a log"), log];
        let [out, err] = log;
        Self { outside: KillOnDrop(command.stdout(out).stderr(err).spawn().expect("a shell")) }
    }

    /// The process id of its systemd.
    fn first(&self) -> Option<u32> {
        children(self.outside.id()).first().copied()
    }

    /// Runs a command inside; returns whether it succeeded, and its output.
    pub fn run(&self, command: &[&str]) -> (bool, String) {
        let Some(first) = self.first() else { return (false, "it has ended".to_owned()) };
        let output = Command::new("nsenter")
            .args(["--target", &first.to_string(), "--mount", "--pid", "--"])
            .args(command)
            .stdin(Stdio::null())
            .output()
            .expect("nsenter");
        (output.status.success(), text(&output))
    }

    /// A property of a unit by `systemctl show`.
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.run(&["systemctl", "show", "--value", "--property", name, unit]).1.trim().to_owned()
    }
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}
