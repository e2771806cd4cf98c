//! The binary: exit codes, messages, `check`, signals, logs and the operations listener.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::TcpStream,
};

use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    chaos::crashes::{begin_upload, incoming_bytes},
    harness::{
        DEADLINE, TestServer, Webhook,
        client::id,
        database::Database,
        eventually, fixture, large_photo,
        process::{Process, darkroom, free_address, run},
        tiny_photo,
    },
};

/// `EX_USAGE` of sysexits.h.
const USAGE: i32 = 64;

/// The settings of a server with changes.
fn but(server: &TestServer, changes: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut all = server.environment();
    all.retain(|(name, _)| !changes.iter().any(|(changed, _)| changed == name));
    all.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    all
}

async fn idle_server() -> TestServer {
    TestServer::start_with("worker.enabled = false").await
}

#[tokio::test]
async fn invalid_command_line_exits_64() {
    let bad: [&[&str]; 8] = [
        &[],
        &["develop"],
        &["serve", "--port", "80"],
        &["dev", "--listen", "nowhere"],
        &["dev", "--server", "oracle"],
        &["upload", "--album", "x", "a.jpg"],
        &["token"],
        &["jobs", "drop", "the-last-one"],
    ];
    for arguments in bad {
        let (code, said, complaint) = run(darkroom(arguments, &[])).await;
        assert!(code == USAGE && said.is_empty() && !complaint.is_empty(), "{arguments:?}: {code}: {said}{complaint}");
    }
    for arguments in [["--help"], ["--version"]] {
        let (code, said, complaint) = run(darkroom(&arguments, &[])).await;
        assert!(code == 0 && said.contains("darkroom") && complaint.is_empty(), "{said}{complaint}");
    }
}

#[tokio::test]
async fn names_every_configuration_mistake() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("darkroom.toml");
    std::fs::write(&file, "http.listen = 80\nworker.concurency = 3\nstorage.signing_keys = \"short-and-secret\"\n")
        .unwrap();
    let environment =
        [("DARKROOM_LOG_LEVEL", "loud"), ("DARKROOM_WORKER_VISIBILITY_TIMEOUT", "soon"), ("DARKROOM_SPEED", "11")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let verbs: [&[&str]; 5] = [&["serve"], &["worker"], &["migrate"], &["check"], &["jobs", "list"]];
    for verb in verbs {
        let arguments = [&["--config", file.to_str().unwrap()], verb].concat();
        let (code, said, complaint) = run(darkroom(&arguments, &environment)).await;
        assert!(code == USAGE && said.is_empty(), "{verb:?}: {code}: {said}{complaint}");
        for name in [
            "http.listen",
            "worker.concurency",
            "storage.signing_keys",
            "DARKROOM_SPEED",
            "worker.visibility_timeout",
            "log.level",
            "http.public_url",
            "identity.issuer",
            "database.user",
        ] {
            assert!(complaint.contains(name), "{name} is missing: {complaint}");
        }
        assert!(!complaint.contains("short-and-secret"), "{complaint}");
    }
    let (code, _, complaint) = run(darkroom(&["--config", "/nowhere/darkroom.toml", "serve"], &[])).await;
    assert!(code == USAGE && complaint.contains("/nowhere/darkroom.toml"), "{complaint}");
}

