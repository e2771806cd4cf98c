//! One child as its parent sees it.

use super::SandboxError;
use super::protocol::{GO, Job, MAX_MESSAGE_BYTES, MAX_RENDITION_BYTES, Reply, Verdict, frame};
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

/// How long a child that has closed its socket may take to be gone.
const LAST_BREATH: Duration = Duration::from_secs(2);
/// The most that is read of what a dying child says.
const LAST_WORDS_BYTES: u64 = 1000;

/// The talk with a child came to an end in the middle: it died, or it said what it should not.
#[derive(Debug)]
pub struct Broken(io::Error);

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self(error)
    }
}

/// A running child; dropping it kills it.
pub struct Process {
    child: Child,
    socket: UnixStream,
    photos: u32,
}

impl Process {
    /// Starts a child with nothing but a socket: no environment but a hint for malloc, the root folder, standard error for its last words.
    /// Must be called on a thread of a tokio runtime that lasts: a child is killed when the thread that started it ends.
    pub fn start(program: &Path, arguments: &[OsString]) -> io::Result<Self> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let child = Command::new(program)
            .args(arguments)
            .env_clear()
            // Large buffers in large pages: a big progressive JPEG spends a sixth of its time on page faults otherwise. The
            // C library reads it once at the start; others pay it no heed.
            .env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        Ok(Self { child, socket: UnixStream::from_std(ours)?, photos: 0 })
    }

    /// Photos that this child was given.
    pub fn photos(&self) -> u32 {
        self.photos
    }

    #[cfg(test)]
    pub fn kill_for_test(&mut self) {
        self.child.start_kill().expect("a live child");
    }

    /// Hands a photo over and hears what it is.
    pub async fn probe(&mut self, original: &fs::File, job: &Job) -> Result<Verdict, Broken> {
        self.photos += 1;
        let message = frame(job).map_err(io::Error::other)?;
        let sent =
            self.socket.async_io(Interest::WRITABLE, || send_with_file(&self.socket, &message, original)).await?;
        self.socket.write_all(&message[sent..]).await?;
        self.verdict().await
    }

    /// Tells the child to go on, and takes the renditions.
    pub async fn develop(&mut self) -> Result<Verdict, Broken> {
        self.socket.write_all(&[GO]).await?;
        self.verdict().await
    }

    async fn verdict(&mut self) -> Result<Verdict, Broken> {
        let length = self.socket.read_u32_le().await? as usize;
        if length > MAX_MESSAGE_BYTES {
            return Err(nonsense("a message too long").into());
        }
        let mut message = vec![0; length];
        self.socket.read_exact(&mut message).await?;
        let reply: Reply = serde_json::from_slice(&message).map_err(io::Error::other)?;
        let mut verdict = reply.verdict;
        if let Verdict::Rendered(rendered, _) = &mut verdict {
            let total = reply.lengths.iter().try_fold(0_usize, |sum, length| sum.checked_add(*length));
            if reply.lengths.len() != rendered.renditions.len() || total.is_none_or(|sum| sum > MAX_RENDITION_BYTES) {
                return Err(nonsense("renditions of another size").into());
            }
            for (rendition, length) in rendered.renditions.iter_mut().zip(reply.lengths) {
                rendition.bytes = Vec::with_capacity(length);
                let read = (&mut self.socket).take(length as u64).read_to_end(&mut rendition.bytes).await?;
                if read < length {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
            }
        }
        Ok(verdict)
    }

    /// Finds out of what a child died, or ends one that talks nonsense.
    pub async fn autopsy(mut self, broken: Broken) -> SandboxError {
        let ended = tokio::time::timeout(LAST_BREATH, self.child.wait()).await;
        let status = match ended {
            Ok(Ok(status)) => status,
            Ok(Err(error)) => return error.into(),
            Err(_) => return SandboxError::Crashed(broken.0.to_string()),
        };
        let mut words = Vec::new();
        if let Some(stderr) = self.child.stderr.take() {
            // Whatever can't be read of its last words is not worth another error.
            let _ = tokio::time::timeout(LAST_BREATH, stderr.take(LAST_WORDS_BYTES).read_to_end(&mut words)).await;
        }
        cause(status, &String::from_utf8_lossy(&words))
    }
}

/// The cause of death. The panic hook of the child says where it panicked and no more; the only other words are those of the
/// standard library when memory runs out, before it aborts.
fn cause(status: ExitStatus, words: &str) -> SandboxError {
    let xcpu = rustix::process::Signal::XCPU.as_raw();
    if status.signal() == Some(xcpu) {
        return SandboxError::TimedOut;
    }
    if words.contains("memory allocation of") {
        return SandboxError::OutOfMemory;
    }
    let place = words.lines().next().filter(|line| line.starts_with("decoder panicked")).unwrap_or_default();
    SandboxError::Crashed(format!("{status} {place}").trim().to_owned())
}

fn nonsense(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Sends the beginning of a message with an open file beside it; gives how many bytes went.
fn send_with_file(socket: &UnixStream, message: &[u8], file: &fs::File) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = [file.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&files));
    Ok(sendmsg(socket, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)?)
}
