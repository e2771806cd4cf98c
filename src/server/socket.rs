//! Listening sockets: bound here, or inherited from systemd, which keeps them open while the service restarts.

use std::{io, net::SocketAddr};

use anyhow::Context;
use listenfd::ListenFd;
use rustix::io::{FdFlags, fcntl_setfd};
use tokio::net::TcpListener;

#[derive(Debug)]
pub struct Socket {
    pub(crate) listener: TcpListener,
    /// Whether systemd holds it too.
    pub(crate) is_inherited: bool,
}

impl Socket {
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

pub async fn bind(address: SocketAddr) -> anyhow::Result<Socket> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(Socket { listener, is_inherited: false }),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            anyhow::bail!("{address} is already in use by another program: choose another port")
        }
        Err(error) => anyhow::bail!("failed to listen on {address}: {error}"),
    }
}

/// The sockets that systemd passes, in the order of the `ListenStream=` lines of the socket unit; see
/// `sd_listen_fds(3)`.
pub fn inherited() -> anyhow::Result<Vec<Socket>> {
    let mut passed = ListenFd::from_env();
    let mut sockets = Vec::new();
    for index in 0..passed.len() {
        let wrong = || format!("socket {} passed by systemd is not a TCP listener", index + 1);
        let listener = passed.take_tcp_listener(index).with_context(wrong)?.with_context(wrong)?;
        // It is passed without the flag, and must not reach the decoder processes.
        fcntl_setfd(&listener, FdFlags::CLOEXEC)?;
        listener.set_nonblocking(true)?;
        sockets.push(Socket { listener: TcpListener::from_std(listener)?, is_inherited: true });
    }
    Ok(sockets)
}
