//! Patience with clients: how long each side of a connection may take, whatever lies between.
//!
//! hyper knows one time for the head of a request, which is also that for the wait between requests. A balancer wants the
//! second to be long, and an attacker must not have the first so. So the times are kept here, below hyper, which tells
//! when a request begins and when its answer has been written.

use std::{
    error::Error,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{BoxError, body::Bytes};
use futures_util::{FutureExt, task::AtomicWaker};
use hyper::body::{Body, Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use crate::{config::Limits, telemetry::metrics};

/// A client that takes nothing of an answer for so long has gone, or means harm.
const STALL: Duration = Duration::from_mins(1);
/// How long a connection that is to end waits for a request that may be on its way, or is here without the runtime having
/// heard of it: who closes on it makes it fail.
const LAST_CALL: Duration = Duration::from_millis(100);
/// What every body may take, however small.
const BODY_GRACE: Duration = Duration::from_secs(5);
/// What a connection of HTTP/2 begins with, RFC 9113, 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whose turn it is on a connection.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// Requests whose answers are not written yet.
    under_way: AtomicUsize,
    /// Requests so far.
    begun: AtomicU64,
    http2: AtomicBool,
    closing: AtomicBool,
    /// Wakes the connection when nothing is under way any more: hyper would not look by itself.
    done: AtomicWaker,
}

/// A request that is under way until this is dropped, with the answer's body.
#[derive(Debug)]
pub(crate) struct UnderWay(Arc<Turn>);

impl Turn {
    /// A request's head is there.
    pub(crate) fn begin(turn: &Arc<Self>) -> UnderWay {
        turn.begun.fetch_add(1, Ordering::Relaxed);
        turn.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(turn.clone())
    }

    /// How many requests are under way.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    /// Whether the connection speaks HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        self.http2.load(Ordering::Relaxed)
    }

    /// The connection ends when nothing is under way and nothing comes for a moment; whoever calls this polls it next.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
        self.0.done.wake();
    }
}

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    /// The next request.
    Request,
    /// The rest of a head that has begun.
    Head,
    /// Nothing: requests are under way. It stays so until a read finds otherwise.
    Answer,
}

/// A stream whose other side is not waited for without end.
#[derive(Debug)]
pub(crate) struct Timed<S> {
    stream: S,
    turn: Arc<Turn>,
    idle: Duration,
    head: Duration,
    awaited: Awaited,
    /// Whether the next request is waited for but for a moment.
    last_call: bool,
    /// Requests so far when this was last looked at.
    seen: u64,
    /// How much of the preface of HTTP/2 has come; none once something else has.
    preface: Option<usize>,
    /// The end of the patience with what is awaited.
    until: Pin<Box<Sleep>>,
    /// The end of the patience with a client that takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Timed<S> {
    pub(crate) fn new(stream: S, turn: Arc<Turn>, limits: &Limits) -> Self {
        let (idle, head) = (limits.idle_timeout, limits.head_timeout);
        let until = Box::pin(sleep_until(Instant::now() + idle));
        Self {
            stream,
            turn,
            idle,
            head,
            awaited: Awaited::Request,
            last_call: false,
            seen: 0,
            preface: Some(0),
            until,
            stalled: None,
        }
    }

    fn wait_for(&mut self, awaited: Awaited) {
        self.awaited = awaited;
        let patience = match awaited {
            Awaited::Request if self.last_call => LAST_CALL.min(self.idle),
            Awaited::Request => self.idle,
            Awaited::Head => self.head,
            Awaited::Answer => return,
        };
        self.until.as_mut().reset(Instant::now() + patience);
    }

    /// Takes note of requests that began and ended since the last look.
    fn catch_up(&mut self) {
        let begun = self.turn.begun.load(Ordering::Relaxed);
        if begun != self.seen {
            self.seen = begun;
            self.awaited = Awaited::Answer;
        }
        // An answer is over when the client has been given all of it: hyper is done with the body before that.
        if self.awaited == Awaited::Answer && self.turn.under_way() == 0 && self.stalled.is_none() {
            self.wait_for(Awaited::Request);
        }
    }

