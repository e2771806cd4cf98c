//! Against servers on this machine's loopback that speak as real ones do, and as they should not.

use std::{io::Write, sync::LazyLock};

use chrono::TimeDelta;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::PrivateKeyDer,
    sign::{CertifiedKey, SingleCertAndKey},
};
use tempfile::NamedTempFile;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_rustls::TlsAcceptor;

use super::*;

/// Far longer than any step here takes.
const LIMIT: Duration = Duration::from_secs(10);

/// What MySQL 9.7 sent.
const MYSQL: &[u8] = b"K\0\0\0\n9.7.4-2\0\x08\0\0\0\x13!O~xL\x7f\x10\0\xff\xff\xff\x02\0\xff\
    \xdf\x15\0\0\0\0\0\0\0\0\0\0H=(\x04,CdyhV0B\0caching_sha2_password\0";
/// What MariaDB 10.11 sent, without TLS.
const MARIADB: &[u8] = b"d\0\0\0\n5.5.5-10.11.19-MariaDB-0+deb12u1\0\x03\0\0\0FfM0EM1L\0\
    \xfe\xf7\x08\x02\0\xff\x81\x15\0\0\0\0\0\0\x1d\0\0\0kXW*iUNf7|.n\0mysql_native_password\0";

type Ca = CertifiedIssuer<'static, KeyPair>;

static CA: LazyLock<Ca> = LazyLock::new(|| ca("Test Root CA"));

fn named(params: &mut CertificateParams, name: &str) {
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    named(&mut params, name);
    params
}

fn ca(name: &str) -> Ca {
    CertifiedIssuer::self_signed(ca_params(name), KeyPair::generate().unwrap()).unwrap()
}

fn file(ca: &Ca) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(ca.pem().as_bytes()).unwrap();
    file
}

/// A server's certificates, and the key of the first.
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

/// A certificate for `localhost` with changes.
fn identity(issuer: &Ca, change: impl FnOnce(&mut CertificateParams)) -> Identity {
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    named(&mut params, "the server");
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    Identity { chain: vec![params.signed_by(&key, issuer).unwrap().der().clone()], key }
}

/// A server for one client; what it heard after the TLS handshake comes out at the end.
async fn tls_server(identity: Identity, versions: &[&'static rustls::SupportedProtocolVersion]) -> Server<Vec<u8>> {
    let key = PrivateKeyDer::try_from(identity.key.serialize_der()).unwrap();
    let provider = aws_lc_rs::default_provider();
    // Not through the builder's `with_single_cert`, which doesn't take what a client would refuse.
    let certified = CertifiedKey::new(identity.chain, provider.key_provider.load_private_key(key).unwrap());
    let config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    serve(async move |mut stream| {
        stream.write_all(MYSQL).await.unwrap();
        let mut request = [0; 36];
        stream.read_exact(&mut request).await.unwrap();
        assert_eq!(request[..4], [32, 0, 0, 1]);
        assert_eq!(u32::from_le_bytes(*request[4..].first_chunk().unwrap()) & CLIENT_SSL, CLIENT_SSL);
        assert_eq!(request[13..], [0; 23]);
        let mut stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.unwrap();
        heard
    })
    .await
}

struct Server<T> {
    address: SocketAddr,
    task: JoinHandle<T>,
}

async fn serve<T: Send + 'static, F>(script: impl FnOnce(TcpStream) -> F + Send + 'static) -> Server<T>
where
    F: Future<Output = T> + Send,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move { script(listener.accept().await.unwrap().0).await });
    Server { address, task }
}

/// A server that sends these bytes and waits for the client to go; what it heard comes out at the end.
async fn sends(bytes: &'static [u8]) -> Server<Vec<u8>> {
    serve(async move |mut stream: TcpStream| {
        stream.write_all(bytes).await.unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.unwrap();
        heard
    })
    .await
}

async fn greeted<T>(server: &Server<T>, limit: Duration) -> (TcpStream, Result<Greeting, ProbeError>) {
    let mut stream = connect(&[server.address], LIMIT).await.unwrap();
    let greeting = greet(&mut stream, limit).await;
    (stream, greeting)
}

