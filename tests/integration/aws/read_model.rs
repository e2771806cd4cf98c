//! The read model: viewers' pages equal MySQL's byte for byte and need no MySQL, even if writes are late or repeated.

use std::{collections::BTreeMap, time::Instant};

use darkroom::{
    dev::database::{DirLock, PrivateServer},
    domain::{AlbumId, PhotoId},
    read_model::{
        Overwrite, ReadModel,
        items::{Item, Key},
    },
};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use serde_json::{Value, json};

use crate::harness::{
    Answer, Client, TestServer,
    aws::{Cloud, Part, Role},
    database::{Database, choice},
    eventually,
    fault_proxy::{Fault, FaultProxy},
    process::{Process, darkroom, run},
    read_model::{NO_WORKER, NOWHERE, ReadModelComparison, pages},
    tiny_photo,
};

/// A service with a read model, and the processes that compare it.
struct Two {
    server: TestServer,
    cloud: Cloud,
    mirrors: ReadModelComparison,
}

impl Two {
    async fn start(settings: &str) -> Self {
        let cloud = Cloud::start().await;
        let server = TestServer::start_in(&cloud, &[Part::ReadModel], settings).await;
        let mirrors = ReadModelComparison::start(&server).await;
        Self { server, cloud, mirrors }
    }

    fn read_model(&self) -> &ReadModel {
        self.server.app.read_model.as_ref().expect("it is on")
    }
}

fn captions(photos: &[Value]) -> Vec<&str> {
    photos.iter().map(|photo| photo["caption"].as_str().unwrap_or_default()).collect()
}

#[tokio::test]
async fn pages_equal_database_after_each_change() {
    let two = Two::start("").await;
    let host = two.server.user("alice");
    let album = host.album("crowded").await;
    let viewer = host.invite(&album, &json!({ "role": "view" })).await;
    assert!(two.mirrors.same("empty", &viewer, &album).await.is_empty());
    let mut photos = Vec::new();
    for number in 0..5 {
        photos.push(host.upload(&album, "image/png", &tiny_photo(number)).await);
        host.settled(&photos[number as usize]).await;
    }
    assert_eq!(two.mirrors.same("five photos", &viewer, &album).await.len(), 5);

    let photo = |number: usize| format!("/v1/photos/{}", photos[number]);
    host.patch(&photo(1), &json!({ "caption": "\"Zoë\" & 🎂" })).await.expect(200);
    assert_eq!(captions(&two.mirrors.same("a caption", &viewer, &album).await)[3], "\"Zoë\" & 🎂");
    host.patch(&photo(2), &json!({ "visibility": "hidden" })).await.expect(200);
    assert_eq!(two.mirrors.same("one hidden", &viewer, &album).await.len(), 4);
    host.delete(&photo(4)).await.expect(204);
    assert_eq!(two.mirrors.same("one deleted", &viewer, &album).await.len(), 3);
    host.patch(&photo(2), &json!({ "visibility": "visible" })).await.expect(200);
    assert_eq!(two.mirrors.same("shown again", &viewer, &album).await.len(), 4);
    let settings = json!({ "title": "reviewed", "review": true, "closed": false });
    host.patch(&format!("/v1/albums/{album}"), &settings).await.expect(200);
    let guest = two.server.bearer(&host.invite(&album, &json!({ "role": "contribute" })).await);
    let waiting = guest.upload(&album, "image/png", &tiny_photo(9)).await;
    host.settled(&waiting).await;
    assert_eq!(two.mirrors.same("one that waits for review", &viewer, &album).await.len(), 4);
    host.patch(&format!("/v1/photos/{waiting}"), &json!({ "visibility": "visible" })).await.expect(200);
    assert_eq!(two.mirrors.same("reviewed", &viewer, &album).await.len(), 5);

    // The source may change between two pages.
    let [plain, model] =
        [&two.mirrors.plain, &two.mirrors.model].map(|process| Client::new(&process.url, Some(viewer.clone())));
    for order in ["newest", "oldest"] {
        let path = format!("/v1/albums/{album}/photos?limit=2&order={order}");
        let (mut items, mut next, mut turn) = (Vec::new(), Some(path.clone()), 0);
        while let Some(asked) = next {
            let page = answered([&plain, &model][turn % 2], &asked, 200).await.json();
            items.extend(page["items"].as_array().unwrap().clone());
            next = page["next_cursor"].as_str().map(|cursor| format!("{path}&cursor={cursor}"));
            turn += 1;
        }
        assert!(turn == 3 && items == plain.all(&path).await, "{order}");
    }
    // Queries that need the database fail without it.
    model.get(&format!("/v1/albums/{album}/photos?state=processing")).await.expect(503);
    Client::new(&two.mirrors.model.url, Some(guest_token(&host, &album).await))
        .get(&format!("/v1/albums/{album}"))
        .await
        .expect(503);
    // An album without access, and an ETag that both return.
    let other = host.album("other").await;
    for client in [&plain, &model] {
        let path = format!("/v1/albums/{album}");
        let tag = answered(client, &path, 200).await.header("etag").to_owned();
        eventually("not modified", async || {
            let again = client.request(reqwest::Method::GET, &path).header("if-none-match", &tag);
            (client.send(again).await.status == 304).then_some(())
        })
        .await;
        assert_eq!(tag, plain.get(&path).await.header("etag"));
    }
    plain.get(&format!("/v1/albums/{other}")).await.expect(404);
}