#[tokio::test]
async fn names_startup_obstacles() {
    let server = idle_server().await;
    let taken = server.url.strip_prefix("http://").unwrap();
    let file = server.folder().join("a-file");
    std::fs::write(&file, "").unwrap();
    let below_a_file = file.join("photos").display().to_string();
    let (free, other) = (free_address(), free_address());
    for (changes, words) in [
        ([("DARKROOM_HTTP_LISTEN", taken), ("DARKROOM_OPERATIONS_LISTEN", &free)], [taken, "already in use"]),
        ([("DARKROOM_HTTP_LISTEN", &free), ("DARKROOM_OPERATIONS_LISTEN", taken)], [taken, "already in use"]),
        (
            [("DARKROOM_HTTP_LISTEN", "192.0.2.1:80"), ("DARKROOM_OPERATIONS_LISTEN", &free)],
            ["192.0.2.1:80", "failed to listen"],
        ),
    ] {
        let (code, said, complaint) = run(darkroom(&["serve"], &but(&server, &changes))).await;
        assert!(
            code == 1 && said.is_empty() && words.iter().all(|word| complaint.contains(word)),
            "{code}: {complaint}"
        );
    }
    let folder = [
        ("DARKROOM_STORAGE_DIRECTORY", below_a_file.as_str()),
        ("DARKROOM_HTTP_LISTEN", &free),
        ("DARKROOM_OPERATIONS_LISTEN", &other),
    ];
    for verb in ["serve", "worker"] {
        let (code, _, complaint) = run(darkroom(&[verb], &but(&server, &folder))).await;
        assert!(code == 1 && complaint.contains(&below_a_file), "{code}: {complaint}");
    }
}

