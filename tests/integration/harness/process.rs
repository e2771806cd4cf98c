//! The service as separate processes.

use std::{
    collections::HashMap,
    fs::OpenOptions,
    io::Write,
    net::{Ipv4Addr, TcpListener},
    ops::{Deref, DerefMut},
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;

use super::{Client, DEADLINE, eventually, server::TestServer};

/// After this CPU time, in ticks of 10 ms, a decoder has started and read the image header.
const WELL_UNDER_WAY: u64 = 5;

/// A `darkroom` process; killed when dropped.
pub struct Process {
    child: KillOnDrop,
    /// The main listener.
    pub url: String,
    /// The operations listener.
    pub operations: String,
    log: NamedTempFile,
}

impl Process {
    /// Starts a worker or server process on the database and files of a test server, with more variables; an empty
    /// value removes one. It listens on a free address unless the variables name one.
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

    /// Starts a command and waits until its operations listener answers.
    pub async fn launch(mut command: Command, listen: &str) -> Self {
        let operations = free_address();
        let log = NamedTempFile::new().expect("a log file");
        // The log goes to standard output, errors to standard error.
        let appended = || OpenOptions::new().append(true).open(log.path()).expect("the log file");
        command.stdin(Stdio::null()).stdout(appended()).stderr(appended());
        command.env("DARKROOM_HTTP_LISTEN", listen).env("DARKROOM_OPERATIONS_LISTEN", &operations);
        let child = KillOnDrop(command.spawn().expect("the program starts"));
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

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// A client that is signed in as a user.
    pub fn user(&self, server: &TestServer, subject: &str) -> Client {
        Client::new(&self.url, Some(server.identity.token(subject).expect("a token")))
    }

    /// The output so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log.path()).expect("the log")
    }

    /// Sends SIGKILL and waits for the exit.
    pub fn kill(mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ends");
    }

    pub fn signal(&self, signal: Signal) {
        send(self.id(), signal);
    }

    /// Waits for the exit.
    pub async fn ended(&mut self) -> ExitStatus {
        eventually("ended", async || self.child.try_wait().expect("a child")).await
    }

    /// The metrics in Prometheus text format.
    pub async fn metrics(&self) -> String {
        reqwest::get(format!("{}/metrics", self.operations)).await.expect("an answer").text().await.expect("a text")
    }

    pub fn decoders(&self) -> Vec<u32> {
        children(self.id()).into_iter().filter(|pid| words(*pid).contains("__decoder")).collect()
    }

    /// Waits until a decoder is decoding, and stops it with SIGSTOP.
    pub async fn halt_decoder(&self) -> u32 {
        // An idle decoder may have used as much CPU time; a busy one uses more at each poll.
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

    /// Kills a decoder while it is decoding.
    pub async fn kill_decoder(&self) {
        let pid = self.halt_decoder().await;
        send(pid, Signal::KILL);
        eventually("decoder exited", async || (!runs(pid)).then_some(())).await;
    }
}

/// A child process that is killed when dropped.
pub struct KillOnDrop(pub Child);

impl Deref for KillOnDrop {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for KillOnDrop {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.kill();
        let _ = self.wait();
    }
}

/// The program with these arguments and only these environment variables.
pub fn darkroom(arguments: &[&str], environment: &[(String, String)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_darkroom"));
    command.args(arguments).env_clear().envs(environment.iter().cloned()).stdin(Stdio::null());
    command
}

/// Writes an executable file by another process: a child that another thread forks meanwhile would inherit the open
/// file, and executing it would fail with ETXTBSY.
pub fn write_program(path: &Path, text: &str) {
    let mut install = Command::new("install");
    install.args(["-m", "755", "/dev/stdin"]).arg(path).stdin(Stdio::piped());
    let mut child = install.spawn().expect("coreutils");
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
    assert!(child.wait().expect("it ends").success(), "{}", path.display());
}

/// Runs a command; returns exit code, standard output and standard error.
pub async fn run(mut command: Command) -> (i32, String, String) {
    let ended = tokio::task::spawn_blocking(move || command.output());
    let output = tokio::time::timeout(DEADLINE, ended).await.expect("it ends in time").expect("a thread");
    let Output { status, stdout, stderr } = output.expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

/// Sends a signal to a process.
pub fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.try_into().expect("a process id")).expect("a process id");
    kill_process(pid, signal).expect("the process is there");
}

/// Stops a process with SIGSTOP and waits until it has stopped.
pub async fn freeze(pid: u32) {
    send(pid, Signal::STOP);
    eventually("frozen", async || stat(pid).is_some_and(|stat| stat.state == "T").then_some(())).await;
}

/// Whether a process is running; a zombie is not.
pub fn runs(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| stat.state != "Z")
}

/// The running children of a process.
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

/// `/proc/PID/stat`, see proc(5): field 3 follows the name in brackets.
fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat { state: fields[0].to_owned(), parent: fields[1].parse().ok()?, user_ticks: fields[11].parse().ok()? })
}

/// A free address, each on a loopback host of its own, so that no outgoing connection takes the port before the process
/// binds it.
pub fn free_address() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let [_, _, c, d] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let b = u8::try_from(1 + std::process::id() % 250).expect("below 251");
    let listener = TcpListener::bind((Ipv4Addr::new(127, b, c, d), 0)).expect("a free port");
    listener.local_addr().expect("an address").to_string()
}

/// A free port of 127.0.0.1 for servers that must be reached as `localhost` and restart on the same port: below the
/// range of outgoing connections, which could take it meanwhile.
pub fn free_port() -> u16 {
    const FIRST: u16 = 10_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").expect("the range");
    let outgoing: u16 = range.split_whitespace().next().and_then(|low| low.parse().ok()).expect("a port");
    let room = u32::from(outgoing.checked_sub(FIRST).expect("ports below the range"));
    // Concurrent test runs start at different ports.
    let begin = std::process::id() * 61;
    (0..room)
        .map(|_| {
            let offset = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % room;
            FIRST + u16::try_from(offset).expect("below the range")
        })
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("a free port")
}
