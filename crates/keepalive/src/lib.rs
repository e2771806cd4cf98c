//! TCP keepalive for sockets that a library opened and does not lend.
//!
//! sqlx opens its own sockets and offers neither a socket option nor access to the descriptor. The sockets are
//! therefore found in `/proc/self/fd` by the port of their peer. Linux only.

use rustix::net::{AddressFamily, SocketAddrAny, getpeername, sockopt};
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// When an unreachable peer is noticed; see tcp(7).
#[derive(Clone, Copy, Debug)]
pub struct Keepalive {
    /// Idle time before the first probe (`TCP_KEEPIDLE`); whole seconds.
    pub idle: Duration,
    /// Time between probes (`TCP_KEEPINTVL`); whole seconds.
    pub interval: Duration,
    /// Unanswered probes before the connection is closed (`TCP_KEEPCNT`).
    pub probes: u32,
    /// How long sent data may stay unacknowledged, which keepalive does not cover (`TCP_USER_TIMEOUT`); whole
    /// milliseconds.
    pub user_timeout: Duration,
}

impl Keepalive {
    /// Switches keepalive on for each connection of this process to `port` that does not have it yet.
    ///
    /// # Errors
    /// `/proc/self/fd` can't be read. A socket that was closed in the meantime is no error.
    pub fn enable_for_port(&self, port: u16) -> io::Result<()> {
        for entry in std::fs::read_dir("/proc/self/fd")? {
            let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            #[expect(unsafe_code, reason = "a descriptor by its number")]
            // SAFETY: the number may have been closed, or given to another file, since it was listed. Then the calls
            // below fail, or see a socket with another peer, or at worst switch keepalive on for one that was just
            // opened: none reads, writes or closes it.
            let socket = unsafe { BorrowedFd::borrow_raw(number) };
            if getpeername(socket).ok().flatten().and_then(|peer| tcp_port(&peer)) == Some(port) {
                // Fails only for a socket that was closed in the meantime.
                let _closed = self.enable(socket);
            }
        }
        Ok(())
    }

    fn enable(&self, socket: BorrowedFd<'_>) -> rustix::io::Result<()> {
        if sockopt::socket_keepalive(socket)? {
            return Ok(());
        }
        let user_timeout = u32::try_from(self.user_timeout.as_millis()).unwrap_or(u32::MAX);
        sockopt::set_tcp_keepidle(socket, self.idle)?;
        sockopt::set_tcp_keepintvl(socket, self.interval)?;
        sockopt::set_tcp_keepcnt(socket, self.probes)?;
        sockopt::set_tcp_user_timeout(socket, user_timeout)?;
        sockopt::set_socket_keepalive(socket, true)
    }
}

fn tcp_port(peer: &SocketAddrAny) -> Option<u16> {
    let is_ip = matches!(peer.address_family(), AddressFamily::INET | AddressFamily::INET6);
    is_ip.then(|| SocketAddr::try_from(peer.clone()).ok()).flatten().map(|address| address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    const KEEPALIVE: Keepalive = Keepalive {
        idle: Duration::from_secs(5),
        interval: Duration::from_secs(3),
        probes: 4,
        user_timeout: Duration::from_secs(14),
    };

    #[test]
    fn changes_connections_to_the_port_only() {
        let server = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let other = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = server.local_addr().expect("an address").port();
        let near = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        let far = TcpStream::connect(other.local_addr().expect("an address")).expect("a connection");
        KEEPALIVE.enable_for_port(port).expect("/proc");
        assert!(sockopt::socket_keepalive(&near).expect("an option"));
        assert_eq!(sockopt::tcp_keepidle(&near).expect("an option"), KEEPALIVE.idle);
        assert_eq!(sockopt::tcp_keepintvl(&near).expect("an option"), KEEPALIVE.interval);
        assert_eq!(sockopt::tcp_keepcnt(&near).expect("an option"), KEEPALIVE.probes);
        assert_eq!(sockopt::tcp_user_timeout(&near).expect("an option"), 14_000);
        assert!(!sockopt::socket_keepalive(&far).expect("an option"));
    }
}
