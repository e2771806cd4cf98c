//! Connection timeouts.
//!
//! hyper has one timeout for the head of a request, which also covers the idle time between requests. A load balancer
//! needs a long idle timeout, and a slow-header attack (Slowloris) must not get one. So the timeouts are enforced here,
//! below hyper, by a stream that knows when a request starts and when its response has been written.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{FutureExt, task::AtomicWaker};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use crate::{config::Limits, telemetry::metrics};

/// A client that accepts no byte of a response for this long is gone or malicious.
const WRITE_TIMEOUT: Duration = Duration::from_mins(1);
/// How long a connection that is to close waits for a request that may already be on its way: closing would make it
/// fail.
const CLOSE_GRACE: Duration = Duration::from_millis(100);
/// The connection preface of HTTP/2, RFC 9113, 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The requests of one connection, shared by its stream and its service.
#[derive(Debug, Default)]
pub(crate) struct RequestState {
    in_flight: AtomicUsize,
    /// Requests since the connection was opened.
    started: AtomicU64,
    is_http2: AtomicBool,
    is_closing: AtomicBool,
    /// Wakes the stream when no request is in flight any more; hyper would not poll it.
    idle: AtomicWaker,
}

/// A request from its head to the end of its response body.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<RequestState>);

impl RequestState {
    pub(crate) fn start_request(self: &Arc<Self>) -> InFlight {
        self.started.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self.clone())
    }

    pub(crate) fn is_http2(&self) -> bool {
        self.is_http2.load(Ordering::Relaxed)
    }

    /// Closes the connection once no request is in flight and none arrives within [`CLOSE_GRACE`]. The caller polls the
    /// connection next.
    pub(crate) fn close_when_idle(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.0.idle.wake();
    }
}

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The next request.
    Idle,
    /// The rest of a request's head.
    Head,
    /// Responses; lasts until a read finds otherwise.
    Response,
}

/// A stream that enforces the timeouts of its connection.
#[derive(Debug)]
pub(crate) struct TimeoutStream<S> {
    stream: S,
    state: Arc<RequestState>,
    idle_timeout: Duration,
    header_timeout: Duration,
    phase: Phase,
    /// The grace period of a connection that is to close has begun.
    is_last_wait: bool,
    /// `RequestState::started` at the last update.
    seen: u64,
    /// How many bytes of the HTTP/2 preface have arrived; none once the connection has sent something else.
    preface: Option<usize>,
    /// When the present phase times out.
    read_timeout: Pin<Box<Sleep>>,
    /// When the pending write times out.
    write_timeout: Option<Pin<Box<Sleep>>>,
}

impl<S> TimeoutStream<S> {
    pub(crate) fn new(stream: S, state: Arc<RequestState>, limits: &Limits) -> Self {
        Self {
            stream,
            state,
            idle_timeout: limits.idle_timeout,
            header_timeout: limits.header_timeout,
            phase: Phase::Idle,
            is_last_wait: false,
            seen: 0,
            preface: Some(0),
            read_timeout: Box::pin(sleep_until(Instant::now() + limits.idle_timeout)),
            write_timeout: None,
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        let timeout = match phase {
            Phase::Idle if self.is_last_wait => CLOSE_GRACE.min(self.idle_timeout),
            Phase::Idle => self.idle_timeout,
            Phase::Head => self.header_timeout,
            Phase::Response => return,
        };
        self.read_timeout.as_mut().reset(Instant::now() + timeout);
    }

    /// Takes note of requests that have started and ended since the last call.
    fn update_phase(&mut self) {
        let started = self.state.started.load(Ordering::Relaxed);
        if started != self.seen {
            self.seen = started;
            self.phase = Phase::Response;
        }
        // hyper drops the body before the last bytes are written, so a response ends with the pending write.
        let is_idle = self.state.in_flight.load(Ordering::Relaxed) == 0 && self.write_timeout.is_none();
        if self.phase == Phase::Response && is_idle {
            self.enter(Phase::Idle);
        }
    }

    fn received(&mut self, bytes: &[u8]) {
        // HTTP/2 frames between requests, such as PING and WINDOW_UPDATE, don't extend the timeout.
        if self.state.is_http2() {
            return;
        }
        if self.phase == Phase::Idle {
            self.enter(Phase::Head);
        }
        let Some(known) = self.preface else { return };
        let expected = &PREFACE[known..];
        let length = bytes.len().min(expected.len());
        self.preface = (bytes[..length] == expected[..length]).then_some(known + length);
        if self.preface == Some(PREFACE.len()) {
            self.state.is_http2.store(true, Ordering::Relaxed);
            self.enter(Phase::Idle);
        }
    }

    /// Called when a read is pending.
    fn poll_read_timeout(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.phase == Phase::Response {
            self.state.idle.register(cx.waker());
            // The last request may have ended before the waker was registered.
            self.update_phase();
            if self.phase == Phase::Response {
                return Poll::Pending;
            }
        }
        let is_idle = self.phase == Phase::Idle;
        // HTTP/2 connections close by GOAWAY.
        let is_closing = self.state.is_closing.load(Ordering::Relaxed) && !self.state.is_http2();
        if is_idle && is_closing && !self.is_last_wait {
            self.is_last_wait = true;
            self.enter(Phase::Idle);
        }
        ready!(self.read_timeout.poll_unpin(cx));
        if is_idle {
            // A clean EOF, as if the client had closed the connection.
            return Poll::Ready(Ok(()));
        }
        metrics::CONNECTION_TIMEOUTS.with(&[("reason", "header")]).increment(1);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "timed out reading the head of a request")))
    }

    fn poll_write_timeout<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            if self.write_timeout.take().is_some() {
                // The pending read waits for the end of the response.
                cx.waker().wake_by_ref();
            }
            return result;
        }
        let timeout = || Box::pin(sleep_until(Instant::now() + WRITE_TIMEOUT));
        ready!(self.write_timeout.get_or_insert_with(timeout).poll_unpin(cx));
        metrics::CONNECTION_TIMEOUTS.with(&[("reason", "write")]).increment(1);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "timed out writing a response")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TimeoutStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.update_phase();
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buffer);
        match &result {
            Poll::Ready(Ok(())) if buffer.filled().len() > before => self.received(&buffer.filled()[before..]),
            Poll::Ready(_) => {}
            Poll::Pending => return self.poll_read_timeout(cx),
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TimeoutStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.poll_write_timeout(cx, result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.poll_write_timeout(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.poll_write_timeout(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.poll_write_timeout(cx, result)
    }
}
