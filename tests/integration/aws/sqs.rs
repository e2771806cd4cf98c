//! Jobs by SQS: duplicate, late, reordered, missing and invalid messages, and killed processes.

use std::time::Duration;

use aws_sdk_sqs::Client as Sqs;
use darkroom::{
    db::jobs::{self, ClaimOutcome, PURGE_PHOTO, RENDER_PHOTO},
    jobs::{
        reconciler,
        sqs::{
            consumer::{self, MessageOutcome},
            message,
        },
    },
};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{
    TestServer, album_invariants,
    aws::{Cloud, Part, Role},
    client::id,
    database::literal,
    eventually,
    fault_proxy::{Fault, FaultProxy},
    numbered_photo,
    process::{Process, darkroom, run},
    slow_photo,
};

const PARTS: &[Part] = &[Part::Storage, Part::Queue];
/// Without a worker, and without a grace period for orphans.
const QUIET: &str = "worker.enabled = false\nreconciler.orphan_grace_period = \"0s\"\n";

/// S3's notification of an upload.
fn notification(cloud: &Cloud, photo: &str) -> String {
    let object = json!({ "key": format!("originals/{}/{photo}", &photo[34..]) });
    let record =
        json!({ "eventName": "ObjectCreated:Put", "s3": { "bucket": { "name": cloud.bucket }, "object": object } });
    json!({ "Records": [record] }).to_string()
}

async fn tell(cloud: &Cloud, body: &str) {
    Sqs::new(&cloud.admin())
        .send_message()
        .queue_url(&cloud.queue)
        .message_body(body)
        .send()
        .await
        .expect("it is sent");
}

/// The variables of a process with this role and endpoint.
fn variables(cloud: &Cloud, role: Role, endpoint: &str) -> Vec<(String, String)> {
    let mut variables = cloud.environment(role);
    variables.retain(|(name, _)| name != "AWS_ENDPOINT_URL");
    variables.push(("AWS_ENDPOINT_URL".to_owned(), endpoint.to_owned()));
    variables
}

async fn start(server: &TestServer, verb: &str, variables: &[(String, String)]) -> Process {
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    Process::start(server, verb, &variables).await
}

#[tokio::test]
async fn stopping_worker_releases_messages() {
    let cloud = Cloud::start().await;
    let server = TestServer::start_in(&cloud, PARTS, QUIET).await;
    let mut worker = start(&server, "worker", &variables(&cloud, Role::Work, &cloud.emulator.url)).await;
    let sqs = Sqs::new(&cloud.admin());
    worker.signal(Signal::TERM);
    eventually("stop received", async || worker.log().contains("stopping:").then_some(())).await;
    // It is still in a long poll, which receives this message.
    sqs.send_message().queue_url(&cloud.queue).message_body("{}").send().await.expect("a message");
    assert_eq!(worker.ended().await.code(), Some(0), "{}", worker.log());
    assert!(cloud.receive(&cloud.queue).await.is_some(), "hidden from all: {}", worker.log());
}

#[tokio::test]
async fn server_and_worker_use_own_roles() {
    let cloud = Cloud::start().await;
    let server = TestServer::start_in(&cloud, PARTS, QUIET).await;
    let mut serving = variables(&cloud, Role::Serve, &cloud.emulator.url);
    serving.push(("DARKROOM_WORKER_ENABLED".to_owned(), "false".to_owned()));
    let api = start(&server, "serve", &serving).await;
    let worker = start(&server, "worker", &variables(&cloud, Role::Work, &cloud.emulator.url)).await;
    let host = api.user(&server, "alice");
    let album = host.album("rights").await;
    let photos = [
        host.upload(&album, "image/jpeg", &numbered_photo(1)).await,
        host.upload(&album, "image/jpeg", &numbered_photo(2)).await,
    ];
    album_invariants::check(&server, &host, &album, &photos).await;
    assert_eq!(host.delete(&format!("/v1/photos/{}", photos[0])).await.status, 204);
    eventually("purged", async || (!server.stored().await.iter().any(|key| key.contains(&photos[0]))).then_some(()))
        .await;
    for process in [&api, &worker] {
        // Repeated, because the emulator may be slow.
        eventually("healthy", async || {
            let health = reqwest::get(format!("{}/health", process.operations)).await.unwrap();
            let health: Value = health.json().await.unwrap();
            ["storage", "queue"].iter().all(|part| health["dependencies"][part]["status"] == "ok").then_some(())
        })
        .await;
        assert!(!process.log().contains("AccessDenied"), "{}", process.log());
    }
}