/// Repeats a request until it has the expected status. Without a database a slow table is answered 503, which is
/// retried; any other status fails.
async fn answered(client: &Client, path: &str, wanted: u16) -> Answer {
    eventually(path, async || {
        let answer = client.get(path).await;
        assert!(answer.status == wanted || answer.status == 503, "{}: {path}", answer.status);
        (answer.status == wanted).then_some(answer)
    })
    .await
}

/// All pages of an album; see [`answered`].
async fn whole_pages(viewer: &Client, album: &str) -> BTreeMap<String, (u16, String)> {
    eventually("all pages", async || {
        let pages = pages(viewer, album).await;
        pages.values().all(|(status, _)| *status != 503).then_some(pages)
    })
    .await
}

async fn guest_token(host: &Client, album: &str) -> String {
    host.invite(album, &json!({ "role": "contribute" })).await
}

#[tokio::test]
async fn serves_pages_without_database() {
    let folder = tempfile::tempdir().unwrap();
    let lock = DirLock::acquire(folder.path()).unwrap();
    let private = PrivateServer::start(&lock, choice()).await.expect("a server");
    let cloud = Cloud::start().await;
    let parts: (&Cloud, &[Part]) = (&cloud, &[Part::ReadModel]);
    let database = Database::on(&private).await;
    let server = TestServer::begin(database, tempfile::tempdir().unwrap(), "", Some(parts)).await;
    let host = server.user("alice");
    let album = host.album("outage").await;
    let viewer = server.bearer(&host.invite(&album, &json!({ "role": "view" })).await);
    for number in 0..3 {
        host.settled(&host.upload(&album, "image/png", &tiny_photo(number)).await).await;
    }
    eventually("in the read model", async || {
        (server.database.count("SELECT COUNT(*) FROM jobs").await == 0).then_some(())
    })
    .await;
    let before = pages(&viewer, &album).await;
    assert!(before[&format!("/v1/albums/{album}")].1.contains("\"photo_count\":3"), "{before:?}");
    private.kill().await;
    for _ in 0..3 {
        let asked = Instant::now();
        assert_eq!(whole_pages(&viewer, &album).await, before);
        // Less than if each page waited for a connection.
        assert!(asked.elapsed().as_secs() < 10, "{:?}", asked.elapsed());
    }
    host.get(&format!("/v1/albums/{album}")).await.expect(503);
}

