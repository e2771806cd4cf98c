//! The service behind a load balancer that forwards TCP, checks health and sends PROXY protocol version 2: instances
//! are replaced, killed and stopped under load.

use std::{
    io::{Read, Write},
    net::IpAddr,
    time::{Duration, Instant},
};

use axum::{Router, routing::get};
use darkroom::{
    config::Front,
    server::{self, Drain, Listener},
};
use reqwest::{Method, RequestBuilder, StatusCode};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::{
    chaos::crashes::{begin_upload, incoming_bytes},
    harness::{
        Client, DEADLINE, TestServer, album_invariants,
        client::id,
        eventually,
        haproxy::Haproxy,
        is_full_run, large_photo,
        load::{Load, Outcome, Recorder},
        process::{Process, free_address},
        tiny_photo,
    },
};

/// Clients that send one request at a time, most over a kept connection.
const CLIENTS: u32 = 6;
/// Of them, those that open a connection for each request.
const NEWCOMERS: u32 = 2;
/// Clients that follow the events of an album of another client.
const FOLLOWERS: u32 = 1;
/// Between two requests of a client.
const PAUSE: Duration = Duration::from_millis(20);

type Settings = &'static [(&'static str, &'static str)];

const REQUIRED: (&str, &str) = ("DARKROOM_HTTP_PROXY_PROTOCOL", "required");

/// Instances on one database behind a load balancer.
struct Fleet {
    server: TestServer,
    url: String,
    balancer: Haproxy,
    addresses: Vec<String>,
    instances: Vec<Process>,
    settings: Settings,
}

impl Fleet {
    async fn start(size: usize, settings: Settings) -> Self {
        let quiet = "worker.enabled = false\nreconciler.orphan_grace_period = \"0s\"\n";
        let (server, front) = (TestServer::start_with(quiet).await, free_address());
        let addresses: Vec<String> = (0..size).map(|_| free_address()).collect();
        let balancer = Haproxy::start(&front, &addresses).await;
        let url = format!("http://{front}");
        let mut fleet = Self { server, url, balancer, addresses, instances: Vec::new(), settings };
        for nth in 0..size {
            let instance = fleet.launch(nth).await;
            fleet.instances.push(instance);
        }
        for nth in 0..size {
            fleet.balancer.up(nth).await;
        }
        fleet
    }

    async fn launch(&self, nth: usize) -> Process {
        let own = [("DARKROOM_HTTP_LISTEN", &*self.addresses[nth]), ("DARKROOM_HTTP_PUBLIC_URL", &*self.url)];
        Process::start(&self.server, "serve", &[self.settings, &own].concat()).await
    }

    /// A client of the load balancer with its own connections.
    fn user(&self, subject: &str) -> Client {
        Client::new(&self.url, Some(self.server.identity.token(subject).expect("a token")))
    }

    /// Waits until an instance has connections.
    async fn used(&self, nth: usize) {
        eventually("used", async || (self.balancer.open(nth).await > 0).then_some(())).await;
    }

    /// Waits until an instance refuses connections.
    async fn closed(&self, nth: usize) {
        let address = &self.addresses[nth];
        eventually("closed", async || TcpStream::connect(address).await.is_err().then_some(())).await;
    }

    /// Stops an instance with SIGTERM and asserts exit code 0.
    async fn stop(&mut self, nth: usize) {
        self.instances[nth].signal(Signal::TERM);
        let code = self.instances[nth].ended().await.code();
        assert_eq!(code, Some(0), "{}", self.instances[nth].log());
    }
}

/// A load of hosts and followers through the balancer.
struct FleetLoad {
    load: Load,
    /// The uploading client, and its album.
    hosts: Vec<(Client, String)>,
}

/// The result of a load.
struct FleetOutcome {
    outcome: Outcome,
    /// Each host's album, and the photos whose upload was answered 2xx.
    albums: Vec<(Client, String, Vec<String>)>,
}

impl FleetLoad {
    async fn start(fleet: &Fleet) -> Self {
        let (mut load, mut hosts) = (Load::default(), Vec::new());
        for number in 0..CLIENTS {
            let host = fleet.user(&format!("host-{number}"));
            let album = host.album("load").await;
            load.spawn(|recorder, stop| upload_and_read(host.clone(), album.clone(), number, recorder, stop));
            hosts.push((host, album));
        }
        for (number, (_, album)) in (0..FOLLOWERS).zip(&hosts) {
            // A client of its own, because a long poll occupies its connection.
            let follower = fleet.user(&format!("host-{number}"));
            load.spawn(|recorder, stop| follow_events(follower, album.clone(), recorder, stop));
        }
        Self { load, hosts }
    }

