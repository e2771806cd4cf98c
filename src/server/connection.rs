//! One connection, from its first byte to its last.

use std::{future::poll_fn, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderValue, Version, header},
    response::Response,
};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
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
    Drain, Peer, Refusal, Tls,
    timeouts::{Last, Paced, Timed, Turn},
};
use crate::{
    config::{Front, Limits},
    telemetry::metrics,
};

/// Longest time for a PROXY header, which a balancer sends at once.
const HEADER: Duration = Duration::from_secs(5);
/// Longest time for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A peer that has vanished without a word is noticed after this long and three tries more.
const KEEPALIVE: Duration = Duration::from_mins(1);
const KEEPALIVE_TRIES: (u32, Duration) = (3, Duration::from_secs(10));
/// Requests at a time on one connection of HTTP/2, as RFC 9113, 6.5.2 recommends at the least.
const STREAMS: u32 = 100;

/// What all connections of a listener go through.
pub(crate) struct Doorway {
    pub(crate) front: Front,
    pub(crate) limits: watch::Receiver<Limits>,
    pub(crate) tls: Option<Tls>,
    pub(crate) router: Router,
    pub(crate) drain: Drain,
    /// Cancelled when the time of the drain is over.
    pub(crate) cut: CancellationToken,
}

/// Serves a connection to its end, or to the end of the drain's time.
pub(crate) async fn serve(door: Arc<Doorway>, stream: TcpStream, address: SocketAddr) {
    tokio::select! {
        () = meet(&door, stream, address) => {}
        () = door.cut.cancelled() => {}
    }
}

async fn meet(door: &Doorway, mut stream: TcpStream, address: SocketAddr) {
    if let Err(error) = prepare(&stream) {
        tracing::debug!(%error, "a connection ended before it began");
        return;
    }
    let met = timeout(HEADER, Peer::meet(&mut stream, address, &door.front)).await;
    let met = met.unwrap_or(Err(Refusal::Late));
    let refused = |why: String| {
        tracing::debug!(%address, why, "a connection is not served");
        metrics::CONNECTIONS_REFUSED.with(&[("reason", why)]).increment(1);
    };
    match (met, &door.tls) {
        (Err(why), _) => refused(why.to_string()),
        (Ok(peer), None) => converse(door, stream, peer).await,
        (Ok(peer), Some(tls)) => match timeout(HANDSHAKE, tls.accept(stream)).await {
            Ok(Ok(stream)) => converse(door, stream, peer).await,
            Ok(Err(error)) => {
                tracing::debug!(%error, "no TLS");
                refused("tls".to_owned());
            }
            Err(_) => refused("late".to_owned()),
        },
    }
}

/// Answers are small and awaited; and a peer that is gone without a word must not hold its place for ever.
fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_TRIES.0)?;
    Ok(sockopt::set_tcp_keepintvl(stream, KEEPALIVE_TRIES.1)?)
}

async fn converse(door: &Doorway, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, peer: Peer) {
    let limits = door.limits.borrow().clone();
    let turn = Arc::new(Turn::default());
    let (router, draining, begun, rate) =
        (door.router.clone(), door.drain.draining.clone(), turn.clone(), limits.body_rate);
    let service = tower::service_fn(move |request: Request<Incoming>| {
        let under_way = Turn::begin(&begun);
        let mut request = request.map(|body| Body::new(Paced::new(body, rate)));
        request.extensions_mut().insert(peer.clone());
        let (router, draining, version) = (router.clone(), draining.clone(), request.version());
        async move {
            let mut response: Response = router.oneshot(request).await?;
            // A balancer sends on over connections that it has; this is how it learns not to. HTTP/2 has GOAWAY for that.
            if draining.is_cancelled() && version <= Version::HTTP_11 {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, std::convert::Infallible>(response.map(|body| Last { body, _under_way: under_way }))
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // The times are kept by `Timed`.
    builder.http1().header_read_timeout(None).max_buf_size(limits.head_bytes);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS);
    builder.http2().max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX));
    builder.http2().keep_alive_interval(KEEPALIVE).keep_alive_timeout(KEEPALIVE_TRIES.1);
    let stream = TokioIo::new(Timed::new(stream, turn.clone(), &limits));
    let mut connection = std::pin::pin!(builder.serve_connection(stream, TowerToHyperService::new(service)));
    let (mut draining, mut closing, mut told) = (false, false, false);
    loop {
        let poll = poll_fn(|cx| {
            let polled = connection.as_mut().poll(cx);
            if polled.is_pending() && draining && !told && turn.is_http2() {
                told = true;
                // Says GOAWAY; what is under way is finished.
                connection.as_mut().graceful_shutdown();
                return connection.as_mut().poll(cx);
            }
            polled
        });
        tokio::select! {
            outcome = poll => {
                if let Err(error) = outcome {
                    tracing::debug!(error, "a connection broke");
                }
                return;
            }
            () = door.drain.draining.cancelled(), if !draining => draining = true,
            () = door.drain.closing.cancelled(), if !closing => {
                (draining, closing) = (true, true);
                turn.close();
            }
        }
    }
}
