//! A child process, from the side of the parent.

use super::SandboxError;
use super::protocol::{GO, Job, MAX_MESSAGE_BYTES, MAX_RENDITION_BYTES, Reply, ReplyMessage, frame};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::ffi::OsString;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use std::{fs, io};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

/// How long a child may take to exit after its socket was closed.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);
/// How much of the standard error of a failed child is read.
const MAX_STDERR_BYTES: u64 = 1000;

/// The child exited or violated the protocol.
#[derive(Debug)]
pub struct Broken(io::Error);

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self(error)
    }
}

/// A running child; dropping the value kills it.
pub struct Process {
    child: Child,
    socket: UnixStream,
    photos: u32,
}

impl Process {
    /// Starts a child whose only resources are a socket and standard error, for the reason of a failure. Must be called
    /// on a thread of a long-lived tokio runtime, because the child is killed when the thread that started it ends.
    pub fn start(program: &Path, arguments: &[OsString]) -> io::Result<Self> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let child = Command::new(program)
            .args(arguments)
            .env_clear()
            // Huge pages for large buffers: without them a large progressive JPEG spends a sixth of its time in page
            // faults. Only glibc reads this variable.
            .env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        Ok(Self { child, socket: UnixStream::from_std(ours)?, photos: 0 })
    }

    /// The number of photos sent to this child.
    pub fn photos(&self) -> u32 {
        self.photos
    }

    #[cfg(test)]
    pub fn kill_for_test(&mut self) {
        self.child.start_kill().expect("a live child");
    }

    /// Sends a photo and reads the answer to the probe.
    pub async fn probe(&mut self, original: &fs::File, job: &Job) -> Result<Reply, Broken> {
        self.photos += 1;
        let message = frame(job).map_err(io::Error::other)?;
        let sent =
            self.socket.async_io(Interest::WRITABLE, || send_with_file(&self.socket, &message, original)).await?;
        self.socket.write_all(&message[sent..]).await?;
        self.read_reply().await
    }

    /// Admits the photo and reads the renditions.
    pub async fn render(&mut self) -> Result<Reply, Broken> {
        self.socket.write_all(&[GO]).await?;
        self.read_reply().await
    }

    async fn read_reply(&mut self) -> Result<Reply, Broken> {
        let length = self.socket.read_u32_le().await? as usize;
        if length > MAX_MESSAGE_BYTES {
            return Err(violation("a message is too long").into());
        }
        let mut json = vec![0; length];
        self.socket.read_exact(&mut json).await?;
        let message: ReplyMessage = serde_json::from_slice(&json).map_err(io::Error::other)?;
        let ReplyMessage { mut reply, lengths } = message;
        if let Reply::Rendered(rendered, _) = &mut reply {
            let total = lengths.iter().try_fold(0_usize, |sum, length| sum.checked_add(*length));
            if lengths.len() != rendered.renditions.len() || total.is_none_or(|sum| sum > MAX_RENDITION_BYTES) {
                return Err(violation("the sizes of the renditions are wrong").into());
            }
            for (rendition, length) in rendered.renditions.iter_mut().zip(lengths) {
                rendition.bytes = Vec::with_capacity(length);
                let read = (&mut self.socket).take(length as u64).read_to_end(&mut rendition.bytes).await?;
                if read < length {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
            }
        }
        Ok(reply)
    }

    /// Waits for the exit of a broken child and returns the reason; one that does not exit is killed.
    pub async fn exit_reason(mut self, broken: Broken) -> SandboxError {
        let exited = tokio::time::timeout(EXIT_TIMEOUT, self.child.wait()).await;
        let status = match exited {
            Ok(Ok(status)) => status,
            Ok(Err(error)) => return error.into(),
            Err(_) => return SandboxError::Crashed(broken.0.to_string()),
        };
        let mut output = Vec::new();
        if let Some(stderr) = self.child.stderr.take() {
            // What can't be read of it is ignored.
            let _ = tokio::time::timeout(EXIT_TIMEOUT, stderr.take(MAX_STDERR_BYTES).read_to_end(&mut output)).await;
        }
        reason(status, &String::from_utf8_lossy(&output))
    }
}

/// Standard error has the location of a panic, or the message of the standard library when an allocation fails.
fn reason(status: ExitStatus, stderr: &str) -> SandboxError {
    let xcpu = rustix::process::Signal::XCPU.as_raw();
    if status.signal() == Some(xcpu) {
        return SandboxError::TimedOut;
    }
    if stderr.contains("memory allocation of") {
        return SandboxError::OutOfMemory;
    }
    let place = stderr.lines().next().filter(|line| line.starts_with("decoder panicked")).unwrap_or_default();
    SandboxError::Crashed(format!("{status} {place}").trim().to_owned())
}

fn violation(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Sends the beginning of a message with an open file, and returns the number of bytes sent.
fn send_with_file(socket: &UnixStream, message: &[u8], file: &fs::File) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = [file.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&files));
    Ok(sendmsg(socket, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)?)
}