#[tokio::test]
async fn check_names_failing_dependency() {
    let server = idle_server().await;
    let [login, schema, grants] = ["database.login", "database.schema", "database.grants"];
    let rows = ["config", "storage", login, "database.version", schema, grants, "database.clock", "identity"];
    let (code, table, _) = run(darkroom(&["check"], &server.environment())).await;
    let state_of = |table: &str, row: &str| {
        let line = table.lines().find(|line| line.starts_with(row)).unwrap_or_else(|| panic!("no {row} in {table}"));
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!(code, 0, "{table}");
    assert!(rows.iter().all(|row| state_of(&table, row) == "ok"), "{table}");
    let empty = Database::create().await.name;
    for (variable, value, failing) in [
        ("DARKROOM_DATABASE_SOCKET", "/nowhere.sock", &[login][..]),
        ("DARKROOM_DATABASE_NAME", &empty, &[schema]),
        ("DARKROOM_STORAGE_DIRECTORY", "/proc/photos", &["storage"]),
        ("DARKROOM_IDENTITY_JWKS", "/nowhere/jwks.json", &["identity"]),
    ] {
        let (code, table, _) = run(darkroom(&["check"], &but(&server, &[(variable, value)]))).await;
        assert_eq!(code, 1, "{variable}: {table}");
        for row in rows {
            let expected = match row {
                _ if failing.contains(&row) => "FAILED",
                _ if failing == [login] && row.starts_with("database.") => "skipped",
                _ => "ok",
            };
            assert_eq!(state_of(&table, row), expected, "{variable}: {row}: {table}");
        }
    }
}

#[tokio::test]
async fn prints_the_served_document() {
    let server = idle_server().await;
    let (code, printed, _) = run(darkroom(&["openapi"], &[])).await;
    assert_eq!(code, 0);
    let document: Value = reqwest::get(format!("{}/openapi.json", server.url)).await.unwrap().json().await.unwrap();
    assert_eq!(serde_json::from_str::<Value>(&printed).unwrap(), document);
}

#[tokio::test]
async fn printed_token_is_accepted() {
    let server = idle_server().await;
    let folder = server.folder().to_str().unwrap();
    let (code, token, _) = run(darkroom(&["token", "--data", folder, "--subject", "bob"], &[])).await;
    assert_eq!(code, 0);
    server.bearer(token.trim()).get("/v1/albums").await.expect(200);
    let (code, said, complaint) = run(darkroom(&["token", "--data", "/nowhere", "--subject", "bob"], &[])).await;
    assert!(code == 1 && said.is_empty() && complaint.contains("darkroom dev"), "{complaint}");
}

#[tokio::test]
async fn sigterm_fails_no_request_in_flight() {
    let server = idle_server().await;
    let mut process = Process::start(&server, "serve", &[]).await;
    let host = process.user(&server, "alice");
    let (album, bytes) = (host.album("drain").await, large_photo());
    let declared = host.declare(&album, "image/png", &bytes).await;
    let half = bytes.len() / 2;
    let mut upload = begin_upload(&declared["upload"], &bytes, half);
    let follower = {
        let (host, events) = (host.clone(), format!("/v1/albums/{album}/events?wait=25"));
        tokio::spawn(async move { host.get(&events).await })
    };
    eventually("half of the body stored", async || (incoming_bytes(&server) > 1 << 20).then_some(())).await;
    let following =
        async || process.metrics().await.lines().any(|line| line == "darkroom_http_requests_in_flight 3").then_some(());
    eventually("three requests in flight: upload, long poll and this one", following).await;
    process.signal(Signal::TERM);
    let answer = follower.await.unwrap();
    assert_eq!(answer.expect(200), json!({ "items": [], "last": 0 }), "who waits is told that nothing happened");
    let address = process.url.strip_prefix("http://").unwrap().to_owned();
    eventually("closed", async || TcpStream::connect(&address).is_err().then_some(())).await;
    let answered = tokio::task::spawn_blocking(move || {
        upload.write_all(&bytes[half..]).unwrap();
        let mut answer = String::new();
        upload.read_to_string(&mut answer).unwrap();
        answer
    });
    assert!(answered.await.unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
    assert_eq!(process.ended().await.code(), Some(0));
    let photo = server.user("alice").get(&format!("/v1/photos/{}", id(&declared["photo"]))).await.expect(200);
    assert_eq!(photo["state"], "processing");
}

#[tokio::test]
async fn second_stop_signal_exits_immediately() {
    let server = idle_server().await;
    let mut process = Process::start(&server, "serve", &[]).await;
    let host = process.user(&server, "alice");
    let (album, bytes) = (host.album("now").await, tiny_photo(1));
    let declared = host.declare(&album, "image/png", &bytes).await;
    let _never_ends = begin_upload(&declared["upload"], &bytes, 10);
    eventually("begun", async || {
        (std::fs::read_dir(server.photos().join("incoming")).unwrap().count() > 0).then_some(())
    })
    .await;
    process.signal(Signal::INT);
    eventually("stopping", async || process.log().contains("stopping").then_some(())).await;
    process.signal(Signal::TERM);
    let begun = std::time::Instant::now();
    assert_eq!(process.ended().await.code(), Some(1));
    assert!(begun.elapsed().as_secs() < 5, "it did not wait for the drain's end");
}

/// Runs a scenario with all secrets; returns those that must not occur in a log.
async fn a_day_of(process: &Process, server: &TestServer) -> Vec<String> {
    let host = process.user(server, "alice");
    let album = host.album("day").await;
    let body = json!({ "role": "contribute", "label": "table 7" });
    let token = host.invite(&album, &body).await;
    let guest = crate::harness::Client::new(&process.url, Some(token.clone()));
    let photo = guest.upload(&album, "image/jpeg", &fixture("camera.jpg")).await;
    let settled = guest.settled(&photo).await;
    let url = settled["renditions"][0]["url"].as_str().unwrap();
    assert_eq!(guest.get(url).await.status, 200);
    let original = guest.get(&format!("/v1/photos/{photo}/original")).await;
    let location = original.header("location").to_owned();
    assert_eq!(guest.get(&location).await.status, 200);
    let request = host.request(Method::POST, "/v1/albums").header("idempotency-key", "key-of-alice");
    host.send(request.json(&json!({ "title": "once" }))).await.expect(201);
    // Failures: a forged signature, an altered invite, a foreign token.
    assert_eq!(guest.get(&format!("{url}x")).await.status, 401);
    // The last base64 character of 256 bits has 16 values.
    let forged = format!("{}{}", &token[..token.len() - 1], if token.ends_with('A') { 'E' } else { 'A' });
    let stranger = crate::harness::Client::new(&process.url, Some(forged.clone()));
    assert_eq!(stranger.get(&format!("/v1/albums/{album}")).await.status, 401);
    let jwt = server.identity.token("mallory").unwrap();
    let altered = crate::harness::Client::new(&process.url, Some(format!("{jwt}x")));
    assert_eq!(altered.get("/v1/albums").await.status, 401);
    let signature = |url: &str| url.rsplit_once("signature=").expect("a signature").1.to_owned();
    let jwt_signature = jwt.rsplit_once('.').unwrap().1.to_owned();
    vec![token, forged, jwt, jwt_signature, signature(url), signature(&location), "key-of-alice".into()]
}

#[tokio::test]
async fn logs_json_lines_without_secrets() {
    let (server, webhook) = (idle_server().await, Webhook::start().await);
    let variables = webhook.variables();
    let mut more: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    more.extend([("DARKROOM_LOG_LEVEL", "trace"), ("DARKROOM_WORKER_ENABLED", "true")]);
    let process = Process::start(&server, "serve", &more).await;
    let mut secrets = a_day_of(&process, &server).await;
    secrets.extend([server.identity.signing_secret().to_owned(), Webhook::secret()]);
    eventually("notified", async || (!webhook.deliveries().is_empty()).then_some(())).await;
    process.signal(Signal::TERM);
    let mut process = process;
    assert_eq!(process.ended().await.code(), Some(0));
    let log = process.log();
    let mut routes = BTreeSet::new();
    for line in log.lines() {
        let parsed: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(parsed["timestamp"].is_string() && parsed["level"].is_string(), "{line}");
        if parsed["message"] == "request completed" {
            assert!(parsed["request_id"].is_string() && parsed["status"].is_u64(), "{line}");
            routes.insert(parsed["route"].as_str().expect("a route").to_owned());
        }
    }
    for route in
        ["/v1/albums", "/v1/uploads/{photo_id}", "/v1/renditions/{photo_id}/{name}", "/v1/originals/{photo_id}"]
    {
        assert!(routes.contains(route), "{route} is not in {routes:?}");
    }
    for secret in secrets {
        assert_eq!(log.lines().find(|line| line.contains(&secret)), None, "{secret}");
    }
}

#[tokio::test]
async fn serves_actuator_paths_if_enabled() {
    let server = idle_server().await;
    let silent = format!("{}/actuator/health", server.operations);
    assert_eq!(reqwest::get(silent).await.unwrap().status(), 404, "only if they are");
    let process = Process::start(&server, "serve", &[("DARKROOM_COMPAT_ACTUATOR", "true")]).await;
    let get = async |path: &str| {
        let answer = reqwest::get(format!("{}/actuator{path}", process.operations)).await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap_or_default())
    };
    let (status, health) = get("/health").await;
    assert_eq!((status, &health["status"]), (200, &json!("UP")), "{health}");
    for component in ["database", "storage", "identity"] {
        assert_eq!(health["components"][component]["status"], "UP", "{health}");
    }
    for path in ["/health/liveness", "/health/readiness"] {
        assert_eq!(get(path).await, (200, json!({ "status": "UP" })), "{path}");
    }
    assert_eq!(get("/info").await.1["build"]["name"], "darkroom");
    for name in get("").await.1["_links"].as_object().unwrap().keys() {
        let answer = reqwest::get(format!("{}/actuator/{name}", process.operations)).await.unwrap();
        assert_eq!(answer.status(), 200, "{name}");
    }
    let text = reqwest::get(format!("{}/actuator/prometheus", process.operations)).await.unwrap().text().await.unwrap();
    assert!(text.contains("hikaricp_connections_max{pool=\"writer\"} 16"), "{text}");

    let nowhere = [("DARKROOM_COMPAT_ACTUATOR", "true"), ("DARKROOM_DATABASE_SOCKET", "/nowhere.sock")];
    let failing = Process::start(&server, "serve", &nowhere).await;
    let answer = reqwest::get(format!("{}/actuator/health", failing.operations)).await.unwrap();
    assert_eq!(answer.status(), 503);
    let health: Value = answer.json().await.unwrap();
    assert_eq!((&health["status"], &health["components"]["database"]["status"]), (&json!("DOWN"), &json!("DOWN")));
    assert_eq!(health["components"]["storage"]["status"], "UP");
}

#[tokio::test]
async fn masks_secrets_and_sets_log_level() {
    let server = idle_server().await;
    let more = [("DARKROOM_DATABASE_PASSWORD", "nobody-needs-it")];
    let process = Process::start(&server, "serve", &more).await;
    let http = reqwest::Client::new();
    let info = reqwest::get(format!("{}/info", process.operations)).await.unwrap().text().await.unwrap();
    assert!(!info.contains(server.identity.signing_secret()) && !info.contains("nobody-needs-it"), "{info}");
    let info: Value = serde_json::from_str(&info).unwrap();
    assert_eq!(
        (&info["config"]["storage.signing_keys"], &info["config"]["database.password"]),
        (&"***".into(), &"***".into())
    );
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));

    let url = format!("{}/log-level", process.operations);
    let level = async || -> Value { reqwest::get(&url).await.unwrap().json().await.unwrap() };
    assert_eq!(level().await, json!({ "level": "info" }));
    for garbage in ["verbose", "", "darkroom=verbose", "info,,", "a=b=c", "🙂"] {
        let answer = http.put(&url).body(garbage).send().await.unwrap();
        assert_eq!(answer.status(), 422, "{garbage:?}");
        assert_eq!(level().await, json!({ "level": "info" }), "{garbage:?}");
    }
    assert!(!process.log().contains("DEBUG"));
    assert_eq!(http.put(&url).body("darkroom=debug,warn").send().await.unwrap().status(), 200);
    reqwest::get(format!("{}/health/live", process.operations)).await.unwrap();
    assert!(process.log().contains(r#""level":"DEBUG""#), "{}", process.log());
}

/// The messages of `sd_notify(3)`.
#[tokio::test]
async fn notifies_systemd_of_each_state() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = tokio::net::UnixDatagram::bind(&path).unwrap();
    let hears = async |word: &str| {
        tokio::time::timeout(DEADLINE, async {
            loop {
                let mut news = [0; 4096];
                let length = socket.recv(&mut news).await.unwrap();
                let news = String::from_utf8_lossy(&news[..length]).into_owned();
                if news.lines().any(|line| line == word) {
                    return news;
                }
            }
        })
        .await
        .unwrap_or_else(|_| panic!("{word} was not told"))
    };
    let server = TestServer::start_with("worker.enabled = false").await;
    let variables = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "300000")];
    let mut process = Process::start(&server, "serve", &variables).await;
    assert!(hears("READY=1").await.contains("STATUS=serving"));
    for _ in 0..2 {
        hears("WATCHDOG=1").await;
    }
    process.signal(Signal::HUP);
    assert!(hears("RELOADING=1").await.contains("MONOTONIC_USEC="));
    hears("READY=1").await;
    process.signal(Signal::TERM);
    assert!(hears("STOPPING=1").await.contains("EXTEND_TIMEOUT_USEC="));
    assert!(process.ended().await.success());
}