#[tokio::test]
async fn ignores_duplicate_or_reordered_messages() {
    let cloud = Cloud::start().await;
    let server = TestServer::start_in(&cloud, PARTS, QUIET).await;
    let host = server.user("alice");
    let album = host.album("twice").await;
    // A notification before the upload, and one of an unknown photo.
    let declared = host.declare(&album, "image/jpeg", &numbered_photo(1)).await;
    let first = id(&declared["photo"]);
    let early = notification(&cloud, &first);
    assert_eq!(consumer::handle(&server.app, &early, 1).await, MessageOutcome::Delete);
    assert_eq!(
        consumer::handle(&server.app, &notification(&cloud, &uuid::Uuid::now_v7().to_string()), 1).await,
        MessageOutcome::Delete
    );
    assert_eq!(host.get(&format!("/v1/photos/{first}")).await.expect(200)["state"], "awaiting_upload");
    host.put(&declared["upload"], numbered_photo(1)).await.expect(200);
    let job = message::write(uuid::Uuid::now_v7(), RENDER_PHOTO.name, first.parse().unwrap());
    // To two consumers at once: one processes it, and the other gets it again if it is not done.
    let (one, other) = tokio::join!(consumer::handle(&server.app, &early, 1), consumer::handle(&server.app, &early, 2));
    let again = MessageOutcome::RetryAfter(server.app.config.worker.visibility_timeout);
    assert!([&one, &other].iter().all(|fate| [&MessageOutcome::Delete, &again].contains(fate)), "{one:?}, {other:?}");
    assert!([one, other].contains(&MessageOutcome::Delete));
    for body in [&job, &early, &job] {
        assert_eq!(consumer::handle(&server.app, body, 3).await, MessageOutcome::Delete);
    }
    assert_eq!(host.events(&album).await, [(1, "photo.ready".to_owned())]);

    // Again with workers, in reverse order, three times each.
    let mut photos = vec![first];
    for number in 2..10 {
        photos.push(host.upload(&album, "image/jpeg", &numbered_photo(number)).await);
    }
    for _ in 0..3 {
        for photo in photos.iter().rev() {
            tell(&cloud, &notification(&cloud, photo)).await;
            tell(&cloud, &message::write(uuid::Uuid::now_v7(), RENDER_PHOTO.name, photo.parse().unwrap())).await;
        }
    }
    let work = variables(&cloud, Role::Work, &cloud.emulator.url);
    let workers = [start(&server, "worker", &work).await, start(&server, "worker", &work).await];
    album_invariants::check(&server, &host, &album, &photos).await;
    drop(workers);
}

