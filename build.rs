//! Tells the program which commit it was built from; a build outside git says `unknown`.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=.git/HEAD");
    println!("cargo::rerun-if-changed=.git/refs/heads");
    println!("cargo::rustc-env=DARKROOM_COMMIT={}", git(&["describe", "--always", "--tags"]));
    println!("cargo::rustc-env=DARKROOM_COMMITTED_AT={}", git(&["log", "-1", "--format=%cI"]));
}

fn git(arguments: &[&str]) -> String {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success());
    output.map_or_else(|| "unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