    /// Stops the load and prints its numbers.
    async fn stop(self, name: &str) -> FleetOutcome {
        let mut outcome = self.load.stop().await;
        println!(
            "{name}: {} requests of {} clients, {} failed, the slowest took {:?}",
            outcome.requests.len(),
            CLIENTS + FOLLOWERS,
            outcome.failed().len(),
            outcome.slowest()
        );
        let results = std::mem::take(&mut outcome.results);
        let albums = self.hosts.into_iter().zip(results).map(|((host, album), photos)| (host, album, photos));
        FleetOutcome { albums: albums.collect(), outcome }
    }
}

/// Uploads, updates and reads until it is stopped; returns the photos whose upload was answered 2xx.
async fn upload_and_read(
    client: Client,
    album: String,
    number: u32,
    recorder: Recorder,
    stop: CancellationToken,
) -> Vec<String> {
    let mut photos = Vec::new();
    let path = format!("/v1/albums/{album}");
    let ask = async |request: RequestBuilder| {
        tokio::time::sleep(PAUSE).await;
        let request = if number < NEWCOMERS { request.header("connection", "close") } else { request };
        recorder.send(&client, request, false).await
    };
    for turn in 0_u32.. {
        if stop.is_cancelled() {
            break;
        }
        let bytes = tiny_photo(number << 16 | turn);
        if let Some(declared) = ask(client.declaration(&album, "image/png", &bytes)).await
            && ask(client.sending(&declared["upload"], bytes)).await.is_some()
        {
            photos.push(id(&declared["photo"]));
        }
        let title = json!({ "title": format!("load {turn}") });
        ask(client.request(Method::PATCH, &path).json(&title)).await;
        ask(client.request(Method::GET, &path)).await;
        ask(client.request(Method::GET, &format!("{path}/photos?limit=5"))).await;
    }
    photos
}

/// Follows the events of an album by long polls until it is stopped.
async fn follow_events(client: Client, album: String, recorder: Recorder, stop: CancellationToken) -> Vec<String> {
    let mut last = 0;
    loop {
        let request = client.request(Method::GET, &format!("/v1/albums/{album}/events?after={last}&wait=25"));
        match stop.run_until_cancelled(recorder.send(&client, request, true)).await {
            Some(answer) => last = answer.and_then(|events| events["last"].as_u64()).unwrap_or(last),
            None => return Vec::new(),
        }
    }
}

/// Replaces two of three instances under load, or all in a full run; no request may fail.
async fn replaced_one_by_one(what: &str, settings: Settings, deregistered: bool) {
    let mut fleet = Fleet::start(3, settings).await;
    let load = FleetLoad::start(&fleet).await;
    for nth in 0..if is_full_run() { 3 } else { 2 } {
        load.load.continues().await;
        fleet.used(nth).await;
        if deregistered {
            fleet.balancer.drain(nth).await;
        }
        fleet.stop(nth).await;
        fleet.instances[nth] = fleet.launch(nth).await;
        if deregistered {
            fleet.balancer.admit(nth).await;
        }
        fleet.balancer.up(nth).await;
    }
    load.load.continues().await;
    let FleetOutcome { outcome, albums } = load.stop(what).await;
    let failures: Vec<&Option<String>> = outcome.failed().into_iter().map(|request| &request.failure).collect();
    assert!(failures.is_empty(), "{failures:?}");
    for (host, album, photos) in &albums {
        assert!(!photos.is_empty());
        album_invariants::check(&fleet.server, host, album, photos).await;
    }
}

#[tokio::test]
async fn replacing_instances_fails_no_request() {
    let settings = &[REQUIRED, ("DARKROOM_HTTP_SHUTDOWN_DELAY", "1s")];
    replaced_one_by_one("replaced after deregistration", settings, true).await;
}

/// Stopping an instance without deregistration requires that readiness fails at once, and a lame-duck time longer than
/// the health checks need. Otherwise new connections reach a closed listener.
#[tokio::test]
async fn lame_duck_stop_fails_no_request() {
    let settings =
        &[REQUIRED, ("DARKROOM_HTTP_SHUTDOWN_DELAY", "5s"), ("DARKROOM_HTTP_FAIL_READINESS_ON_SHUTDOWN", "true")];
    replaced_one_by_one("replaced without a word", settings, false).await;
}

