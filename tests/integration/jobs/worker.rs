//! The worker: leases, attempts, dead letters, shutdown, and photos that are deleted meanwhile.

use std::{process::Command, sync::Arc};

use darkroom::jobs::{
    retry::NextAttempt,
    runner::{self, JobOutcome},
};
use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection};
use tokio::task::JoinHandle;

use crate::{
    chaos::crashes::ALBUM_LOCK,
    harness::{
        Client, TestServer, album_invariants,
        client::id,
        database::literal,
        eventually, fixture, numbered_photo,
        process::{Process, darkroom, run, send},
        slow_photo, tiny_photo,
    },
};

/// The test runs each step itself.
const BY_HAND: &str =
    "worker.enabled = false\nreconciler.orphan_grace_period = \"0s\"\nworker.visibility_timeout = \"60s\"\n";

async fn step(server: &TestServer) -> JobOutcome {
    runner::run_next(&server.app).await.expect("the database answers")
}

fn begin_step(server: &TestServer) -> JoinHandle<JobOutcome> {
    let app = Arc::clone(&server.app);
    tokio::spawn(async move { runner::run_next(&app).await.expect("the database answers") })
}

async fn state(host: &Client, photo: &str) -> Value {
    host.get(&format!("/v1/photos/{photo}")).await.expect(200)["state"].clone()
}

fn original(server: &TestServer, photo: &str) -> std::path::PathBuf {
    server.photos().join("originals").join(&photo[34..]).join(photo)
}

/// Runs `darkroom jobs ...` on the server's database.
async fn jobs(server: &TestServer, arguments: &[&str]) -> (i32, String) {
    let command: Command = darkroom(&[&["jobs"], arguments].concat(), &server.environment());
    let (code, said, _) = run(command).await;
    (code, said)
}

#[tokio::test]
async fn discards_work_of_lost_lease() {
    let server = TestServer::start_with(BY_HAND).await;
    let host = server.user("alice");
    let album = host.album("lease").await;
    let photo = host.upload(&album, "image/jpeg", &numbered_photo(1)).await;
    let mut holder = server.database.connect().await;
    let mut tx = holder.begin().await.unwrap();
    let lock = format!("SELECT id FROM albums WHERE id = {} FOR UPDATE", literal(&album));
    sqlx::query(AssertSqlSafe(lock)).execute(&mut *tx).await.unwrap();
    // The first worker is blocked in its last transaction; its lease expires, and a second one takes the job.
    let first = begin_step(&server);
    server.database.wait_for_blocked_query(ALBUM_LOCK).await;
    server.database.change("UPDATE jobs SET visible_at = UTC_TIMESTAMP(3)").await;
    let second = begin_step(&server);
    let stolen = "SELECT COUNT(*) FROM jobs WHERE attempts = 2";
    eventually("taken by another", async || (server.database.count(stolen).await == 1).then_some(())).await;
    tx.rollback().await.unwrap();
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (JobOutcome::LeaseLost, JobOutcome::Done));
    album_invariants::check(&server, &host, &album, &[photo]).await;
}

#[tokio::test]
async fn stops_work_when_lease_is_lost() {
    let server = TestServer::start_with(&BY_HAND.replace("60s", "1s")).await;
    let host = server.user("alice");
    let album = host.album("lease").await;
    let photo = host.upload(&album, "image/jpeg", &numbered_photo(1)).await;
    let mut holder = server.database.connect().await;
    let mut tx = holder.begin().await.unwrap();
    let lock = format!("SELECT id FROM albums WHERE id = {} FOR UPDATE", literal(&album));
    sqlx::query(AssertSqlSafe(lock)).execute(&mut *tx).await.unwrap();
    let first = begin_step(&server);
    server.database.wait_for_blocked_query(ALBUM_LOCK).await;
    let ends = "SELECT CAST(MAX(visible_at) AS CHAR) FROM jobs";
    let end_of_lease =
        async || -> String { sqlx::query_scalar(ends).fetch_one(&mut server.database.connect().await).await.unwrap() };
    let before = end_of_lease().await;
    eventually("renewed", async || (end_of_lease().await > before).then_some(())).await;
    server.database.change("UPDATE jobs SET lease = NULL, visible_at = UTC_TIMESTAMP(3)").await;
    assert_eq!(first.await.unwrap(), JobOutcome::LeaseLost);
    tx.rollback().await.unwrap();
    assert_eq!(step(&server).await, JobOutcome::Done);
    album_invariants::check(&server, &host, &album, &[photo]).await;
}

