//! The child: what `darkroom __develop` runs. It is given a socket as standard input and nothing else.

use super::confine::{allow_cpu, confine};
use super::protocol::{GO, Job, MAX_MESSAGE_BYTES, Reply, Verdict, frame};
use imaging::{Error, MappedFile, Rejection, Rendered, Renderer, StageTimes, decode_weight};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send};
use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;

/// What makes a photo's renditions; a test puts a villain in its place.
pub(crate) type Work<'a> = &'a mut dyn FnMut(&[u8], &Job) -> Result<(Rendered, StageTimes), Error>;

/// Works for the parent at the other end of standard input until it hangs up. Call it before anything else of the program
/// is set up: no runtime, no threads, no log.
#[must_use]
pub fn child() -> ExitCode {
    let mut renderer = match Renderer::new() {
        Ok(renderer) => renderer,
        Err(failure) => {
            eprintln!("decoder not started: {failure}");
            return ExitCode::FAILURE;
        }
    };
    serve(&mut |bytes, job| {
        let result = renderer.render(bytes, job.declared, &job.recipe, &job.limits)?;
        Ok((result, renderer.stage_times()))
    })
}

pub(crate) fn serve(work: Work) -> ExitCode {
    // Where, but not what: a message may quote the photo.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(|at| format!(" at {}:{}", at.file(), at.line())).unwrap_or_default();
        let _ = writeln!(io::stderr(), "decoder panicked{place}");
    }));
    let stdin = io::stdin();
    match listen(stdin.as_fd(), work) {
        Ok(()) => ExitCode::SUCCESS,
        // The parent is gone or never was there.
        Err(error) => {
            let _ = writeln!(io::stderr(), "decoder ended: {}", error.kind());
            ExitCode::FAILURE
        }
    }
}

fn listen(socket: BorrowedFd<'_>, work: Work) -> io::Result<()> {
    let mut patience: Option<u64> = None;
    while waits(socket, patience)? {
        let Some((job, original)) = receive(socket)? else { return Ok(()) };
        if patience.is_none() {
            confine(job.memory_bytes)?;
        }
        patience = Some(job.idle_seconds);
        allow_cpu(job.cpu_seconds)?;
        let Some(verdict) = handle(socket, &original, &job, work)? else { return Ok(()) };
        reply(socket, verdict)?;
    }
    Ok(())
}

/// Waits for the parent to say something; false when nothing came for so many seconds.
fn waits(socket: BorrowedFd<'_>, seconds: Option<u64>) -> io::Result<bool> {
    let timeout = seconds.and_then(|seconds| i64::try_from(seconds).ok()).map(|tv_sec| Timespec { tv_sec, tv_nsec: 0 });
    let mut watched = [PollFd::new(&socket, PollFlags::IN)];
    Ok(poll(&mut watched, timeout.as_ref())? > 0)
}

/// A job and the photo's open file; `None` when the parent hung up.
fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<(Job, OwnedFd)>> {
    let (mut bytes, mut file) = (Vec::new(), None);
    loop {
        if let Some(length) = bytes.first_chunk::<4>().map(|head| u32::from_le_bytes(*head) as usize) {
            if length > MAX_MESSAGE_BYTES {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if bytes.len() == length + 4 {
                let job = serde_json::from_slice(&bytes[4..])?;
                return Ok(Some((job, file.ok_or(io::ErrorKind::InvalidData)?)));
            }
        }
        let mut buffer = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(socket, &mut [IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        if received.bytes == 0 {
            return if bytes.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        bytes.extend_from_slice(&buffer[..received.bytes]);
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(mut files) = message {
                file = files.next().or(file);
            }
        }
    }
}

/// One photo from probe to renditions; `None` when the parent hung up in between.
fn handle(socket: BorrowedFd<'_>, original: &OwnedFd, job: &Job, work: Work) -> io::Result<Option<Verdict>> {
    let bytes = match map(original) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(Some(Verdict::Rejected(Rejection::Empty))),
        Err(error) => return Ok(Some(Verdict::Failed(format!("the original can't be mapped: {error}")))),
    };
    match decode_weight(&bytes, job.declared, &job.recipe, &job.limits) {
        Ok(weight) => reply(socket, Verdict::Probed { weight })?,
        Err(rejection) => return Ok(Some(Verdict::Rejected(rejection))),
    }
    let mut answer = [0];
    if rustix::io::read(socket, &mut answer)? == 0 || answer != [GO] {
        return Ok(None);
    }
    Ok(Some(match work(&bytes, job) {
        Ok((rendered, stages)) => Verdict::Rendered(rendered, stages),
        Err(Error::Rejected(rejection)) => Verdict::Rejected(rejection),
        Err(Error::Internal(reason)) => Verdict::Failed(reason),
    }))
}

/// The photo's bytes; `None` for an empty file.
fn map(original: &OwnedFd) -> io::Result<Option<MappedFile>> {
    let length = usize::try_from(rustix::fs::fstat(original)?.st_size).map_err(io::Error::other)?;
    if length == 0 { Ok(None) } else { MappedFile::new(original, length).map(Some) }
}

fn reply(socket: BorrowedFd<'_>, verdict: Verdict) -> io::Result<()> {
    let bodies = match &verdict {
        Verdict::Rendered(rendered, _) => rendered.renditions.iter().map(|it| it.bytes.len()).collect(),
        _ => Vec::new(),
    };
    let reply = Reply { verdict, lengths: bodies };
    send_all(socket, &frame(&reply)?)?;
    if let Verdict::Rendered(rendered, _) = &reply.verdict {
        rendered.renditions.iter().try_for_each(|rendition| send_all(socket, &rendition.bytes))?;
    }
    Ok(())
}

fn send_all(socket: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match send(socket, bytes, SendFlags::NOSIGNAL) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
