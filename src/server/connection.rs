//! One connection, from its first byte to its last.

use std::{
    convert::Infallible,
    future::poll_fn,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use axum::{
    BoxError, Router,
    body::Body,
    extract::Request,
    http::{HeaderValue, Version, header},
    response::Response,
};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulConnection},
    service::TowerToHyperService,
};
use rustix::net::sockopt;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::watch,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{
    body::MinRateBody,
    client_address::{Peer, Refusal},
    timeouts::{RequestState, TimeoutStream},
    tls::Tls,
};
use crate::{
    config::{Front, Limits},
    telemetry::metrics,
};

/// A load balancer sends the PROXY header at once.
const PROXY_HEADER_TIMEOUT: Duration = Duration::from_secs(5);
const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer that disappears silently is detected after the idle time and all probes.
const KEEPALIVE_IDLE: Duration = Duration::from_mins(1);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;
/// Concurrent requests on an HTTP/2 connection: the least that RFC 9113, 6.5.2 recommends.
const MAX_CONCURRENT_STREAMS: u32 = 100;

/// The two steps of a drain, and the time for the second.
#[derive(Debug, Clone)]
pub struct Drain {
    /// The shutdown delay begins: requests are accepted, and every response asks the client to close the connection.
    pub draining: CancellationToken,
    /// The listener closes, and running requests end.
    pub closing: CancellationToken,
    /// How long running requests may take before their connections are aborted.
    pub timeout: Duration,
}

/// What all connections of a listener share.
pub(crate) struct ConnectionContext {
    pub(crate) front: Front,
    pub(crate) limits: watch::Receiver<Limits>,
    pub(crate) tls: Option<Tls>,
    pub(crate) router: Router,
    pub(crate) drain: Drain,
    /// Cancelled when the drain has timed out.
    pub(crate) abort: CancellationToken,
}

/// Serves a connection until it ends or is aborted.
pub(crate) async fn serve(context: Arc<ConnectionContext>, stream: TcpStream, address: SocketAddr) {
    tokio::select! {
        () = accept(&context, stream, address) => {}
        () = context.abort.cancelled() => {}
    }
}

/// Reads the PROXY header and makes the TLS handshake, where configured, then serves HTTP.
async fn accept(context: &ConnectionContext, mut stream: TcpStream, address: SocketAddr) {
    if let Err(error) = set_socket_options(&stream) {
        tracing::debug!(%address, %error, "failed to set socket options");
        return;
    }
    let refuse = |reason: String| {
        tracing::debug!(%address, reason, "connection refused");
        metrics::CONNECTIONS_REFUSED.with(&[("reason", reason)]).increment(1);
    };
    let identify = Peer::identify(&mut stream, address, &context.front);
    let peer = match timeout(PROXY_HEADER_TIMEOUT, identify).await.unwrap_or(Err(Refusal::Timeout)) {
        Ok(peer) => peer,
        Err(refusal) => return refuse(refusal.to_string()),
    };
    let Some(tls) = &context.tls else { return serve_http(context, stream, peer).await };
    match timeout(TLS_HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => serve_http(context, stream, peer).await,
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "TLS handshake failed");
            refuse("tls".to_owned());
        }
        Err(_) => refuse(Refusal::Timeout.to_string()),
    }
}

/// Without Nagle's algorithm, as responses are small and awaited; with keepalive, as a peer that disappears silently
/// would occupy its connection for ever.
fn set_socket_options(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    Ok(sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?)
}

async fn serve_http(
    context: &ConnectionContext,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
) {
    let limits = context.limits.borrow().clone();
    let state = Arc::new(RequestState::default());
    let service = {
        let (router, draining) = (context.router.clone(), context.drain.draining.clone());
        let (state, min_rate) = (state.clone(), limits.min_body_bytes_per_second);
        tower::service_fn(move |request: Request<Incoming>| {
            let in_flight = state.start_request();
            let mut request = request.map(|body| Body::new(MinRateBody::new(body, min_rate)));
            request.extensions_mut().insert(peer.clone());
            let (router, draining, version) = (router.clone(), draining.clone(), request.version());
            async move {
                let mut response: Response = router.oneshot(request).await?;
                // A load balancer keeps using its open HTTP/1.1 connections until told not to. HTTP/2 has GOAWAY.
                if draining.is_cancelled() && version <= Version::HTTP_11 {
                    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                // The request is in flight until its response body is dropped.
                Ok::<_, Infallible>(response.map(|body| {
                    body.map_err(move |error| {
                        let _request = &in_flight;
                        error
                    })
                }))
            }
        })
    };
    let builder = http_builder(&limits);
    let stream = TokioIo::new(TimeoutStream::new(stream, state.clone(), &limits));
    let connection = pin!(builder.serve_connection(stream, TowerToHyperService::new(service)));
    drive(connection, &state, &context.drain).await;
}

/// Polls a connection to its end; in a drain, asks the client to close it.
async fn drive<C: GracefulConnection<Error = BoxError>>(
    mut connection: Pin<&mut C>,
    state: &RequestState,
    drain: &Drain,
) {
    let (mut is_draining, mut is_closing, mut sent_goaway) = (false, false, false);
    loop {
        let poll = poll_fn(|cx| {
            let polled = connection.as_mut().poll(cx);
            if polled.is_pending() && is_draining && !sent_goaway && state.is_http2() {
                sent_goaway = true;
                connection.as_mut().graceful_shutdown();
                return connection.as_mut().poll(cx);
            }
            polled
        });
        tokio::select! {
            result = poll => {
                if let Err(error) = result {
                    tracing::debug!(error, "connection failed");
                }
                return;
            }
            () = drain.draining.cancelled(), if !is_draining => is_draining = true,
            () = drain.closing.cancelled(), if !is_closing => {
                (is_draining, is_closing) = (true, true);
                state.close_when_idle();
            }
        }
    }
}

fn http_builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // `TimeoutStream` has the timeouts of HTTP/1.1.
    builder.http1().header_read_timeout(None).max_buf_size(limits.max_header_bytes);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(MAX_CONCURRENT_STREAMS);
    builder.http2().max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX));
    builder.http2().keep_alive_interval(KEEPALIVE_IDLE).keep_alive_timeout(KEEPALIVE_INTERVAL);
    builder
}