#[tokio::test]
async fn retries_then_dead_letters_job() {
    let server = TestServer::start_with(&format!("{BY_HAND}worker.max_attempts = 3\n")).await;
    let host = server.user("alice");
    let album = host.album("dead").await;
    let photo = host.upload(&album, "image/jpeg", &numbered_photo(1)).await;
    let original = original(&server, &photo);
    std::fs::rename(&original, original.with_extension("away")).unwrap();
    for attempt in 1..=3 {
        let outcome = step(&server).await;
        if attempt == 3 {
            assert_eq!(outcome, JobOutcome::Failed(NextAttempt::DeadLetter));
        } else {
            assert!(matches!(outcome, JobOutcome::Failed(NextAttempt::After(wait)) if !wait.is_zero()), "{outcome:?}");
            // Ends its backoff.
            server.database.change("UPDATE jobs SET visible_at = UTC_TIMESTAMP(3) + INTERVAL 1 HOUR").await;
            assert_eq!(step(&server).await, JobOutcome::Idle);
            server.database.change("UPDATE jobs SET visible_at = UTC_TIMESTAMP(3)").await;
        }
    }
    assert_eq!(step(&server).await, JobOutcome::Idle);
    assert_eq!(state(&host, &photo).await, "processing");
    assert_eq!(host.events(&album).await, []);

    let (code, listed) = jobs(&server, &["list", "--dead"]).await;
    assert!(code == 0 && listed.lines().count() == 1, "{listed}");
    for part in ["dead", "render_photo", &photo, "3 attempts", "the original can't be opened"] {
        assert!(listed.contains(part), "{part}: {listed}");
    }
    assert_eq!(jobs(&server, &["retry", &photo]).await, (1, "0 scheduled for retry\n".to_owned()), "a photo is no job");
    let job = listed.split_whitespace().next().unwrap().to_owned();
    std::fs::rename(original.with_extension("away"), &original).unwrap();
    assert_eq!(jobs(&server, &["retry", &job]).await, (0, "1 scheduled for retry\n".to_owned()));
    assert_eq!(step(&server).await, JobOutcome::Done);
    album_invariants::check(&server, &host, &album, &[photo]).await;
}

