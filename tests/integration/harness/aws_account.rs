//! An account of AWS to deploy to: an emulator of the test's own, AWS's client, and `deploy/deploy` as its user runs it.

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

/// The longest that a deployment may take: AWS's client takes half a second a call, and four where much else runs.
const DEADLINE: Duration = Duration::from_mins(10);

/// An account with a hosted zone for `example.com`, and a folder of templates.
pub struct Account {
    /// The emulator.
    pub emulator: Arc<Emulator>,
    /// The templates' folder, and `artifacts` in it.
    pub folder: TempDir,
    client: PathBuf,
}

/// How a run ended: its exit code, and all that it said.
#[derive(Debug)]
pub struct Run {
    /// The exit code.
    pub code: i32,
    /// Standard output, then standard error.
    pub said: String,
}

impl Account {
    /// An account, and these templates: name and text.
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

    /// Writes a file into the folder; answers its path.
    pub fn put(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.folder.path().join(name);
        File::create(&path).and_then(|mut file| file.write_all(text.as_ref())).expect("a file");
        path.to_str().expect("UTF-8").to_owned()
    }

    /// Writes a program that the script takes in the place of another of that name.
    pub fn stand_in(&self, program: &str, text: &str) {
        write_program(&self.folder.path().join(program), text);
    }

    /// Stands in for AWS where the emulator does not do what it does: cases of sh (`  *PATTERN*) COMMANDS ;;`), before all else
    /// goes to the emulator. Each call of the script is noted.
    pub fn answers(&self, cases: &str) {
        let client = self.client.display();
        let text =
            format!("#!/bin/sh\necho \"$*\" >>$0.calls\ncase \"$*\" in\n{cases}  *) exec {client} \"$@\" ;;\nesac\n");
        self.stand_in("aws", &text);
    }

    /// The calls since the last time that have one of these words in them, a line each.
    pub fn called(&self, words: &[&str]) -> Vec<String> {
        let path = self.folder.path().join("aws.calls");
        let calls = std::fs::read_to_string(&path).expect("calls");
        std::fs::remove_file(path).expect("it is removed");
        calls.lines().filter(|call| words.iter().any(|word| call.contains(word))).map(ToOwned::to_owned).collect()
    }

    /// What AWS's client prints, as text, in the region of the installation or another that is named.
    pub fn aws(&self, arguments: &[&str]) -> String {
        let mut command = self.command(&self.client);
        command.args(["--region", REGION, "--output", "text"]).args(arguments);
        let run = finish(command);
        assert_eq!(run.code, 0, "{arguments:?}: {}", run.said);
        run.said.trim().to_owned()
    }

    /// The names and states of the stacks of a region, a line each.
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

    /// `deploy/deploy` for the region, to add to.
    pub fn script(&self) -> Command {
        // Whoever started the tests may ignore SIGINT, as a shell does for what it runs in the background; bash can't trap what it
        // finds ignored.
        let mut command = self.command(Path::new("/usr/bin/env"));
        command.arg("--default-signal=INT").arg(script());
        command.args(["--region", REGION, "--artifacts"]).arg(self.folder.path().join("artifacts"));
        command
    }

    /// A program that finds this account and nothing else of ours.
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
    /// All that it said, if it ended with this code.
    #[track_caller]
    pub fn ended(self, code: i32) -> String {
        assert_eq!(self.code, code, "{}", self.said);
        self.said
    }
}

/// Where `deploy/deploy` is.
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
