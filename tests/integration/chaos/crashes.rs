//! SIGKILL at every critical point. Each accepted photo becomes ready or rejected exactly once, event numbers have no
//! gap or duplicate, and no orphaned file remains.
//!
//! Worker scenarios run twice: without AWS, and on AWS with failing calls and duplicate messages.

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
    fixture, large_photo, numbered_photo,
    process::{Process, runs, send},
    read_model::ReadModelComparison,
    slow_photo, tiny_photo,
    webhook::{Reply, Webhook},
};

/// Without a worker, and without a grace period for orphans.
const QUIET: &str = "worker.enabled = false\nreconciler.orphan_grace_period = \"0s\"\n";

/// A part of the statement with which only the service locks an album.
pub const ALBUM_LOCK: &str = "deleted_at IS NULL FOR UPDATE";
/// A part of the statement with which only the service adds a job.
const ENQUEUE: &str = "ON DUPLICATE KEY UPDATE";

/// A service without a worker, on local files or on AWS.
struct Deployment {
    server: TestServer,
    aws: Option<(Cloud, FaultProxy)>,
}

impl Deployment {
    /// On a database and local files.
    async fn local() -> Self {
        Self { server: TestServer::start_with(QUIET).await, aws: None }
    }

    /// On S3, SQS, SNS and `DynamoDB`. For all processes beside the server one call in five is answered 500 or 503, and
    /// each message comes twice and out of order.
    async fn on_aws() -> Self {
        let cloud = Cloud::start().await;
        let server = TestServer::start_in(&cloud, &Part::USUAL, QUIET).await;
        let proxy = FaultProxy::start(&cloud.emulator.url).await;
        proxy.every_in_turn(5, &[Fault::Status(500), Fault::Status(503)]);
        proxy.repeat_and_reorder_messages();
        Self { server, aws: Some((cloud, proxy)) }
    }

    /// Starts a worker process.
    async fn work(&self, more: &[(&str, &str)]) -> Process {
        let faults = self.fault_settings();
        Process::start(&self.server, "worker", &more.iter().copied().chain(faults).collect::<Vec<_>>()).await
    }

    /// Starts a server process. It reaches S3 without faults, which clients would have to handle.
    async fn serve(&self) -> Process {
        let straight = self.aws.as_ref().map(|(cloud, _)| ("AWS_ENDPOINT_URL_S3", &*cloud.emulator.url));
        Process::start(&self.server, "serve", &self.fault_settings().into_iter().chain(straight).collect::<Vec<_>>())
            .await
    }

    /// If a message is deleted but its job is not done, the row is sent again after this delay, 5 minutes by default.
    fn fault_settings(&self) -> Vec<(&str, &str)> {
        let Some((_, proxy)) = &self.aws else { return Vec::new() };
        vec![("AWS_ENDPOINT_URL", &*proxy.url), ("DARKROOM_QUEUE_REDELIVERY_DELAY", "1s")]
    }

    /// Checks the album's invariants. On AWS it also checks that faults were injected, and that SNS and the read model
    /// agree. Requires a running worker.
    async fn check(&self, host: &Client, album: &str, accepted: &[String]) {
        album_invariants::check(&self.server, host, album, accepted).await;
        let Some((cloud, proxy)) = &self.aws else { return };
        let viewer = host.invite(album, &json!({ "role": "view" })).await;
        eventually("idle", async || (self.server.database.count("SELECT COUNT(*) FROM jobs").await == 0).then_some(()))
            .await;
        eventually("faults injected", async || (proxy.faults_injected() > 0 && proxy.repeated() > 0).then_some(()))
            .await;
        // Published in order; FIFO topics drop duplicates.
        let events = host.events(album).await;
        let mut heard = Vec::new();
        while heard.len() < events.len() {
            let told = cloud.received(&cloud.fifo_subscriber).await;
            let told: Value = serde_json::from_str(told.body().expect("a body")).expect("JSON");
            let kind = told["type"].as_str().expect("a type").trim_start_matches("darkroom.").to_owned();
            heard.push((told["data"]["seq"].as_u64().expect("a number"), kind));
        }
        assert_eq!(heard, events);
        let shown = ReadModelComparison::start(&self.server).await.same("projected", &viewer, album).await;
        assert_eq!(shown.len(), accepted.len());
        let dead = cloud.receive(&cloud.dead_letters).await;
        assert!(dead.is_none(), "a valid message was dead-lettered: {dead:?}");
    }
}

