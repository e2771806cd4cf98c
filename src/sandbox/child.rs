//! The child process, `darkroom __decoder`. Its only resource is a socket as standard input.

use super::confine::{allow_cpu, confine};
use super::protocol::{GO, Job, MAX_MESSAGE_BYTES, Reply, ReplyMessage, frame};
use imaging::{Error, MappedFile, Rejection, Rendered, Renderer, StageTimes, decode_weight};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send};
use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;

/// Renders a photo; tests replace it with a fake decoder.
pub(crate) type RenderFn<'a> = &'a mut dyn FnMut(&[u8], &Job) -> Result<(Rendered, StageTimes), Error>;

/// Renders photos for the parent until it closes the socket. Must be called before a runtime, threads or logging are
/// set up.
#[must_use]
pub fn child() -> ExitCode {
    let mut renderer = match Renderer::new() {
        Ok(renderer) => renderer,
        Err(failure) => {
            eprintln!("decoder failed to start: {failure}");
            return ExitCode::FAILURE;
        }
    };
    serve(&mut |bytes, job| {
        let result = renderer.render(bytes, job.declared, &job.recipe, &job.limits)?;
        Ok((result, renderer.stage_times()))
    })
}

pub(crate) fn serve(render: RenderFn) -> ExitCode {
    // The location only, because a message may quote the photo.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(|at| format!(" at {}:{}", at.file(), at.line())).unwrap_or_default();
        let _ = writeln!(io::stderr(), "decoder panicked{place}");
    }));
    let stdin = io::stdin();
    match listen(stdin.as_fd(), render) {
        Ok(()) => ExitCode::SUCCESS,
        // There is no parent.
        Err(error) => {
            let _ = writeln!(io::stderr(), "decoder ended: {}", error.kind());
            ExitCode::FAILURE
        }
    }
}

fn listen(socket: BorrowedFd<'_>, render: RenderFn) -> io::Result<()> {
    let mut idle_seconds: Option<u64> = None;
    while wait_readable(socket, idle_seconds)? {
        let Some((job, original)) = receive(socket)? else { return Ok(()) };
        if idle_seconds.is_none() {
            confine(job.memory_bytes)?;
        }
        idle_seconds = Some(job.idle_seconds);
        allow_cpu(job.cpu_seconds)?;
        let Some(reply) = handle(socket, &original, &job, render)? else { return Ok(()) };
        send_reply(socket, reply)?;
    }
    Ok(())
}

/// Returns false on a timeout.
fn wait_readable(socket: BorrowedFd<'_>, seconds: Option<u64>) -> io::Result<bool> {
    let timeout = seconds.and_then(|seconds| i64::try_from(seconds).ok()).map(|tv_sec| Timespec { tv_sec, tv_nsec: 0 });
    let mut watched = [PollFd::new(&socket, PollFlags::IN)];
    Ok(poll(&mut watched, timeout.as_ref())? > 0)
}

/// Receives a job and the open file of the photo. None when the parent has closed the socket.
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

/// Handles one photo, from the probe to the renditions. None when the parent has closed the socket.
fn handle(socket: BorrowedFd<'_>, original: &OwnedFd, job: &Job, render: RenderFn) -> io::Result<Option<Reply>> {
    let bytes = match map(original) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(Some(Reply::Rejected(Rejection::Empty))),
        Err(error) => return Ok(Some(Reply::Failed(format!("the original can't be mapped: {error}")))),
    };
    match decode_weight(&bytes, job.declared, &job.recipe, &job.limits) {
        Ok(weight) => send_reply(socket, Reply::Probed { weight })?,
        Err(rejection) => return Ok(Some(Reply::Rejected(rejection))),
    }
    let mut answer = [0];
    if rustix::io::read(socket, &mut answer)? == 0 || answer != [GO] {
        return Ok(None);
    }
    Ok(Some(match render(&bytes, job) {
        Ok((rendered, stages)) => Reply::Rendered(rendered, stages),
        Err(Error::Rejected(rejection)) => Reply::Rejected(rejection),
        Err(Error::Internal(reason)) => Reply::Failed(reason),
    }))
}

/// Maps the original. None for an empty file.
fn map(original: &OwnedFd) -> io::Result<Option<MappedFile>> {
    let length = usize::try_from(rustix::fs::fstat(original)?.st_size).map_err(io::Error::other)?;
    if length == 0 { Ok(None) } else { MappedFile::new(original, length).map(Some) }
}

fn send_reply(socket: BorrowedFd<'_>, reply: Reply) -> io::Result<()> {
    let lengths = match &reply {
        Reply::Rendered(rendered, _) => rendered.renditions.iter().map(|it| it.bytes.len()).collect(),
        _ => Vec::new(),
    };
    let message = ReplyMessage { reply, lengths };
    send_all(socket, &frame(&message)?)?;
    if let Reply::Rendered(rendered, _) = &message.reply {
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