#[tokio::test]
async fn readiness_checks_database_if_enabled() {
    let server = TestServer::start_with("worker.enabled = false").await;
    let nowhere = ("DARKROOM_DATABASE_SOCKET", "/nowhere/mysqld.sock");
    let compat = ("DARKROOM_COMPAT_ACTUATOR", "true");
    for (wanted, ready, code, word) in [("false", "ok", 200, "UP"), ("true", "database failing", 503, "OUT_OF_SERVICE")]
    {
        let settings = [nowhere, compat, ("DARKROOM_HTTP_READINESS_CHECKS_DATABASE", wanted)];
        let process = Process::start(&server, "serve", &settings).await;
        for (base, path, status) in [
            (&process.url, "/health/ready", ready),
            (&process.operations, "/health/ready", ready),
            (&process.operations, "/actuator/health/readiness", word),
        ] {
            let answer = reqwest::get(format!("{base}{path}")).await.unwrap();
            assert_eq!(answer.status(), code, "{path}");
            assert_eq!(answer.json::<serde_json::Value>().await.unwrap()["status"], status, "{path}");
        }
        assert_eq!(reqwest::get(format!("{}/health/live", process.url)).await.unwrap().status(), 200);
        // The details contain it in both cases, with its age.
        let details = reqwest::get(format!("{}/health", process.operations)).await.unwrap();
        assert_eq!(details.status(), 503);
        let details: serde_json::Value = details.json().await.unwrap();
        let database = &details["dependencies"]["database"];
        assert!(database["last_error"]["at"].is_string() && database["status"] == "failing", "{database}");
    }
}