#[tokio::test]
async fn ignores_late_and_repeated_writes() {
    let two = Two::start("").await;
    let host = two.server.user("alice");
    let album = host.album("first title").await;
    let viewer = host.invite(&album, &json!({ "role": "view" })).await;
    let [kept, gone] = [
        host.upload(&album, "image/png", &tiny_photo(1)).await,
        host.upload(&album, "image/png", &tiny_photo(2)).await,
    ];
    host.settled(&kept).await;
    host.settled(&gone).await;
    two.mirrors.same("two photos", &viewer, &album).await;
    let model = two.read_model();
    let (album_id, photo_id) = (album.parse::<AlbumId>().unwrap(), gone.parse::<PhotoId>().unwrap());
    let mut session = two.server.app.db.session().await.unwrap();
    let standing = darkroom::db::read_model::projection(&mut session, album_id).await.unwrap().unwrap();
    let photos = darkroom::db::read_model::photos(&mut session, album_id, &[photo_id]).await.unwrap();
    drop(session);
    let now = chrono::Utc::now();
    let late: Vec<Item> =
        photos.iter().map(|(id, seq, photo)| Item::photo(album_id, *id, *seq, photo.as_ref(), now)).collect();
    assert!(late[0].json.is_some());
    let late = [late, vec![Item::album(&standing.album)]].concat();

    host.delete(&format!("/v1/photos/{gone}")).await.expect(204);
    host.patch(&format!("/v1/albums/{album}"), &json!({ "title": "second title" })).await.expect(200);
    assert_eq!(two.mirrors.same("one left", &viewer, &album).await.len(), 1);
    let after = whole_pages(&Client::new(&two.mirrors.model.url, Some(viewer.clone())), &album).await;
    for _ in 0..3 {
        model.write(&late, Overwrite::Older).await.unwrap();
        darkroom::jobs::kinds::sync_read_model::sync_album(&two.server.app.db, model, album_id).await.unwrap();
    }
    assert_eq!(whole_pages(&Client::new(&two.mirrors.model.url, Some(viewer.clone())), &album).await, after);
    two.mirrors.same("still one", &viewer, &album).await;

    // A deleted album does not reappear.
    host.delete(&format!("/v1/albums/{album}")).await.expect(204);
    model.write(&late, Overwrite::OlderOrSame).await.unwrap();
    // First refused, and unknown once the process without a database no longer finds the invite.
    let status = Client::new(&two.mirrors.model.url, Some(viewer)).get(&format!("/v1/albums/{album}")).await.status;
    assert!(status == 401 || status == 503, "{status}");
}

#[tokio::test]
async fn ended_invite_opens_nothing_at_once() {
    // Without a worker: the request itself must write the refusal.
    let two = Two::start("worker.enabled = false").await;
    let host = two.server.user("alice");
    let album = host.album("private").await;
    let invite = |body: Value| {
        let (host, path) = (host.clone(), format!("/v1/albums/{album}/invites"));
        async move { host.post(&path, &body).await.expect(201) }
    };
    let revoked = invite(json!({ "role": "view" })).await;
    let kept = invite(json!({ "role": "view" })).await["token"].as_str().unwrap().to_owned();
    let soon = chrono::Utc::now() + chrono::TimeDelta::seconds(4);
    let expiring = invite(json!({ "role": "view", "expires_at": soon })).await["token"].as_str().unwrap().to_owned();
    let token = revoked["token"].as_str().unwrap();
    let (code, said, complaint) = run(darkroom(&["read-model", "sync"], &two.server.environment())).await;
    assert_eq!(code, 0, "{said}{complaint}");
    two.mirrors.same("projected", token, &album).await;
    let at_model = |token: &str| Client::new(&two.mirrors.model.url, Some(token.to_owned()));
    let path = format!("/v1/albums/{album}");
    host.delete(&format!("/v1/albums/{album}/invites/{}", revoked["id"].as_str().unwrap())).await.expect(204);
    answered(&at_model(token), &path, 401).await;
    answered(&at_model(token), &format!("{path}/photos"), 401).await;
    answered(&at_model(&kept), &path, 200).await;
    eventually("expired", async || (at_model(&expiring).get(&path).await.status == 401).then_some(())).await;
    at_model("dki_guessed").get(&path).await.expect(503);
    host.delete(&path).await.expect(204);
    answered(&at_model(&kept), &path, 401).await;
}

