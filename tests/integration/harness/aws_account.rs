//! An AWS account to deploy to: an emulator of the test's own, the AWS CLI, and `deploy/deploy`.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::harness::{
    aws::{Emulator, root},
    iam::REGION,
    process::write_program,
    tools,
};

/// The timeout of a deployment: the AWS CLI takes 0.5 s for each call, and 4 s on a busy machine.
const DEADLINE: Duration = Duration::from_mins(10);

/// An account with a hosted zone for `example.com`, and a folder of templates.
pub struct Account {
    pub emulator: Arc<Emulator>,
    /// The templates and `artifacts`.
    pub folder: TempDir,
    client: PathBuf,
}

/// The exit code and the output of a run.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    /// Standard output, then standard error.
    pub said: String,
}

impl Account {
    /// An account with these templates: name and text.
    pub async fn with(templates: &[(&str, &str)]) -> Self {
        let this = Self {
            emulator: Emulator::start().await,
            folder: tempfile::tempdir().expect("a folder"),
            client: tools::aws_client(),
        };
        std::fs::create_dir(this.folder.path().join("artifacts")).expect("a folder");
        for (name, text) in templates {
            this.put(&format!("{name}.yaml"), text);
        }
        this.aws(&["route53", "create-hosted-zone", "--name", "example.com", "--caller-reference", "tests"]);
        this
    }

    /// Writes a file into the folder and returns its path.
    pub fn put(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.folder.path().join(name);
        File::create(&path).and_then(|mut file| file.write_all(text.as_ref())).expect("a file");
        path.to_str().expect("UTF-8").to_owned()
    }

    /// Writes a program that replaces another of that name for the script.
    pub fn stand_in(&self, program: &str, text: &str) {
        write_program(&self.folder.path().join(program), text);
    }

    /// Replaces calls that the emulator does not support, by `case` branches of sh (`  *PATTERN*) COMMANDS ;;`). All
    /// other calls go to the emulator. Every call is recorded.
    pub fn answers(&self, cases: &str) {
        let client = self.client.display();
        let text =
            format!("#!/bin/sh\necho \"$*\" >>$0.calls\ncase \"$*\" in\n{cases}  *) exec {client} \"$@\" ;;\nesac\n");
        self.stand_in("aws", &text);
    }

    /// The calls since the last time that contain one of these words, one on each line.
    pub fn called(&self, words: &[&str]) -> Vec<String> {
        let path = self.folder.path().join("aws.calls");
        let calls = std::fs::read_to_string(&path).expect("calls");
        std::fs::remove_file(path).expect("it is removed");
        calls.lines().filter(|call| words.iter().any(|word| call.contains(word))).map(ToOwned::to_owned).collect()
    }

    /// The text output of the AWS CLI, in the region of the installation or a named one.
    pub fn aws(&self, arguments: &[&str]) -> String {
        let mut command = self.command(&self.client);
        command.args(["--region", REGION, "--output", "text"]).args(arguments);
        let run = finish(command);
        assert_eq!(run.code, 0, "{arguments:?}: {}", run.said);
        run.said.trim().to_owned()
    }

    /// The names and states of the stacks of a region, one on each line.
    pub fn stacks(&self, region: &str) -> String {
        let query =
            "sort_by(StackSummaries,&StackName)[?StackStatus!='DELETE_COMPLETE'].join(' ',[StackName,StackStatus])";
        let rows =
            self.aws(&["cloudformation", "list-stacks", "--region", region, "--query", &format!("join('\n',{query})")]);
        rows.trim().to_owned()
    }

    /// Runs `deploy/deploy` for photos.example.com with more arguments.
    pub fn deploy(&self, arguments: &[&str]) -> Run {
        let mut command = self.script();
        command
            .args(["--domain", "photos.example.com", "--architecture", "x86_64", "--release", "1.2.3"])
            .args(arguments);
        finish(command)
    }

    /// Runs `deploy/deploy destroy` with more arguments.
    pub fn destroy(&self, arguments: &[&str]) -> Run {
        let mut command = self.command(&script());
        command.args(["destroy", "--region", REGION]).args(arguments);
        finish(command)
    }

    /// The command `deploy/deploy` for the region.
    pub fn script(&self) -> Command {
        // A parent that ignores SIGINT, such as a shell with a background job, passes that on, and bash can't trap an
        // ignored signal.
        let mut command = self.command(Path::new("/usr/bin/env"));
        command.arg("--default-signal=INT").arg(script());
        command.args(["--region", REGION, "--artifacts"]).arg(self.folder.path().join("artifacts"));
        command
    }

    /// A command with the environment of this account and no other variables.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        let tools = self.client.parent().expect("a folder").to_str().expect("UTF-8");
        let path = format!("{}:{tools}:/usr/bin:/bin", self.folder.path().display());
        command.env_clear().env("PATH", path).env("HOME", self.folder.path());
        command.env("AWS_ENDPOINT_URL", &self.emulator.url).env("AWS_ACCESS_KEY_ID", root().access_key_id());
        command.env("AWS_SECRET_ACCESS_KEY", root().secret_access_key()).env("DARKROOM_STACKS", self.folder.path());
        command.stdin(Stdio::null());
        command
    }
}

impl Run {
    /// The output; panics at another exit code.
    #[track_caller]
    pub fn ended(self, code: i32) -> String {
        assert_eq!(self.code, code, "{}", self.said);
        self.said
    }
}

pub fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/deploy")
}

/// Runs a command to its end.
pub fn finish(mut command: Command) -> Run {
    let (out, error) = (tempfile::tempfile().expect("a file"), tempfile::tempfile().expect("a file"));
    command.stdout(out.try_clone().expect("a file")).stderr(error.try_clone().expect("a file"));
    let mut child = command.spawn().expect("the program starts");
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        if begun.elapsed() > DEADLINE {
            child.kill().expect("it is killed");
            panic!("not at its end after {DEADLINE:?}: {}", whole(out) + &whole(error));
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    Run { code: status.code().unwrap_or(-1), said: whole(out) + &whole(error) }
}

fn whole(mut file: File) -> String {
    use std::io::{Read, Seek};
    let mut text = String::new();
    file.rewind().and_then(|()| file.read_to_string(&mut text)).expect("UTF-8");
    text
}
