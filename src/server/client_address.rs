//! The client addresses of connections (PROXY protocol) and of requests (`X-Forwarded-For`, `Forwarded`).

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;

use crate::config::{Forwarded, Front, Proxy};

use super::proxy_protocol::{self, HeaderError};

/// The remote end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// From the PROXY header, where one is trusted.
    pub address: SocketAddr,
    trusted_hops: usize,
    forwarded: Forwarded,
}

impl Peer {
    /// Reads the PROXY header of a new connection, if `front` requires one from this address.
    pub async fn identify(
        stream: &mut (impl tokio::io::AsyncRead + Unpin),
        address: SocketAddr,
        front: &Front,
    ) -> Result<Self, Refusal> {
        let mut peer = Self::new(address, front);
        let sends_header = match &front.proxy {
            Proxy::Off => false,
            Proxy::Required => true,
            Proxy::From(networks) => networks.iter().any(|network| network.contains(&address.ip().to_canonical())),
        };
        if !sends_header {
            return Ok(peer);
        }
        let header = proxy_protocol::read(stream).await?;
        // The load balancer's own health checks come through no endpoint.
        let is_allowed = header.client.is_none()
            || front.vpc_endpoints.is_empty()
            || header.vpc_endpoint.as_ref().is_some_and(|id| front.vpc_endpoints.contains(id));
        if !is_allowed {
            return Err(Refusal::VpcEndpoint);
        }
        peer.address = header.client.unwrap_or(address);
        Ok(peer)
    }

    /// A peer whose address is known already.
    pub fn new(address: SocketAddr, front: &Front) -> Self {
        Self { address, trusted_hops: front.trusted_hops, forwarded: front.forwarded }
    }

    /// The client of a request: the address that the outermost trusted proxy has added, else the peer's own. What a
    /// client wrote itself is further left than the trusted proxies reach.
    pub fn client_ip(&self, headers: &HeaderMap) -> IpAddr {
        let own = self.address.ip().to_canonical();
        let Some(nth) = self.trusted_hops.checked_sub(1) else { return own };
        let chain = match self.forwarded {
            Forwarded::Forwarded => elements(headers, "forwarded", forwarded_for),
            Forwarded::XForwardedFor => elements(headers, "x-forwarded-for", |element| Some(element.to_owned())),
        };
        chain.into_iter().rev().nth(nth).and_then(|text| parse_address(&text)).unwrap_or(own)
    }
}

/// Why a connection is refused. The text is the `reason` in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{0}")]
    Header(#[from] HeaderError),
    /// It came through a VPC endpoint that is not allowed, or through none.
    #[error("vpc_endpoint")]
    VpcEndpoint,
    /// The PROXY header or the TLS handshake timed out.
    #[error("late")]
    Timeout,
}

/// The elements of a header that may be repeated, each a comma-separated list; empty where `read` returns none.
fn elements(headers: &HeaderMap, name: &str, read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    // Invalid UTF-8 must not change the positions of the elements.
    let lines = headers.get_all(name).into_iter().map(|line| String::from_utf8_lossy(line.as_bytes()));
    let split =
        |line: &str| line.split(',').map(|element| read(element.trim()).unwrap_or_default()).collect::<Vec<_>>();
    lines.flat_map(|line| split(&line)).collect()
}

/// The `for` parameter of one `Forwarded` element, RFC 7239.
fn forwarded_for(element: &str) -> Option<String> {
    element.split(';').find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        name.eq_ignore_ascii_case("for").then(|| value.trim_matches('"').to_owned())
    })
}

/// An address with or without a port, IPv6 with or without brackets.
fn parse_address(text: &str) -> Option<IpAddr> {
    let bare = text.parse().ok().or_else(|| text.parse().ok().map(|with_port: SocketAddr| with_port.ip()));
    let bare = bare.or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok());
    bare.map(|ip: IpAddr| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(hops: usize, lines: &[(&'static str, &str)]) -> String {
        let forwarded = if lines.iter().all(|(name, _)| *name == "forwarded") {
            Forwarded::Forwarded
        } else {
            Forwarded::default()
        };
        let peer = Peer { address: "10.0.0.9:4000".parse().unwrap(), trusted_hops: hops, forwarded };
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, axum::http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        peer.client_ip(&headers).to_string()
    }

    #[test]
    fn trusts_only_configured_hops() {
        let spoofed = ("x-forwarded-for", "1.1.1.1, 198.51.100.7, 10.0.0.3");
        for (hops, lines, expected) in [
            (0, &[spoofed][..], "10.0.0.9"),
            (1, &[spoofed], "10.0.0.3"),
            (2, &[spoofed], "198.51.100.7"),
            (2, &[("x-forwarded-for", "1.1.1.1, 198.51.100.7"), ("x-forwarded-for", "10.0.0.3")], "198.51.100.7"),
            (9, &[spoofed], "10.0.0.9"),
            (1, &[], "10.0.0.9"),
            (1, &[("x-forwarded-for", "somebody")], "10.0.0.9"),
            (1, &[("forwarded", "for=198.51.100.7;proto=https, FOR=\"[2001:db8::7]:4711\"")], "2001:db8::7"),
            (2, &[("forwarded", "for=198.51.100.7;proto=https, for=\"[2001:db8::7]:4711\"")], "198.51.100.7"),
            (1, &[("forwarded", "by=10.0.0.1")], "10.0.0.9"),
            // The configured header is `x-forwarded-for`.
            (1, &[("forwarded", "for=1.1.1.1"), spoofed], "10.0.0.3"),
            (1, &[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "\u{fc}, 198.51.100.7")], "198.51.100.7"),
            (1, &[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "\u{fc}")], "10.0.0.9"),
            (1, &[("x-forwarded-for", "::ffff:198.51.100.7")], "198.51.100.7"),
            (1, &[("x-forwarded-for", "198.51.100.7:1234")], "198.51.100.7"),
        ] {
            assert_eq!(client(hops, lines), expected, "{hops} hops: {lines:?}");
        }
    }

    proptest::proptest! {
        /// For any header the result is the peer's address, or one that the header has at the trusted position.
        #[test]
        fn returns_peer_or_trusted_element(
            hops in 0_usize..4,
            name in proptest::sample::select(vec!["forwarded", "x-forwarded-for"]),
            text in "([ ,;=\"\\[\\]:.0-9a-f]|for=|by=|198\\.51\\.100\\.7|2001:db8::7){0,12}",
        ) {
            let result = client(hops, &[(name, &text)]);
            let address: IpAddr = result.parse().unwrap();
            let parts: Vec<&str> = text.split(',').collect();
            let trusted = hops.checked_sub(1).and_then(|nth| parts.iter().rev().nth(nth));
            let is_listed = trusted.is_some_and(|part| {
                part.split(|c: char| !c.is_ascii_hexdigit() && c != ':' && c != '.').any(|word| {
                    let bare = word.rsplit_once(':').map_or(word, |(bare, _)| bare);
                    [word, bare].iter().any(|w| w.parse().is_ok_and(|ip: IpAddr| ip.to_canonical() == address))
                })
            });
            proptest::prop_assert!(result == "10.0.0.9" || is_listed, "{hops} hops: {text} -> {result}");
        }
    }
}
