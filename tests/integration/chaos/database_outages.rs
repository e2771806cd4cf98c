//! The database crashes, freezes, recovers, is the wrong one, or has an old schema.

use std::time::{Duration, Instant};

use darkroom::dev::database::{DirLock, PrivateServer};
use rustix::process::Signal;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection};

use crate::{
    chaos::crashes::ALBUM_LOCK,
    harness::{
        Answer, Client, TestServer, album_invariants,
        client::id,
        database::{Database, choice, literal},
        eventually, numbered_photo,
        process::{darkroom, freeze, run, send},
    },
};

/// The time within which clients must get a 503.
const TOLD_WITHIN: Duration = Duration::from_secs(2);
/// A margin for busy machines, shorter than a second wait for a connection.
const MARGIN: Duration = Duration::from_millis(900);
const NO_GRACE: &str = "reconciler.orphan_grace_period = \"0s\"\n";

/// Asserts a 503 with `retry-after`.
#[track_caller]
fn expect_unavailable(answer: &Answer, asked: Instant) {
    assert_eq!(answer.status, 503, "{}", String::from_utf8_lossy(&answer.bytes));
    assert_eq!(answer.json()["detail"], "the database is unavailable");
    assert!(matches!(answer.header("retry-after").parse(), Ok(1..=10)), "{:?}", answer.headers);
    let took = asked.elapsed();
    assert!(took < TOLD_WITHIN + MARGIN, "told after {took:?}");
}

/// Creates an album on a server with short database timeouts.
async fn album_in_time(host: &Client) -> String {
    eventually("an album", async || {
        let answer = host.post("/v1/albums", &json!({ "title": "frozen" })).await;
        (answer.status == 201).then(|| id(&answer.json()))
    })
    .await
}

#[tokio::test]
async fn dead_database_answers_503_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let lock = DirLock::acquire(folder.path()).unwrap();
    let private = PrivateServer::start(&lock, choice()).await.expect("a server");
    let server = TestServer::start_on(Database::on(&private).await, tempfile::tempdir().unwrap(), NO_GRACE).await;
    let host = server.user("alice");
    let album = host.album("outage").await;
    let photos = format!("/v1/albums/{album}/photos");
    let declared = host.declare(&album, "image/jpeg", &numbered_photo(0)).await;
    let follower = {
        let (host, events) = (host.clone(), format!("/v1/albums/{album}/events?wait=25"));
        tokio::spawn(async move { host.get(&events).await })
    };
    let mut accepted = Vec::new();
    for number in 1..=6 {
        accepted.push(host.upload(&album, "image/jpeg", &numbered_photo(number)).await);
    }
    private.kill().await;

    // Twice: with open connections, and with none left.
    for _ in 0..2 {
        let asked = Instant::now();
        expect_unavailable(&host.get(&photos).await, asked);
        let asked = Instant::now();
        expect_unavailable(&host.put(&declared["upload"], numbered_photo(0)).await, asked);
        let asked = Instant::now();
        expect_unavailable(&host.post("/v1/albums", &serde_json::json!({ "title": "x" })).await, asked);
    }
    for (base, path) in [(&server.url, "live"), (&server.url, "ready"), (&server.operations, "live")] {
        assert_eq!(reqwest::get(format!("{base}/health/{path}")).await.unwrap().status(), 200, "{base} {path}");
    }
    let details = reqwest::get(format!("{}/health", server.operations)).await.unwrap();
    assert_eq!(details.status(), 503);
    let details: serde_json::Value = details.json().await.unwrap();
    assert_eq!(
        (&details["status"], &details["dependencies"]["database"]["status"]),
        (&"degraded".into(), &"failing".into())
    );
    assert_eq!(details["dependencies"]["storage"]["status"], "ok");

    let private = PrivateServer::start(&lock, choice()).await.expect("the server recovers");
    eventually("recovered", async || (host.get(&photos).await.status == 200).then_some(())).await;
    host.put(&declared["upload"], numbered_photo(0)).await.expect(200);
    accepted.push(id(&declared["photo"]));
    album_invariants::check(&server, &host, &album, &accepted).await;
    assert_eq!(follower.await.unwrap().status, 200, "who waited went on waiting");
    drop(server);
    private.stop().await;
}

