//! PROXY protocol version 2: a binary header with the client's address, which a load balancer sends first on a
//! connection.
//!
//! Specification: <https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>, and for the VPC endpoint that a
//! Network Load Balancer adds
//! <https://docs.aws.amazon.com/elasticloadbalancing/latest/network/edit-target-group-attributes.html>. Headers are
//! read only from peers that the configuration trusts.
//!
//! A parser of our own, because the crates accept version 1 as well and are not stable yet; this one is strict, limits
//! the length, verifies the checksum, and is property-tested.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Length of signature, version and command, family, and length.
const FIXED: usize = 16;
/// Maximum length of what follows, in bytes. The specification allows 65535; load balancers send a few hundred.
const MAX_LENGTH: usize = 4096;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;
const TYPE_CRC32C: u8 = 0x03;
/// The type of AWS, and its subtype for the id of the VPC endpoint.
const TYPE_AWS: u8 = 0xEA;
const AWS_VPC_ENDPOINT: u8 = 0x01;

/// The parsed header.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProxyHeader {
    /// None for a health check of the load balancer, and for a client without an IP address.
    pub client: Option<SocketAddr>,
    /// For example `vpce-08d2bf15fac5001c9`.
    pub vpc_endpoint: Option<String>,
}

/// Why a header is refused. The text is the `reason` in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The connection starts with something else.
    #[error("missing")]
    Missing,
    /// Longer than [`MAX_LENGTH`].
    #[error("oversize")]
    Oversize,
    #[error("malformed")]
    Malformed,
    #[error("checksum")]
    Checksum,
    /// The connection ended within the header.
    #[error("cut")]
    Truncated,
}

/// Reads the header and not a byte more. Fails as soon as the bytes can't be a header.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<ProxyHeader, HeaderError> {
    let mut header = vec![0; FIXED];
    let mut filled = 0;
    while filled < FIXED {
        let count = stream.read(&mut header[filled..]).await.map_err(|_| HeaderError::Truncated)?;
        if count == 0 {
            return Err(if filled == 0 { HeaderError::Missing } else { HeaderError::Truncated });
        }
        filled += count;
        let known = filled.min(SIGNATURE.len());
        if header[..known] != SIGNATURE[..known] {
            return Err(HeaderError::Missing);
        }
    }
    let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
    if length > MAX_LENGTH {
        return Err(HeaderError::Oversize);
    }
    header.resize(FIXED + length, 0);
    stream.read_exact(&mut header[FIXED..]).await.map_err(|_| HeaderError::Truncated)?;
    parse(&header)
}

/// Parses a header, of which all bytes must be present and none may follow.
pub fn parse(header: &[u8]) -> Result<ProxyHeader, HeaderError> {
    let (fixed, rest) = header.split_first_chunk::<FIXED>().ok_or(HeaderError::Malformed)?;
    if fixed[..12] != SIGNATURE {
        return Err(HeaderError::Missing);
    }
    if usize::from(u16::from_be_bytes([fixed[14], fixed[15]])) != rest.len() {
        return Err(HeaderError::Malformed);
    }
    let is_local = match fixed[12] {
        0x20 => true,
        0x21 => false,
        _ => return Err(HeaderError::Malformed),
    };
    let (client, values) = source_address(fixed[13], rest)?;
    let vpc_endpoint = parse_values(header, values)?;
    // A LOCAL command may carry addresses, which must be ignored.
    Ok(ProxyHeader { client: client.filter(|_| !is_local), vpc_endpoint })
}

/// The source address, and the bytes after the addresses.
fn source_address(family: u8, rest: &[u8]) -> Result<(Option<SocketAddr>, &[u8]), HeaderError> {
    let port = |bytes: &[u8]| u16::from_be_bytes([bytes[0], bytes[1]]);
    match family {
        TCP_OVER_IPV4 => {
            let (block, values) = rest.split_at_checked(12).ok_or(HeaderError::Malformed)?;
            let ip = Ipv4Addr::from_octets(block[..4].try_into().map_err(|_| HeaderError::Malformed)?);
            Ok((Some((ip, port(&block[8..10])).into()), values))
        }
        TCP_OVER_IPV6 => {
            let (block, values) = rest.split_at_checked(36).ok_or(HeaderError::Malformed)?;
            let ip = Ipv6Addr::from_octets(block[..16].try_into().map_err(|_| HeaderError::Malformed)?);
            Ok((Some((ip, port(&block[32..34])).into()), values))
        }
        // Unspecified: the rest must be skipped.
        0x00..=0x0F => Ok((None, &[])),
        // UDP and Unix sockets can't reach a TCP listener.
        _ => Err(HeaderError::Malformed),
    }
}

