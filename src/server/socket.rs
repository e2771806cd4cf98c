//! Listening sockets: bound here, or taken over from systemd, which keeps them while the service restarts.

use std::{io, net::SocketAddr};

use anyhow::Context;
use listenfd::ListenFd;
use rustix::io::{FdFlags, fcntl_setfd};
use tokio::net::TcpListener;

/// A listening socket.
#[derive(Debug)]
pub struct Socket {
    pub(crate) listener: TcpListener,
    /// Somebody else holds it too: who is in its queue is taken by the next process.
    pub(crate) is_inherited: bool,
}

impl Socket {
    /// Where it listens.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Binds an address.
///
/// # Errors
/// Names the address, and says so when something else listens there.
pub async fn bind(address: SocketAddr) -> anyhow::Result<Socket> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(Socket { listener, is_inherited: false }),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            anyhow::bail!("{address} is taken: another program listens there; choose another port")
        }
        Err(error) => anyhow::bail!("{address} can't be listened on: {error}"),
    }
}

/// The sockets that systemd hands over, in the order of the socket unit's `ListenStream=` lines; none without one.
/// See `sd_listen_fds(3)`.
///
/// # Errors
/// One of them is no TCP listener.
pub fn inherited() -> anyhow::Result<Vec<Socket>> {
    let mut given = ListenFd::from_env();
    let mut sockets = Vec::new();
    for nth in 0..given.len() {
        let wrong = || format!("socket {} of those that systemd hands over is no TCP listener", nth + 1);
        let listener = given.take_tcp_listener(nth).with_context(wrong)?.with_context(wrong)?;
        // It comes without the flag, and must not reach the processes that decode.
        fcntl_setfd(&listener, FdFlags::CLOEXEC)?;
        listener.set_nonblocking(true)?;
        sockets.push(Socket { listener: TcpListener::from_std(listener)?, is_inherited: true });
    }
    Ok(sockets)
}