#[tokio::test]
async fn long_poll_survives_outage() {
    let folder = tempfile::tempdir().unwrap();
    let lock = DirLock::acquire(folder.path()).unwrap();
    let private = PrivateServer::start(&lock, choice()).await.expect("a server");
    let settings = "worker.enabled = false";
    let server = TestServer::start_on(Database::on(&private).await, tempfile::tempdir().unwrap(), settings).await;
    let host = server.user("alice");
    let album = host.album("outage").await;
    let events = format!("/v1/albums/{album}/events");
    let last = host.get(&events).await.expect(200)["last"].as_u64().unwrap();
    let follower = {
        let (host, events) = (host.clone(), format!("{events}?after={last}&wait=25"));
        tokio::spawn(async move { host.get(&events).await })
    };
    let wakeups = server.app.db.wakeups();
    let waiting = eventually("followed", async || wakeups.followed_albums().pop()).await;
    host.get(&events).await.expect(200);
    // The poll is notified of an event that it can't read, because the database has died.
    let insert = format!(
        "INSERT INTO events (album_id, seq, kind, public_kind, at) VALUES ({}, {}, 'album.updated', 'album.updated', NOW(3))",
        literal(&album),
        last + 1
    );
    sqlx::query(AssertSqlSafe(insert)).execute(&mut server.database.connect().await).await.unwrap();
    private.kill().await;
    wakeups.notify_event(waiting, last + 1);
    expect_unavailable(&host.get(&events).await, Instant::now());
    assert!(!follower.is_finished(), "sent away");
    let private = PrivateServer::start(&lock, choice()).await.expect("the server recovers");
    let told = follower.await.unwrap().expect(200);
    assert_eq!((&told["last"], told["items"].as_array().map(Vec::len)), (&json!(last + 1), Some(1)), "{told}");
    drop(server);
    private.stop().await;
}

#[tokio::test]
async fn frozen_database_ends_requests_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let lock = DirLock::acquire(folder.path()).unwrap();
    let private = PrivateServer::start(&lock, choice()).await.expect("a server");
    let settings = "worker.enabled = false\nhttp.request_timeout = \"1s\"\n";
    let server = TestServer::start_on(Database::on(&private).await, tempfile::tempdir().unwrap(), settings).await;
    let host = server.user("alice");
    let album = format!("/v1/albums/{}", album_in_time(&host).await);
    freeze(private.pid()).await;
    let asked = Instant::now();
    let answer = host.get(&album).await;
    let took = asked.elapsed();
    let live = reqwest::get(format!("{}/health/live", server.url)).await.unwrap().status();
    let details: serde_json::Value =
        reqwest::get(format!("{}/health", server.operations)).await.unwrap().json().await.unwrap();
    send(private.pid(), Signal::CONT);
    assert_eq!((answer.status.as_u16(), answer.header("retry-after").is_empty()), (503, false));
    assert!(took < TOLD_WITHIN + MARGIN, "told after {took:?}");
    assert_eq!((live.as_u16(), &details["dependencies"]["database"]["status"]), (200, &"failing".into()));
    eventually("recovered", async || (host.get(&album).await.status == 200).then_some(())).await;
    drop(server);
    private.stop().await;
}

#[tokio::test]
async fn frozen_database_ends_uploads_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let lock = DirLock::acquire(folder.path()).unwrap();
    let private = PrivateServer::start(&lock, choice()).await.expect("a server");
    let settings = "worker.enabled = false\ndatabase.query_timeout = \"1s\"\ndatabase.acquire_timeout = \"1s\"\n";
    let server = TestServer::start_on(Database::on(&private).await, tempfile::tempdir().unwrap(), settings).await;
    let host = server.user("alice");
    let album = album_in_time(&host).await;
    let declared = host.declare(&album, "image/jpeg", &numbered_photo(0)).await;
    freeze(private.pid()).await;
    // Uploads have no other time limit.
    for _ in 0..3 {
        let asked = Instant::now();
        expect_unavailable(&host.put(&declared["upload"], numbered_photo(0)).await, asked);
    }
    send(private.pid(), Signal::CONT);
    // Or it already exists: the COMMIT succeeded without a response.
    let there = async || {
        matches!(host.put(&declared["upload"], numbered_photo(0)).await.status.as_u16(), 200 | 409).then_some(())
    };
    eventually("recovered", there).await;
    let photo = host.get(&format!("/v1/photos/{}", id(&declared["photo"]))).await.expect(200);
    assert_eq!(photo["state"], "processing");
    drop(server);
    private.stop().await;
}

