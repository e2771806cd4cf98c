//! Child processes that end with this process, and the search for those that did not.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};
use tokio::sync::{oneshot, watch};

use super::{StartError, Stopped, programs};

/// Time for a server left over from an earlier run to end, after each of SIGTERM and SIGKILL.
const LEFTOVER_DEADLINE: Duration = Duration::from_secs(20);

/// The exit status of a process, if known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended(Option<ExitStatus>);

impl Ended {
    /// Whether the exit code was 0.
    pub(crate) fn is_success(self) -> bool {
        self.0.is_some_and(|status| status.success())
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(status) => status.fmt(f),
            None => f.write_str("exit status unknown"),
        }
    }
}

/// A command whose process gets SIGTERM when this process ends, has a process group of its own (so that Ctrl-C on the
/// terminal does not reach it), has no input and writes its output to `log`.
pub(crate) fn command(program: &Path, log: &File) -> io::Result<Command> {
    let mut command = match programs::in_path("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            // Replaces itself by the program, which keeps the pid.
            command.args(["--pdeathsig", "TERM", "--"]).arg(program);
            command
        }
        // Without util-linux a SIGKILL of this process leaves a server, which the next start ends.
        None => Command::new(program),
    };
    // Otherwise the server would report to the service manager of this process.
    for ours in ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID"] {
        command.env_remove(ours);
    }
    command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
    Ok(command)
}

/// A child process with its process group. Dropping it sends the group a signal and does not wait.
#[derive(Debug)]
pub(crate) struct Process {
    pid: u32,
    child: Arc<Mutex<Child>>,
    ended: watch::Receiver<Option<Ended>>,
    on_drop: Signal,
}

impl Process {
    /// Starts the command from a thread that lives as long as the child: the parent-death signal is sent when the
    /// THREAD that forked ends, and the threads of a runtime come and go.
    pub(crate) async fn spawn(command: Command, on_drop: Signal) -> io::Result<Self> {
        let (started_sender, started) = oneshot::channel();
        let (ended_sender, ended) = watch::channel(None);
        thread::Builder::new().name("private-db".to_owned()).spawn(move || {
            watch_over(command, on_drop, started_sender, &ended_sender);
        })?;
        let child = started.await.map_err(io::Error::other)??;
        let pid = lock(&child).id();
        Ok(Self { pid, child, ended, on_drop })
    }

    /// The pid, which is also that of the process group.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for the end; may be called again.
    pub(crate) async fn ended(&mut self) -> Ended {
        self.ended.wait_for(Option::is_some).await.ok().and_then(|ended| *ended).unwrap_or(Ended(None))
    }

    /// Signals the process group, unless its leader has ended.
    pub(crate) fn signal(&self, signal: Signal) {
        signal_group(&mut lock(&self.child), signal);
    }

    /// Sends SIGTERM, and SIGKILL after `timeout`. Returns when the process is gone.
    pub(crate) async fn stop(&mut self, timeout: Duration) -> Stopped {
        self.signal(Signal::TERM);
        if tokio::time::timeout(timeout, self.ended()).await.is_ok() {
            return Stopped::Gracefully;
        }
        self.signal(Signal::KILL);
        self.ended().await;
        Stopped::Forcibly
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(self.on_drop);
    }
}

/// Starts the child, waits for its end, and reports both.
fn watch_over(
    mut command: Command,
    on_drop: Signal,
    started: oneshot::Sender<io::Result<Arc<Mutex<Child>>>>,
    ended: &watch::Sender<Option<Ended>>,
) {
    let spawned = command.spawn();
    // Closes this process's copies of the log.
    drop(command);
    let child = match spawned {
        Ok(child) => Arc::new(Mutex::new(child)),
        Err(error) => {
            // The receiver is gone only when the start was cancelled.
            let _ = started.send(Err(error));
            return;
        }
    };
    let pid = Pid::from_child(&lock(&child));
    if started.send(Ok(Arc::clone(&child))).is_err() {
        signal_group(&mut lock(&child), on_drop);
    }
    // Waits without reaping: until `Child::wait` below, under the lock, the pid can't be reused by another process,
    // which a signal would then hit.
    while matches!(waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT), Err(Errno::INTR)) {}
    let status = lock(&child).wait().ok();
    ended.send_replace(Some(Ended(status)));
}

/// Signals the child's process group if the child has not been reaped yet.
fn signal_group(child: &mut Child, signal: Signal) {
    if matches!(child.try_wait(), Ok(None)) {
        // Fails only when the whole group has ended meanwhile.
        let _ = kill_process_group(Pid::from_child(child), signal);
    }
}

/// The locked child. A poisoned lock is ignored: a panic can't leave the handle in an invalid state.
fn lock(child: &Mutex<Child>) -> std::sync::MutexGuard<'_, Child> {
    child.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends every process that uses the data directory `data`. The caller holds the directory's lock, so none of them is
/// needed.
pub(crate) async fn end_all_on(data: &Path) -> Result<(), StartError> {
    for signal in [Signal::TERM, Signal::KILL] {
        let leftovers = running_on(data);
        if leftovers.is_empty() {
            return Ok(());
        }
        for pid in leftovers {
            tracing::info!(
                pid = pid.as_raw_nonzero().get(),
                ?signal,
                "ending a database server left over from an earlier run"
            );
            // A process that could not be signalled shows up in the next search.
            let _ = kill_process(pid, signal);
        }
        let deadline = Instant::now() + LEFTOVER_DEADLINE;
        while !running_on(data).is_empty() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    match running_on(data).first() {
        None => Ok(()),
        Some(pid) => Err(StartError::Leftover { pid: pid.as_raw_nonzero().get().unsigned_abs() }),
    }
}

/// The processes with the argument `--datadir=DATA`. A pid file would be less reliable: it is written too late for a
/// kill at the wrong moment, and its pid may have been reused since.
fn running_on(data: &Path) -> Vec<Pid> {
    let wanted = super::folder::option("--datadir", data);
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok().and_then(Pid::from_raw))
        .filter(|pid| {
            std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero()))
                .is_ok_and(|line| line.split(|byte| *byte == 0).any(|word| OsStr::from_bytes(word) == wanted))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn kills_child_that_ignores_sigterm() {
        let log = tempfile::tempfile().unwrap();
        let mut deaf = command(Path::new("sh"), &log).unwrap();
        deaf.args(["-c", "trap '' TERM; echo ready; while :; do sleep 1; done"]);
        let mut process = Process::spawn(deaf, Signal::KILL).await.unwrap();
        while log.metadata().unwrap().len() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(process.stop(Duration::from_millis(100)).await, Stopped::Forcibly);
        assert!(!process.ended().await.is_success());
    }

    #[tokio::test]
    async fn ends_only_processes_of_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let log = tempfile::tempfile().unwrap();
        let mut server = command(Path::new("sh"), &log).unwrap();
        server.args(["-c", "sleep 60; :", "sh"]).arg(super::super::folder::option("--datadir", dir.path()));
        let mut process = Process::spawn(server, Signal::KILL).await.unwrap();
        // A process briefly has no command line while setpriv replaces itself.
        while running_on(dir.path()).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        end_all_on(&dir.path().join("other")).await.unwrap();
        end_all_on(dir.path().parent().unwrap()).await.unwrap();
        assert!(!running_on(dir.path()).is_empty());
        end_all_on(dir.path()).await.unwrap();
        assert!(!process.ended().await.is_success());
    }

    #[tokio::test]
    async fn missing_program_is_an_error() {
        let command = Command::new("/nowhere/mysqld");
        assert!(Process::spawn(command, Signal::KILL).await.is_err());
    }
}