/// Runs a scenario on both deployments.
async fn on_both_deployments(scenario: impl AsyncFn(&Deployment)) {
    // Boxed, because the future is large.
    Box::pin(async {
        scenario(&Deployment::local().await).await;
        scenario(&Deployment::on_aws().await).await;
    })
    .await;
}

/// Starts an upload and sends only the first `sent` bytes of its body.
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

/// The upload with the address of another process.
fn at(process: &Process, upload: &Value) -> Value {
    let url = reqwest::Url::parse(upload["url"].as_str().unwrap()).unwrap();
    let mut upload = upload.clone();
    upload["url"] = format!("{}{}?{}", process.url, url.path(), url.query().unwrap()).into();
    upload
}

/// The bytes of incomplete uploads on disk.
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
    eventually("half of the body stored", async || (incoming_bytes(&server) > 1 << 20).then_some(())).await;
    first.kill();
    assert_eq!(stream.read(&mut [0; 64]).unwrap_or(0), 0, "no answer");

    let second = Process::start(&server, "serve", &[]).await;
    let photo = id(&declared["photo"]);
    assert_eq!(host.get(&format!("/v1/photos/{photo}")).await.expect(200)["state"], "awaiting_upload");
    second.user(&server, "alice").put(&at(&second, &declared["upload"]), bytes).await.expect(200);
    album_invariants::check(&server, &host, &album, &[photo]).await;
}

/// Kills a server after it has stored the file of an upload and before it commits the row.
async fn killed_between(server: &TestServer, host: &Client, album: &str, bytes: &[u8]) -> Value {
    let process = Process::start(server, "serve", &[("DARKROOM_WORKER_ENABLED", "false")]).await;
    let declared = host.declare(album, "image/jpeg", bytes).await;
    let photo = id(&declared["photo"]);
    // An uncommitted job of the same subject blocks the upload's transaction.
    let mut holder = server.database.connect().await;
    let mut tx = holder.begin().await.expect("a transaction");
    let job = format!(
        "INSERT INTO jobs (id, kind, subject, visible_at, created_at) VALUES ({0}, 'render_photo', {0}, NOW(), NOW())",
        literal(&photo)
    );
    sqlx::query(AssertSqlSafe(job)).execute(&mut *tx).await.expect("a row");
    let _stream = begin_upload(&at(&process, &declared["upload"]), bytes, bytes.len());
    server.database.wait_for_blocked_query(ENQUEUE).await;
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
    let sent_again = killed_between(&server, &host, &album, &numbered_photo(1)).await;
    host.put(&sent_again["upload"], numbered_photo(1)).await.expect(200);
    // This upload is not repeated; the reconciler finds that it is complete.
    let left = id(&killed_between(&server, &host, &album, &numbered_photo(2)).await["photo"]);
    server.database.change(format!("UPDATE photos SET sweep_at = '2020-01-01' WHERE id = {}", literal(&left))).await;
    assert_eq!(reconciler::run(&server.app, false).await.expect("a sweep").accepted, 1);
    let _worker = Process::start(&server, "worker", &[]).await;
    album_invariants::check(&server, &host, &album, &[id(&sent_again["photo"]), left]).await;
}

#[tokio::test]
async fn answered_uploads_survive_kill() {
    on_both_deployments(async |deployment| {
        let host = deployment.server.user("alice");
        let album = host.album("answered").await;
        let mut accepted = Vec::new();
        for round in 0..3 {
            let process = deployment.serve().await;
            let there = process.user(&deployment.server, "alice");
            for number in 0..4 {
                accepted.push(there.upload(&album, "image/jpeg", &numbered_photo(round * 4 + number)).await);
            }
            process.kill();
        }
        let _last = deployment.serve().await;
        deployment.check(&host, &album, &accepted).await;
    })
    .await;
}

#[tokio::test]
async fn killed_worker_ends_its_decoder() {
    on_both_deployments(async |deployment| {
        let host = deployment.server.user("alice");
        let album = host.album("decode").await;
        let photo = host.upload(&album, "image/png", &slow_photo()).await;
        let worker = deployment.work(&[]).await;
        let decoder = worker.halt_decoder().await;
        assert_eq!(host.get(&format!("/v1/photos/{photo}")).await.expect(200)["state"], "processing");
        worker.kill();
        eventually("decoder exited", async || (!runs(decoder)).then_some(())).await;
        let _next = deployment.work(&[]).await;
        deployment.check(&host, &album, &[photo]).await;
    })
    .await;
}

