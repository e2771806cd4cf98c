//! Who is on the other side of a connection, and who on the other side of a request.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;

use crate::config::{Forwarded, Front, Proxy};

use super::proxy_protocol::{self, HeaderError};

/// The other side of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address: by the PROXY header, where one is believed.
    pub address: SocketAddr,
    trusted_hops: usize,
    forwarded: Forwarded,
}

impl Peer {
    /// Meets the other side of a new connection: reads its PROXY header, if it has to send one.
    ///
    /// # Errors
    /// The reason for which the connection is not served, a word.
    pub async fn meet(
        stream: &mut (impl tokio::io::AsyncRead + Unpin),
        address: SocketAddr,
        front: &Front,
    ) -> Result<Self, Refusal> {
        let mut peer = Self::at(address, front);
        let speaks_for_others = match &front.proxy {
            Proxy::Off => false,
            Proxy::Required => true,
            Proxy::From(networks) => networks.iter().any(|network| network.contains(&address.ip().to_canonical())),
        };
        if !speaks_for_others {
            return Ok(peer);
        }
        let told = proxy_protocol::read(stream).await?;
        // A health check comes through no endpoint, and is the balancer's own.
        let allowed = told.client.is_none()
            || front.vpc_endpoints.is_empty()
            || told.vpc_endpoint.as_ref().is_some_and(|id| front.vpc_endpoints.contains(id));
        if !allowed {
            return Err(Refusal::VpcEndpoint);
        }
        peer.address = told.client.unwrap_or(address);
        Ok(peer)
    }

    /// The other side by an address that is known already.
    #[must_use]
    pub fn at(address: SocketAddr, front: &Front) -> Self {
        Self { address, trusted_hops: front.trusted_hops, forwarded: front.forwarded }
    }

    /// Who made a request: the last address that a trusted proxy has added, else the peer. What a client wrote itself
    /// stands further left than the trusted proxies reach.
    #[must_use]
    pub fn client(&self, headers: &HeaderMap) -> IpAddr {
        let direct = self.address.ip().to_canonical();
        let Some(nth) = self.trusted_hops.checked_sub(1) else { return direct };
        let chain = match self.forwarded {
            Forwarded::Forwarded => chain(headers, "forwarded", forwarded_for),
            Forwarded::XForwardedFor => chain(headers, "x-forwarded-for", |part| Some(part.to_owned())),
        };
        // What none of them can have written is believed of none.
        chain.into_iter().rev().nth(nth).and_then(|text| address(&text)).unwrap_or(direct)
    }
}

/// Why a connection is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its PROXY header is none.
    #[error("{0}")]
    Header(#[from] HeaderError),
    /// It came through an endpoint that is not allowed, or through none.
    #[error("vpc_endpoint")]
    VpcEndpoint,
    /// Its PROXY header did not come in time.
    #[error("late")]
    Late,
}

/// All parts of a header that may be given several times, each a list with commas.
fn chain(headers: &HeaderMap, name: &str, read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    // A line that is no text still has the places of its parts.
    let lines = headers.get_all(name).into_iter().map(|line| String::from_utf8_lossy(line.as_bytes()));
    let parts = |line: &str| line.split(',').map(|part| read(part.trim()).unwrap_or_default()).collect::<Vec<_>>();
    lines.flat_map(|line| parts(&line)).collect()
}

/// The `for` of one element of `Forwarded`, RFC 7239.
fn forwarded_for(element: &str) -> Option<String> {
    element.split(';').find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        name.eq_ignore_ascii_case("for").then(|| value.trim_matches('"').to_owned())
    })
}

/// An address with or without a port; IPv6 with brackets or without.
fn address(text: &str) -> Option<IpAddr> {
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
        peer.client(&headers).to_string()
    }

    #[test]
    fn a_client_is_who_the_last_trusted_hop_says_and_never_who_it_says_itself() {
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
            // The proxies write the other one.
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
        /// Whatever a client and the proxies write: the answer is the peer, or an address that stands in the header at the
        /// trusted place.
        #[test]
        fn no_header_makes_a_client_of_what_does_not_stand_in_it(
            hops in 0_usize..4,
            name in proptest::sample::select(vec!["forwarded", "x-forwarded-for"]),
            text in "([ ,;=\"\\[\\]:.0-9a-f]|for=|by=|198\\.51\\.100\\.7|2001:db8::7){0,12}",
        ) {
            let told = client(hops, &[(name, &text)]);
            let address: IpAddr = told.parse().unwrap();
            let parts: Vec<&str> = text.split(',').collect();
            let trusted = hops.checked_sub(1).and_then(|nth| parts.iter().rev().nth(nth));
            let stands = trusted.is_some_and(|part| {
                part.split(|c: char| !c.is_ascii_hexdigit() && c != ':' && c != '.').any(|word| {
                    let bare = word.rsplit_once(':').map_or(word, |(bare, _)| bare);
                    [word, bare].iter().any(|w| w.parse().is_ok_and(|ip: IpAddr| ip.to_canonical() == address))
                })
            });
            proptest::prop_assert!(told == "10.0.0.9" || stands, "{hops} hops: {text} -> {told}");
        }
    }
}