#[tokio::test]
async fn rebuilds_table_and_removes_orphans() {
    let two = Two::start("").await;
    let host = two.server.user("alice");
    let album = host.album("rebuilt").await;
    let viewer = host.invite(&album, &json!({ "role": "view" })).await;
    let shown = host.upload(&album, "image/png", &tiny_photo(1)).await;
    let hidden = host.upload(&album, "image/png", &tiny_photo(2)).await;
    host.settled(&shown).await;
    host.settled(&hidden).await;
    host.patch(&format!("/v1/photos/{hidden}"), &json!({ "visibility": "hidden" })).await.expect(200);
    two.mirrors.same("projected", &viewer, &album).await;

    // A worker may not scan the table.
    assert!(two.read_model().all_keys(None).await.unwrap_err().is_access_denied());
    let operator = two.cloud.sdk(Role::Operator);
    let model = &ReadModel::new(&two.server.app.config.read_model, Some(&operator)).unwrap().unwrap();
    let (keys, more) = model.all_keys(None).await.unwrap_or_else(|error| panic!("{error}"));
    assert!(more.is_none() && keys.len() == 4, "{keys:?}");
    model.remove(&keys).await.unwrap();
    let strays = [
        Item::deleted(AlbumId::generate(), chrono::Utc::now()).key,
        Key::photo(AlbumId::generate(), PhotoId::generate()),
        Key::invite(&[7; 32]),
        // Of a hidden photo, and of one that never existed.
        Key::photo(album.parse().unwrap(), hidden.parse().unwrap()),
        Key::photo(album.parse().unwrap(), PhotoId::generate()),
    ];
    let damaged: Vec<Item> =
        strays.iter().map(|key| Item { key: key.clone(), seq: 1, json: Some("{}".into()), expires_at: None }).collect();
    model.write(&damaged, Overwrite::OlderOrSame).await.unwrap();

    let mut environment = two.server.environment();
    environment.retain(|(name, _)| !name.starts_with("AWS_"));
    environment.extend(two.cloud.environment(Role::Operator));
    let project = async |arguments: &[&str]| run(darkroom(arguments, &environment)).await;
    let (code, said, complaint) = project(&["read-model", "sync"]).await;
    assert!(code == 0 && said == "0 albums projected\n", "{code}: {said}{complaint}");
    let (code, said, complaint) = project(&["read-model", "sync", "--rebuild"]).await;
    assert!(code == 0 && said == "1 albums and 1 photos rewritten, 2 items removed\n", "{code}: {said}{complaint}");
    assert_eq!(two.mirrors.same("rebuilt", &viewer, &album).await.len(), 1);
    let (keys, _) = model.all_keys(None).await.unwrap();
    assert!(!keys.contains(&strays[1]) && !keys.contains(&strays[2]), "{keys:?}");
    assert_eq!(project(&["read-model", "sync", "--rebuild"]).await.0, 0, "again");
}

#[tokio::test]
async fn syncs_due_albums() {
    let two = Two::start("worker.enabled = false").await;
    let host = two.server.user("alice");
    let albums = [host.album("one").await, host.album("two").await];
    let mut viewers = Vec::new();
    for album in &albums {
        viewers.push(host.invite(album, &json!({ "role": "view" })).await);
    }
    let (code, said, complaint) = run(darkroom(&["read-model", "sync"], &two.server.environment())).await;
    assert!(code == 0 && said == "2 albums projected\n", "{code}: {said}{complaint}");
    two.mirrors.same("by the command", &viewers[0], &albums[0]).await;

    // A lost job.
    host.patch(&format!("/v1/albums/{}", albums[1]), &json!({ "title": "renamed" })).await.expect(200);
    two.server.database.change("DELETE FROM jobs").await;
    let report = darkroom::jobs::reconciler::run(&two.server.app, false).await.unwrap();
    assert_eq!(report.enqueued, 2, "its announcement and its projection");
    while darkroom::jobs::runner::run_next(&two.server.app).await.unwrap() != darkroom::jobs::runner::JobOutcome::Idle {
    }
    two.mirrors.same("by the sweep", &viewers[1], &albums[1]).await;

    let mut off = two.server.environment();
    off.retain(|(name, _)| !name.starts_with("DARKROOM_READ_MODEL"));
    for arguments in [&["read-model", "sync"][..], &["read-model", "sync", "--rebuild"]] {
        let (code, said, complaint) = run(darkroom(arguments, &off)).await;
        assert!(code == 64 && said.is_empty() && complaint.contains("read_model.kind"), "{code}: {complaint}");
    }
    let mut nowhere = two.server.environment();
    nowhere.retain(|(name, _)| name != NOWHERE.0);
    nowhere.push((NOWHERE.0.to_owned(), NOWHERE.1.to_owned()));
    let (code, said, complaint) = run(darkroom(&["read-model", "sync"], &nowhere)).await;
    assert!(code == 1 && said.is_empty() && complaint.contains("database"), "{code}: {complaint}");
    // An instance may not scan the table.
    let (code, said, complaint) = run(darkroom(&["read-model", "sync", "--rebuild"], &two.server.environment())).await;
    assert!(code == 1 && said.is_empty() && complaint.contains("does the role allow"), "{code}: {complaint}");
}