/// Validates the type-length-value triples and returns the VPC endpoint, if there is one.
fn parse_values(header: &[u8], mut values: &[u8]) -> Result<Option<String>, HeaderError> {
    let mut endpoint = None;
    while let Some((head, rest)) = values.split_first_chunk::<3>() {
        let length = usize::from(u16::from_be_bytes([head[1], head[2]]));
        let (value, rest) = rest.split_at_checked(length).ok_or(HeaderError::Malformed)?;
        match (head[0], value) {
            (TYPE_CRC32C, sum) => {
                let sum: [u8; 4] = sum.try_into().map_err(|_| HeaderError::Malformed)?;
                // Computed with zeros in place of the checksum itself.
                let at = header.len() - rest.len() - sum.len();
                let mut zeroed = header.to_vec();
                zeroed[at..at + sum.len()].fill(0);
                if crc32c::crc32c(&zeroed) != u32::from_be_bytes(sum) {
                    return Err(HeaderError::Checksum);
                }
            }
            (TYPE_AWS, [AWS_VPC_ENDPOINT, id @ ..]) => {
                let id = str::from_utf8(id).map_err(|_| HeaderError::Malformed)?;
                let is_plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
                endpoint = Some(is_plain.then(|| id.to_owned()).ok_or(HeaderError::Malformed)?);
            }
            _ => {}
        }
        values = rest;
    }
    if values.is_empty() { Ok(endpoint) } else { Err(HeaderError::Malformed) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn header(command: u8, family: u8, rest: &[&[u8]]) -> Vec<u8> {
        let rest = rest.concat();
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, &rest].concat()
    }

    fn value(kind: u8, bytes: &[u8]) -> Vec<u8> {
        [&[kind][..], &u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
    }

    fn with_checksum(mut header: Vec<u8>) -> Vec<u8> {
        header.extend(value(TYPE_CRC32C, &[0; 4]));
        let length = u16::try_from(header.len() - FIXED).unwrap().to_be_bytes();
        header[14..16].copy_from_slice(&length);
        let (at, sum) = (header.len() - 4, crc32c::crc32c(&header));
        header[at..].copy_from_slice(&sum.to_be_bytes());
        header
    }

    const V4: [u8; 12] = [203, 0, 113, 7, 10, 0, 0, 1, 0xC0, 0x01, 0x1F, 0x90];

    fn v6() -> Vec<u8> {
        let (from, to) = ("2001:db8::7".parse::<Ipv6Addr>().unwrap(), Ipv6Addr::LOCALHOST);
        [&from.octets()[..], &to.octets(), &[0xC0, 0x01, 0x1F, 0x90]].concat()
    }

    fn endpoint(id: &str) -> Vec<u8> {
        value(TYPE_AWS, &[&[AWS_VPC_ENDPOINT], id.as_bytes()].concat())
    }

    #[test]
    fn parses_each_kind_of_header() {
        let client = |text: &str| Some(text.parse().unwrap());
        let id = "vpce-08d2bf15fac5001c9";
        for (what, bytes, expected) in [
            ("TCP over IPv4", header(0x21, 0x11, &[&V4]), (client("203.0.113.7:49153"), None)),
            ("TCP over IPv6", header(0x21, 0x21, &[&v6()]), (client("[2001:db8::7]:49153"), None)),
            ("a health check", header(0x20, 0x00, &[]), (None, None)),
            ("a health check with addresses", header(0x20, 0x11, &[&V4]), (None, None)),
            ("unspecified", header(0x21, 0x00, &[]), (None, None)),
            ("unspecified with bytes to skip", header(0x21, 0x00, &[&[1, 2, 3]]), (None, None)),
            (
                "unknown values",
                header(0x21, 0x11, &[&V4, &value(0xE5, b"?"), &value(0x04, b"")]),
                (client("203.0.113.7:49153"), None),
            ),
            ("a VPC endpoint", header(0x21, 0x11, &[&V4, &endpoint(id)]), (client("203.0.113.7:49153"), Some(id))),
            (
                "another subtype of AWS",
                header(0x21, 0x11, &[&V4, &value(TYPE_AWS, &[2, 255])]),
                (client("203.0.113.7:49153"), None),
            ),
            (
                "a checksum",
                with_checksum(header(0x21, 0x11, &[&V4, &endpoint(id)])),
                (client("203.0.113.7:49153"), Some(id)),
            ),
        ] {
            let expected = ProxyHeader { client: expected.0, vpc_endpoint: expected.1.map(str::to_owned) };
            assert_eq!(parse(&bytes), Ok(expected), "{what}");
        }
    }

    #[test]
    fn names_what_is_wrong() {
        let mut altered = with_checksum(header(0x21, 0x11, &[&V4]));
        altered[FIXED] ^= 1;
        let mut longer = header(0x21, 0x11, &[&V4]);
        longer.push(0);
        for (what, bytes, expected) in [
            ("no bytes", vec![], HeaderError::Malformed),
            ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), HeaderError::Missing),
            ("version 1", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n".to_vec(), HeaderError::Missing),
            ("another version", header(0x11, 0x11, &[&V4]), HeaderError::Malformed),
            ("another command", header(0x22, 0x11, &[&V4]), HeaderError::Malformed),
            ("UDP", header(0x21, 0x12, &[&V4]), HeaderError::Malformed),
            ("a unix socket", header(0x21, 0x31, &[&[0; 216]]), HeaderError::Malformed),
            ("too short for its addresses", header(0x21, 0x11, &[&V4[..11]]), HeaderError::Malformed),
            ("IPv6 with the addresses of IPv4", header(0x21, 0x21, &[&V4]), HeaderError::Malformed),
            ("more bytes than it says", longer, HeaderError::Malformed),
            ("half a value", header(0x21, 0x11, &[&V4, &[0xEA, 0, 9, 1]]), HeaderError::Malformed),
            ("a value without its length", header(0x21, 0x11, &[&V4, &[0xEA, 0]]), HeaderError::Malformed),
            ("a checksum of three bytes", header(0x21, 0x11, &[&V4, &value(3, &[0; 3])]), HeaderError::Malformed),
            ("another checksum", altered, HeaderError::Checksum),
            (
                "an endpoint that would break a log line",
                header(0x21, 0x11, &[&V4, &endpoint("vpce\n")]),
                HeaderError::Malformed,
            ),
        ] {
            assert_eq!(parse(&bytes), Err(expected), "{what}");
        }
    }

    #[tokio::test]
    async fn reads_single_bytes_and_nothing_more() {
        let bytes = with_checksum(header(0x21, 0x21, &[&v6(), &endpoint("vpce-1")]));
        let (mut server, mut client) = tokio::io::duplex(1);
        let sent = [&bytes[..], b"GET /"].concat();
        tokio::spawn(async move { client.write_all(&sent).await });
        assert_eq!(read(&mut server).await, parse(&bytes));
        let mut rest = [0; 5];
        server.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"GET /");
    }

    #[tokio::test]
    async fn refuses_before_header_is_complete() {
        for (bytes, closed, expected) in [
            (b"G".to_vec(), false, HeaderError::Missing),
            (b"\r\n\r\n\0\r\nQUIX".to_vec(), false, HeaderError::Missing),
            ([&SIGNATURE[..], &[0x21, 0x11, 0x10, 0x01]].concat(), false, HeaderError::Oversize),
            (vec![], true, HeaderError::Missing),
            (SIGNATURE[..5].to_vec(), true, HeaderError::Truncated),
            (header(0x21, 0x11, &[&V4])[..20].to_vec(), true, HeaderError::Truncated),
        ] {
            let (mut server, mut client) = tokio::io::duplex(64);
            client.write_all(&bytes).await.unwrap();
            // While the stream stays open, a read of one more byte would hang.
            let open = (!closed).then_some(client);
            assert_eq!(read(&mut server).await, Err(expected), "{}", bytes.escape_ascii());
            drop(open);
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
            let _ = parse(&header(0x21, 0x11, &[&bytes]));
            let _ = parse(&header(0x21, 0x21, &[&v6(), &bytes]));
        }

        #[test]
        fn checksum_protects_the_address(at in 0_usize..60, bit in 0_u8..8) {
            let good = with_checksum(header(0x21, 0x11, &[&V4, &endpoint("vpce-08d2bf15fac5001c9")]));
            let mut bytes = good.clone();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            // Where the type of the checksum is damaged, nothing is checked, and nothing else has changed.
            if let Ok(parsed) = parse(&bytes) {
                let unchanged = parsed == parse(&good).unwrap();
                let unchecked = at == good.len() - 7;
                // A header that became LOCAL or unspecified has no client.
                prop_assert!(unchanged || unchecked || parsed.client.is_none());
            }
        }
    }
}
