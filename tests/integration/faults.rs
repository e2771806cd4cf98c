//! kill -9 in the middle of everything. What was answered stands: each accepted photo is ready or rejected exactly
//! once, events are numbered without gap or repeat, and no file is left that nothing calls for.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
};

use darkroom::worker::sweep;
use futures_util::{StreamExt, stream};
use rustix::process::Signal;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection};

use crate::support::{
    Client, TestServer,
    bed::literal,
    client::id,
    eventually, fixture, large_photo, numbered,
    process::{Process, runs, send},
    tiny,
    webhook::{Reply, Webhook},
    whole,
};

/// Without a worker of its own, and with a sweep that spares nothing.
const QUIET: &str = "worker.enabled = false\nsweep.orphan_grace = \"0s\"\n";

/// How the service locks an album, as no test does.
pub const ALBUM_LOCK: &str = "deleted_at IS NULL FOR UPDATE";
/// How the service adds a job, as no test does.
const ENQUEUE: &str = "ON DUPLICATE KEY UPDATE";

/// Opens an upload by hand and sends only the beginning of its body.
pub fn begin_upload(upload: &Value, bytes: &[u8], sent: usize) -> TcpStream {
    let url = reqwest::Url::parse(upload["url"].as_str().expect("a URL")).expect("a URL");
    let address = url.socket_addrs(|| None).expect("an address")[0];
    let mut stream = TcpStream::connect(address).expect("the server listens");
    write!(
        stream,
        "PUT {}?{} HTTP/1.1\r\nhost: {address}\r\ncontent-type: {}\r\ncontent-length: {}\r\n\r\n",
        url.path(),
        url.query().unwrap_or_default(),
        upload["headers"]["content-type"].as_str().expect("a type"),
        bytes.len()
    )
    .and_then(|()| stream.write_all(&bytes[..sent]))
    .expect("the server reads");
    stream
}

/// The same upload at another process.
fn at(process: &Process, upload: &Value) -> Value {
    let url = reqwest::Url::parse(upload["url"].as_str().unwrap()).unwrap();
    let mut upload = upload.clone();
    upload["url"] = format!("{}{}?{}", process.url, url.path(), url.query().unwrap()).into();
    upload
}

/// How many bytes of uploads under way are on the disk.
pub fn incoming_bytes(server: &TestServer) -> u64 {
    let entries = std::fs::read_dir(server.photos().join("incoming")).expect("a folder");
    entries.filter_map(|entry| entry.ok()?.metadata().ok()).map(|metadata| metadata.len()).sum()
}

#[tokio::test]
async fn a_server_killed_in_the_middle_of_an_upload_keeps_nothing_of_it_and_takes_it_again() {
    let server = TestServer::start_with(QUIET).await;
    let (host, bytes) = (server.user("alice"), large_photo());
    let first = Process::start(&server, "serve", &[]).await;
    let there = first.user(&server, "alice");
    let album = there.album("cut").await;
    let declared = there.declare(&album, "image/png", &bytes).await;
    let mut stream = begin_upload(&declared["upload"], &bytes, bytes.len() / 2);
    eventually("half on the disk", async || (incoming_bytes(&server) > 1 << 20).then_some(())).await;
    first.kill();
    assert_eq!(stream.read(&mut [0; 64]).unwrap_or(0), 0, "no answer");

    let second = Process::start(&server, "serve", &[]).await;
    let photo = id(&declared["photo"]);
    assert_eq!(host.get(&format!("/v1/photos/{photo}")).await.expect(200)["state"], "awaiting_upload");
    second.user(&server, "alice").put(&at(&second, &declared["upload"]), bytes).await.expect(200);
    whole::check(&server, &host, &album, &[photo]).await;
}

/// Has a server killed when the upload's file is in place and its row is not committed yet.
async fn killed_between(server: &TestServer, host: &Client, album: &str, bytes: &[u8]) -> Value {
    let process = Process::start(server, "serve", &[("DARKROOM_WORKER_ENABLED", "false")]).await;
    let declared = host.declare(album, "image/jpeg", bytes).await;
    let photo = id(&declared["photo"]);
    // A job of the same subject that never commits: the upload's transaction waits for it.
    let mut holder = server.database.connect().await;
    let mut tx = holder.begin().await.expect("a transaction");
    let job = format!(
        "INSERT INTO jobs (id, kind, subject, visible_at, created_at) VALUES ({0}, 'develop', {0}, NOW(), NOW())",
        literal(&photo)
    );
    sqlx::query(AssertSqlSafe(job)).execute(&mut *tx).await.expect("a row");
    let _stream = begin_upload(&at(&process, &declared["upload"]), bytes, bytes.len());
    server.database.held_up_in(ENQUEUE).await;
    process.kill();
    tx.rollback().await.expect("a rollback");
    assert!(server.photos().join("originals").join(&photo[34..]).join(&photo).exists());
    declared
}