/// If it were deleted, a failure of the other worker would delay the job until its row is sent again, minutes later.
#[tokio::test]
async fn redelivers_message_of_leased_job() {
    let cloud = Cloud::start().await;
    let server = TestServer::start_in(&cloud, PARTS, &format!("{QUIET}worker.visibility_timeout = \"1m\"\n")).await;
    let host = server.user("alice");
    let album = host.album("taken").await;
    let photo = host.upload(&album, "image/jpeg", &numbered_photo(1)).await;
    let rules = &server.app.config.worker;
    server.app.db.enqueue(RENDER_PHOTO, photo.parse().unwrap()).await.expect("a job");
    let mut session = server.app.db.session().await.expect("a session");
    let found = jobs::claim_one(&mut session, RENDER_PHOTO.name, photo.parse().unwrap(), rules.visibility_timeout)
        .await
        .expect("a look");
    drop(session);
    let ClaimOutcome::Claimed(others) = found else { panic!("{found:?}") };
    let job = message::write(others.id, RENDER_PHOTO.name, photo.parse().unwrap());
    for body in [&notification(&cloud, &photo), &job] {
        assert_eq!(consumer::handle(&server.app, body, 1).await, MessageOutcome::RetryAfter(rules.visibility_timeout));
    }
    assert_eq!(host.get(&format!("/v1/photos/{photo}")).await.expect(200)["state"], "processing");
    // The other attempt has ended, and the row is not sent again for now.
    let mut session = server.app.db.session().await.expect("a session");
    jobs::release(&mut session, &others, Duration::from_mins(10), true, None).await.expect("released");
    drop(session);
    assert_eq!(consumer::handle(&server.app, &job, 2).await, MessageOutcome::Delete);
    assert_eq!(host.events(&album).await, [(1, "photo.ready".to_owned())]);
    assert_eq!(consumer::handle(&server.app, &job, 3).await, MessageOutcome::Delete);
}

#[tokio::test]
async fn survives_failed_calls_and_killed_workers() {
    let cloud = Cloud::start().await;
    let server = TestServer::start_in(&cloud, PARTS, QUIET).await;
    let host = server.user("alice");
    let album = host.album("trouble").await;
    let proxy = FaultProxy::start(&cloud.emulator.url).await;
    proxy.every(5, Fault::Status(503));
    let work = variables(&cloud, Role::Work, &proxy.url);
    let first = start(&server, "worker", &work).await;
    let mut photos = Vec::new();
    for number in 0..12 {
        photos.push(host.upload(&album, "image/jpeg", &numbered_photo(number)).await);
    }
    eventually("some are ready", async || {
        (server.database.count("SELECT COUNT(*) FROM photos WHERE state = 'ready'").await >= 2).then_some(())
    })
    .await;
    first.kill();
    proxy.every(5, Fault::Status(500));
    let second = start(&server, "worker", &work).await;
    proxy.every(5, Fault::LoseAnswer);
    // Messages of the first worker return after their visibility timeout; S3's notifications are sent again meanwhile.
    for photo in &photos {
        tell(&cloud, &notification(&cloud, photo)).await;
    }
    album_invariants::check(&server, &host, &album, &photos).await;
    assert!(proxy.faults_injected() > 5);
    drop(second);
}

/// The outbox: committed jobs are sent once the queue is reachable.
#[tokio::test]
async fn jobs_wait_while_queue_is_unreachable() {
    let cloud = Cloud::start().await;
    let server = TestServer::start_in(&cloud, PARTS, QUIET).await;
    let host = server.user("alice");
    let album = host.album("outbox").await;
    let proxy = FaultProxy::start(&cloud.emulator.url).await;
    let worker = start(&server, "worker", &variables(&cloud, Role::Work, &proxy.url)).await;
    let photo = host.upload(&album, "image/jpeg", &numbered_photo(1)).await;
    host.settled(&photo).await;
    proxy.every_of("sqs", 1, Fault::Cut);
    assert_eq!(host.delete(&format!("/v1/photos/{photo}")).await.status, 204);
    eventually("worker noticed", async || worker.log().contains("sending jobs to SQS failed").then_some(())).await;
    assert_eq!(server.database.count("SELECT COUNT(*) FROM jobs WHERE kind = 'purge_photo'").await, 1);
    let health: Value = reqwest::get(format!("{}/health", worker.operations)).await.unwrap().json().await.unwrap();
    assert_eq!(health["dependencies"]["queue"]["status"], "failing", "{health}");
    proxy.clear_faults();
    eventually("purged", async || server.stored().await.is_empty().then_some(())).await;
}

