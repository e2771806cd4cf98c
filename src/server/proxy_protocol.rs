//! PROXY protocol version 2: whom a load balancer speaks for, in a binary header before the first byte of a connection.
//!
//! After <https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>, and for the value that a Network Load Balancer adds
//! for connections of a VPC endpoint
//! <https://docs.aws.amazon.com/elasticloadbalancing/latest/network/edit-target-group-attributes.html>. A header is believed
//! only of peers that the configuration names; from anybody else it is a client that would like to be another.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::io::{AsyncRead, AsyncReadExt};

/// What each header begins with; nothing of HTTP does.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED: usize = 16;
/// The longest that may follow, in bytes. The specification allows 65535, what balancers send has some hundred.
const MAX_LENGTH: usize = 4096;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;
/// A checksum of the whole header.
const TYPE_CRC32C: u8 = 0x03;
/// AWS's own type, and in it the id of the VPC endpoint.
const TYPE_AWS: u8 = 0xEA;
const AWS_VPC_ENDPOINT: u8 = 0x01;

/// What a header tells.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Proxied {
    /// The client; none when the balancer speaks for itself (a health check), or for something without an address.
    pub client: Option<SocketAddr>,
    /// The VPC endpoint that the connection came through, such as `vpce-08d2bf15fac5001c9`.
    pub vpc_endpoint: Option<String>,
}

/// Why a header is refused. The text is the reason in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The connection begins with something else.
    #[error("missing")]
    Missing,
    /// Longer than 4 KiB.
    #[error("oversize")]
    Oversize,
    /// It contradicts itself or the specification.
    #[error("malformed")]
    Malformed,
    /// Its checksum is another.
    #[error("checksum")]
    Checksum,
    /// The connection ended, or broke, in the middle of it.
    #[error("cut")]
    Cut,
}

/// Reads the header of a connection, however small its pieces, and not a byte more.
///
/// # Errors
/// [`HeaderError`], as soon as it is plain that this is no header.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Proxied, HeaderError> {
    let mut header = vec![0; FIXED];
    let mut filled = 0;
    while filled < FIXED {
        let count = stream.read(&mut header[filled..]).await.map_err(cut)?;
        if count == 0 {
            return Err(if filled == 0 { HeaderError::Missing } else { HeaderError::Cut });
        }
        filled += count;
        let begun = filled.min(SIGNATURE.len());
        if header[..begun] != SIGNATURE[..begun] {
            return Err(HeaderError::Missing);
        }
    }
    let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
    if length > MAX_LENGTH {
        return Err(HeaderError::Oversize);
    }
    header.resize(FIXED + length, 0);
    stream.read_exact(&mut header[FIXED..]).await.map_err(cut)?;
    parse(&header)
}

fn cut(_: io::Error) -> HeaderError {
    HeaderError::Cut
}

/// Reads a whole header.
///
/// # Errors
/// [`HeaderError`]: too few bytes, too many, or wrong ones.
pub fn parse(header: &[u8]) -> Result<Proxied, HeaderError> {
    let (fixed, rest) = header.split_first_chunk::<FIXED>().ok_or(HeaderError::Malformed)?;
    if fixed[..12] != SIGNATURE {
        return Err(HeaderError::Missing);
    }
    if usize::from(u16::from_be_bytes([fixed[14], fixed[15]])) != rest.len() {
        return Err(HeaderError::Malformed);
    }
    let local = match fixed[12] {
        0x20 => true,
        0x21 => false,
        _ => return Err(HeaderError::Malformed),
    };
    let (client, values) = address(fixed[13], rest)?;
    let vpc_endpoint = values_of(header, values)?;
    // A balancer that speaks for itself may send addresses all the same; they are nobody's.
    Ok(Proxied { client: client.filter(|_| !local), vpc_endpoint })
}

/// The source address, and what comes after the addresses.
fn address(family: u8, rest: &[u8]) -> Result<(Option<SocketAddr>, &[u8]), HeaderError> {
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
        // Unspecified: what follows is to be skipped, addresses or not.
        0x00..=0x0F => Ok((None, &[])),
        // UDP and unix sockets lead to no TCP listener.
        _ => Err(HeaderError::Malformed),
    }
}