#[tokio::test]
async fn a_server_killed_between_the_file_and_its_row_loses_nothing() {
    let server = TestServer::start_with(QUIET).await;
    let host = server.user("alice");
    let album = host.album("between").await;
    let sent_again = killed_between(&server, &host, &album, &numbered(1)).await;
    host.put(&sent_again["upload"], numbered(1)).await.expect(200);
    // Nobody sends this one again, and its sender got no answer: the sweep finds that all of it is there.
    let left = id(&killed_between(&server, &host, &album, &numbered(2)).await["photo"]);
    server.database.change(format!("UPDATE photos SET sweep_at = '2020-01-01' WHERE id = {}", literal(&left))).await;
    assert_eq!(sweep::run(&server.app, false).await.expect("a sweep").accepted, 1);
    let _worker = Process::start(&server, "work", &[]).await;
    whole::check(&server, &host, &album, &[id(&sent_again["photo"]), left]).await;
}

#[tokio::test]
async fn photos_whose_upload_was_answered_survive_the_death_of_the_server() {
    let server = TestServer::start_with(QUIET).await;
    let host = server.user("alice");
    let album = host.album("answered").await;
    let mut accepted = Vec::new();
    for round in 0..3 {
        let process = Process::start(&server, "serve", &[]).await;
        let there = process.user(&server, "alice");
        for number in 0..4 {
            accepted.push(there.upload(&album, "image/jpeg", &numbered(round * 4 + number)).await);
        }
        process.kill();
    }
    let _last = Process::start(&server, "serve", &[]).await;
    whole::check(&server, &host, &album, &accepted).await;
}

#[tokio::test]
async fn a_worker_killed_while_it_decodes_takes_its_decoder_along_and_another_does_the_photo() {
    let server = TestServer::start_with(QUIET).await;
    let host = server.user("alice");
    let album = host.album("decode").await;
    let photo = host.upload(&album, "image/png", &large_photo()).await;
    let worker = Process::start(&server, "work", &[]).await;
    let decoder = worker.halt_decoder().await;
    assert_eq!(host.get(&format!("/v1/photos/{photo}")).await.expect(200)["state"], "processing");
    worker.kill();
    eventually("without the decoder", async || (!runs(decoder)).then_some(())).await;
    let _next = Process::start(&server, "work", &[]).await;
    whole::check(&server, &host, &album, &[photo]).await;
}

#[tokio::test]
async fn a_decoder_killed_while_it_decodes_costs_one_try() {
    let server = TestServer::start_with(QUIET).await;
    let host = server.user("alice");
    let album = host.album("decoder").await;
    let worker = Process::start(&server, "work", &[]).await;
    let large = host.upload(&album, "image/png", &large_photo()).await;
    let decoder = worker.halt_decoder().await;
    let small = host.upload(&album, "image/jpeg", &fixture("grey.jpg")).await;
    assert_eq!(host.settled(&small).await["state"], "ready", "the others go on meanwhile");
    send(decoder, Signal::KILL);
    assert_eq!(host.settled(&large).await["state"], "ready");
    whole::check(&server, &host, &album, &[large, small]).await;
}

/// Kills a worker whose finishing transaction waits for what `statement` holds, then has another do the photo.
async fn killed_while_finishing(statement: impl Fn(&str) -> String, waits_in: &str) {
    let server = TestServer::start_with(QUIET).await;
    let host = server.user("alice");
    let album = host.album("finish").await;
    let mut holder = server.database.connect().await;
    let mut tx = holder.begin().await.expect("a transaction");
    sqlx::query(AssertSqlSafe(statement(&literal(&album)))).execute(&mut *tx).await.expect("a lock");
    let worker = Process::start(&server, "work", &[]).await;
    // Behind the service's back, for the API would wait for the lock too.
    let photo = upload_beside(&server, &album).await;
    server.database.held_up_in(waits_in).await;
    assert_eq!(whole::files(&server.photos()).iter().filter(|path| path.starts_with("renditions")).count(), 3);
    worker.kill();
    tx.rollback().await.expect("a rollback");
    let _next = Process::start(&server, "work", &[]).await;
    whole::check(&server, &host, &album, &[photo]).await;
}

