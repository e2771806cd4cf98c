//! The main listener behind a balancer that speaks PROXY protocol version 2, and whom it believes.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::support::{DEADLINE, TestServer, eventually, process::Process};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const REQUEST: &str = "GET /v1/albums HTTP/1.1\r\nhost: darkroom\r\nconnection: close\r\n\r\n";

/// A header for a TCP client of IPv4, with more values.
fn header(client: [u8; 4], values: &[u8]) -> Vec<u8> {
    let addresses = [&client[..], &[10, 0, 0, 1, 0xC0, 0x01, 0x1F, 0x90]].concat();
    let length = u16::try_from(addresses.len() + values.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[0x21, 0x11], &length, &addresses, values].concat()
}

/// What a health check of a Network Load Balancer begins with.
fn local() -> Vec<u8> {
    [SIGNATURE, &[0x20, 0x00, 0, 0]].concat()
}

fn vpc_endpoint(id: &str) -> Vec<u8> {
    let length = u16::try_from(id.len() + 1).unwrap().to_be_bytes();
    [&[0xEA][..], &length, &[0x01], id.as_bytes()].concat()
}

async fn serve(settings: &[(&str, &str)]) -> (TestServer, Process) {
    let server = TestServer::start_with("worker.enabled = false").await;
    let process = Process::start(&server, "serve", settings).await;
    (server, process)
}

async fn connect(process: &Process, from: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
    let to = process.url.strip_prefix("http://").unwrap().parse().unwrap();
    socket.connect(to).await.unwrap()
}

