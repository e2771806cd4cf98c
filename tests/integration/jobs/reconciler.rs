//! The reconciler: each kind of inconsistency is repaired, and a second run finds nothing.

use darkroom::jobs::{
    reconciler::{self, Report},
    runner::{self, JobOutcome},
};
use serde_json::json;
use sqlx::AssertSqlSafe;

use crate::harness::{Client, TestServer, album_invariants, client::id, database::literal, numbered_photo, tiny_photo};

/// Without a worker: the test runs the reconciler and the jobs.
const BY_HAND: &str = "worker.enabled = false\n";
/// Orphans are removed regardless of their age.
const NO_GRACE: &str = "worker.enabled = false\nreconciler.orphan_grace_period = \"0s\"\n";

async fn sweep(server: &TestServer) -> Report {
    reconciler::run(&server.app, true).await.expect("a full run of the reconciler")
}

async fn work(server: &TestServer) {
    loop {
        match runner::run_next(&server.app).await.expect("the database answers") {
            JobOutcome::Idle => return,
            JobOutcome::Done => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn overdue(server: &TestServer, photo: &str) {
    let changed = format!("UPDATE photos SET sweep_at = '2020-01-01' WHERE id = {}", literal(photo));
    assert_eq!(server.database.change(changed).await, 1);
}

async fn state(host: &Client, photo: &str) -> String {
    host.get(&format!("/v1/photos/{photo}")).await.expect(200)["state"].as_str().unwrap().to_owned()
}

fn place_original(server: &TestServer, photo: &str, bytes: &[u8]) {
    let folder = server.photos().join("originals").join(&photo[34..]);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(photo), bytes).unwrap();
}

#[tokio::test]
async fn accepts_unrecorded_upload() {
    let server = TestServer::start_with(NO_GRACE).await;
    let host = server.user("alice");
    let album = host.album("there").await;
    let photo = id(&host.declare(&album, "image/jpeg", &numbered_photo(1)).await["photo"]);
    place_original(&server, &photo, &numbered_photo(1));
    assert_eq!(sweep(&server).await, Report::default(), "not due yet");
    overdue(&server, &photo).await;
    assert_eq!(sweep(&server).await, Report { accepted: 1, ..Report::default() });
    work(&server).await;
    album_invariants::check(&server, &host, &album, &[photo]).await;
}

#[tokio::test]
async fn expires_missing_upload() {
    let server = TestServer::start_with(NO_GRACE).await;
    let host = server.user("alice");
    let album = host.album("never").await;
    let guest = server.bearer(&host.invite(&album, &json!({ "role": "contribute", "max_photos": 2 })).await);
    let absent = id(&guest.declare(&album, "image/jpeg", &numbered_photo(1)).await["photo"]);
    let other = id(&guest.declare(&album, "image/jpeg", &numbered_photo(2)).await["photo"]);
    let third = json!({ "content_type": "image/jpeg", "bytes": 9 });
    guest.post(&format!("/v1/albums/{album}/photos"), &third).await.expect(409);
    // One upload is missing, the other has undeclared bytes.
    place_original(&server, &other, &numbered_photo(3));
    overdue(&server, &absent).await;
    overdue(&server, &other).await;
    assert_eq!(sweep(&server).await, Report { expired: 2, ..Report::default() });
    assert_eq!((state(&host, &absent).await, state(&host, &other).await), ("expired".into(), "expired".into()));
    album_invariants::check_storage(&server).await;
    assert_eq!(sweep(&server).await, Report::default());

    let anew = guest.upload(&album, "image/jpeg", &numbered_photo(1)).await;
    assert_ne!(anew, absent);
    work(&server).await;
    album_invariants::check(&server, &host, &album, &[anew]).await;
    assert_eq!(server.database.count("SELECT CAST(photos_used AS SIGNED) FROM invites").await, 1);
}

#[tokio::test]
async fn creates_job_for_unprocessed_photo() {
    let server = TestServer::start_with(NO_GRACE).await;
    let host = server.user("alice");
    let album = host.album("forgotten").await;
    let photo = host.upload(&album, "image/jpeg", &numbered_photo(1)).await;
    server.database.change("DELETE FROM jobs").await;
    overdue(&server, &photo).await;
    assert_eq!(sweep(&server).await, Report { enqueued: 1, ..Report::default() });
    assert_eq!(sweep(&server).await, Report::default(), "it looks again later");
    work(&server).await;
    album_invariants::check(&server, &host, &album, &[photo]).await;
}

#[tokio::test]
async fn creates_missing_jobs() {
    let server = TestServer::start_with(NO_GRACE).await;
    let host = server.user("alice");
    let (told, deleted) = (host.album("told").await, host.album("deleted").await);
    let photo = host.upload(&told, "image/png", &tiny_photo(1)).await;
    host.upload(&deleted, "image/png", &tiny_photo(1)).await;
    assert_eq!(runner::run_next(&server.app).await.unwrap(), JobOutcome::Done);
    assert_eq!(state(&host, &photo).await, "ready");
    assert_eq!(host.delete(&format!("/v1/albums/{deleted}")).await.status, 204);
    server.database.change("DELETE FROM jobs").await;
    assert_eq!(sweep(&server).await, Report { enqueued: 2, ..Report::default() });
    assert_eq!(sweep(&server).await, Report::default());
    work(&server).await;
    assert_eq!(server.database.count("SELECT COUNT(*) FROM albums WHERE announced_seq < last_seq").await, 0);
    assert_eq!(server.database.count("SELECT COUNT(*) FROM albums").await, 1);
    album_invariants::check(&server, &host, &told, &[photo]).await;
}

#[tokio::test]
async fn removes_orphans_after_grace_period() {
    let server = TestServer::start_with(BY_HAND).await;
    let host = server.user("alice");
    let album = host.album("kept").await;
    let photo = host.upload(&album, "image/png", &tiny_photo(1)).await;
    work(&server).await;
    let stranger = uuid::Uuid::now_v7().to_string();
    place_original(&server, &stranger, b"left by somebody");
    let renditions = server.photos().join("renditions").join(&stranger[34..]).join(&stranger);
    std::fs::create_dir_all(&renditions).unwrap();
    std::fs::write(renditions.join("thumb.jpg"), b"small").unwrap();
    let partial = server.photos().join("incoming").join(uuid::Uuid::now_v7().to_string());
    std::fs::write(&partial, b"half").unwrap();
    let before = album_invariants::files(&server.photos());
    assert_eq!(sweep(&server).await, Report::default());
    assert_eq!(album_invariants::files(&server.photos()), before, "they may be of an upload under way");

    let server = server.restart_with(NO_GRACE).await;
    let host = server.user("alice");
    assert_eq!(sweep(&server).await, Report { removed: 2, ..Report::default() });
    album_invariants::check(&server, &host, &album, &[photo]).await;
}

#[tokio::test]
async fn restores_lost_rendition_without_event() {
    let server = TestServer::start_with(NO_GRACE).await;
    let host = server.user("alice");
    let album = host.album("lost").await;
    let photo = host.upload(&album, "image/jpeg", &numbered_photo(1)).await;
    work(&server).await;
    let (before, events) = (host.get(&format!("/v1/photos/{photo}")).await, host.events(&album).await);
    let folder = server.photos().join("renditions").join(&photo[34..]).join(&photo);
    let read =
        || ["thumb.jpg", "small.jpg", "large.jpg"].map(|name| std::fs::read(folder.join(name)).unwrap_or_default());
    let whole_renditions = read();
    std::fs::remove_file(folder.join("thumb.jpg")).unwrap();
    std::fs::write(folder.join("large.jpg"), b"cut short").unwrap();
    assert_eq!(sweep(&server).await, Report { repaired: 1, ..Report::default() });
    work(&server).await;
    assert!(read() == whole_renditions, "other bytes");
    let after = host.get(&format!("/v1/photos/{photo}")).await;
    assert_eq!((after.header("etag"), host.events(&album).await), (before.header("etag"), events));
    album_invariants::check(&server, &host, &album, &[photo]).await;
}

#[tokio::test]
async fn removes_idempotency_keys_after_a_day() {
    let server = TestServer::start_with(BY_HAND).await;
    let host = server.user("alice");
    for key in ["of yesterday", "of today"] {
        let request = host.request(reqwest::Method::POST, "/v1/albums").header("idempotency-key", key);
        host.send(request.json(&json!({ "title": key }))).await.expect(201);
        if key == "of yesterday" {
            server.database.change("UPDATE idempotency SET created_at = created_at - INTERVAL 25 HOUR").await;
        }
    }
    assert_eq!(sweep(&server).await, Report::default());
    assert_eq!(server.database.count("SELECT COUNT(*) FROM idempotency").await, 1);
    assert_eq!(
        server.database.count("SELECT COUNT(*) FROM idempotency WHERE created_at < NOW() - INTERVAL 24 HOUR").await,
        0
    );
}

#[tokio::test]
async fn concurrent_reconcilers_repair_once() {
    let server = TestServer::start_with(NO_GRACE).await;
    let host = server.user("alice");
    let album = host.album("mess").await;
    let guest = server.bearer(&host.invite(&album, &json!({ "role": "contribute", "max_photos": 99 })).await);
    let (mut accepted, mut absent) = (Vec::new(), Vec::new());
    for number in 0..6 {
        let photo = id(&guest.declare(&album, "image/jpeg", &numbered_photo(number)).await["photo"]);
        overdue(&server, &photo).await;
        if number % 2 == 0 {
            place_original(&server, &photo, &numbered_photo(number));
            accepted.push(photo);
        } else {
            absent.push(photo);
        }
    }
    for _ in 0..40 {
        place_original(&server, &uuid::Uuid::now_v7().to_string(), b"stray");
        std::fs::write(server.photos().join("incoming").join(uuid::Uuid::now_v7().to_string()), b"half").unwrap();
    }
    let reports = futures_util::future::join_all((0..4).map(|_| {
        let app = server.app.clone();
        async move { tokio::spawn(async move { reconciler::run(&app, true).await }).await.unwrap() }
    }))
    .await;
    let reports: Vec<Report> =
        reports.into_iter().map(|report| report.expect("a full run of the reconciler")).collect();
    let sum = |count: fn(&Report) -> u64| reports.iter().map(count).sum::<u64>();
    assert_eq!((sum(|r| r.accepted), sum(|r| r.expired)), (3, 3), "{reports:?}");
    assert_eq!(
        server.database.count("SELECT CAST(photos_used AS SIGNED) FROM invites").await,
        3,
        "each place is given back once"
    );
    let jobs = format!("SELECT COUNT(*) FROM jobs WHERE kind = 'render_photo' AND subject IN ({})", list(&accepted));
    assert_eq!(server.database.count(AssertSqlSafe(jobs)).await, 3);
    work(&server).await;
    album_invariants::check(&server, &host, &album, &accepted).await;
}

fn list(ids: &[String]) -> String {
    ids.iter().map(|id| literal(id)).collect::<Vec<_>>().join(", ")
}
