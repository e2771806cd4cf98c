//! Listeners: they identify the client of each connection, enforce connection timeouts, and drain within their deadline
//! whatever a client does.

mod body;
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
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use body::BodyTooSlow;
pub use client_address::{Peer, Refusal};
pub use connection::Drain;
pub use proxy_protocol::HeaderError;
pub use socket::{Socket, bind, inherited};
pub use tls::Tls;

use crate::{
    config::{Front, Limits},
    telemetry::metrics,
};
use connection::ConnectionContext;

/// The pause after a failed accept, e.g. without free file descriptors, where the next one would fail at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The shortest time between two log lines about refused connections.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Listener {
    pub socket: Socket,
    /// The proxies in front of the listener.
    pub front: Front,
    pub limits: watch::Receiver<Limits>,
    pub tls: Option<Tls>,
}

impl Listener {
    /// Serves a router until the drain has ended.
    pub async fn serve(self, router: Router, drain: Drain) {
        let Self { socket, front, limits, tls } = self;
        let abort = CancellationToken::new();
        let context = ConnectionContext { front, limits, tls, router, drain: drain.clone(), abort: abort.clone() };
        let mut connections = Connections { context: Arc::new(context), tasks: TaskTracker::new(), logged_at: None };
        loop {
            let accepted = tokio::select! {
                accepted = socket.listener.accept() => accepted,
                () = drain.closing.cancelled() => break,
            };
            match accepted {
                Ok((stream, address)) => connections.spawn(stream, address),
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        // An inherited socket stays open elsewhere: the next process accepts the connections in its backlog.
        if !socket.is_inherited {
            // Closing the socket would reset connections in the backlog, which are established for their clients.
            // accept(2) is called directly, because tokio tries it only after the kernel has reported an event.
            match socket.listener.into_std() {
                Ok(listener) => backlog(&listener).for_each(|(stream, address)| connections.spawn(stream, address)),
                Err(error) => tracing::warn!(%error, "failed to accept the connections of the backlog"),
            }
        }
        let tasks = connections.tasks;
        tasks.close();
        if timeout(drain.timeout, tasks.wait()).await.is_err() {
            let (connections, timeout) = (tasks.len(), drain.timeout);
            tracing::warn!(connections, ?timeout, "drain timeout: aborting connections with running requests");
            abort.cancel();
            tasks.wait().await;
        }
    }
}

/// The open connections of a listener.
struct Connections {
    context: Arc<ConnectionContext>,
    tasks: TaskTracker,
    /// When refused connections were last logged.
    logged_at: Option<Instant>,
}

impl Connections {
    fn spawn(&mut self, stream: TcpStream, address: SocketAddr) {
        let limit = self.context.limits.borrow().max_connections;
        if self.tasks.len() < limit {
            self.tasks.spawn(connection::serve(self.context.clone(), stream, address));
            return;
        }
        metrics::CONNECTIONS_REFUSED.with(&[("reason", "full")]).increment(1);
        if self.logged_at.is_none_or(|at| at.elapsed() > LOG_INTERVAL) {
            tracing::warn!(limit, "refusing connections: the limit of open connections is reached");
            self.logged_at = Some(Instant::now());
        }
    }
}

/// Accepts established connections as long as there are any.
fn backlog(listener: &TcpListener) -> impl Iterator<Item = (TcpStream, SocketAddr)> {
    std::iter::from_fn(|| {
        let (stream, address) = listener.accept().ok()?;
        stream.set_nonblocking(true).ok()?;
        Some((TcpStream::from_std(stream).ok()?, address))
    })
}
