//! The process that emulates AWS: ministack, fetched by `tests/scripts/get-python.sh`.

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
    process::{free_port, freeze, send},
    tools,
};

/// The account that everything belongs to.
pub const ACCOUNT: &str = "123456789012";
/// The key of the account's root: what the emulator finds in its own environment.
const ROOT: (&str, &str) = ("AKIAROOTROOTROOTROOT", "a-secret-of-the-root-of-the-account-1234");

/// Its life is the process's: it ends by its death signal.
static SHARED: OnceCell<Arc<Emulator>> = OnceCell::const_new();

/// An emulator of AWS; killed when dropped.
pub struct Emulator {
    /// The endpoint of all services. An IP address, for which clients of S3 put the bucket's name into the path.
    pub url: String,
    child: Mutex<Child>,
    log: PathBuf,
    _home: Home,
}

/// Where its files are.
enum Home {
    /// Used again by the next run.
    Kept(DirLock),
    /// Removed with it.
    Own(TempDir),
}

impl Emulator {
    /// The one that all tests of this process share: 0.4 s to start and 90 MB, and two at work at a time would only
    /// wait for each other's processor.
    pub async fn shared() -> Arc<Self> {
        SHARED.get_or_init(|| Self::begin(Home::Kept(lock_folder("aws")))).await.clone()
    }

    /// One of the test's own.
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
        // Ends with us, whatever ends us. The signal comes at the death of the THREAD that forked, hence the one in `spawn`.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).env_clear();
        command.env("PATH", "/usr/bin:/bin").env("HOME", home).env("TMPDIR", home);
        command.env("AUTH", "true").env("BIND_HOST", "127.0.0.1").env("GATEWAY_PORT", port.to_string());
        command.env("MINISTACK_HOST", "127.0.0.1").env("MINISTACK_REGION", REGION).env("MINISTACK_ACCOUNT_ID", ACCOUNT);
        command.env("AWS_ACCESS_KEY_ID", ROOT.0).env("AWS_SECRET_ACCESS_KEY", ROOT.1).env("LAMBDA_EXECUTOR", "local");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        let this = Self {
            url: format!("http://127.0.0.1:{port}"),
            child: Mutex::new(spawn(command)),
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

    /// All that it has said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).expect("the log")
    }

    /// Stops it where it is: connections open, and nobody answers.
    pub async fn freeze(&self) {
        freeze(self.id()).await;
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        send(self.id(), Signal::CONT);
    }

    fn id(&self) -> u32 {
        self.child.lock().unwrap().id()
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap();
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The key of the account's root, who may do everything.
pub fn root() -> Credentials {
    Credentials::new(ROOT.0, ROOT.1, None, None, "tests")
}

/// From a thread that lives for as long as this process.
fn spawn(mut command: Command) -> Child {
    let (tell, started) = mpsc::channel();
    std::thread::spawn(move || {
        tell.send(command.spawn()).expect("somebody waits");
        loop {
            std::thread::park();
        }
    });
    started.recv().expect("a thread").expect("setpriv, of util-linux, and ministack are there")
}