/// All that is answered to these bytes; nothing when the connection is closed without a word.
async fn answer(process: &Process, from: &str, pieces: &[&[u8]]) -> String {
    let mut stream = connect(process, from).await;
    for piece in pieces {
        // It may be closed before all is sent.
        if stream.write_all(piece).await.is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let read = timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("answered or closed");
    // A reset is how a connection ends that had more to say.
    let _ = read;
    String::from_utf8_lossy(&answer).into_owned()
}

async fn refused(process: &Process, reason: &str) -> u64 {
    let text = reqwest::get(format!("{}/metrics", process.operations)).await.unwrap().text().await.unwrap();
    let name = format!("darkroom_connections_refused_total{{reason=\"{reason}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or(0)
}

/// Waits for a line of the log about a request of this client.
async fn logged(process: &Process, client: &str) {
    let words = format!("\"client\":\"{client}\"");
    eventually(&words, async || process.log().contains(&words).then_some(())).await;
}

#[tokio::test]
async fn where_a_header_is_required_the_client_is_who_it_tells_and_all_else_is_closed_at_once() {
    let (_server, process) = serve(&[("DARKROOM_HTTP_PROXY_PROTOCOL", "required")]).await;
    let whole = [&header([203, 0, 113, 7], &[]), REQUEST.as_bytes()].concat();
    assert!(answer(&process, "127.0.0.1", &[&whole]).await.starts_with("HTTP/1.1 401 "));
    logged(&process, "203.0.113.7").await;
    let bytes: Vec<&[u8]> = whole.chunks(1).collect();
    assert!(answer(&process, "127.0.0.1", &bytes).await.starts_with("HTTP/1.1 401 "), "byte by byte");
    let health = "GET /health/ready HTTP/1.1\r\nhost: 10.0.3.4\r\nconnection: close\r\n\r\n";
    let check = answer(&process, "127.0.0.1", &[&local(), health.as_bytes()]).await;
    assert!(check.starts_with("HTTP/1.1 200 "), "a health check: {check}");

    let oversize = [SIGNATURE, &[0x21, 0x11, 0xFF, 0xFF]].concat();
    let malformed = [SIGNATURE, &[0x31, 0x11, 0, 12], &[0; 12]].concat();
    for (what, sent, reason) in [
        ("a request", REQUEST.as_bytes(), "missing"),
        ("version 1", b"PROXY TCP4 203.0.113.7 10.0.0.1 49153 8080\r\n", "missing"),
        ("a header of 64 KiB", &oversize, "oversize"),
        ("another version", &malformed, "malformed"),
    ] {
        let before = refused(&process, reason).await;
        assert_eq!(answer(&process, "127.0.0.1", &[sent]).await, "", "{what}");
        assert_eq!(refused(&process, reason).await, before + 1, "{what}");
    }
    // One that never gets on with it.
    let mut slow = connect(&process, "127.0.0.1").await;
    slow.write_all(&SIGNATURE[..5]).await.unwrap();
    let mut nothing = Vec::new();
    timeout(DEADLINE, slow.read_to_end(&mut nothing)).await.expect("closed").expect("without a word");
    assert_eq!((nothing.len(), refused(&process, "late").await), (0, 1));
}

#[tokio::test]
async fn a_header_is_believed_only_of_the_networks_that_are_named() {
    let (_server, process) = serve(&[("DARKROOM_HTTP_PROXY_PROTOCOL", "[\"127.0.0.2/32\", \"10.0.0.0/8\"]")]).await;
    let with_header = [&header([203, 0, 113, 8], &[]), REQUEST.as_bytes()].concat();
    assert!(answer(&process, "127.0.0.2", &[&with_header]).await.starts_with("HTTP/1.1 401 "));
    logged(&process, "203.0.113.8").await;
    assert_eq!(answer(&process, "127.0.0.2", &[REQUEST.as_bytes()]).await, "", "the balancer has to send one");
    // Anybody else who sends one would like to be somebody else.
    let spoofed = [&header([203, 0, 113, 9], &[]), REQUEST.as_bytes()].concat();
    let told = answer(&process, "127.0.0.3", &[&spoofed]).await;
    assert!(told.is_empty() || told.starts_with("HTTP/1.1 400 "), "{told}");
    assert!(answer(&process, "127.0.0.3", &[REQUEST.as_bytes()]).await.starts_with("HTTP/1.1 401 "));
    logged(&process, "127.0.0.3").await;
    assert!(!process.log().contains("203.0.113.9"));
}

#[tokio::test]
async fn connections_come_through_the_endpoints_that_are_named_or_not_at_all() {
    let settings =
        [("DARKROOM_HTTP_PROXY_PROTOCOL", "required"), ("DARKROOM_HTTP_PROXY_VPC_ENDPOINTS", "vpce-08d2bf15fac5001c9")];
    let (_server, process) = serve(&settings).await;
    for (values, served) in [
        (vpc_endpoint("vpce-08d2bf15fac5001c9"), true),
        (vpc_endpoint("vpce-0000000000000000a"), false),
        (Vec::new(), false),
    ] {
        let sent = [&header([203, 0, 113, 7], &values), REQUEST.as_bytes()].concat();
        assert_eq!(answer(&process, "127.0.0.1", &[&sent]).await.starts_with("HTTP/1.1 401 "), served);
    }
    assert_eq!(refused(&process, "vpc_endpoint").await, 2);
    let health = "GET /health/ready HTTP/1.1\r\nhost: 10.0.3.4\r\nconnection: close\r\n\r\n";
    assert!(answer(&process, "127.0.0.1", &[&local(), health.as_bytes()]).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_forwarded_header_is_believed_as_far_as_the_trusted_hops_go() {
    let (_server, process) = serve(&[("DARKROOM_HTTP_TRUSTED_HOPS", "1")]).await;
    let request =
        "GET /v1/albums HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 192.0.2.66, 198.51.100.5\r\nconnection: close\r\n\r\n";
    assert!(answer(&process, "127.0.0.1", &[request.as_bytes()]).await.starts_with("HTTP/1.1 401 "));
    logged(&process, "198.51.100.5").await;
    assert!(!process.log().contains("192.0.2.66"), "what the client wrote itself");
    drop(process);
    let (_server, process) = serve(&[]).await;
    assert!(answer(&process, "127.0.0.1", &[request.as_bytes()]).await.starts_with("HTTP/1.1 401 "));
    logged(&process, "127.0.0.1").await;
    assert!(!process.log().contains("198.51.100.5"), "no hop is trusted by default");
}
