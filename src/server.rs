//! Listeners: they ask who comes, take connections until the drain closes them, cut clients that keep the service waiting,
//! and end within their deadline whatever a client does.

mod client_address;
mod connection;
mod proxy_protocol;
mod socket;
mod timeouts;
mod tls;

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use axum::Router;
use tokio::{
    net::TcpStream,
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use client_address::{Peer, Refusal};
pub use proxy_protocol::HeaderError;
pub use socket::{Socket, bind, inherited};
pub use timeouts::TooSlow;
pub use tls::Tls;

use crate::{
    config::{Front, Limits},
    telemetry::metrics,
};
use connection::Doorway;

/// The pause after a failed accept, e.g. without file descriptors: it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often a full house is told of in the log.
const TELL_FULL: Duration = Duration::from_secs(10);

/// The two steps of a drain.
#[derive(Debug, Clone)]
pub struct Drain {
    /// The lame-duck time begins: requests are taken, and each answer asks the client to come back elsewhere.
    pub draining: CancellationToken,
    /// The listener closes; what is under way ends.
    pub closing: CancellationToken,
    /// Longest time for that.
    pub deadline: Duration,
}

/// A listener, and how it meets those who come.
#[derive(Debug)]
pub struct Listener {
    /// Where they come in.
    pub socket: Socket,
    /// What stands in front.
    pub front: Front,
    /// What it takes on, as of now.
    pub limits: watch::Receiver<Limits>,
    /// What it shows who it is with.
    pub tls: Option<Tls>,
}

impl Listener {
    /// Serves a router until the drain is over.
    pub async fn serve(self, router: Router, drain: Drain) {
        let Self { socket, front, limits, tls } = self;
        let connections = TaskTracker::new();
        // Cancelled when the time for what is under way is over.
        let cut = CancellationToken::new();
        let doorway = Arc::new(Doorway { front, limits, tls, router, drain: drain.clone(), cut: cut.clone() });
        let mut told_full: Option<Instant> = None;
        let mut take = |stream, address| {
            let most = doorway.limits.borrow().connections;
            if connections.len() < most {
                connections.spawn(connection::serve(doorway.clone(), stream, address));
                return;
            }
            metrics::CONNECTIONS_REFUSED.with(&[("reason", "full")]).increment(1);
            if told_full.is_none_or(|at| at.elapsed() > TELL_FULL) {
                tracing::warn!(most, "connections are closed at once: there are as many as limits.connections allows");
                told_full = Some(Instant::now());
            }
        };
        loop {
            let accepted = tokio::select! {
                accepted = socket.listener.accept() => accepted,
                () = drain.closing.cancelled() => break,
            };
            match accepted {
                Ok((stream, address)) => take(stream, address),
                Err(error) => {
                    tracing::warn!(%error, "a connection can't be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        if socket.is_inherited {
            drop(socket);
        } else {
            // Who is in the kernel's queue has been told that they are connected; closing would reset them. The kernel
            // itself is asked, for the runtime tries no socket of which it has not heard news yet.
            match socket.listener.into_std() {
                Ok(listener) => waiting(&listener).for_each(|(stream, address)| take(stream, address)),
                Err(error) => tracing::warn!(%error, "connections that were not taken yet are closed"),
            }
        }
        connections.close();
        if timeout(drain.deadline, connections.wait()).await.is_err() {
            tracing::warn!(connections = connections.len(), deadline = ?drain.deadline, "connections are cut: their requests took longer than the drain may");
            cut.cancel();
            connections.wait().await;
        }
    }
}

/// The connections that wait to be taken, as long as there are any.
fn waiting(listener: &TcpListener) -> impl Iterator<Item = (TcpStream, SocketAddr)> {
    std::iter::from_fn(|| {
        let (stream, address) = listener.accept().ok()?;
        stream.set_nonblocking(true).ok()?;
        Some((TcpStream::from_std(stream).ok()?, address))
    })
}
