//! The main listener: client addresses by PROXY protocol version 2 and `X-Forwarded-For`, timeouts, TLS, HTTP/2,
//! limits and reloads.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::harness::{
    DEADLINE, TestServer,
    certificates::{Authority, Validity},
    eventually,
    process::{Process, free_address},
    tiny_photo,
};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const REQUEST: &str = "GET /v1/albums HTTP/1.1\r\nhost: darkroom\r\nconnection: close\r\n\r\n";

/// A PROXY header for an IPv4 client, with more TLVs.
fn header(client: [u8; 4], values: &[u8]) -> Vec<u8> {
    let addresses = [&client[..], &[10, 0, 0, 1, 0xC0, 0x01, 0x1F, 0x90]].concat();
    let length = u16::try_from(addresses.len() + values.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[0x21, 0x11], &length, &addresses, values].concat()
}

/// The LOCAL header of an NLB's health check.
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

/// The response to these bytes; empty if the connection is closed without one.
async fn answer(process: &Process, from: &str, pieces: &[&[u8]]) -> String {
    let mut stream = connect(process, from).await;
    for piece in pieces {
        // The server may close before everything is sent.
        if stream.write_all(piece).await.is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let read = timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("answered or closed");
    // Unread data causes a reset.
    let _ = read;
    String::from_utf8_lossy(&answer).into_owned()
}

async fn refused(process: &Process, reason: &str) -> u64 {
    metric(process, &format!("darkroom_connections_refused_total{{reason=\"{reason}\"}}")).await
}

/// Waits for a log line about a request of this client.
async fn logged(process: &Process, client: &str) {
    let words = format!("\"client_ip\":\"{client}\"");
    eventually(&words, async || process.log().contains(&words).then_some(())).await;
}

#[tokio::test]
async fn required_proxy_header_sets_client() {
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
    // A client that stalls.
    let mut slow = connect(&process, "127.0.0.1").await;
    slow.write_all(&SIGNATURE[..5]).await.unwrap();
    let mut nothing = Vec::new();
    timeout(DEADLINE, slow.read_to_end(&mut nothing)).await.expect("closed").expect("without a word");
    assert_eq!((nothing.len(), refused(&process, "late").await), (0, 1));
}

#[tokio::test]
async fn trusts_proxy_header_of_listed_networks() {
    let (_server, process) = serve(&[("DARKROOM_HTTP_PROXY_PROTOCOL", "[\"127.0.0.2/32\", \"10.0.0.0/8\"]")]).await;
    let with_header = [&header([203, 0, 113, 8], &[]), REQUEST.as_bytes()].concat();
    assert!(answer(&process, "127.0.0.2", &[&with_header]).await.starts_with("HTTP/1.1 401 "));
    logged(&process, "203.0.113.8").await;
    assert_eq!(answer(&process, "127.0.0.2", &[REQUEST.as_bytes()]).await, "", "the balancer has to send one");
    // A header of an untrusted sender would be spoofed.
    let spoofed = [&header([203, 0, 113, 9], &[]), REQUEST.as_bytes()].concat();
    let told = answer(&process, "127.0.0.3", &[&spoofed]).await;
    assert!(told.is_empty() || told.starts_with("HTTP/1.1 400 "), "{told}");
    assert!(answer(&process, "127.0.0.3", &[REQUEST.as_bytes()]).await.starts_with("HTTP/1.1 401 "));
    logged(&process, "127.0.0.3").await;
    assert!(!process.log().contains("203.0.113.9"));
}

#[tokio::test]
async fn accepts_only_listed_vpc_endpoints() {
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
async fn trusts_forwarded_header_by_hop_count() {
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

/// The remaining data until the connection is closed.
async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("closed");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Sends a request over a kept connection and reads the status line.
async fn ask(stream: &mut TcpStream) -> String {
    stream.write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"}") {
        assert_ne!(timeout(DEADLINE, stream.read_buf(&mut answer)).await.expect("answered").unwrap(), 0, "closed");
    }
    String::from_utf8_lossy(&answer).lines().next().unwrap().to_owned()
}

async fn metric(process: &Process, series: &str) -> u64 {
    let text = reqwest::get(format!("{}/metrics", process.operations)).await.unwrap().text().await.unwrap();
    text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn cuts_stalled_but_not_idle_clients() {
    let (server, process) = serve(&[("DARKROOM_LIMITS_HEADER_TIMEOUT", "300ms")]).await;
    let mut silent = connect(&process, "127.0.0.1").await;
    let mut idle = connect(&process, "127.0.0.1").await;
    assert_eq!(ask(&mut idle).await, "HTTP/1.1 200 OK");
    // A byte at a time.
    let mut slow = connect(&process, "127.0.0.1").await;
    slow.set_nodelay(true).unwrap();
    let (mut reader, mut writer) = slow.split();
    let dribble = async {
        for byte in b"GET / HTTP/1.1\r\nx: ".iter().chain(std::iter::repeat(&b'y')) {
            if writer.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let mut answer = Vec::new();
    tokio::select! {
        read = timeout(DEADLINE, reader.read_to_end(&mut answer)) => { let _ = read.expect("cut"); }
        () = dribble => {}
    }
    // The limit applies to the second request too.
    let mut second = connect(&process, "127.0.0.1").await;
    assert_eq!(ask(&mut second).await, "HTTP/1.1 200 OK");
    second.write_all(b"GET / HT").await.unwrap();
    rest(&mut second).await;
    assert_eq!(metric(&process, "darkroom_connection_timeouts_total{reason=\"header\"}").await, 2);
    // A stalled body, which is answered.
    let mut body = connect(&process, "127.0.0.1").await;
    let token = server.identity.token("alice").unwrap();
    let head = format!(
        "POST /v1/albums HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{{"
    );
    body.write_all(head.as_bytes()).await.unwrap();
    let answer = rest(&mut body).await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("urn:darkroom:problem:too-slow"), "{answer}");
    assert_eq!(metric(&process, "darkroom_connection_timeouts_total{reason=\"body\"}").await, 1);
    for stream in [&mut silent, &mut idle] {
        assert_eq!(ask(stream).await, "HTTP/1.1 200 OK");
    }
}

#[tokio::test]
async fn closes_connection_after_idle_timeout() {
    let (_server, process) = serve(&[("DARKROOM_LIMITS_IDLE_TIMEOUT", "2s")]).await;
    let mut idle = connect(&process, "127.0.0.1").await;
    assert_eq!(ask(&mut idle).await, "HTTP/1.1 200 OK");
    assert_eq!(rest(&mut idle).await, "");
    assert_eq!(rest(&mut connect(&process, "127.0.0.1").await).await, "");
    assert_eq!(metric(&process, "darkroom_connection_timeouts_total{reason=\"header\"}").await, 0, "in peace");
}

#[tokio::test]
async fn limits_connections_and_header_size() {
    let settings = [("DARKROOM_LIMITS_MAX_CONNECTIONS", "2"), ("DARKROOM_LIMITS_MAX_HEADER_BYTES", "8192")];
    let (_server, process) = serve(&settings).await;
    let (mut first, mut second) = (connect(&process, "127.0.0.1").await, connect(&process, "127.0.0.1").await);
    for stream in [&mut first, &mut second] {
        assert_eq!(ask(stream).await, "HTTP/1.1 200 OK");
    }
    assert_eq!(rest(&mut connect(&process, "127.0.0.1").await).await, "");
    assert_eq!(refused(&process, "full").await, 1);
    let large = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(20_000));
    let _ = first.write_all(large.as_bytes()).await;
    assert!(rest(&mut first).await.starts_with("HTTP/1.1 431 "));
    // The connection is no longer counted.
    eventually("connection closed", async || {
        let mut third = connect(&process, "127.0.0.1").await;
        third.write_all(REQUEST.as_bytes()).await.ok()?;
        rest(&mut third).await.starts_with("HTTP/1.1 401 ").then_some(())
    })
    .await;
}

#[tokio::test]
async fn serves_http2_over_clear_text() {
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let (_server, mut process) = serve(&[]).await;
    let stream = TokioIo::new(connect(&process, "127.0.0.1").await);
    let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await;
    let (mut requests, connection) = shaken.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    for _ in 0..3 {
        let request = axum::http::Request::get(format!("{}/v1/albums", process.url)).body(String::new()).unwrap();
        let answer = requests.send_request(request).await.expect("an answer");
        assert_eq!((answer.version(), answer.status().as_u16()), (axum::http::Version::HTTP_2, 401));
    }
    process.signal(rustix::process::Signal::TERM);
    assert!(process.ended().await.success());
    connection.await.unwrap().expect("GOAWAY, not a broken connection");
}

#[tokio::test]
async fn reloads_certificate_and_rejects_bad_one() {
    let folder = tempfile::tempdir().unwrap();
    let listen = free_address();
    let name = listen.split(':').next().unwrap();
    let authorities = ["first", "second"].map(|name| Authority::new(folder.path(), name));
    let issued = authorities.each_ref().map(|authority| {
        let issued = authority.issue(&[name], Validity::Good);
        (std::fs::read(&issued.certificate).unwrap(), std::fs::read(&issued.key).unwrap())
    });
    let (chain, key) = (folder.path().join("chain.pem"), folder.path().join("key.pem"));
    let put = |(certificate, secret): (&[u8], &[u8])| {
        std::fs::write(&chain, certificate).unwrap();
        std::fs::write(&key, secret).unwrap();
    };
    put((&issued[0].0, &issued[0].1));
    let settings = [
        ("DARKROOM_HTTP_LISTEN", listen.as_str()),
        ("DARKROOM_HTTP_TLS_CERTIFICATE", chain.to_str().unwrap()),
        ("DARKROOM_HTTP_TLS_KEY", key.to_str().unwrap()),
    ];
    let (_server, process) = serve(&settings).await;
    // A new client each time: a kept connection would have the old certificate.
    let trusts = async |nth: usize| {
        let root = std::fs::read(authorities[nth].path()).unwrap();
        let root = reqwest::Certificate::from_pem(&root).unwrap();
        let client = reqwest::Client::builder().tls_certs_only([root]).build().unwrap();
        client.get(format!("https://{listen}/health/live")).send().await.is_ok()
    };
    assert_eq!((trusts(0).await, trusts(1).await), (true, false));
    let health: serde_json::Value =
        reqwest::get(format!("{}/health", process.operations)).await.unwrap().json().await.unwrap();
    assert_eq!(health["dependencies"]["listener_certificate"]["status"], "ok", "{health}");
    let mut clear = TcpStream::connect(&listen).await.unwrap();
    clear.write_all(REQUEST.as_bytes()).await.unwrap();
    assert!(!rest(&mut clear).await.contains("HTTP/1.1 2"), "no clear text here");

    put((&issued[1].0, &issued[0].1));
    process.signal(rustix::process::Signal::HUP);
    eventually("refused", async || process.log().contains("does not match the certificate").then_some(())).await;
    assert_eq!((trusts(0).await, trusts(1).await), (true, false));

    put((&issued[1].0, &issued[1].1));
    process.signal(rustix::process::Signal::HUP);
    eventually("changed", async || trusts(1).await.then_some(())).await;
    assert!(!trusts(0).await);
}

#[tokio::test]
async fn reload_applies_limits_and_log_level() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("darkroom.toml");
    std::fs::write(&file, "limits.max_connections = 50\n").unwrap();
    let (_server, process) = serve(&[("DARKROOM_CONFIG", file.to_str().unwrap())]).await;
    let shown = async |path: &str| {
        let answer = reqwest::get(format!("{}{path}", process.operations)).await.unwrap();
        answer.json::<serde_json::Value>().await.unwrap()
    };
    let connections = async || shown("/info").await["config"]["limits.max_connections"].clone();
    assert_eq!(connections().await, "50");
    std::fs::write(&file, "limits.max_connections = 0\nlog.level = \"debug\"\n").unwrap();
    process.signal(rustix::process::Signal::HUP);
    eventually("refused", async || process.log().contains("the old one stays").then_some(())).await;
    assert_eq!((connections().await, shown("/log-level").await["level"].clone()), ("50".into(), "info".into()));

    let text = "limits.max_connections = 1\nlog.level = \"debug\"\nworker.concurrency = 7\n";
    std::fs::write(&file, text).unwrap();
    process.signal(rustix::process::Signal::HUP);
    eventually("taken over", async || (connections().await == "1").then_some(())).await;
    assert_eq!(shown("/log-level").await["level"], "debug");
    assert_eq!(shown("/info").await["config"]["worker.concurrency"], "4");
    eventually("notified", async || process.log().contains("need a restart").then_some(())).await;
    let mut only = connect(&process, "127.0.0.1").await;
    assert_eq!(ask(&mut only).await, "HTTP/1.1 200 OK");
    assert_eq!(rest(&mut connect(&process, "127.0.0.1").await).await, "");
}

#[tokio::test]
async fn rate_limit_sends_retry_after() {
    let settings = [("DARKROOM_LIMITS_USER_PER_SECOND", "1"), ("DARKROOM_LIMITS_USER_BURST", "3")];
    let (server, process) = serve(&settings).await;
    let alice = process.user(&server, "alice");
    for _ in 0..3 {
        alice.get("/v1/albums").await.expect(200);
    }
    let limited = eventually("limited", async || {
        let answer = alice.get("/v1/albums").await;
        (answer.status == 429).then_some(answer)
    })
    .await;
    assert!(limited.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
    process.user(&server, "bob").get("/v1/albums").await.expect(200);
    eventually("accepted again", async || (alice.get("/v1/albums").await.status == 200).then_some(())).await;

    let settings = [
        ("DARKROOM_LIMITS_ADDRESS_PER_SECOND", "1"),
        ("DARKROOM_LIMITS_ADDRESS_BURST", "1"),
        ("DARKROOM_HTTP_TRUSTED_HOPS", "1"),
    ];
    let (_server, process) = serve(&settings).await;
    let status = async |client: &str| {
        let request =
            format!("GET /v1/albums HTTP/1.1\r\nhost: x\r\nx-forwarded-for: {client}\r\nconnection: close\r\n\r\n");
        answer(&process, "127.0.0.1", &[request.as_bytes()]).await[9..12].to_owned()
    };
    eventually("limited", async || (status("2001:db8::1").await == "429").then_some(())).await;
    assert_eq!(status("2001:db8:0:1::1").await, "401", "another network");
}

/// Holds many idle connections and prints the memory of each.
#[tokio::test]
async fn holds_ten_thousand_idle_connections() {
    const WANTED: u64 = 10_000;
    // Each connection takes two file descriptors: one here and one in the service.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let room = limit.current.unwrap_or(u64::MAX).saturating_sub(2000);
    let count = WANTED.min(room);
    if count < WANTED {
        println!("only {count} connections: this process may open no more files");
    }
    let (_server, process) = serve(&[("DARKROOM_LIMITS_MAX_CONNECTIONS", "20000")]).await;
    let memory = async || metric(&process, "process_resident_memory_bytes").await;
    let before = memory().await;
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(connect(&process, "127.0.0.1").await);
    }
    eventually("accepted", async || (metric(&process, "process_open_fds").await > count).then_some(())).await;
    let silent = memory().await;
    for stream in &mut held {
        assert_eq!(ask(stream).await, "HTTP/1.1 200 OK");
    }
    let idle = memory().await;
    println!(
        "{count} connections: {} KiB each that said nothing, {} KiB each after a request",
        (silent - before) / count / 1024,
        (idle - before) / count / 1024
    );
    assert_eq!(ask(held.first_mut().unwrap()).await, "HTTP/1.1 200 OK");
    assert_eq!(ask(&mut connect(&process, "127.0.0.1").await).await, "HTTP/1.1 200 OK");
}

/// hyper completes a response before the kernel has accepted all of it: the end is still in hyper's buffer.
#[tokio::test]
async fn slow_client_gets_full_response_on_close() {
    let (server, mut process) = serve(&[("DARKROOM_WORKER_ENABLED", "false")]).await;
    let host = process.user(&server, "alice");
    let album = host.album("large").await;
    let bytes: Vec<u8> = [&tiny_photo(0)[..], &vec![7; 12 << 20]].concat();
    let photo = host.upload(&album, "image/png", &bytes).await;
    let found = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let token = server.identity.token("alice").unwrap();
    let found =
        found.get(format!("{}/v1/photos/{photo}/original", process.url)).bearer_auth(token).send().await.unwrap();
    let url = found.headers()["location"].to_str().unwrap().strip_prefix(&process.url).unwrap().to_owned();

    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let to = process.url.strip_prefix("http://").unwrap().parse().unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    stream.write_all(format!("GET {url} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = vec![0; 1];
    stream.read_exact(&mut answer).await.unwrap();
    process.signal(rustix::process::Signal::TERM);
    eventually("closed", async || TcpStream::connect(to).await.is_err().then_some(())).await;
    timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("in time").expect("no reset");
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
    assert_eq!(answer.len() - head, bytes.len());
    assert!(process.ended().await.success());
}

#[tokio::test]
async fn drain_answers_http2_long_poll() {
    use http_body_util::BodyExt;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let (server, mut process) = serve(&[]).await;
    let album = process.user(&server, "alice").album("followed").await;
    let stream = TokioIo::new(connect(&process, "127.0.0.1").await);
    let (mut requests, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let request = axum::http::Request::get(format!("{}/v1/albums/{album}/events?wait=25", process.url))
        .header("authorization", format!("Bearer {}", server.identity.token("alice").unwrap()))
        .body(String::new())
        .unwrap();
    let answer = tokio::spawn(requests.send_request(request));
    eventually("waiting", async || (metric(&process, "darkroom_http_requests_in_flight").await >= 2).then_some(()))
        .await;
    process.signal(rustix::process::Signal::TERM);
    let answer = answer.await.unwrap().expect("an answer");
    assert_eq!(answer.status(), 200);
    let body = answer.into_body().collect().await.expect("all of it").to_bytes();
    assert!(body.starts_with(b"{\"items\":[]"), "{body:?}");
    assert!(process.ended().await.success());
    connection.await.unwrap().expect("GOAWAY, not a broken connection");
}

/// The connection is not read while a response is pending, so the idle timeout must start explicitly.
#[tokio::test]
async fn applies_idle_timeout_after_long_request() {
    let settings = [("DARKROOM_LIMITS_HEADER_TIMEOUT", "100ms"), ("DARKROOM_LIMITS_IDLE_TIMEOUT", "2s")];
    let (server, process) = serve(&settings).await;
    let album = process.user(&server, "alice").album("followed").await;
    let mut stream = connect(&process, "127.0.0.1").await;
    let token = server.identity.token("alice").unwrap();
    let head =
        format!("GET /v1/albums/{album}/events?wait=1 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 200 "));
    assert_eq!(metric(&process, "darkroom_connection_timeouts_total{reason=\"header\"}").await, 0);
}