#[tokio::test]
async fn retries_transaction_of_lost_connection() {
    let server = TestServer::start_with("worker.enabled = false").await;
    let host = server.user("alice");
    let album = host.album("before").await;
    let mut holder = server.database.connect().await;
    let mut tx = holder.begin().await.unwrap();
    sqlx::query("SELECT id FROM albums FOR UPDATE").fetch_all(&mut *tx).await.unwrap();
    let change = {
        let (host, album) = (host.clone(), album.clone());
        tokio::spawn(async move { host.patch(&format!("/v1/albums/{album}"), &json!({ "title": "after" })).await })
    };
    let mut killed = Vec::new();
    for _ in 0..2 {
        let session = server.database.wait_for_new_blocked_query(ALBUM_LOCK, &killed).await;
        server.database.change(format!("KILL {session}")).await;
        killed.push(session);
    }
    server.database.wait_for_new_blocked_query(ALBUM_LOCK, &killed).await;
    tx.rollback().await.unwrap();
    assert_eq!(change.await.unwrap().expect(200)["title"], "after");
    let events = "SELECT COUNT(*) FROM events WHERE kind = 'album.updated'";
    assert_eq!(server.database.count(events).await, 1, "done once");
}

#[tokio::test]
async fn retries_lock_until_deadline() {
    // The lock wait timeout of the server is 1 s.
    let settings = "worker.enabled = false\ndatabase.query_timeout = '2s'\ndatabase.transaction_timeout = '7s'\nhttp.request_timeout = '1m'";
    let server = TestServer::start_with(settings).await;
    let host = server.user("alice");
    let path = format!("/v1/albums/{}", host.album("locked").await);
    let title = json!({ "title": "after" });
    let mut holder = server.database.connect().await;
    let mut tx = holder.begin().await.unwrap();
    sqlx::query("SELECT id FROM albums FOR UPDATE").fetch_all(&mut *tx).await.unwrap();
    let asked = Instant::now();
    assert_eq!(host.patch(&path, &title).await.status, 503);
    assert!(asked.elapsed() < Duration::from_secs(12), "after {:?}", asked.elapsed());

    let change = {
        let (host, path, title) = (host.clone(), path.clone(), title.clone());
        tokio::spawn(async move { host.patch(&path, &title).await })
    };
    server.database.wait_for_blocked_query(ALBUM_LOCK).await;
    // Longer than the lock wait timeout and shorter than the transaction timeout: a second or third attempt.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    tx.rollback().await.unwrap();
    assert_eq!(change.await.unwrap().expect(200)["title"], "after");
}

#[tokio::test]
async fn concurrent_migrations_run_once() {
    let server = TestServer::start_with("worker.enabled = false").await;
    let empty = Database::create().await;
    let mut environment = server.environment();
    environment.push(("DARKROOM_DATABASE_NAME".into(), empty.name.clone()));
    let migrate = |arguments: &[&str]| run(darkroom(&[&["migrate"], arguments].concat(), &environment));
    let (code, said, _) = migrate(&["--check"]).await;
    let pending = said.lines().filter(|line| line.starts_with("pending: ")).count();
    assert!(
        code == 1 && pending >= 6 && said.starts_with(&format!("0 migrations applied, {pending} pending\n")),
        "{said}"
    );
    assert_eq!(empty.count("SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE()").await, 0);

    let done = (0, format!("{pending} migrations applied, 0 pending\n"));
    let (first, second, third) = tokio::join!(migrate(&[]), migrate(&[]), migrate(&[]));
    for (code, said, complaints) in [first, second, third, migrate(&["--check"]).await, migrate(&[]).await] {
        assert_eq!((code, said), done, "{complaints}");
    }
}

#[tokio::test]
async fn names_wrong_database_user_or_address() {
    let server = TestServer::start_with("worker.enabled = false").await;
    for (variable, value, words) in [
        ("DARKROOM_DATABASE_NAME", "no_such_database", "no_such_database"),
        ("DARKROOM_DATABASE_USER", "nobody-we-know", "nobody-we-know"),
        ("DARKROOM_DATABASE_SOCKET", "/nowhere/mysql.sock", "/nowhere/mysql.sock"),
    ] {
        let mut environment = server.environment();
        environment.retain(|(name, _)| name != variable);
        environment.push((variable.into(), value.into()));
        if variable == "DARKROOM_DATABASE_USER" {
            environment.push(("DARKROOM_DATABASE_PASSWORD".into(), "a-password-to-keep".into()));
        }
        for verb in ["migrate", "check"] {
            let (code, said, complaints) = run(darkroom(&[verb], &environment)).await;
            let all = format!("{said}{complaints}");
            assert!(code == 1 && all.contains(words), "{variable}: {verb}: exit {code}: {all}");
            assert!(!all.contains("a-password-to-keep") && !all.contains("panicked"), "{all}");
            let line = all.lines().find(|line| line.contains(words)).unwrap();
            // MySQL selects the authentication plugin of an unknown user at random, and one requires TLS.
            let causes = ["error communicating", "error returned", "error with configuration"]
                .map(|cause| line.matches(cause).count());
            assert_eq!(causes.iter().sum::<usize>(), 1, "logged once: {line}");
        }
    }
}