/// All steps; nothing must have been sent under TLS.
async fn look(identity: Identity, host: &str, ca: Option<&Path>) -> Chain {
    let server = tls_server(identity, rustls::ALL_VERSIONS).await;
    let (stream, greeting) = greeted(&server, LIMIT).await;
    let chain = handshake(stream, &greeting.unwrap(), host, ca, LIMIT).await.unwrap();
    assert_eq!(server.task.await.unwrap(), b"");
    assert_eq!(chain.protocol, "TLS 1.3");
    chain
}

#[track_caller]
fn assert_words(told: &str, words: &[&str]) {
    for word in words {
        assert!(told.contains(word), "`{word}` is missing from: {told}");
    }
}

async fn refused(identity: Identity, host: &str, ca: Option<&Path>, words: &[&str]) {
    let chain = look(identity, host, ca).await;
    assert!(chain.certificates[0].subject.contains("the server"), "the chain is told, whatever it is worth");
    assert_words(&chain.verdict.unwrap_err(), words);
}

#[tokio::test]
async fn a_good_certificate_is_good() {
    let intermediate = CertifiedIssuer::signed_by(ca_params("Middle CA"), KeyPair::generate().unwrap(), &CA).unwrap();
    let mut identity = identity(&intermediate, |_| ());
    identity.chain.push(intermediate.der().clone());
    let chain = look(identity, "localhost", Some(file(&CA).path())).await;
    assert_eq!(chain.verdict, Ok(()));
    let subjects: Vec<&str> = chain.certificates.iter().map(|certificate| &*certificate.subject).collect();
    assert_eq!(subjects, ["CN=the server", "CN=Middle CA"]);
    assert_eq!(chain.certificates[0].names, ["localhost"]);
    assert_eq!(chain.certificates[1].issuer, "CN=Test Root CA");
}

#[tokio::test]
async fn an_address_and_tls_1_2_are_good_too() {
    let identity = identity(&CA, |params| *params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap());
    let server = tls_server(identity, &[&rustls::version::TLS12]).await;
    let (stream, greeting) = greeted(&server, LIMIT).await;
    let chain = handshake(stream, &greeting.unwrap(), "127.0.0.1", Some(file(&CA).path()), LIMIT).await.unwrap();
    assert_eq!((chain.protocol, chain.verdict), ("TLS 1.2", Ok(())));
    assert_eq!(server.task.await.unwrap(), b"");
}

#[tokio::test]
async fn names_unknown_issuer_and_ca_file() {
    let other = file(&ca("Another CA"));
    let name = other.path().to_str().unwrap();
    let words = ["issued by CN=Test Root CA", "neither among the 1 CAs of", name, "nor a public one"];
    refused(identity(&CA, |_| ()), "localhost", Some(other.path()), &words).await;
    let words = ["issued by CN=Test Root CA", "no CA file is configured"];
    refused(identity(&CA, |_| ()), "localhost", None, &words).await;
    let renewed = file(&ca("Test Root CA"));
    let words = ["issued by CN=Test Root CA", renewed.path().to_str().unwrap(), "with another key"];
    refused(identity(&CA, |_| ()), "localhost", Some(renewed.path()), &words).await;
}

#[tokio::test]
async fn names_issuer_the_server_omitted() {
    let intermediate = CertifiedIssuer::signed_by(ca_params("Middle CA"), KeyPair::generate().unwrap(), &CA).unwrap();
    let mut identity = identity(&intermediate, |_| ());
    identity.chain.push(intermediate.der().clone());
    refused(identity, "localhost", None, &["issued by CN=Test Root CA"]).await;
}

#[tokio::test]
async fn lists_names_of_wrong_certificate() {
    let ca = file(&CA);
    let others = |params: &mut CertificateParams| {
        *params = CertificateParams::new(["db.example.com".to_owned(), "*.rds.example".to_owned()]).unwrap();
        named(params, "the server");
    };
    let words = ["not for `localhost`", "it is for db.example.com, *.rds.example"];
    refused(identity(&CA, others), "localhost", Some(ca.path()), &words).await;
    let none = |params: &mut CertificateParams| params.subject_alt_names.clear();
    let words = ["not for `localhost`", "no name at all", "subject alternative names"];
    refused(identity(&CA, none), "localhost", Some(ca.path()), &words).await;
}