#[tokio::test]
async fn killed_decoder_costs_one_attempt() {
    on_both_deployments(async |deployment| {
        let host = deployment.server.user("alice");
        let album = host.album("decoder").await;
        let worker = deployment.work(&[]).await;
        let large = host.upload(&album, "image/png", &slow_photo()).await;
        let decoder = worker.halt_decoder().await;
        let small = host.upload(&album, "image/jpeg", &fixture("grey.jpg")).await;
        assert_eq!(host.settled(&small).await["state"], "ready", "the others go on meanwhile");
        send(decoder, Signal::KILL);
        assert_eq!(host.settled(&large).await["state"], "ready");
        deployment.check(&host, &album, &[large, small]).await;
    })
    .await;
}

/// Kills a worker whose final transaction waits for a lock of `statement`, and lets another worker process the photo.
async fn killed_while_finishing(statement: impl Fn(&str) -> String, waits_in: &str) {
    on_both_deployments(async |deployment| {
        let host = deployment.server.user("alice");
        let album = host.album("finish").await;
        // Before the lock, which would block this request; the upload itself takes no lock of the album.
        let declared = host.declare(&album, "image/jpeg", &fixture("grey.jpg")).await;
        let mut holder = deployment.server.database.connect().await;
        let mut tx = holder.begin().await.expect("a transaction");
        sqlx::query(AssertSqlSafe(statement(&literal(&album)))).execute(&mut *tx).await.expect("a lock");
        let worker = deployment.work(&[]).await;
        host.put(&declared["upload"], fixture("grey.jpg")).await.expect(200);
        eventually("rendered", async || {
            let stored = deployment.server.stored().await;
            (stored.iter().filter(|path| path.starts_with("renditions")).count() == 3).then_some(())
        })
        .await;
        deployment.server.database.wait_for_blocked_query(waits_in).await;
        worker.kill();
        tx.rollback().await.expect("a rollback");
        let _next = deployment.work(&[]).await;
        deployment.check(&host, &album, &[id(&declared["photo"])]).await;
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
    // The last statement adds the notification job, after the photo's state and the event.
    let announcement = |album: &str| {
        format!(
            "INSERT INTO jobs (id, kind, subject, visible_at, created_at) VALUES ({album}, 'publish_events', {album}, NOW(), NOW())"
        )
    };
    killed_while_finishing(announcement, ENQUEUE).await;
}

#[tokio::test]
async fn three_workers_process_each_photo_once() {
    on_both_deployments(async |deployment| {
        // The emulator is slower than local files.
        let photos = if deployment.aws.is_some() { 60 } else { 200 };
        let host = Arc::new(deployment.server.user("alice"));
        let album = host.album("crowd").await;
        let more = [("DARKROOM_WORKER_VISIBILITY_TIMEOUT", "10s")];
        let workers = [deployment.work(&more).await, deployment.work(&more).await, deployment.work(&more).await];
        let accepted: Vec<String> = stream::iter(0..photos)
            .map(|number| {
                let (host, album) = (host.clone(), album.clone());
                async move { host.upload(&album, "image/png", &tiny_photo(number)).await }
            })
            .buffered(8)
            .collect()
            .await;
        deployment.check(&host, &album, &accepted).await;
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
    on_both_deployments(async |deployment| {
        let webhook = Webhook::start().await;
        let host = deployment.server.user("alice");
        let album = host.album("told").await;
        let accepted: Vec<String> =
            stream::iter(0..3).then(async |n| host.upload(&album, "image/png", &tiny_photo(n)).await).collect().await;
        webhook.answer(|delivery| if delivery.seq() < 2 { Reply::Status(200) } else { Reply::Silence });
        let variables = webhook.variables();
        let more: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let worker = deployment.work(&more).await;
        eventually("second one half done", async || webhook.deliveries().iter().any(|d| d.seq() == 2).then_some(()))
            .await;
        worker.kill();
        webhook.answer(|_| Reply::Status(200));
        let _next = deployment.work(&more).await;
        deployment.check(&host, &album, &accepted).await;
        eventually("notified of all", async || (webhook.accepted(&album).len() >= 3).then_some(())).await;
        assert_eq!(webhook.accepted(&album), [1, 2, 3]);
    })
    .await;
}
