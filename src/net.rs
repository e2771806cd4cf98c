//! Listeners: they ask who comes, take connections until the drain begins, and end within its deadline whatever a client does.

mod peer;
mod proxy;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::Request};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub use peer::{Peer, Refusal};
pub use proxy::HeaderError;

use crate::{config::Front, telemetry::metrics};

/// A connection without a request is kept for longer than the 350 s after which a Network Load Balancer forgets it:
/// who closes first makes the other's next request fail.
const IDLE: Duration = Duration::from_secs(400);
/// What one connection may hold of a request before its handler takes it, in bytes. Uploads stream through it.
const READ_BUFFER: usize = 64 * 1024;
/// Longest time for a PROXY header, which a balancer sends at once.
const HEADER: Duration = Duration::from_secs(5);
/// The pause after a failed accept, e.g. without file descriptors: it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Binds an address.
///
/// # Errors
/// Names the address, and says so when something else listens there.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            anyhow::anyhow!("{address} is taken: another program listens there; choose another port")
        }
        _ => anyhow::anyhow!("{address} can't be listened on: {error}"),
    })
}

/// Serves a router until `draining` is cancelled; then lets what is under way end, for `deadline` at most.
pub async fn serve(
    listener: TcpListener,
    front: Front,
    router: Router,
    draining: CancellationToken,
    deadline: Duration,
) {
    let front = Arc::new(front);
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = draining.cancelled() => break,
        };
        match accepted {
            Ok((stream, address)) => answer(stream, address, front.clone(), router.clone(), &graceful),
            Err(error) => {
                tracing::warn!(%error, "a connection can't be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(deadline, graceful.shutdown()).await.is_err() {
        tracing::warn!(?deadline, "requests that were still under way are cut");
    }
}

fn answer(mut stream: TcpStream, address: SocketAddr, front: Arc<Front>, router: Router, graceful: &GracefulShutdown) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection ended before it began");
        return;
    }
    let watcher = graceful.watcher();
    tokio::spawn(async move {
        let met = tokio::time::timeout(HEADER, Peer::meet(&mut stream, address, &front)).await;
        let peer = match met.unwrap_or(Err(Refusal::Late)) {
            Ok(peer) => peer,
            Err(why) => {
                metrics::CONNECTIONS_REFUSED.with(&[("reason", why.to_string())]).increment(1);
                tracing::debug!(%address, %why, "a connection is not served");
                return;
            }
        };
        let service = tower::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            router.clone().oneshot(request)
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE).max_buf_size(READ_BUFFER);
        builder.http2().timer(TokioTimer::new());
        let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        if let Err(error) = watcher.watch(connection.into_owned()).await {
            tracing::debug!(error, "a connection broke");
        }
    });
}
