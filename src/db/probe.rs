//! What a MySQL or MariaDB server shows to anybody, before a login: `darkroom check` tells of it, and `/health` watches
//! the certificate.
//!
//! No user name and no secret is sent. Each step is a function of its own, with a limit of its own, so that a failure
//! is the failure of one thing: the name, the way there, the server, its TLS, its certificate.
//!
//! The packets are those of MySQL's connection phase:
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase.html>. A server counts each look
//! as a connection that its client gave up. After `max_connect_errors` (100) of those without a login in between it
//! blocks the client's host, service included, with error 1129: look rarely, an hour apart rather than a second.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use chrono::{DateTime, Utc};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, ProtocolVersion, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::tls::{self, BundleError, Certificate};

/// The largest packet that is read, in bytes; a greeting has about 100.
const MAX_PACKET: usize = 64 * 1024;
/// The first byte of a greeting: version 10 of the protocol, the only one since 1999.
const PROTOCOL_10: u8 = 10;
/// The first byte of an error packet.
const ERROR: u8 = 0xff;
/// Capabilities: the server speaks TLS, and what any client of this century has.
const CLIENT_PROTOCOL_41: u32 = 1 << 9;
const CLIENT_SSL: u32 = 1 << 11;
const CLIENT_SECURE_CONNECTION: u32 = 1 << 15;
const CLIENT_PLUGIN_AUTH: u32 = 1 << 19;
/// `utf8mb4_general_ci`, which both servers have.
const CHARSET: u8 = 45;

/// Why a server could not be looked at. Each text is the whole story.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Connected, but not a byte came.
    #[error(
        "connected, but no greeting came within {0:?}: the server hangs, or it isn't MySQL or MariaDB, where the \
         server speaks first"
    )]
    Silent(Duration),
    /// The peer closed before its greeting: a proxy without a server behind it, or a server that stops or starts.
    #[error("connected, but the connection was closed before a greeting came: is a server behind that address?")]
    Closed,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(io::Error),
    /// The server answered with an error instead of a greeting.
    #[error("the server refuses connections, error {number}: {message}{}", advice(*.number))]
    Refused {
        /// MySQL's number of the error.
        number: u16,
        /// The server's words.
        message: String,
    },
    /// Something else listens there.
    #[error("no MySQL or MariaDB server: {0}")]
    Stranger(String),
    /// The server can't do TLS. Nothing was sent to it.
    #[error(
        "the server offers no TLS, and nothing was sent to it: give it a certificate (ssl_cert, ssl_key), or see who \
         answers at that address"
    )]
    NoTls,
    /// The CA file is of no use. Nothing was sent.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The host is neither a name nor an address that a certificate could be for.
    #[error("`{0}` is neither a DNS name nor an IP address, so no certificate can be for it")]
    Host(String),
    /// TLS could not be agreed on, or the server doesn't have its certificate's key.
    #[error("the TLS handshake failed: {0}")]
    Handshake(String),
}

fn advice(number: u16) -> &'static str {
    match number {
        1040 => " (raise max_connections, or lower that of the clients)",
        1129 => " (FLUSH HOSTS, or TRUNCATE performance_schema.host_cache, lets this host in again)",
        1130 => " (no user may log in from this host's address)",
        _ => "",
    }
}

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// Its version, as `8.4.3` or `10.11.6-MariaDB`.
    pub version: String,
    /// Whether it speaks TLS.
    pub offers_tls: bool,
    /// How it would have a client log in unless the user's account says otherwise; empty with servers of before 2010.
    pub auth_plugin: String,
}

/// The certificates that a server showed, and whether a login would trust them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The server's certificate first, then those that it gave to prove it.
    pub certificates: Vec<Certificate>,
    /// `TLS 1.2` or `TLS 1.3`.
    pub protocol: &'static str,
    /// Whether the certificate is good for the host, by the rules of a login that verifies; else why not, in words.
    pub verdict: Result<(), String>,
}

/// The addresses of a host.
///
/// # Errors
/// The resolver's, `TimedOut` after `limit`, `NotFound` without an address.
pub async fn resolve(host: &str, port: u16, limit: Duration) -> io::Result<Vec<SocketAddr>> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("the resolver did not answer within {limit:?}"));
    let found = tokio::time::timeout(limit, tokio::net::lookup_host((host, port))).await.map_err(|_| late())??;
    let addresses: Vec<SocketAddr> = found.collect();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("`{host}` has no address")));
    }
    Ok(addresses)
}