#[tokio::test]
async fn shows_validity_of_expired_certificate() {
    let (ca, today) = (file(&CA), Utc::now().format("%F").to_string());
    let expired = |params: &mut CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2019, 1, 1);
        params.not_after = rcgen::date_time_ymd(2024, 8, 22);
    };
    let words = ["the certificate of CN=the server expired on 2024-08-22 00:00:00 UTC", "this machine's clock", &today];
    refused(identity(&CA, expired), "localhost", Some(ca.path()), &words).await;
    let tomorrow = Utc::now() + TimeDelta::days(400);
    let early = |params: &mut CertificateParams| {
        params.not_before = std::time::SystemTime::from(tomorrow).into();
    };
    let (start, words) = (tomorrow.format("%F").to_string(), "is the clock right?");
    refused(identity(&CA, early), "localhost", Some(ca.path()), &["CN=the server is good from", &start, words]).await;
}

#[tokio::test]
async fn shows_version_1_certificate() {
    let mut identity = identity(&CA, |_| ());
    let mut der = identity.chain[0].to_vec();
    // The version, 2 for X.509 version 3, stands in front of the serial number.
    let version = der.windows(5).position(|bytes| bytes == [0xa0, 3, 2, 1, 2]).unwrap();
    der[version + 4] = 1;
    identity.chain[0] = der.into();
    let words = ["the certificate of CN=the server is refused: UnsupportedCertVersion"];
    refused(identity, "localhost", Some(file(&CA).path()), &words).await;
}

#[tokio::test]
async fn without_tls_nothing_is_sent() {
    let server = sends(MARIADB).await;
    let (stream, greeting) = greeted(&server, LIMIT).await;
    let error = handshake(stream, &greeting.unwrap(), "localhost", None, LIMIT).await.unwrap_err();
    assert_words(&error.to_string(), &["offers no TLS", "nothing was sent"]);
    assert_eq!(server.task.await.unwrap(), b"");
}

#[tokio::test]
async fn rejects_bad_ca_file_before_sending() {
    for (host, ca, words) in [
        ("localhost", Some("/nonexistent/ca.pem"), "/nonexistent/ca.pem can't be read"),
        ("not a host", None, "`not a host` is neither a DNS name nor an IP address"),
    ] {
        let server = sends(MYSQL).await;
        let (stream, greeting) = greeted(&server, LIMIT).await;
        let error = handshake(stream, &greeting.unwrap(), host, ca.map(Path::new), LIMIT).await.unwrap_err();
        assert_words(&error.to_string(), &[words]);
        assert_eq!(server.task.await.unwrap(), b"");
    }
}

#[tokio::test]
async fn greetings_of_both_families_are_read() {
    let greeting = greeted(&sends(MYSQL).await, LIMIT).await.1.unwrap();
    let (version, auth_plugin) = ("9.7.4-2".to_owned(), "caching_sha2_password".to_owned());
    assert_eq!(greeting, Greeting { version, offers_tls: true, auth_plugin });
    let greeting = greeted(&sends(MARIADB).await, LIMIT).await.1.unwrap();
    let (version, auth_plugin) = ("10.11.19-MariaDB-0+deb12u1".to_owned(), "mysql_native_password".to_owned());
    assert_eq!(greeting, Greeting { version, offers_tls: false, auth_plugin });
}

#[tokio::test]
async fn damaged_greeting_never_panics() {
    for end in 1..MYSQL.len() - 4 {
        let _ = greeting(&MYSQL[5..4 + end]);
    }
    assert!(greeting(&MYSQL[5..24]).is_none());
    for rest in [&b""[..], &[0], &[1, 2, 3]] {
        let _ = refusal(rest);
    }
}

