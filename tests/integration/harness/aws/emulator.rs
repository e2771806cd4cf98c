//! The AWS emulator process: ministack, fetched by `tests/scripts/get-python.sh`.

use std::{
    fs::File,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
};

use aws_sdk_s3::config::Credentials;
use darkroom::dev::database::DirLock;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::harness::{
    database::lock_folder,
    eventually,
    iam::REGION,
    process::{KillOnDrop, free_port, freeze, send},
    tools,
};

/// The account id.
pub const ACCOUNT: &str = "123456789012";
/// The root key, which the emulator reads from its environment.
const ROOT: (&str, &str) = ("AKIAROOTROOTROOTROOT", "a-secret-of-the-root-of-the-account-1234");

/// Ends with this process, by its parent death signal.
static SHARED: OnceCell<Arc<Emulator>> = OnceCell::const_new();

/// An emulator of AWS; killed when dropped.
pub struct Emulator {
    /// The endpoint of all services: an IP address, so that S3 clients use path-style URLs.
    pub url: String,
    child: Mutex<KillOnDrop>,
    log: PathBuf,
    _home: Home,
}

enum Home {
    /// Kept for the next run.
    Kept(DirLock),
    /// Removed with the emulator.
    Own(TempDir),
}

impl Emulator {
    /// The shared emulator. It takes 0.4 s to start and 90 MB.
    pub async fn shared() -> Arc<Self> {
        SHARED.get_or_init(|| Self::begin(Home::Kept(lock_folder("aws")))).await.clone()
    }

    /// An emulator for one test.
    pub async fn start() -> Arc<Self> {
        Self::begin(Home::Own(tempfile::tempdir().expect("a folder"))).await
    }

    async fn begin(place: Home) -> Arc<Self> {
        let program = tools::program("ministack");
        let home = match &place {
            Home::Kept(lock) => lock.dir(),
            Home::Own(folder) => folder.path(),
        };
        let port = free_port();
        let path = home.join("log");
        let log = File::create(&path).expect("a log");
        // Ends with this process. The kernel sends the signal when the forking thread ends, so `spawn` keeps a thread.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).env_clear();
        command.env("PATH", "/usr/bin:/bin").env("HOME", home).env("TMPDIR", home);
        command.env("AUTH", "true").env("BIND_HOST", "127.0.0.1").env("GATEWAY_PORT", port.to_string());
        command.env("MINISTACK_HOST", "127.0.0.1").env("MINISTACK_REGION", REGION).env("MINISTACK_ACCOUNT_ID", ACCOUNT);
        command.env("AWS_ACCESS_KEY_ID", ROOT.0).env("AWS_SECRET_ACCESS_KEY", ROOT.1).env("LAMBDA_EXECUTOR", "local");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        let this = Self {
            url: format!("http://127.0.0.1:{port}"),
            child: Mutex::new(KillOnDrop(spawn(command))),
            log: path,
            _home: place,
        };
        eventually("an emulator that answers", async || {
            let ended = this.child.lock().unwrap().try_wait().expect("a child");
            assert!(ended.is_none(), "the emulator of AWS does not start:\n{}", this.log());
            reqwest::get(format!("{}/_ministack/health", this.url)).await.ok()
        })
        .await;
        Arc::new(this)
    }

    /// The output so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).expect("the log")
    }

    /// Freezes the emulator: connections stay open without a response.
    pub async fn freeze(&self) {
        freeze(self.id()).await;
    }

    /// Continues after a freeze.
    pub fn thaw(&self) {
        send(self.id(), Signal::CONT);
    }

    fn id(&self) -> u32 {
        self.child.lock().unwrap().id()
    }
}

/// The root key, with all permissions.
pub fn root() -> Credentials {
    Credentials::new(ROOT.0, ROOT.1, None, None, "tests")
}

/// Spawns from a thread that lives as long as this process.
fn spawn(mut command: Command) -> Child {
    let (tell, started) = mpsc::channel();
    std::thread::spawn(move || {
        tell.send(command.spawn()).expect("a receiver");
        loop {
            std::thread::park();
        }
    });
    started.recv().expect("a thread").expect("setpriv, of util-linux, and ministack are there")
}