#[tokio::test]
async fn kill_fails_only_requests_in_flight() {
    let mut fleet = Fleet::start(3, &[REQUIRED]).await;
    let load = FleetLoad::start(&fleet).await;
    load.load.continues().await;
    fleet.used(0).await;
    fleet.instances.remove(0).kill();
    fleet.balancer.down(0).await;
    let found = Instant::now();
    load.load.continues().await;
    let FleetOutcome { outcome, albums } = load.stop("killed").await;
    // Until the health checks fail, the load balancer still sends connections to the killed instance.
    let (failed, refused) = (outcome.failed(), fleet.balancer.refused(0).await);
    let under_way = (failed.len() as u64).saturating_sub(refused);
    println!("killed: {under_way} of them were under way, {refused} came before the checks had found out");
    assert!(under_way <= u64::from(CLIENTS + FOLLOWERS), "each client has one request under way at most");
    let later: Vec<_> =
        failed.iter().filter(|request| request.started > found).map(|request| &request.failure).collect();
    assert!(later.is_empty(), "{later:?}");
    // Other instances finish its jobs.
    for (host, _, photos) in &albums {
        for photo in photos {
            assert_eq!(host.settled(photo).await["state"], "ready");
        }
    }
}

#[tokio::test]
async fn upload_and_long_poll_outlive_sigterm() {
    let mut fleet = Fleet::start(1, &[REQUIRED, ("DARKROOM_HTTP_SHUTDOWN_DELAY", "100ms")]).await;
    let (host, bytes) = (fleet.user("alice"), large_photo());
    let album = host.album("drain").await;
    let declared = host.declare(&album, "image/png", &bytes).await;
    let mut upload = begin_upload(&declared["upload"], &bytes, bytes.len() / 2);
    let follower = tokio::spawn({
        let (host, events) = (host.clone(), format!("/v1/albums/{album}/events?wait=25"));
        async move { host.get(&events).await }
    });
    eventually("half of the body stored", async || (incoming_bytes(&fleet.server) > 1 << 20).then_some(())).await;
    let three = "darkroom_http_requests_in_flight 3";
    let under_way = async || fleet.instances[0].metrics().await.lines().any(|line| line == three).then_some(());
    eventually("three requests in flight: upload, long poll and this one", under_way).await;
    fleet.instances[0].signal(Signal::TERM);
    let answer = follower.await.unwrap();
    assert_eq!((answer.status, answer.header("connection")), (StatusCode::OK, "close"));
    fleet.closed(0).await;
    let answered = tokio::task::spawn_blocking(move || {
        for piece in bytes[bytes.len() / 2..].chunks(1 << 20) {
            upload.write_all(piece).unwrap();
        }
        let mut answer = String::new();
        // Ends when the connection is closed.
        upload.read_to_string(&mut answer).unwrap();
        answer
    });
    let answer = answered.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert_eq!(fleet.instances[0].ended().await.code(), Some(0));
}

#[tokio::test]
async fn cuts_endless_requests_at_deadline() {
    let settings = &[REQUIRED, ("DARKROOM_HTTP_SHUTDOWN_DELAY", "500ms"), ("DARKROOM_HTTP_DRAIN_TIMEOUT", "1s")];
    let mut fleet = Fleet::start(1, settings).await;
    let (host, bytes) = (fleet.user("alice"), tiny_photo(1));
    let album = host.album("drain").await;
    let declared = host.declare(&album, "image/png", &bytes).await;
    // Closes its connection, which would be counted.
    drop(host);
    let mut body = begin_upload(&declared["upload"], &bytes, 10);
    let mut head = std::net::TcpStream::connect(fleet.url.strip_prefix("http://").unwrap()).unwrap();
    head.write_all(b"GET /v1/albums HTTP/1.1\r\nhost: dark").unwrap();
    let begun = async || (incoming_bytes(&fleet.server) > 0 && fleet.balancer.open(0).await == 2).then_some(());
    eventually("both begun", begun).await;
    fleet.stop(0).await;
    let log = fleet.instances[0].log();
    let line = |words: &str| log.lines().find(|line| line.contains(words)).unwrap_or_else(|| panic!("{words}: {log}"));
    let cut: Value = serde_json::from_str(line("aborting connections")).unwrap();
    assert_eq!((&cut["level"], &cut["connections"]), (&"WARN".into(), &2.into()), "{cut}");
    let upload: Value = serde_json::from_str(line("\"route\":\"/v1/uploads/{photo_id}\"")).unwrap();
    assert_eq!(upload["outcome"], "cancelled", "{upload}");
    let told = tokio::task::spawn_blocking(move || {
        // A reset is as good as an end without a response.
        [&mut body, &mut head].map(|stream| {
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            answer.len()
        })
    });
    assert_eq!(told.await.unwrap(), [0, 0]);
}

