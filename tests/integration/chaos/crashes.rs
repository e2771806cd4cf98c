//! kill -9 in the middle of everything. What was answered stands: each accepted photo is ready or rejected exactly
//! once, events are numbered without gap or repeat, and no file is left that nothing calls for.
//!
//! What happens to workers happens twice: where nothing is AWS's, and where AWS does all that it can, badly.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
};

use darkroom::jobs::reconciler;
use futures_util::{StreamExt, stream};
use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection};

use crate::harness::{
    Client, TestServer, album_invariants,
    aws::{Cloud, Part},
    client::id,
    database::literal,
    eventually,
    fault_proxy::{Fault, FaultProxy},
    fixture, large_photo, numbered,
    process::{Process, runs, send},
    read_model::Mirrors,
    slow_photo, tiny,
    webhook::{Reply, Webhook},
};

/// Without a worker of its own, and with a sweep that spares nothing.
const QUIET: &str = "worker.enabled = false\nreconciler.orphan_grace_period = \"0s\"\n";

/// How the service locks an album, as no test does.
pub const ALBUM_LOCK: &str = "deleted_at IS NULL FOR UPDATE";
/// How the service adds a job, as no test does.
const ENQUEUE: &str = "ON DUPLICATE KEY UPDATE";

/// A service without a worker of its own, and where its parts are.
struct Bed {
    server: TestServer,
    aws: Option<(Cloud, FaultProxy)>,
}

impl Bed {
    /// A database and a folder.
    async fn of_its_own() -> Self {
        Self { server: TestServer::start_with(QUIET).await, aws: None }
    }

    /// S3, SQS, SNS and `DynamoDB` too, in trouble for all processes beside the server: one call in five is answered 500 or
    /// 503, and each message of the queue comes twice and out of order.
    async fn in_aws() -> Self {
        let cloud = Cloud::start().await;
        let server = TestServer::start_in(&cloud, &Part::USUAL, QUIET).await;
        let proxy = FaultProxy::start(&cloud.emulator.url).await;
        proxy.every_in_turn(5, &[Fault::Status(500), Fault::Status(503)]);
        proxy.muddle_messages();
        Self { server, aws: Some((cloud, proxy)) }
    }

    /// `darkroom work` beside the server.
    async fn work(&self, more: &[(&str, &str)]) -> Process {
        let trouble = self.trouble();
        Process::start(&self.server, "work", &more.iter().copied().chain(trouble).collect::<Vec<_>>()).await
    }

    /// `darkroom serve` beside the server. Its uploads go straight to S3, for whose 503 its clients would have to be ready.
    async fn serve(&self) -> Process {
        let straight = self.aws.as_ref().map(|(cloud, _)| ("AWS_ENDPOINT_URL_S3", &*cloud.emulator.url));
        Process::start(&self.server, "serve", &self.trouble().into_iter().chain(straight).collect::<Vec<_>>()).await
    }

    /// A message that is done with while its job is not leaves that to the row, which is not to wait for 5 minutes here.
    fn trouble(&self) -> Vec<(&str, &str)> {
        let Some((_, proxy)) = &self.aws else { return Vec::new() };
        vec![("AWS_ENDPOINT_URL", &*proxy.url), ("DARKROOM_QUEUE_REDELIVERY_DELAY", "1s")]
    }

    /// The album at rest, as [`album_invariants::check`] has it. In AWS it was in trouble, and all that knows of the album says the same.
    /// Somebody still works.
    async fn check(&self, host: &Client, album: &str, accepted: &[String]) {
        album_invariants::check(&self.server, host, album, accepted).await;
        let Some((cloud, proxy)) = &self.aws else { return };
        let viewer = host.invite(album, &json!({ "role": "view" })).await;
        eventually("at rest", async || {
            (self.server.database.count("SELECT COUNT(*) FROM jobs").await == 0).then_some(())
        })
        .await;
        eventually("in trouble", async || (proxy.hit() > 0 && proxy.repeated() > 0).then_some(())).await;
        // Published in order; FIFO topics drop what comes again.
        let events = host.events(album).await;
        let mut heard = Vec::new();
        while heard.len() < events.len() {
            let told = cloud.received(&cloud.fifo_ear).await;
            let told: Value = serde_json::from_str(told.body().expect("a body")).expect("JSON");
            let kind = told["type"].as_str().expect("a type").trim_start_matches("darkroom.").to_owned();
            heard.push((told["data"]["seq"].as_u64().expect("a number"), kind));
        }
        assert_eq!(heard, events);
        let shown = Mirrors::of(&self.server).await.same("projected", &viewer, album).await;
        assert_eq!(shown.len(), accepted.len());
        let dead = cloud.receive(&cloud.dead_letters).await;
        assert!(dead.is_none(), "nothing was wrong with {dead:?}");
    }
}