/// Files an uploaded photo without touching its album's row.
async fn upload_beside(server: &TestServer, album: &str) -> String {
    let (id, bytes) = (uuid::Uuid::now_v7().to_string(), fixture("grey.jpg"));
    let folder = server.photos().join("originals").join(&id[34..]);
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join(&id), &bytes).expect("a file");
    let (photo, album) = (literal(&id), literal(album));
    let row = format!(
        "INSERT INTO photos (id, album_id, state, visibility, content_type, bytes, created_at, sweep_at)
         VALUES ({photo}, {album}, 'processing', 'visible', 'image/jpeg', {}, NOW(), NOW() + INTERVAL 1 HOUR)",
        bytes.len()
    );
    server.database.change(row).await;
    let job = format!(
        "INSERT INTO jobs (id, kind, subject, visible_at, created_at) VALUES ({photo}, 'develop', {photo}, UTC_TIMESTAMP(3), NOW())"
    );
    server.database.change(job).await;
    id
}

#[tokio::test]
async fn a_worker_killed_at_the_beginning_of_the_finishing_transaction_has_filed_nothing() {
    let lock = |album: &str| format!("SELECT id FROM albums WHERE id = {album} FOR UPDATE");
    killed_while_finishing(lock, ALBUM_LOCK).await;
}

#[tokio::test]
async fn a_worker_killed_at_the_end_of_the_finishing_transaction_gives_its_event_number_back() {
    // The last statement adds the announcement; by then the photo is settled and the event is written.
    let announcement = |album: &str| {
        format!(
            "INSERT INTO jobs (id, kind, subject, visible_at, created_at) VALUES ({album}, 'announce', {album}, NOW(), NOW())"
        )
    };
    killed_while_finishing(announcement, ENQUEUE).await;
}

#[tokio::test]
async fn two_hundred_photos_through_three_workers_are_each_done_once() {
    const PHOTOS: u32 = 200;
    let server = TestServer::start_with(QUIET).await;
    let host = Arc::new(server.user("alice"));
    let album = host.album("crowd").await;
    let more = [("DARKROOM_WORKER_LEASE", "10s")];
    let workers = [
        Process::start(&server, "work", &more).await,
        Process::start(&server, "work", &more).await,
        Process::start(&server, "work", &more).await,
    ];
    let accepted: Vec<String> = stream::iter(0..PHOTOS)
        .map(|number| {
            let (host, album) = (host.clone(), album.clone());
            async move { host.upload(&album, "image/png", &tiny(number)).await }
        })
        .buffered(8)
        .collect()
        .await;
    whole::check(&server, &host, &album, &accepted).await;
    let events = host.events(&album).await;
    assert_eq!(events, (1..=u64::from(PHOTOS)).map(|seq| (seq, "photo.ready".to_owned())).collect::<Vec<_>>());
    for worker in &workers {
        let metrics = reqwest::get(format!("{}/metrics", worker.operations)).await.unwrap().text().await.unwrap();
        assert!(metrics.contains(r#"darkroom_jobs_total{kind="develop",outcome="done"}"#), "each has done some");
    }
}

#[tokio::test]
async fn a_worker_killed_while_it_announces_tells_all_of_it_again_in_order() {
    let (server, webhook) = (TestServer::start_with(QUIET).await, Webhook::start().await);
    let host = server.user("alice");
    let album = host.album("told").await;
    let accepted: Vec<String> =
        stream::iter(0..3).then(async |n| host.upload(&album, "image/png", &tiny(n)).await).collect().await;
    webhook.answer(|delivery| if delivery.seq() < 2 { Reply::Status(200) } else { Reply::Silence });
    let variables = webhook.variables();
    let more: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let worker = Process::start(&server, "work", &more).await;
    eventually("in the middle of the second", async || webhook.deliveries().iter().any(|d| d.seq() == 2).then_some(()))
        .await;
    worker.kill();
    webhook.answer(|_| Reply::Status(200));
    let _next = Process::start(&server, "work", &more).await;
    whole::check(&server, &host, &album, &accepted).await;
    eventually("told of all", async || (webhook.accepted(&album).len() >= 3).then_some(())).await;
    assert_eq!(webhook.accepted(&album), [1, 2, 3]);
}