#[tokio::test]
async fn drops_only_dead_jobs() {
    let server = TestServer::start_with(&format!("{BY_HAND}worker.max_attempts = 1\n")).await;
    let host = server.user("alice");
    let album = host.album("dead").await;
    let (lost, fine) = (
        host.upload(&album, "image/jpeg", &numbered_photo(1)).await,
        host.upload(&album, "image/jpeg", &numbered_photo(2)).await,
    );
    std::fs::remove_file(original(&server, &lost)).unwrap();
    assert_eq!(step(&server).await, JobOutcome::Failed(NextAttempt::DeadLetter));
    let (_, listed) = jobs(&server, &["list"]).await;
    let id_of = |photo: &str| {
        let line = listed.lines().find(|line| line.contains(photo)).unwrap();
        line.split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!(jobs(&server, &["drop", &id_of(&fine)]).await.0, 1, "it is not dead");
    assert_eq!(jobs(&server, &["drop", &id_of(&lost)]).await, (0, "dropped\n".to_owned()));
    assert_eq!(jobs(&server, &["drop", &id_of(&lost)]).await.0, 1, "it is gone");
    assert_eq!(jobs(&server, &["list", "--dead"]).await, (0, String::new()));
    let rejected = host.get(&format!("/v1/photos/{lost}")).await.expect(200);
    assert_eq!(
        (&rejected["state"], &rejected["reject_reason"]),
        (&json!("rejected"), &json!("the photo could not be processed"))
    );
    assert_eq!(step(&server).await, JobOutcome::Done);
    assert_eq!(state(&host, &fine).await, "ready");
    assert_eq!(host.events(&album).await, [(1, "photo.rejected".to_owned()), (2, "photo.ready".to_owned())]);
}

#[tokio::test]
async fn dead_letters_job_of_killed_workers() {
    let server = TestServer::start_with(&format!("{BY_HAND}worker.max_attempts = 3\n")).await;
    let host = server.user("alice");
    let album = host.album("deadly").await;
    host.upload(&album, "image/jpeg", &numbered_photo(1)).await;
    server.database.change("UPDATE jobs SET attempts = 3, lease = subject WHERE kind = 'render_photo'").await;
    assert_eq!(step(&server).await, JobOutcome::Failed(NextAttempt::DeadLetter));
    let (_, listed) = jobs(&server, &["list", "--dead"]).await;
    assert!(listed.contains("every attempt ended without a result"), "{listed}");
}

/// Releases before 0.2 insert jobs by other names and without a queue.
#[tokio::test]
async fn runs_jobs_of_earlier_releases() {
    let server = TestServer::start_with(BY_HAND).await;
    let host = server.user("alice");
    let album = host.album("rolling").await;
    let photo = host.upload(&album, "image/jpeg", &numbered_photo(1)).await;
    server.database.change("DELETE FROM jobs").await;
    let insert = |kind: &str, subject: &str| {
        format!(
            "INSERT INTO jobs (id, kind, subject, visible_at, created_at) VALUES ({0}, '{kind}', {0}, NOW(), NOW())",
            literal(subject)
        )
    };
    server.database.change(insert("develop", &photo)).await;
    assert_eq!(step(&server).await, JobOutcome::Done);
    assert_eq!(state(&host, &photo).await, "ready");
    server.database.change("DELETE FROM jobs").await;
    server.database.change(insert("announce", &album)).await;
    let queues = "SELECT COUNT(*) FROM jobs WHERE queue = 'outbox'";
    assert_eq!(server.database.count(queues).await, 1, "the queue's default");
    assert_eq!(step(&server).await, JobOutcome::Done);
    assert_eq!(server.database.count("SELECT COUNT(*) FROM albums WHERE announced_seq = last_seq").await, 1);
    server.database.change(insert("dance", &album)).await;
    assert!(matches!(step(&server).await, JobOutcome::Failed(NextAttempt::After(_))), "unknown");
}

#[tokio::test]
async fn stopping_worker_returns_its_job() {
    let settings = "http.drain_timeout = \"500ms\"\nworker.visibility_timeout = \"60s\"\nworker.concurrency = 1\n";
    let mut server = TestServer::start_with(settings).await;
    let host = server.user("alice");
    let album = host.album("stop").await;
    let declared = host.declare(&album, "image/jpeg", &numbered_photo(1)).await;
    let photo = id(&declared["photo"]);
    let mut holder = server.database.connect().await;
    let mut tx = holder.begin().await.unwrap();
    let lock = format!("SELECT id FROM albums WHERE id = {} FOR UPDATE", literal(&album));
    sqlx::query(AssertSqlSafe(lock)).execute(&mut *tx).await.unwrap();
    host.put(&declared["upload"], numbered_photo(1)).await.expect(200);
    server.database.wait_for_blocked_query(ALBUM_LOCK).await;
    let begun = std::time::Instant::now();
    server.stop().await.expect("a clean stop");
    let took = begun.elapsed().as_secs();
    assert!(took < 10, "the statement that waits is not waited for, but it took {took} s");
    let given_back =
        "SELECT COUNT(*) FROM jobs WHERE kind = 'render_photo' AND attempts = 0 AND lease IS NULL AND last_error IS NULL
                      AND visible_at <= UTC_TIMESTAMP(3)";
    assert_eq!(server.database.count(given_back).await, 1);
    tx.rollback().await.unwrap();
    let server = server.restart_with("").await;
    assert_eq!(server.user("alice").settled(&photo).await["state"], "ready");
}

#[tokio::test]
async fn enqueue_wakes_local_worker() {
    let server = TestServer::start_with("worker.poll_interval = \"10m\"\nreconciler.interval = \"10m\"\n").await;
    let host = server.user("alice");
    let album = host.album("at once").await;
    // More jobs than workers, which poll every ten minutes unless they are notified.
    for number in 0..12 {
        let photo = host.upload(&album, "image/png", &tiny_photo(number)).await;
        if number % 3 == 0 {
            host.settled(&photo).await;
        }
    }
    eventually("all done", async || (server.database.count("SELECT COUNT(*) FROM jobs").await == 0).then_some(()))
        .await;
    assert_eq!(host.events(&album).await.len(), 12);
}

#[tokio::test]
async fn photo_deleted_in_decode_leaves_no_file() {
    let server = TestServer::start_with("worker.enabled = false\nreconciler.orphan_grace_period = \"24h\"\n").await;
    let host = server.user("alice");
    let album = host.album("deleted").await;
    let photo = host.upload(&album, "image/png", &slow_photo()).await;
    let worker = Process::start(&server, "worker", &[("DARKROOM_WORKER_VISIBILITY_TIMEOUT", "1m")]).await;
    let decoder = worker.halt_decoder().await;
    assert_eq!(host.delete(&format!("/v1/photos/{photo}")).await.status, 204);
    let purges = "SELECT COUNT(*) FROM jobs WHERE kind = 'purge_photo'";
    eventually("purged", async || (server.database.count(purges).await == 0).then_some(())).await;
    send(decoder, Signal::CONT);
    eventually("idle", async || (server.database.count("SELECT COUNT(*) FROM jobs").await == 0).then_some(())).await;
    eventually("without files", async || album_invariants::files(&server.photos()).is_empty().then_some(())).await;
    assert_eq!(host.events(&album).await, [(1, "photo.removed".to_owned())]);
}

#[tokio::test]
async fn purges_deleted_album() {
    let server = TestServer::start().await;
    let host = server.user("alice");
    let (album, other) = (host.album("to go").await, host.album("to stay").await);
    let kept = host.upload(&other, "image/png", &tiny_photo(0)).await;
    for number in 0..4 {
        let photo = host.upload(&album, "image/png", &tiny_photo(number)).await;
        if number < 3 {
            host.settled(&photo).await;
        }
    }
    host.invite(&album, &serde_json::json!({ "role": "view" })).await;
    host.settled(&kept).await;
    assert_eq!(host.delete(&format!("/v1/albums/{album}")).await.status, 204);
    assert_eq!(host.get(&format!("/v1/albums/{album}")).await.status, 404);
    eventually("purged", async || (server.database.count("SELECT COUNT(*) FROM jobs").await == 0).then_some(())).await;
    for (table, column, left) in
        [("albums", "id", 1), ("photos", "album_id", 1), ("events", "album_id", 1), ("invites", "album_id", 0)]
    {
        let of = async |id: &str| {
            let query = format!("SELECT COUNT(*) FROM {table} WHERE {column} = {}", literal(id));
            server.database.count(AssertSqlSafe(query)).await
        };
        assert_eq!((of(&album).await, of(&other).await), (0, left), "{table}");
    }
    album_invariants::check_storage(&server).await;
}

#[tokio::test]
async fn rejects_photo_that_crashes_decoder() {
    let server = TestServer::start_with("worker.enabled = false\nreconciler.orphan_grace_period = \"0s\"\n").await;
    let host = server.user("alice");
    let album = host.album("killer").await;
    let more = [("DARKROOM_WORKER_CONCURRENCY", "1"), ("DARKROOM_IMAGING_PROCESSES", "1")];
    let worker = Process::start(&server, "worker", &more).await;
    let killer = host.upload(&album, "image/png", &slow_photo()).await;
    for _ in 0..3 {
        worker.kill_decoder().await;
    }
    let settled = host.settled(&killer).await;
    assert_eq!(
        (&settled["state"], &settled["reject_reason"]),
        (&"rejected".into(), &"the picture can't be decoded".into())
    );
    let next = host.upload(&album, "image/jpeg", &fixture("grey.jpg")).await;
    assert_eq!(host.settled(&next).await["state"], "ready");
    album_invariants::check(&server, &host, &album, &[killer, next]).await;
}