#[tokio::test]
async fn extends_visibility_during_render() {
    let cloud = Cloud::start().await;
    let server = TestServer::start_in(&cloud, PARTS, QUIET).await;
    let host = server.user("alice");
    let album = host.album("slow").await;
    let mut work = variables(&cloud, Role::Work, &cloud.emulator.url);
    work.push(("DARKROOM_WORKER_VISIBILITY_TIMEOUT".to_owned(), "6s".to_owned()));
    let worker = start(&server, "worker", &work).await;
    let photo = host.upload(&album, "image/png", &slow_photo()).await;
    let decoder = worker.halt_decoder().await;
    let held = |what: &'static str| {
        let query = format!("SELECT CAST(visible_at AS CHAR) FROM jobs WHERE subject = {}", literal(&photo));
        let database = &server.database;
        async move {
            let at: Option<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(query))
                .fetch_optional(&mut database.connect().await)
                .await
                .expect(what);
            at
        }
    };
    // Longer than the initial visibility timeout, which equals the lease: it was renewed twice.
    let mut seen = std::collections::BTreeSet::new();
    eventually("lease renewed beyond the first visibility timeout", async || {
        seen.insert(held("the job's row").await);
        (seen.len() > 4).then_some(())
    })
    .await;
    let others = cloud.receive(&cloud.queue).await;
    assert!(others.is_none(), "another route starts with it: {others:?}");
    crate::harness::process::send(decoder, rustix::process::Signal::CONT);
    album_invariants::check(&server, &host, &album, &[photo]).await;
    assert_eq!(server.database.count("SELECT COUNT(*) FROM jobs WHERE attempts > 1").await, 0);
}

async fn jobs(server: &TestServer, cloud: &Cloud, words: &[&str]) -> (bool, String) {
    let mut command = darkroom(&[&["jobs"], words].concat(), &server.environment());
    command.envs(cloud.environment(Role::Operator));
    let (status, output, errors) = run(command).await;
    (status == 0, output + &errors)
}

#[tokio::test]
async fn dead_letters_invalid_messages() {
    let cloud = Cloud::start().await;
    let server = TestServer::start_in(&cloud, PARTS, "").await;
    tell(&cloud, "{\"hello\": \"there\"}").await;
    let line = eventually("listed", async || {
        let (well, said) = jobs(&server, &cloud, &["list", "--dead"]).await;
        assert!(well, "{said}");
        said.lines().find(|line| line.contains("hello")).map(str::to_owned)
    })
    .await;
    assert!(line.contains("neither a job nor an S3 notification"), "{line}");
    let message = line.split_whitespace().next().expect("an id").to_owned();
    // Listing does not remove it.
    assert!(jobs(&server, &cloud, &["list"]).await.1.contains(&message));
    assert_eq!(jobs(&server, &cloud, &["retry", &message]).await, (true, "1 scheduled for retry\n".to_owned()));
    // It fails again, with another id.
    let again = eventually("dead-lettered again", async || {
        let (_, said) = jobs(&server, &cloud, &["list"]).await;
        said.lines().find(|line| line.contains("hello")).map(str::to_owned)
    })
    .await;
    let again = again.split_whitespace().next().expect("an id").to_owned();
    assert_ne!(again, message);
    let (found, said) = jobs(&server, &cloud, &["drop", &message]).await;
    assert!(!found && said.contains("no dead job or message has this id"), "{said}");
    assert_eq!(jobs(&server, &cloud, &["drop", &again]).await, (true, "dropped\n".to_owned()));
    assert_eq!(jobs(&server, &cloud, &["list"]).await, (true, String::new()));
}