/// Runs a scenario in both.
async fn in_both(scenario: impl AsyncFn(&Bed)) {
    // A large future, of which each test then holds a pointer.
    Box::pin(async {
        scenario(&Bed::of_its_own().await).await;
        scenario(&Bed::in_aws().await).await;
    })
    .await;
}

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
async fn kill_during_upload_keeps_no_bytes() {
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
    album_invariants::check(&server, &host, &album, &[photo]).await;
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
async fn kill_between_file_and_row_loses_nothing() {
    let server = TestServer::start_with(QUIET).await;
    let host = server.user("alice");
    let album = host.album("between").await;
    let sent_again = killed_between(&server, &host, &album, &numbered(1)).await;
    host.put(&sent_again["upload"], numbered(1)).await.expect(200);
    // Nobody sends this one again, and its sender got no answer: the sweep finds that all of it is there.
    let left = id(&killed_between(&server, &host, &album, &numbered(2)).await["photo"]);
    server.database.change(format!("UPDATE photos SET sweep_at = '2020-01-01' WHERE id = {}", literal(&left))).await;
    assert_eq!(reconciler::run(&server.app, false).await.expect("a sweep").accepted, 1);
    let _worker = Process::start(&server, "work", &[]).await;
    album_invariants::check(&server, &host, &album, &[id(&sent_again["photo"]), left]).await;
}

#[tokio::test]
async fn answered_uploads_survive_kill() {
    in_both(async |bed| {
        let host = bed.server.user("alice");
        let album = host.album("answered").await;
        let mut accepted = Vec::new();
        for round in 0..3 {
            let process = bed.serve().await;
            let there = process.user(&bed.server, "alice");
            for number in 0..4 {
                accepted.push(there.upload(&album, "image/jpeg", &numbered(round * 4 + number)).await);
            }
            process.kill();
        }
        let _last = bed.serve().await;
        bed.check(&host, &album, &accepted).await;
    })
    .await;
}

#[tokio::test]
async fn killed_worker_ends_its_decoder() {
    in_both(async |bed| {
        let host = bed.server.user("alice");
        let album = host.album("decode").await;
        let photo = host.upload(&album, "image/png", &slow_photo()).await;
        let worker = bed.work(&[]).await;
        let decoder = worker.halt_decoder().await;
        assert_eq!(host.get(&format!("/v1/photos/{photo}")).await.expect(200)["state"], "processing");
        worker.kill();
        eventually("without the decoder", async || (!runs(decoder)).then_some(())).await;
        let _next = bed.work(&[]).await;
        bed.check(&host, &album, &[photo]).await;
    })
    .await;
}

#[tokio::test]
async fn killed_decoder_costs_one_attempt() {
    in_both(async |bed| {
        let host = bed.server.user("alice");
        let album = host.album("decoder").await;
        let worker = bed.work(&[]).await;
        let large = host.upload(&album, "image/png", &slow_photo()).await;
        let decoder = worker.halt_decoder().await;
        let small = host.upload(&album, "image/jpeg", &fixture("grey.jpg")).await;
        assert_eq!(host.settled(&small).await["state"], "ready", "the others go on meanwhile");
        send(decoder, Signal::KILL);
        assert_eq!(host.settled(&large).await["state"], "ready");
        bed.check(&host, &album, &[large, small]).await;
    })
    .await;
}

/// Kills a worker whose finishing transaction waits for what `statement` holds, then has another do the photo.
async fn killed_while_finishing(statement: impl Fn(&str) -> String, waits_in: &str) {
    in_both(async |bed| {
        let host = bed.server.user("alice");
        let album = host.album("finish").await;
        // Before the lock, for which this would wait too; to be uploaded it takes none of the album.
        let declared = host.declare(&album, "image/jpeg", &fixture("grey.jpg")).await;
        let mut holder = bed.server.database.connect().await;
        let mut tx = holder.begin().await.expect("a transaction");
        sqlx::query(AssertSqlSafe(statement(&literal(&album)))).execute(&mut *tx).await.expect("a lock");
        let worker = bed.work(&[]).await;
        host.put(&declared["upload"], fixture("grey.jpg")).await.expect(200);
        eventually("developed", async || {
            let stored = bed.server.stored().await;
            (stored.iter().filter(|path| path.starts_with("renditions")).count() == 3).then_some(())
        })
        .await;
        bed.server.database.held_up_in(waits_in).await;
        worker.kill();
        tx.rollback().await.expect("a rollback");
        let _next = bed.work(&[]).await;
        bed.check(&host, &album, &[id(&declared["photo"])]).await;
    })
    .await;
}

#[tokio::test]
async fn kill_before_final_transaction() {
    let lock = |album: &str| format!("SELECT id FROM albums WHERE id = {album} FOR UPDATE");
    killed_while_finishing(lock, ALBUM_LOCK).await;
}

#[tokio::test]
async fn kill_before_commit_frees_event_number() {
    // The last statement adds the announcement; by then the photo is settled and the event is written.
    let announcement = |album: &str| {
        format!(
            "INSERT INTO jobs (id, kind, subject, visible_at, created_at) VALUES ({album}, 'announce', {album}, NOW(), NOW())"
        )
    };
    killed_while_finishing(announcement, ENQUEUE).await;
}

#[tokio::test]
async fn three_workers_process_each_photo_once() {
    in_both(async |bed| {
        // An emulator is slower than a folder.
        let photos = if bed.aws.is_some() { 60 } else { 200 };
        let host = Arc::new(bed.server.user("alice"));
        let album = host.album("crowd").await;
        let more = [("DARKROOM_WORKER_VISIBILITY_TIMEOUT", "10s")];
        let workers = [bed.work(&more).await, bed.work(&more).await, bed.work(&more).await];
        let accepted: Vec<String> = stream::iter(0..photos)
            .map(|number| {
                let (host, album) = (host.clone(), album.clone());
                async move { host.upload(&album, "image/png", &tiny(number)).await }
            })
            .buffered(8)
            .collect()
            .await;
        bed.check(&host, &album, &accepted).await;
        let events = host.events(&album).await;
        assert_eq!(events, (1..=u64::from(photos)).map(|seq| (seq, "photo.ready".to_owned())).collect::<Vec<_>>());
        for worker in &workers {
            let metrics = worker.metrics().await;
            assert!(
                metrics.contains(r#"darkroom_job_runs_total{kind="render_photo",outcome="done"}"#),
                "each has done some"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn killed_publisher_repeats_in_order() {
    in_both(async |bed| {
        let webhook = Webhook::start().await;
        let host = bed.server.user("alice");
        let album = host.album("told").await;
        let accepted: Vec<String> =
            stream::iter(0..3).then(async |n| host.upload(&album, "image/png", &tiny(n)).await).collect().await;
        webhook.answer(|delivery| if delivery.seq() < 2 { Reply::Status(200) } else { Reply::Silence });
        let variables = webhook.variables();
        let more: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let worker = bed.work(&more).await;
        eventually("in the middle of the second", async || {
            webhook.deliveries().iter().any(|d| d.seq() == 2).then_some(())
        })
        .await;
        worker.kill();
        webhook.answer(|_| Reply::Status(200));
        let _next = bed.work(&more).await;
        bed.check(&host, &album, &accepted).await;
        eventually("told of all", async || (webhook.accepted(&album).len() >= 3).then_some(())).await;
        assert_eq!(webhook.accepted(&album), [1, 2, 3]);
    })
    .await;
}