#[tokio::test]
async fn reports_error_number_of_greeting() {
    let cases: [(&[u8], &[&str]); 3] = [
        (b"\x17\0\0\0\xff\x10\x04Too many connections", &["error 1040: Too many connections (raise max_connections"]),
        (b"\x1d\0\0\0\xff\x69\x04#HY000Host '10.0.0.9' is", &["error 1129: Host '10.0.0.9' is", "host_cache"]),
        (
            b"\x21\0\0\0\xff\x6a\x04Host '10.0.0.9' is not allowed",
            &["error 1130: Host '10.0.0.9' is not allowed", "no user"],
        ),
    ];
    for (bytes, words) in cases {
        let mut bytes = bytes.to_vec();
        bytes[0] = u8::try_from(bytes.len() - 4).unwrap();
        let error = greeted(&sends(bytes.leak()).await, LIMIT).await.1.unwrap_err();
        assert_words(&error.to_string(), &["the server refuses connections"]);
        assert_words(&error.to_string(), words);
    }
}

#[tokio::test]
async fn strangers_are_shown_by_what_they_say() {
    let cases: [(&[u8], &str); 6] = [
        (b"HTTP/1.1 400 Bad Request\r\n", "\"HTTP/1.1 400 Bad Request\\r\\n\""),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "\"SSH-2.0-OpenSSH_9.2\\r\\n\""),
        (b"\x15\x03\x03\0\x02\x02\x28", "\"\\x15\\x03\\x03"),
        (b"\x05\0\0\0\x0ashort", "\"\\nshor\""),
        (b"\x01\0\0\0\xff", "\"\\xff\""),
        (b"\x01\0\x01\0 more than 64 KiB", "\"\\x01\\x00\\x01\\x00"),
    ];
    for (bytes, shown) in cases {
        let error = greeted(&sends(bytes).await, LIMIT).await.1.unwrap_err();
        assert_words(&error.to_string(), &["no MySQL or MariaDB server: the first that it sent is", shown]);
    }
}

#[tokio::test]
async fn silence_is_told_after_the_limit() {
    let limit = Duration::from_millis(50);
    for bytes in [&b""[..], b"\x4a\0\0", &MYSQL[..30]] {
        let error = greeted(&sends(bytes).await, limit).await.1.unwrap_err();
        assert_words(&error.to_string(), &["connected, but no greeting came within 50ms"]);
    }
    let server = sends(MYSQL).await;
    let (stream, greeting) = greeted(&server, LIMIT).await;
    let error = handshake(stream, &greeting.unwrap(), "localhost", None, limit).await.unwrap_err();
    assert_words(&error.to_string(), &["TLS handshake failed: it was not done within 50ms"]);
}

#[tokio::test]
async fn reports_when_peer_closed() {
    let closes = |bytes: &'static [u8]| {
        serve(async move |mut stream: TcpStream| {
            stream.write_all(bytes).await.unwrap();
            if bytes == MYSQL {
                stream.read_exact(&mut [0; 36]).await.unwrap();
                // Takes in the ClientHello: to close before that would be a reset.
                stream.read_buf(&mut Vec::with_capacity(4096)).await.unwrap();
            }
        })
    };
    let error = greeted(&closes(b"").await, LIMIT).await.1.unwrap_err();
    assert_words(&error.to_string(), &["closed before a greeting came"]);
    let error = greeted(&closes(&MYSQL[..40]).await, LIMIT).await.1.unwrap_err();
    assert_words(&error.to_string(), &["closed in the middle of the greeting"]);
    let (stream, greeting) = greeted(&closes(MYSQL).await, LIMIT).await;
    let error = handshake(stream, &greeting.unwrap(), "localhost", None, LIMIT).await.unwrap_err();
    assert_words(&error.to_string(), &["TLS handshake failed: the server closed the connection in the middle of it"]);
}

#[tokio::test]
async fn a_refused_connection_names_the_address() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = connect(&[address], LIMIT).await.unwrap_err();
    assert_words(&error.to_string(), &[&address.to_string(), "refused"]);
    let found = resolve("localhost", address.port(), LIMIT).await.unwrap();
    assert!(found.iter().all(|found| found.ip().is_loopback() && found.port() == address.port()));
}