/// Checks the type-length-value triples; the VPC endpoint, if one is told.
fn values_of(header: &[u8], mut values: &[u8]) -> Result<Option<String>, HeaderError> {
    let mut endpoint = None;
    while let Some((head, rest)) = values.split_first_chunk::<3>() {
        let length = usize::from(u16::from_be_bytes([head[1], head[2]]));
        let (value, rest) = rest.split_at_checked(length).ok_or(HeaderError::Malformed)?;
        match (head[0], value) {
            (TYPE_CRC32C, sum) => {
                let sum: [u8; 4] = sum.try_into().map_err(|_| HeaderError::Malformed)?;
                // Over the header with zeros in its own place.
                let at = header.len() - rest.len() - sum.len();
                let mut zeroed = header.to_vec();
                zeroed[at..at + sum.len()].fill(0);
                if crc32c::crc32c(&zeroed) != u32::from_be_bytes(sum) {
                    return Err(HeaderError::Checksum);
                }
            }
            (TYPE_AWS, [AWS_VPC_ENDPOINT, id @ ..]) => {
                let id = str::from_utf8(id).map_err(|_| HeaderError::Malformed)?;
                let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
                endpoint = Some(plain.then(|| id.to_owned()).ok_or(HeaderError::Malformed)?);
            }
            // Others' are not ours to judge.
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

    /// A header of version and command, family, addresses and values.
    fn header(command: u8, family: u8, rest: &[&[u8]]) -> Vec<u8> {
        let rest = rest.concat();
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, &rest].concat()
    }

    fn value(kind: u8, bytes: &[u8]) -> Vec<u8> {
        [&[kind][..], &u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
    }

    /// The same with a checksum at its end.
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
    fn each_kind_of_frame_tells_what_it_should() {
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
                "AWS's type of another kind",
                header(0x21, 0x11, &[&V4, &value(TYPE_AWS, &[2, 255])]),
                (client("203.0.113.7:49153"), None),
            ),
            (
                "a checksum",
                with_checksum(header(0x21, 0x11, &[&V4, &endpoint(id)])),
                (client("203.0.113.7:49153"), Some(id)),
            ),
        ] {
            let expected = Proxied { client: expected.0, vpc_endpoint: expected.1.map(str::to_owned) };
            assert_eq!(parse(&bytes), Ok(expected), "{what}");
        }
    }

    #[test]
    fn what_is_wrong_is_refused_by_its_name() {
        let mut altered = with_checksum(header(0x21, 0x11, &[&V4]));
        altered[FIXED] ^= 1;
        let mut longer = header(0x21, 0x11, &[&V4]);
        longer.push(0);
        for (what, bytes, expected) in [
            ("nothing", vec![], HeaderError::Malformed),
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
    async fn a_header_may_come_byte_by_byte_and_what_follows_it_stays() {
        let bytes = with_checksum(header(0x21, 0x21, &[&v6(), &endpoint("vpce-1")]));
        let (mut ours, mut theirs) = tokio::io::duplex(1);
        let sent = [&bytes[..], b"GET /"].concat();
        tokio::spawn(async move { theirs.write_all(&sent).await });
        assert_eq!(read(&mut ours).await, parse(&bytes));
        let mut rest = [0; 5];
        ours.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"GET /");
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused_before_it_is_complete() {
        for (bytes, closed, expected) in [
            (b"G".to_vec(), false, HeaderError::Missing),
            (b"\r\n\r\n\0\r\nQUIX".to_vec(), false, HeaderError::Missing),
            ([&SIGNATURE[..], &[0x21, 0x11, 0x10, 0x01]].concat(), false, HeaderError::Oversize),
            (vec![], true, HeaderError::Missing),
            (SIGNATURE[..5].to_vec(), true, HeaderError::Cut),
            (header(0x21, 0x11, &[&V4])[..20].to_vec(), true, HeaderError::Cut),
        ] {
            let (mut ours, mut theirs) = tokio::io::duplex(64);
            theirs.write_all(&bytes).await.unwrap();
            // Otherwise it stays open: nothing more may be waited for.
            let kept = (!closed).then_some(theirs);
            assert_eq!(read(&mut ours).await, Err(expected), "{}", bytes.escape_ascii());
            drop(kept);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
            let _ = parse(&header(0x21, 0x11, &[&bytes]));
            let _ = parse(&header(0x21, 0x21, &[&v6(), &bytes]));
        }

        #[test]
        fn a_damaged_header_never_tells_another_address_under_its_checksum(at in 0_usize..60, bit in 0_u8..8) {
            let good = with_checksum(header(0x21, 0x11, &[&V4, &endpoint("vpce-08d2bf15fac5001c9")]));
            let mut bytes = good.clone();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            // The type of the checksum itself may be what is damaged: then nothing is checked, and nothing else has changed.
            if let Ok(proxied) = parse(&bytes) {
                let unchanged = proxied == parse(&good).unwrap();
                let unchecked = at == good.len() - 7;
                // A frame that became a local one, or unspecified, tells nobody.
                prop_assert!(unchanged || unchecked || proxied.client.is_none());
            }
        }
    }
}
