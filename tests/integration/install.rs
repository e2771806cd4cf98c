//! What an operator installs: the units hold what they promise.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The units, which the package puts into systemd's folder as they are.
const SERVICES: [&str; 3] = ["darkroom.service", "darkroom-worker.service", "darkroom-migrate.service"];
/// The most exposure, in tenths, of a scale to 10.0.
const MOST_EXPOSURE: &str = "10";

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs a program of the system; answers whether it went well, and all that it said.
fn said(command: &mut Command) -> (bool, String) {
    let output = command.output().unwrap_or_else(|error| panic!("{}: {error}", command.get_program().display()));
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.success(), text)
}

/// `systemd-analyze verify` wants the programs and pages that a unit names to be there, so they are put where it looks.
#[test]
fn systemd_finds_no_fault_with_the_units() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("units");
    let copied = Command::new("cp").arg("-r").arg(project("systemd")).arg(&folder).status().unwrap();
    assert!(copied.success());
    for name in SERVICES {
        let path = folder.join(name);
        let text = fs::read_to_string(&path).unwrap();
        let text = text.replace("/usr/bin/darkroom", env!("CARGO_BIN_EXE_darkroom")).replace("man:darkroom(1) ", "");
        fs::write(&path, text).unwrap();
    }
    let socket = folder.join("darkroom.socket");
    fs::write(&socket, fs::read_to_string(&socket).unwrap().replace("man:darkroom(1) ", "")).unwrap();
    let verify = |name: &str| said(Command::new("systemd-analyze").arg("verify").arg(folder.join(name)));
    for name in SERVICES.iter().chain(&["darkroom.socket"]) {
        // It ends well whatever it finds.
        assert_eq!(verify(name), (true, String::new()), "{name}");
    }
    // It does look.
    let confined = folder.join("darkroom-.service.d/10-confine.conf");
    fs::write(&confined, fs::read_to_string(&confined).unwrap() + "ProtectEverything=yes\n").unwrap();
    for name in SERVICES {
        assert!(verify(name).1.contains("ProtectEverything"), "{name} is not confined");
    }
}

#[test]
fn the_units_are_hardly_exposed() {
    for name in SERVICES {
        let mut command = Command::new("systemd-analyze");
        command.args(["security", "--no-pager", "--offline=true", "--threshold", MOST_EXPOSURE]);
        let (good, table) = said(command.arg(project("systemd").join(name)));
        let open: Vec<&str> = table.lines().filter(|line| line.starts_with('✗') || line.contains("exposure")).collect();
        println!("{name}\n{}", open.join("\n"));
        assert!(good && table.contains("exposure"), "{table}");
    }
}