#[tokio::test]
async fn falls_back_when_table_fails_or_is_slow() {
    let two = Two::start("").await;
    let host = two.server.user("alice");
    let album = host.album("slow").await;
    let token = host.invite(&album, &json!({ "role": "view" })).await;
    host.settled(&host.upload(&album, "image/png", &tiny_photo(1)).await).await;
    two.mirrors.same("projected", &token, &album).await;
    let proxy = FaultProxy::start(&two.cloud.emulator.url).await;
    let address = ("DARKROOM_HTTP_PUBLIC_URL", &*two.server.url);
    for fault in [Fault::Cut, Fault::Status(500), Fault::Throttle, Fault::Delay(std::time::Duration::from_secs(20))] {
        proxy.clear_faults();
        let process =
            Process::start(&two.server, "serve", &[address, NO_WORKER, ("AWS_ENDPOINT_URL", &proxy.url)]).await;
        let viewer = Client::new(&process.url, Some(token.clone()));
        let path = format!("/v1/albums/{album}/photos");
        let reads = async |outcome: &str| {
            let wanted = format!("darkroom_read_model_reads_total{{outcome=\"{outcome}\"}} ");
            let text = process.metrics().await;
            text.lines().find_map(|line| line.strip_prefix(&wanted)?.parse::<u64>().ok()).unwrap_or(0)
        };
        let from_the_table = async || {
            let hits = reads("hit").await;
            let shown = viewer.get(&path).await.expect(200);
            (reads("hit").await == hits + 2).then_some(shown)
        };
        let before = eventually("read from the table", from_the_table).await;
        let fallbacks = reads("fallback").await;
        proxy.every_of("dynamodb", 1, fault);
        let asked = Instant::now();
        assert_eq!(viewer.get(&path).await.expect(200), before, "{fault:?}");
        // Not the 20 s of a slow table, and not the timeout of an unreachable database.
        assert!(asked.elapsed().as_millis() < 2_500, "{fault:?}: {:?}", asked.elapsed());
        assert_eq!(reads("fallback").await, fallbacks + 1, "{fault:?}");
        // The circuit breaker is open for 3 s after the failure.
        let hit = proxy.faults_injected();
        for _ in 0..5 {
            assert_eq!(viewer.get(&path).await.expect(200), before, "{fault:?}");
        }
        assert!(proxy.faults_injected() <= hit + 2 || asked.elapsed().as_secs() >= 3, "{fault:?}");
        proxy.clear_faults();
        assert_eq!(eventually("read from it again", from_the_table).await, before, "{fault:?}");
    }
}

#[tokio::test]
async fn failing_writes_lose_no_change() {
    let cloud = Cloud::start().await;
    let parts = [Part::Announce, Part::ReadModel];
    let server = TestServer::start_in(&cloud, &parts, "worker.enabled = false").await;
    let proxy = FaultProxy::start(&cloud.emulator.url).await;
    let few = ("DARKROOM_WORKER_MAX_ATTEMPTS", "2");
    let worker = Process::start(&server, "worker", &[("AWS_ENDPOINT_URL", &proxy.url), few]).await;
    proxy.every_of("dynamodb", 1, Fault::Throttle);
    let host = server.user("alice");
    let album = host.album("later").await;
    let token = host.invite(&album, &json!({ "role": "view" })).await;
    host.settled(&host.upload(&album, "image/png", &tiny_photo(1)).await).await;
    assert_eq!(
        serde_json::from_str::<Value>(cloud.received(&cloud.fifo_subscriber).await.body().unwrap()).unwrap()["data"]["seq"],
        1
    );
    eventually("more attempts than other jobs", async || {
        (worker.log().matches("job failed and will be retried").count() > 3).then_some(())
    })
    .await;
    let failed = "SELECT COUNT(*) FROM jobs WHERE kind = 'sync_read_model' AND dead = FALSE AND last_error LIKE '%ThroughputExceeded%quota%'";
    assert_eq!(server.database.count(failed).await, 1);
    // MySQL answers while the table is unavailable.
    let viewer = server.bearer(&token);
    let photos = format!("/v1/albums/{album}/photos");
    assert_eq!(viewer.get(&photos).await.expect(200)["items"].as_array().unwrap().len(), 1);
    proxy.every_of("dynamodb", 5, Fault::Status(503));
    eventually("idle", async || (server.database.count("SELECT COUNT(*) FROM jobs").await == 0).then_some(())).await;
    let address = ("DARKROOM_HTTP_PUBLIC_URL", &*server.url);
    let model = Process::start(&server, "serve", &[address, NO_WORKER, NOWHERE]).await;
    let alone = Client::new(&model.url, Some(token));
    assert_eq!(answered(&alone, &photos, 200).await.json(), viewer.get(&photos).await.expect(200));
}