#[tokio::test]
async fn retries_dead_job_from_queue_or_table() {
    let cloud = Cloud::start().await;
    let settings = format!("{QUIET}worker.max_attempts = 2");
    let server = TestServer::start_in(&cloud, PARTS, &settings).await;
    let host = server.user("alice");
    let album = host.album("dead").await;
    let photo = host.upload(&album, "image/jpeg", &numbered_photo(1)).await;
    let told = notification(&cloud, &photo);
    let object = format!("originals/{}/{photo}", &photo[34..]);
    let bucket = cloud.objects();
    // Its original disappears before the job runs.
    let kept = bucket.client.get_object().bucket(&bucket.name).key(&object).send().await.expect("an original");
    let kept = kept.body.collect().await.expect("bytes").into_bytes();
    let mut session = server.app.db.session().await.expect("a session");
    let row = darkroom::db::photos::get(&mut session, photo.parse().unwrap()).await.expect("a row").expect("a photo");
    drop(session);
    let row = &row;
    server
        .app
        .db
        .transaction(|mut tx| async move {
            darkroom::db::photos::set_uploaded(tx.session(), row, None).await?;
            tx.enqueue(RENDER_PHOTO, row.id.as_uuid()).await?;
            Ok::<_, darkroom::db::Error>(tx.done(()))
        })
        .await
        .expect("a job");
    bucket.client.delete_object().bucket(&bucket.name).key(&object).send().await.expect("it is gone");
    assert!(matches!(consumer::handle(&server.app, &told, 1).await, MessageOutcome::RetryAfter(_)));
    let MessageOutcome::DeadLetter(reason) = consumer::handle(&server.app, &told, 2).await else {
        panic!("it is not dead")
    };
    server.app.queue.as_ref().expect("a queue").dead_letter(&told, &reason).await.expect("it is dead-lettered");
    let (_, said) = jobs(&server, &cloud, &["list", "--dead"]).await;
    assert!(said.contains("render_photo") && said.contains("the original can't be opened"), "{said}");

    bucket.client.put_object().bucket(&bucket.name).key(&object).body(kept.into()).send().await.expect("it is back");
    let (well, said) = jobs(&server, &cloud, &["retry"]).await;
    assert!(well && said.contains("2 scheduled for retry"), "{said}");
    let worker = start(&server, "worker", &variables(&cloud, Role::Work, &cloud.emulator.url)).await;
    album_invariants::check(&server, &host, &album, &[photo]).await;
    drop(worker);
}

/// S3 checks the expiry when an upload starts; a slow one may end after the reconciler has expired the photo.
#[tokio::test]
async fn accepts_upload_completed_after_expiry() {
    let cloud = Cloud::start().await;
    let server = TestServer::start_in(&cloud, PARTS, QUIET).await;
    let host = server.user("alice");
    let album = host.album("late").await;
    let invite = json!({ "role": "contribute", "max_photos": 1 });
    let guest = server.bearer(&host.invite(&album, &invite).await);
    let declared = guest.declare(&album, "image/jpeg", &numbered_photo(1)).await;
    let photo = id(&declared["photo"]);
    server.database.change(format!("UPDATE photos SET sweep_at = '2020-01-01' WHERE id = {}", literal(&photo))).await;
    assert_eq!(reconciler::run(&server.app, false).await.expect("a sweep").expired, 1);
    assert_eq!(guest.get(&format!("/v1/photos/{photo}")).await.expect(200)["state"], "expired");
    guest.put(&declared["upload"], numbered_photo(1)).await.expect(200);
    assert_eq!(consumer::handle(&server.app, &notification(&cloud, &photo), 1).await, MessageOutcome::Delete);
    assert_eq!(guest.settled(&photo).await["state"], "ready");
    assert_eq!(server.database.count("SELECT CAST(photos_used AS SIGNED) FROM invites").await, 1);
    // The same bytes are the same photo.
    let again = guest.send(guest.declaration(&album, "image/jpeg", &numbered_photo(1))).await.expect(200);
    assert_eq!((id(&again["photo"]), &again["upload"]), (photo.clone(), &Value::Null));
    album_invariants::check(&server, &host, &album, &[photo]).await;
}

