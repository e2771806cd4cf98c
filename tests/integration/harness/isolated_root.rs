//! A spare copy of this machine's root, to install packages and to run systemd in: `tests/scripts/isolated-root`.

use std::{
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use super::{process::children, skip};

/// `EX_TEMPFAIL`: the machine does not allow it.
const NOT_HERE: i32 = 75;

fn spare_root() -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/isolated-root"));
    // Cargo has variables that the program would take for settings.
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

/// Runs a script in a spare root that has the folder, and panics unless it ends well; answers all that it said, or nothing
/// when there can be no spare root here.
pub fn run(folder: &Path, script: &str) -> Option<String> {
    let output = spare_root().arg(folder).args(["sh", "-euxc", script]).stdin(Stdio::null()).output().expect("a shell");
    let said = text(&output);
    if output.status.code() == Some(NOT_HERE) {
        skip(&said);
        return None;
    }
    assert!(output.status.success(), "{said}");
    Some(said)
}

/// A spare root in which systemd runs; all of it ends when dropped.
pub struct Machine {
    outside: Child,
}

impl Machine {
    /// Runs a script to prepare it, then systemd, which starts `default.target`.
    pub fn boot(folder: &Path, script: &str) -> Self {
        let log = std::fs::File::create(folder.join("boot.log")).expect("a log");
        let mut command = spare_root();
        command.arg("--boot").arg(folder).args(["sh", "-euxc", script]).stdin(Stdio::null());
        let log = [log.try_clone().expect("a log"), log];
        let [out, err] = log;
        Self { outside: command.stdout(out).stderr(err).spawn().expect("a shell") }
    }

    /// The process id of its systemd.
    fn first(&self) -> Option<u32> {
        children(self.outside.id()).first().copied()
    }

    /// Runs a command inside; answers whether it went well, and all that it said.
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

    /// A property of a unit, as `systemctl show` has it.
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.run(&["systemctl", "show", "--value", "--property", name, unit]).1.trim().to_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Its first process takes all others of its with it.
        let _ = self.outside.kill();
        let _ = self.outside.wait();
    }
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}