/// A connection to the first address that accepts one.
///
/// # Errors
/// The last address's failure, with the address; `TimedOut` when `limit` is over for all of them together.
pub async fn connect(addresses: &[SocketAddr], limit: Duration) -> io::Result<TcpStream> {
    let deadline = tokio::time::Instant::now() + limit;
    let mut failure = io::Error::new(io::ErrorKind::InvalidInput, "no address to connect to");
    for address in addresses {
        let outcome = tokio::time::timeout_at(deadline, TcpStream::connect(address)).await;
        match outcome {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failure = io::Error::new(error.kind(), format!("{address}: {error}")),
            Err(_) => {
                let text = format!(
                    "{address}: no answer within {limit:?}: is the server up, and does each firewall and security \
                     group on the way let this host through?"
                );
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
        }
    }
    Err(failure)
}

/// Reads what a server sends as soon as a client has connected.
///
/// # Errors
/// It sends an error, something else, or nothing within `limit`.
pub async fn greet(stream: &mut TcpStream, limit: Duration) -> Result<Greeting, ProbeError> {
    let packet = tokio::time::timeout(limit, packet(stream)).await.map_err(|_| ProbeError::Silent(limit))??;
    match packet.split_first() {
        Some((&PROTOCOL_10, rest)) => greeting(rest).ok_or_else(|| stranger(&packet)),
        Some((&ERROR, rest)) => Err(refusal(rest).unwrap_or_else(|| stranger(&packet))),
        _ => Err(stranger(&packet)),
    }
}

/// The payload of the first packet: 3 bytes of length, the packet's number, which is 0, and so many bytes.
async fn packet(stream: &mut TcpStream) -> Result<Vec<u8>, ProbeError> {
    let mut header = [0; 4];
    let mut filled = 0;
    while filled < header.len() {
        match stream.read(&mut header[filled..]).await {
            Ok(0) if filled == 0 => return Err(ProbeError::Closed),
            Ok(0) => return Err(stranger(&header[..filled])),
            Ok(read) => filled += read,
            Err(error) if filled == 0 && is_close(&error) => return Err(ProbeError::Closed),
            Err(error) => return Err(ProbeError::Io(error)),
        }
    }
    let length = u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize;
    // Text looks like a packet of some megabytes: this is where most strangers are found out.
    if header[3] != 0 || length == 0 || length > MAX_PACKET {
        // What has come with it makes the message better, and is not waited for.
        let mut more = [0; 60];
        let read = stream.try_read(&mut more).unwrap_or(0);
        return Err(stranger(&[&header[..], &more[..read]].concat()));
    }
    let mut payload = vec![0; length];
    match stream.read_exact(&mut payload).await {
        Ok(_) => Ok(payload),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(ProbeError::Stranger("the connection was closed in the middle of the greeting".to_owned()))
        }
        Err(error) => Err(ProbeError::Io(error)),
    }
}

fn stranger(bytes: &[u8]) -> ProbeError {
    let shown = bytes[..bytes.len().min(40)].escape_ascii();
    ProbeError::Stranger(format!("the first that it sent is \"{shown}\""))
}

/// The fields of `HandshakeV10`, after its first byte.
fn greeting(rest: &[u8]) -> Option<Greeting> {
    let (version, rest) = text(rest)?;
    // Connection id, the first 8 bytes of the challenge, a filler.
    let (low, rest) = rest.get(4 + 8 + 1..)?.split_first_chunk::<2>()?;
    let mut capabilities = u32::from(u16::from_le_bytes(*low));
    let mut auth_plugin = String::new();
    if !rest.is_empty() {
        // Character set and status.
        let (high, rest) = rest.get(1 + 2..)?.split_first_chunk::<2>()?;
        capabilities |= u32::from(u16::from_le_bytes(*high)) << 16;
        let (&challenge, rest) = rest.split_first()?;
        if capabilities & CLIENT_PLUGIN_AUTH != 0 {
            // Reserved bytes, and what is left of the challenge, which fills at least 13.
            let rest = rest.get(10 + usize::from(challenge.saturating_sub(8)).max(13)..)?;
            // Servers of before 2012 end it without a zero.
            auth_plugin = text(rest).map_or_else(|| String::from_utf8_lossy(rest).into_owned(), |(plugin, _)| plugin);
        }
    }
    // MariaDB before 11 feigns to be 5.5.5, for the sake of old replicas.
    let version = match version.strip_prefix("5.5.5-") {
        Some(real) if real.contains("MariaDB") => real.to_owned(),
        _ => version,
    };
    Some(Greeting { version, offers_tls: capabilities & CLIENT_SSL != 0, auth_plugin })
}

