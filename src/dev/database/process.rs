//! Child processes that end with us, and the search for those that didn't.

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

/// How long a server left over from an earlier run may take to end, for each of SIGTERM and SIGKILL.
const LEFTOVER_DEADLINE: Duration = Duration::from_secs(20);

/// How a process ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended(Option<ExitStatus>);

impl Ended {
    /// Whether it ended with exit code 0.
    pub(crate) fn is_success(self) -> bool {
        self.0.is_some_and(|status| status.success())
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(status) => status.fmt(f),
            None => f.write_str("nobody knows how"),
        }
    }
}

/// A command whose process gets SIGTERM when we die, leads a process group of its own (so that a Ctrl-C on the terminal
/// doesn't reach it), reads nothing and writes everything to `log`.
pub(crate) fn command(program: &Path, log: &File) -> io::Result<Command> {
    let mut command = match programs::in_path("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            // Replaces itself by the program, which keeps the process number.
            command.args(["--pdeathsig", "TERM", "--"]).arg(program);
            command
        }
        // Not a Linux with util-linux: a SIGKILL of ours then leaves a server that the next start ends.
        None => Command::new(program),
    };
    // What a service manager gave us isn't for the server, which would report to it in our name.
    for ours in ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID"] {
        command.env_remove(ours);
    }
    command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
    Ok(command)
}

/// A child process with its process group. Dropping it sends the group a signal and doesn't wait.
#[derive(Debug)]
pub(crate) struct Process {
    pid: u32,
    child: Arc<Mutex<Child>>,
    ended: watch::Receiver<Option<Ended>>,
    on_drop: Signal,
}

impl Process {
    /// Starts the command from a thread that lives as long as the child: the signal at a parent's death fires at the
    /// death of the THREAD that forked, and a runtime's threads come and go.
    pub(crate) async fn spawn(command: Command, on_drop: Signal) -> io::Result<Self> {
        let (tell_started, started) = oneshot::channel();
        let (tell_ended, ended) = watch::channel(None);
        thread::Builder::new().name("private-db".to_owned()).spawn(move || {
            watch_over(command, on_drop, tell_started, &tell_ended);
        })?;
        let child = started.await.map_err(io::Error::other)??;
        let pid = lock(&child).id();
        Ok(Self { pid, child, ended, on_drop })
    }

    /// The process, and its group.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for the end; any number of times.
    pub(crate) async fn ended(&mut self) -> Ended {
        self.ended.wait_for(Option::is_some).await.ok().and_then(|ended| *ended).unwrap_or(Ended(None))
    }

    /// Signals the whole group, unless its leader has ended.
    pub(crate) fn signal(&self, signal: Signal) {
        signal_group(&mut lock(&self.child), signal);
    }

    /// SIGTERM; SIGKILL when `patience` has run out. Returns when the process is gone.
    pub(crate) async fn stop(&mut self, patience: Duration) -> Stopped {
        self.signal(Signal::TERM);
        if tokio::time::timeout(patience, self.ended()).await.is_ok() {
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

/// Starts the child, tells so, waits for its end and tells that.
fn watch_over(
    mut command: Command,
    on_drop: Signal,
    tell_started: oneshot::Sender<io::Result<Arc<Mutex<Child>>>>,
    tell_ended: &watch::Sender<Option<Ended>>,
) {
    let spawned = command.spawn();
    // Closes our copies of the log.
    drop(command);
    let child = match spawned {
        Ok(child) => Arc::new(Mutex::new(child)),
        Err(error) => {
            // Nobody listens only when the start was given up, and then nobody cares.
            let _unheard = tell_started.send(Err(error));
            return;
        }
    };
    let pid = Pid::from_child(&lock(&child));
    if tell_started.send(Ok(Arc::clone(&child))).is_err() {
        signal_group(&mut lock(&child), on_drop);
    }
    // Waits without reaping: until `Child::wait` below, under the lock, the number can't pass to a stranger that a
    // signal of ours would then hit.
    while matches!(waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT), Err(Errno::INTR)) {}
    let status = lock(&child).wait().ok();
    tell_ended.send_replace(Some(Ended(status)));
}

/// Signals the child's group, whose number is the child's own, if the child has not been reaped yet.
fn signal_group(child: &mut Child, signal: Signal) {
    if matches!(child.try_wait(), Ok(None)) {
        // The only possible failure is that the whole group has ended meanwhile, which is what was wanted.
        let _gone = kill_process_group(Pid::from_child(child), signal);
    }
}

/// The child under its lock. A poisoned lock guards a plain handle that no panic can leave half changed.
fn lock(child: &Mutex<Child>) -> std::sync::MutexGuard<'_, Child> {
    child.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends every process that serves the data folder `data`, whoever started it. The caller holds the folder's lock, so
/// none of them is in use.
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
            // One that is gone or not ours to signal shows in the next search.
            let _unsent = kill_process(pid, signal);
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

/// The processes whose command line has exactly `--datadir=DATA`. No file with a number could tell as much: a number
/// is written too late for a kill at the wrong moment, and may have passed to a stranger since.
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
    async fn ends_server_running_on_folder() {
        let dir = tempfile::tempdir().unwrap();
        let log = tempfile::tempfile().unwrap();
        let mut server = command(Path::new("sh"), &log).unwrap();
        server.args(["-c", "sleep 60; :", "sh"]).arg(super::super::folder::option("--datadir", dir.path()));
        let mut process = Process::spawn(server, Signal::KILL).await.unwrap();
        // A process has no command line for the moment in which setpriv replaces itself.
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
    async fn a_program_that_is_not_there_is_an_error() {
        let command = Command::new("/nowhere/mysqld");
        assert!(Process::spawn(command, Signal::KILL).await.is_err());
    }
}