#[tokio::test]
async fn lame_duck_serves_with_connection_close() {
    // The load balancer sends a PROXY header, other clients do not.
    const LONG: (&str, &str) = ("DARKROOM_HTTP_SHUTDOWN_DELAY", "1m");
    const FROM: (&str, &str) = ("DARKROOM_HTTP_PROXY_PROTOCOL", "[\"127.0.0.1/32\"]");
    let another = reqwest::Client::builder().local_address(IpAddr::from([127, 0, 0, 3])).build().unwrap();
    let cases: [(Settings, StatusCode); 2] = [
        (&[FROM, LONG], StatusCode::OK),
        (&[FROM, LONG, ("DARKROOM_HTTP_FAIL_READINESS_ON_SHUTDOWN", "true")], StatusCode::SERVICE_UNAVAILABLE),
    ];
    for (settings, readiness) in cases {
        let mut fleet = Fleet::start(1, settings).await;
        let host = fleet.user("alice");
        host.album("lame duck").await;
        let before = host.get("/v1/albums").await;
        assert_eq!((before.status, before.header("connection")), (StatusCode::OK, ""));
        fleet.instances[0].signal(Signal::TERM);
        let url = format!("{}/health/ready", fleet.instances[0].url);
        let ready = async || {
            let answer = another.get(&url).send().await.expect("new connections are taken");
            let told = (answer.status(), answer.headers().get("connection").cloned());
            (answer.json::<Value>().await.unwrap()["status"] == "draining").then_some(told)
        };
        let told = eventually("draining", ready).await;
        assert_eq!(told, (readiness, Some("close".parse().unwrap())));
        if readiness == StatusCode::OK {
            // First over the kept connection, then over a new one.
            for connection in ["old", "new"] {
                let answer = host.get("/v1/albums").await;
                assert_eq!((answer.status, answer.header("connection")), (StatusCode::OK, "close"), "{connection}");
            }
        } else {
            fleet.balancer.down(0).await;
            // An unhealthy target gets no new connections, so this uses the kept one.
            let answer = host.get("/v1/albums").await;
            assert_eq!((answer.status, answer.header("connection")), (StatusCode::OK, "close"));
        }
        fleet.instances[0].signal(Signal::TERM);
        assert_eq!(fleet.instances[0].ended().await.code(), Some(1), "told twice, it does not wait for the time's end");
    }
}

/// The runtime has one thread, this one, so it can't read a socket between the requests and the close.
#[tokio::test]
async fn answers_requests_sent_before_close() {
    const ASK: &[u8] = b"GET / HTTP/1.1\r\nhost: here\r\n\r\n";
    let server = TestServer::start_with("worker.enabled = false").await;
    let socket = server::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = socket.local_addr().unwrap();
    let closing = CancellationToken::new();
    let drain = Drain { draining: closing.clone(), closing: closing.clone(), timeout: DEADLINE };
    let limits = server.app.limits.subscribe();
    let listener = Listener { socket, front: Front::default(), limits, tls: None };
    let serving = tokio::spawn(listener.serve(Router::new().route("/", get("here")), drain));
    let mut used = std::net::TcpStream::connect(address).unwrap();
    used.write_all(ASK).unwrap();
    let used = tokio::task::spawn_blocking(move || {
        let mut answer = Vec::new();
        while !answer.ends_with(b"here") {
            let mut byte = [0];
            used.read_exact(&mut byte).unwrap();
            answer.extend(byte);
        }
        used
    });
    let mut streams = vec![used.await.unwrap()];
    streams.extend((0..20).map(|_| std::net::TcpStream::connect(address).unwrap()));
    for stream in &mut streams {
        stream.write_all(ASK).unwrap();
    }
    closing.cancel();
    let answered = tokio::task::spawn_blocking(move || {
        let answers = streams.iter_mut().map(|stream| {
            let mut answer = String::new();
            stream.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.1 200 OK\r\n")
        });
        answers.collect::<Vec<bool>>()
    });
    assert_eq!(answered.await.unwrap(), [true; 21]);
    serving.await.unwrap();
}