/// The text up to a zero, and what comes after it.
fn text(bytes: &[u8]) -> Option<(String, &[u8])> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    Some((String::from_utf8_lossy(&bytes[..end]).into_owned(), &bytes[end + 1..]))
}

/// The fields of an error packet, after its first byte.
fn refusal(rest: &[u8]) -> Option<ProbeError> {
    let (number, message) = rest.split_first_chunk::<2>()?;
    // `#` and five characters of SQLSTATE, which servers leave out as long as they don't know their client.
    let message = if message.starts_with(b"#") { message.get(6..)? } else { message };
    let message = String::from_utf8_lossy(message).trim_end_matches(['\0', '.']).to_owned();
    Some(ProbeError::Refused { number: u16::from_le_bytes(*number), message })
}

/// Asks for TLS, notes which certificates the server shows, and judges them as a login that verifies would: by the
/// built-in public roots and the CAs of `ca`. A bad certificate is no error, but a verdict. The connection ends here.
///
/// # Errors
/// The server doesn't offer TLS, the CA file is of no use, or TLS fails for another reason than the certificate, or
/// doesn't come about within `limit`.
pub async fn handshake(
    mut stream: TcpStream,
    greeting: &Greeting,
    host: &str,
    ca: Option<&Path>,
    limit: Duration,
) -> Result<Chain, ProbeError> {
    if !greeting.offers_tls {
        return Err(ProbeError::NoTls);
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|_| ProbeError::Host(host.to_owned()))?;
    let witness = Arc::new(Witness::new(host, ca)?);
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for both versions")
        .dangerous()
        .with_custom_certificate_verifier(witness.clone())
        .with_no_client_auth();
    let shaken = async {
        stream.write_all(&ssl_request()).await.map_err(ProbeError::Io)?;
        let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        let mut tls = connecting.map_err(|error| ProbeError::Handshake(failure(&error)))?;
        let protocol = match tls.get_ref().1.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
            _ => "TLS 1.2",
        };
        // All is known; a server that doesn't care for the farewell changes nothing.
        let _ = tls.shutdown().await;
        Ok::<_, ProbeError>(protocol)
    };
    let late = || ProbeError::Handshake(format!("it was not done within {limit:?}"));
    let protocol = tokio::time::timeout(limit, shaken).await.map_err(|_| late())??;
    let seen = witness.seen.get().cloned();
    let (certificates, verdict) = seen.ok_or_else(|| ProbeError::Handshake("no certificate was shown".to_owned()))?;
    Ok(Chain { certificates, protocol, verdict })
}

/// MySQL's `SSLRequest`: the start of a login, cut off before the user's name. It is packet 1, after the greeting.
fn ssl_request() -> Vec<u8> {
    let capabilities = CLIENT_PROTOCOL_41 | CLIENT_SSL | CLIENT_SECURE_CONNECTION | CLIENT_PLUGIN_AUTH;
    let mut packet = vec![32, 0, 0, 1];
    packet.extend(capabilities.to_le_bytes());
    packet.extend((1_u32 << 24).to_le_bytes()); // the largest packet, which will never come
    packet.push(CHARSET);
    packet.extend([0; 23]);
    packet
}

fn failure(error: &io::Error) -> String {
    if is_close(error) {
        return "the server closed the connection in the middle of it; its error log may tell why".to_owned();
    }
    error.to_string()
}

/// Whether the peer is gone, in one of the ways in which a close shows.
fn is_close(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe)
}

/// Lets the handshake go on whatever the certificate, so that all of it can be told, and remembers the judgement.
/// Nothing may be sent over such a connection.
#[derive(Debug)]
struct Witness {
    host: String,
    ca: Option<PathBuf>,
    /// Subjects of the CAs in the file.
    known: Vec<String>,
    judge: Arc<WebPkiServerVerifier>,
    seen: OnceLock<(Vec<Certificate>, Result<(), String>)>,
}