/// Without a notification.
#[tokio::test]
async fn full_scan_accepts_late_silent_upload() {
    let cloud = Cloud::start().await;
    let server = TestServer::start_in(&cloud, PARTS, QUIET).await;
    let host = server.user("alice");
    let album = host.album("late").await;
    let guest = server.bearer(&host.invite(&album, &json!({ "role": "drop", "max_photos": 2 })).await);
    let declared = guest.declare(&album, "image/jpeg", &numbered_photo(1)).await;
    let [photo, other] =
        [id(&declared["photo"]), id(&guest.declare(&album, "image/jpeg", &numbered_photo(2)).await["photo"])];
    server.database.change("UPDATE photos SET sweep_at = '2020-01-01'").await;
    assert_eq!(reconciler::run(&server.app, false).await.expect("a sweep").expired, 2);
    guest.put(&declared["upload"], numbered_photo(1)).await.expect(200);
    // Other bytes than declared, written directly to the bucket.
    let (bucket, key) = (cloud.objects(), |photo: &str| format!("originals/{}/{photo}", &photo[34..]));
    bucket.client.put_object().bucket(&bucket.name).key(key(&other)).send().await.expect("put");
    let report = reconciler::run(&server.app, true).await.expect("a sweep");
    assert_eq!((report.accepted, report.removed), (1, 1), "{report:?}");
    assert_eq!(server.stored().await.into_iter().collect::<Vec<_>>(), [key(&photo)]);
    assert_eq!(server.database.count("SELECT CAST(photos_used AS SIGNED) FROM invites").await, 1);
    let again = guest.send(guest.declaration(&album, "image/jpeg", &numbered_photo(1))).await.expect(200);
    assert_eq!((&id(&again["photo"]), &again["upload"]), (&photo, &Value::Null));
    let worker = start(&server, "worker", &variables(&cloud, Role::Work, &cloud.emulator.url)).await;
    assert_eq!(guest.settled(&photo).await["state"], "ready");
    assert_eq!(guest.get(&format!("/v1/photos/{other}")).await.expect(200)["state"], "expired");
    drop(worker);
}

/// An outage uses no attempts: blocked jobs run afterwards, without an operator.
#[tokio::test]
async fn outage_dead_letters_no_job() {
    outlasts(Fault::Cut).await;
}

#[tokio::test]
async fn refetches_truncated_original() {
    outlasts(Fault::CutBody).await;
}

/// Faults of S3 cost a job no attempt, and leave no message that would go to the dead-letter queue.
async fn outlasts(fault: Fault) {
    let cloud = Cloud::start().await;
    let server = TestServer::start_in(&cloud, PARTS, QUIET).await;
    let host = server.user("alice");
    let album = host.album("outage").await;
    let photo = host.upload(&album, "image/jpeg", &numbered_photo(1)).await;
    let proxy = FaultProxy::start(&cloud.emulator.url).await;
    proxy.every_of("s3", 1, fault);
    let mut work = variables(&cloud, Role::Work, &proxy.url);
    work.push(("DARKROOM_WORKER_MAX_ATTEMPTS".to_owned(), "1".to_owned()));
    work.push(("DARKROOM_WORKER_VISIBILITY_TIMEOUT".to_owned(), "30s".to_owned()));
    server
        .app
        .db
        .transaction(|mut tx| async move {
            tx.enqueue(PURGE_PHOTO, uuid::Uuid::now_v7()).await?;
            Ok::<_, darkroom::db::Error>(tx.done(()))
        })
        .await
        .expect("a job");
    if fault == Fault::CutBody {
        // Checked without reading the body.
        tell(&cloud, &notification(&cloud, &photo)).await;
    }
    let worker = start(&server, "worker", &work).await;
    eventually("attempts used up", async || {
        (worker.log().matches("job failed and will be retried").count() >= 3).then_some(())
    })
    .await;
    assert_eq!(server.database.count("SELECT COUNT(*) FROM jobs WHERE dead OR attempts > 1").await, 0);
    assert!(!worker.metrics().await.contains("darkroom_sqs_messages_total{outcome=\"dead\"}"), "{}", worker.log());
    proxy.clear_faults();
    tell(&cloud, &notification(&cloud, &photo)).await;
    album_invariants::check(&server, &host, &album, &[photo]).await;
    eventually("no jobs", async || {
        (server.database.count("SELECT COUNT(*) FROM jobs WHERE kind <> 'publish_events'").await == 0).then_some(())
    })
    .await;
}
