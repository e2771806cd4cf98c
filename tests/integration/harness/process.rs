//! The service as processes of its own, to be killed, stopped and listened to.

use std::{
    collections::HashMap,
    fs::OpenOptions,
    io::Write,
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;

use super::{Client, DEADLINE, eventually, server::TestServer};

/// A decoder that has used so much CPU time is past its start and its probe, in ticks of 10 ms.
const WELL_UNDER_WAY: u64 = 5;

/// A `darkroom` process; killed when dropped.
pub struct Process {
    child: Child,
    /// Where it listens, if it serves.
    pub url: String,
    /// Where operators look.
    pub operations: String,
    log: NamedTempFile,
}

impl Process {
    /// `darkroom work` or `darkroom serve` on the database and files of a test server, with more variables; an empty
    /// one takes away what the test server has set. It listens on an address of its own, unless they have one.
    pub async fn start(server: &TestServer, verb: &str, more: &[(&str, &str)]) -> Self {
        let given = more.iter().find(|(name, _)| *name == "DARKROOM_HTTP_LISTEN");
        let listen = given.map_or_else(free_address, |(_, address)| (*address).to_owned());
        let mut command = darkroom(&[verb], &server.environment());
        command.env("DARKROOM_HTTP_PUBLIC_URL", format!("http://{listen}"));
        for (name, value) in more {
            if value.is_empty() {
                command.env_remove(name);
            } else {
                command.env(name, value);
            }
        }
        Self::launch(command, &listen).await
    }

    /// A command of ours that goes on, at an address of its own for operators; waits until it answers there.
    pub async fn launch(mut command: Command, listen: &str) -> Self {
        let operations = free_address();
        let log = NamedTempFile::new().expect("a log file");
        // Its log goes to standard output, its last words to standard error.
        let appended = || OpenOptions::new().append(true).open(log.path()).expect("the log file");
        command.stdin(Stdio::null()).stdout(appended()).stderr(appended());
        command.env("DARKROOM_HTTP_LISTEN", listen).env("DARKROOM_OPERATIONS_LISTEN", &operations);
        let child = command.spawn().expect("the program starts");
        let (url, operations) = (format!("http://{listen}"), format!("http://{operations}"));
        let mut process = Self { child, url, operations, log };
        let begun = std::time::Instant::now();
        while reqwest::get(format!("{}/health/live", process.operations)).await.is_err() {
            let ended = process.child.try_wait().expect("a child");
            assert!(ended.is_none() && begun.elapsed() < DEADLINE, "{command:?} does not answer:\n{}", process.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        process
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// A client that is signed in as a user here.
    pub fn user(&self, server: &TestServer, subject: &str) -> Client {
        Client::new(&self.url, Some(server.identity.token(subject).expect("a token")))
    }

    /// All that it has said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log.path()).expect("the log")
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ends");
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        send(self.id(), signal);
    }

    /// Waits for the end.
    pub async fn ended(&mut self) -> ExitStatus {
        eventually("ended", async || self.child.try_wait().expect("a child")).await
    }

    /// Its metrics, as Prometheus reads them.
    pub async fn metrics(&self) -> String {
        reqwest::get(format!("{}/metrics", self.operations)).await.expect("an answer").text().await.expect("a text")
    }

    /// Its decoding processes.
    pub fn decoders(&self) -> Vec<u32> {
        children(self.id()).into_iter().filter(|pid| words(*pid).contains("__decoder")).collect()
    }

    /// Waits until one of its decoders is in the middle of a photo, and halts that one there.
    pub async fn halt_decoder(&self) -> u32 {
        // One that has nothing to do has used that much too: this one uses more from look to look.
        let mut seen = HashMap::new();
        eventually("decoding", async || {
            let used = |pid: &u32| (*pid, cpu_ticks(*pid));
            let before = std::mem::replace(&mut seen, self.decoders().iter().map(used).collect());
            let works = |(pid, ticks): &(&u32, &u64)| before.get(*pid).is_some_and(|before| before < *ticks);
            let (pid, _) = seen.iter().filter(works).find(|(_, ticks)| **ticks >= WELL_UNDER_WAY)?;
            let pid = *pid;
            send(pid, Signal::STOP);
            Some(pid)
        })
        .await
    }

    /// Kills a decoder in the middle of a photo.
    pub async fn kill_decoder(&self) {
        let pid = self.halt_decoder().await;
        send(pid, Signal::KILL);
        eventually("without that decoder", async || (!runs(pid)).then_some(())).await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program with these arguments and variables and nothing else of this process's environment.
pub fn darkroom(arguments: &[&str], environment: &[(String, String)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_darkroom"));
    command.args(arguments).env_clear().envs(environment.iter().cloned()).stdin(Stdio::null());
    command
}

/// Writes a program. Not by this process: whatever another thread starts meanwhile would have the file open for writing until
/// it is a program itself, and until then nobody can run this one (ETXTBSY).
pub fn write_program(path: &Path, text: &str) {
    let mut install = Command::new("install");
    install.args(["-m", "755", "/dev/stdin"]).arg(path).stdin(Stdio::piped());
    let mut child = install.spawn().expect("coreutils");
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
    assert!(child.wait().expect("it ends").success(), "{}", path.display());
}

/// Runs a command to its end; answers its exit code, standard output and standard error.
pub async fn run(mut command: Command) -> (i32, String, String) {
    let ended = tokio::task::spawn_blocking(move || command.output());
    let output = tokio::time::timeout(DEADLINE, ended).await.expect("it ends in time").expect("a thread");
    let Output { status, stdout, stderr } = output.expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

/// Sends a signal to a process of the test's own.
pub fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.try_into().expect("a process id")).expect("a process id");
    kill_process(pid, signal).expect("the process is there");
}

/// Stops a process where it is, and waits until it stands still.
pub async fn freeze(pid: u32) {
    send(pid, Signal::STOP);
    eventually("frozen", async || stat(pid).is_some_and(|stat| stat.state == "T").then_some(())).await;
}

/// Whether a process runs; one that has ended and was not waited for does not.
pub fn runs(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| stat.state != "Z")
}

/// The processes that a process has started and that run.
pub fn children(parent: u32) -> Vec<u32> {
    let pids =
        std::fs::read_dir("/proc").expect("/proc").filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| stat(*pid).is_some_and(|stat| stat.parent == parent && stat.state != "Z")).collect()
}

fn words(pid: u32) -> String {
    String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()).into_owned()
}

fn cpu_ticks(pid: u32) -> u64 {
    stat(pid).map_or(0, |stat| stat.user_ticks)
}

struct Stat {
    state: String,
    parent: u32,
    user_ticks: u64,
}

/// `/proc/PID/stat`, see proc(5): what follows the name in brackets begins with field 3.
fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat { state: fields[0].to_owned(), parent: fields[1].parse().ok()?, user_ticks: fields[11].parse().ok()? })
}

/// An address that nobody else binds: each one is on a loopback host of its own, where no outgoing connection ever
/// takes the port between now and the start of the process that is to have it.
pub fn free_address() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let [_, _, c, d] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let b = u8::try_from(1 + std::process::id() % 250).expect("below 251");
    let listener = TcpListener::bind((Ipv4Addr::new(127, b, c, d), 0)).expect("a free port");
    listener.local_addr().expect("an address").to_string()
}

/// A port of 127.0.0.1, for what must be reached as `localhost` and come back on the same port after a pause: below
/// those that the system gives to outgoing connections, which would otherwise take it meanwhile.
pub fn free_port() -> u16 {
    const FIRST: u16 = 10_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").expect("the range");
    let outgoing: u16 = range.split_whitespace().next().and_then(|low| low.parse().ok()).expect("a port");
    let room = u32::from(outgoing.checked_sub(FIRST).expect("ports below the range"));
    // Test runs at the same time begin at different places.
    let begin = std::process::id() * 61;
    (0..room)
        .map(|_| {
            let offset = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % room;
            FIRST + u16::try_from(offset).expect("below the range")
        })
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("a free port")
}