    fn came(&mut self, bytes: &[u8]) {
        // What comes over HTTP/2 between requests is small change (pings, windows) and earns no more time.
        if self.turn.is_http2() {
            return;
        }
        if self.awaited == Awaited::Request {
            self.wait_for(Awaited::Head);
        }
        let Some(known) = self.preface else { return };
        let expected = &PREFACE[known..];
        let length = bytes.len().min(expected.len());
        self.preface = (bytes[..length] == expected[..length]).then_some(known + length);
        if self.preface == Some(PREFACE.len()) {
            self.turn.http2.store(true, Ordering::Relaxed);
            self.wait_for(Awaited::Request);
        }
    }

    /// Nothing has come yet: whether that is to go on.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.awaited == Awaited::Answer {
            self.turn.done.register(cx.waker());
            // It may have been done before that.
            self.catch_up();
            if self.awaited == Awaited::Answer {
                return Poll::Pending;
            }
        }
        let idle = self.awaited == Awaited::Request;
        // HTTP/2 is told by GOAWAY, and ends by itself.
        if idle && !self.last_call && !self.turn.is_http2() && self.turn.closing.load(Ordering::Relaxed) {
            self.last_call = true;
            self.wait_for(Awaited::Request);
        }
        std::task::ready!(self.until.poll_unpin(cx));
        if idle {
            // As if the client had closed, so that hyper ends in peace.
            return Poll::Ready(Ok(()));
        }
        metrics::CONNECTION_TIMEOUTS.with(&[("reason", "header")]).increment(1);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the head of a request did not come in time")))
    }

    /// Passes on what a write came to, unless it waits for too long.
    fn poll_stall<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            if self.stalled.take().is_some() {
                // Who waits for the end of the answer is the other half.
                cx.waker().wake_by_ref();
            }
            return outcome;
        }
        let until = self.stalled.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + STALL)));
        std::task::ready!(until.poll_unpin(cx));
        metrics::CONNECTION_TIMEOUTS.with(&[("reason", "write")]).increment(1);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.catch_up();
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buffer) {
            Poll::Ready(Ok(())) => {
                let bytes = &buffer.filled()[before..];
                if !bytes.is_empty() {
                    self.came(bytes);
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => self.poll_patience(cx),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.poll_stall(cx, outcome)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        self.poll_stall(cx, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.poll_stall(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.poll_stall(cx, outcome)
    }
}

/// A body came more slowly than `limits.body_rate` allows.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the body comes too slowly")]
pub struct TooSlow;

impl TooSlow {
    /// Whether this is what an error comes from.
    #[must_use]
    pub fn is_behind(error: &(dyn Error + 'static)) -> bool {
        let mut at = Some(error);
        while let Some(error) = at {
            if error.is::<Self>() {
                return true;
            }
            at = error.source();
        }
        false
    }
}

/// A body that has to come at a least rate, over the time that somebody waits for it.
#[derive(Debug)]
pub(crate) struct Paced<B> {
    body: B,
    /// Bytes a second; 0: any.
    rate: u64,
    received: u64,
    /// In all, before the present wait.
    waited: Duration,
    /// The present wait's begin, and the end of the patience with it.
    wait: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl<B> Paced<B> {
    pub(crate) fn new(body: B, rate: u64) -> Self {
        Self { body, rate, received: 0, waited: Duration::ZERO, wait: None }
    }

    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(earned) = (self.received * 1000).checked_div(self.rate) else { return Poll::Pending };
        let left = (BODY_GRACE + Duration::from_millis(earned)).saturating_sub(self.waited);
        let begin = || {
            let now = Instant::now();
            (now, Box::pin(sleep_until(now + left)))
        };
        self.wait.get_or_insert_with(begin).1.poll_unpin(cx)
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Paced<B>
where
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                if let Some((begun, _)) = self.wait.take() {
                    self.waited += begun.elapsed();
                }
                let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
                self.received += data.map_or(0, |bytes| bytes.len() as u64);
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending => self.poll_patience(cx).map(|()| {
                metrics::CONNECTION_TIMEOUTS.with(&[("reason", "body")]).increment(1);
                Some(Err(TooSlow.into()))
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body, which ends what is under way.
#[derive(Debug)]
pub(crate) struct Last<B> {
    pub(crate) body: B,
    pub(crate) _under_way: UnderWay,
}

impl<B: Body + Unpin> Body for Last<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