impl Witness {
    fn new(host: &str, ca: Option<&Path>) -> Result<Self, BundleError> {
        // As sqlx does.
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let mut known = Vec::new();
        if let Some(path) = ca {
            let (certificates, anchors) = tls::read(path)?;
            roots.roots.extend(anchors.roots);
            known.extend(certificates.into_iter().map(|certificate| certificate.subject));
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let judge = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        Ok(Self {
            host: host.to_owned(),
            ca: ca.map(Path::to_owned),
            known,
            judge: judge.expect("there are built-in roots and no revocation lists"),
            seen: OnceLock::new(),
        })
    }

    /// A key that rustls can't use must not end the look at a certificate that is refused already, as with those of
    /// X.509 version 1 that old recipes for OpenSSL make.
    fn unless_refused(
        &self,
        check: impl FnOnce() -> Result<HandshakeSignatureValid, rustls::Error>,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match self.seen.get() {
            Some((_, Err(_))) => Ok(HandshakeSignatureValid::assertion()),
            _ => check(),
        }
    }

    /// What an operator must know of a certificate that is not trusted.
    fn words(&self, error: &rustls::Error, chain: &[Certificate], now: DateTime<Utc>) -> String {
        let Some(leaf) = chain.first() else { return "the server's certificate can't be read".to_owned() };
        let rustls::Error::InvalidCertificate(why) = error else { return error.to_string() };
        match why {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => self.unknown_issuer(leaf, chain),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                let names = match leaf.names.join(", ") {
                    none if none.is_empty() => "no name at all (it has no subject alternative names)".to_owned(),
                    names => names,
                };
                format!("the certificate is not for `{}`: it is for {names}", self.host)
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                let old = chain.iter().find(|certificate| certificate.not_after < now).unwrap_or(leaf);
                let (end, now) = (shown(old.not_after), shown(now));
                format!("the certificate of {} expired on {end}; by this machine's clock it is {now}", old.subject)
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                let new = chain.iter().find(|certificate| certificate.not_before > now).unwrap_or(leaf);
                let (start, now) = (shown(new.not_before), shown(now));
                format!(
                    "the certificate of {} is good from {start} on, and by this machine's clock it is {now}: is the \
                     clock right?",
                    new.subject
                )
            }
            CertificateError::Other(why) => format!("the certificate of {} is refused: {why}", leaf.subject),
            why => format!("the certificate of {} is refused: {why}", leaf.subject),
        }
    }

    fn unknown_issuer(&self, leaf: &Certificate, chain: &[Certificate]) -> String {
        // The last one in line, beyond which the server sent nothing: that is the one to look for in the CA file.
        let mut last = leaf;
        for _ in chain {
            match chain.iter().find(|next| next.subject == last.issuer && next.subject != last.subject) {
                Some(next) => last = next,
                None => break,
            }
        }
        let issuer = &last.issuer;
        let Some(ca) = &self.ca else {
            return format!(
                "the certificate was issued by {issuer}, which is no public CA, and no CA file is configured \
                 (database.tls_ca)"
            );
        };
        let ca = ca.display();
        if self.known.contains(issuer) {
            return format!(
                "the certificate was issued by {issuer}; {ca} has a CA of that name, but with another key: it was \
                 renewed, or the server is not the one it says"
            );
        }
        format!(
            "the certificate was issued by {issuer}, which is neither among the {} CAs of {ca} nor a public one",
            self.known.len()
        )
    }
}

fn shown(time: DateTime<Utc>) -> impl std::fmt::Display {
    time.format("%F %T UTC")
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain: Option<Vec<Certificate>> =
            std::iter::once(leaf).chain(intermediates).map(|der| Certificate::parse(der)).collect();
        let chain = chain.ok_or(CertificateError::BadEncoding)?;
        let judgement = self.judge.verify_server_cert(leaf, intermediates, name, ocsp, now);
        let verdict = judgement.map(|_| ()).map_err(|error| self.words(&error, &chain, Utc::now()));
        // One handshake shows one chain.
        let _ = self.seen.set((chain, verdict));
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.unless_refused(|| self.judge.verify_tls12_signature(message, certificate, signature))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.unless_refused(|| self.judge.verify_tls13_signature(message, certificate, signature))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests;