/// Deletions during an outage of the table are applied after it, without an operator.
#[tokio::test]
async fn purges_album_deleted_during_outage() {
    let cloud = Cloud::start().await;
    let server = TestServer::start_in(&cloud, &[Part::ReadModel], "worker.enabled = false").await;
    let proxy = FaultProxy::start(&cloud.emulator.url).await;
    let once = ("DARKROOM_WORKER_MAX_ATTEMPTS", "1");
    let _worker = Process::start(&server, "worker", &[("AWS_ENDPOINT_URL", &proxy.url), once]).await;
    let host = server.user("alice");
    let album = host.album("gone").await;
    host.settled(&host.upload(&album, "image/png", &tiny_photo(1)).await).await;
    eventually("idle", async || (server.database.count("SELECT COUNT(*) FROM jobs").await == 0).then_some(())).await;
    proxy.every_of("dynamodb", 1, Fault::Refuse("AccessDeniedException"));
    assert_eq!(host.delete(&format!("/v1/albums/{album}")).await.status, 204);
    let refused =
        "SELECT COUNT(*) FROM jobs WHERE kind = 'purge_album' AND last_error LIKE '%AccessDenied%does the role allow%'";
    eventually("refused", async || (server.database.count(refused).await == 1).then_some(())).await;
    assert_eq!(server.database.count("SELECT COUNT(*) FROM jobs WHERE dead").await, 0);
    proxy.clear_faults();
    eventually("purged", async || {
        (server.database.count("SELECT (SELECT COUNT(*) FROM jobs) + (SELECT COUNT(*) FROM albums)").await == 0)
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn falls_back_when_changes_are_late() {
    let two = Two::start("worker.enabled = false").await;
    let host = two.server.user("alice");
    let album = host.album("old title").await;
    let token = host.invite(&album, &json!({ "role": "view" })).await;
    let project = async || run(darkroom(&["read-model", "sync"], &two.server.environment())).await.0;
    assert_eq!(project().await, 0);
    host.patch(&format!("/v1/albums/{album}"), &json!({ "title": "new title" })).await.expect(200);
    let (viewer, path) = (two.server.bearer(&token), format!("/v1/albums/{album}"));
    // Without a worker.
    eventually("equal to the table", async || {
        (viewer.get(&path).await.expect(200)["title"] == "old title").then_some(())
    })
    .await;
    two.server.database.change("UPDATE events SET at = at - INTERVAL 1 MINUTE").await;
    eventually("known to be behind", async || {
        (viewer.get(&path).await.expect(200)["title"] == "new title").then_some(())
    })
    .await;
    // Without a database an old page is served.
    let alone = answered(&Client::new(&two.mirrors.model.url, Some(token)), &path, 200).await.json();
    assert_eq!(alone["title"], "old title");
}

#[tokio::test]
async fn check_and_health_report_table() {
    let cloud = Cloud::start().await;
    let server = TestServer::start_in(&cloud, &[Part::ReadModel], "worker.enabled = false").await;
    let health = async || -> Value {
        let details: Value = reqwest::get(format!("{}/health", server.operations)).await.unwrap().json().await.unwrap();
        details["dependencies"]["dynamodb"].clone()
    };
    let check = async |changes: &[(&str, &str)]| {
        let mut environment = server.environment();
        environment.retain(|(name, _)| !changes.iter().any(|(changed, _)| changed == name));
        environment.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let (code, said, _) = run(darkroom(&["check"], &environment)).await;
        let rows: Vec<&str> = said.lines().skip_while(|line| !line.starts_with("dynamodb ")).take(2).collect();
        (code, rows.join("\n"))
    };
    // Repeated, because the emulator may be slow.
    eventually("healthy", async || (health().await["status"] == "ok").then_some(())).await;
    let (code, row) = check(&[]).await;
    assert!(code == 0 && row.contains("ok ") && row.contains(&cloud.table), "{row}");
    for (changes, words) in [
        (("DARKROOM_READ_MODEL_TABLE", "somebody-elses"), ["AccessDenied", "-> does the role allow"]),
        (("AWS_SECRET_ACCESS_KEY", "wrong"), ["Signature", "is the clock right"]),
        (("AWS_ACCESS_KEY_ID", "AKIANOBODYNOBODYNOBO"), ["", "-> the access key is unknown"]),
        (("AWS_ENDPOINT_URL", "http://127.0.0.1:1"), ["", "-> is there a route to it"]),
    ] {
        let (code, row) = check(&[changes]).await;
        assert!(
            code == 1 && row.contains("FAILED") && words.iter().all(|word| row.contains(word)),
            "{changes:?}: {row}"
        );
        assert!(!row.contains("wrong"), "{row}");
    }
    let table = aws_sdk_dynamodb::Client::new(&cloud.admin());
    table.delete_table().table_name(&cloud.table).send().await.unwrap();
    let (code, row) = check(&[]).await;
    assert!(code == 1 && row.contains("ResourceNotFound") && row.contains("-> are the name, the region"), "{row}");
    eventually("failing", async || {
        let told = health().await;
        (told["status"] == "failing" && told["detail"].as_str()?.contains("are the name, the region")).then_some(())
    })
    .await;
    // No row, write or page is lost.
    let host = server.user("alice");
    let album = host.album("there").await;
    let viewer = server.bearer(&host.invite(&album, &json!({ "role": "view" })).await);
    viewer.get(&format!("/v1/albums/{album}/photos")).await.expect(200);
}

/// Concurrent, repeated and reordered writes of numbered states leave the newest state.
#[tokio::test]
async fn newest_version_wins() {
    let cloud = Cloud::start().await;
    let server = TestServer::start_in(&cloud, &[Part::ReadModel], "worker.enabled = false").await;
    let model = server.app.read_model.as_ref().unwrap();
    let mut runner = TestRunner::deterministic();
    let writes = prop::collection::vec((0..3_u64, 1..12_u64, any::<bool>()), 1..40);
    for _ in 0..25 {
        let writes = writes.new_tree(&mut runner).unwrap().current();
        let (album, photos) = (AlbumId::generate(), [(); 3].map(|()| PhotoId::generate()));
        // Each number has one state.
        let item = |(subject, seq, _): &(u64, u64, bool)| {
            let key = Key::photo(album, photos[usize::try_from(*subject).unwrap()]);
            let live = (seq * 7 + subject) % 3 > 0;
            let json = live.then(|| json!({ "seq": seq }).to_string());
            Item { key, seq: *seq, json, expires_at: None }
        };
        let again: Vec<_> = writes.iter().filter(|(.., twice)| *twice).copied().collect();
        let all: Vec<Item> = writes.iter().chain(&again).map(item).collect();
        let lanes: Vec<Vec<Item>> = (0..3).map(|lane| all.iter().skip(lane).step_by(3).cloned().collect()).collect();
        let done = futures_util::future::join_all(lanes.iter().map(|lane| model.write(lane, Overwrite::Older))).await;
        assert!(done.iter().all(Result::is_ok), "{done:?}");
        let mut newest = BTreeMap::new();
        for item in all {
            let kept = newest.entry(item.key.sk.clone()).or_insert_with(|| item.clone());
            if kept.seq < item.seq {
                *kept = item;
            }
        }
        let table = aws_sdk_dynamodb::Client::new(&cloud.admin());
        let call = table.query().table_name(&cloud.table).key_condition_expression("pk = :pk");
        let call = call
            .expression_attribute_values(":pk", aws_sdk_dynamodb::types::AttributeValue::S(format!("album#{album}")));
        let found = call.consistent_read(true).send().await.unwrap();
        assert_eq!(found.items().len(), newest.len());
        for attributes in found.items() {
            let kept = &newest[attributes["sk"].as_s().unwrap()];
            assert_eq!(attributes["seq"].as_n().unwrap(), &kept.seq.to_string());
            assert_eq!(attributes.get("json").map(|json| json.as_s().unwrap()), kept.json.as_ref());
        }
    }
}
