//! Edits: from the request to the renditions, with the host's review, invalid requests and killed workers.

use std::sync::Arc;

use darkroom::{
    domain::EditId,
    jobs::{
        kinds::apply_edit::{Step, StepOutcome, run_step},
        reconciler,
        retry::NextAttempt,
        runner::{self, JobOutcome},
    },
};
use imaging::{Limits, MediaType, Recipe};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection};

use crate::harness::{
    Client, DEADLINE, TestServer,
    client::{id, time},
    database::literal,
    eventually,
    images::jpeg_size,
    numbered_photo,
    process::{Process, darkroom, run, runs},
    slow_photo,
};

/// The test runs each step itself.
const BY_HAND: &str =
    "worker.enabled = false\nreconciler.orphan_grace_period = \"0s\"\nworker.visibility_timeout = \"60s\"\n";

/// A PNG, red on the left and blue on the right.
fn two_colours(width: u32, height: u32) -> Vec<u8> {
    let row: Vec<u8> = (0..width).flat_map(|x| if x < width / 2 { [200, 40, 40] } else { [40, 40, 200] }).collect();
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    let pixels = row.repeat(height as usize);
    encoder.write_header().and_then(|mut writer| writer.write_image_data(&pixels)).expect("a PNG");
    bytes
}

/// The mean colour of a JPEG, 0 to 255, accurate to about 4 levels, by its placeholder.
#[expect(clippy::cast_possible_truncation, reason = "levels")]
fn mean_colour(jpeg: &[u8]) -> [i32; 3] {
    let rendered = imaging::render(jpeg, MediaType::Jpeg, &Recipe::default(), &Limits::default()).expect("a JPEG");
    let (red, green, blue, _) = thumbhash::thumb_hash_to_average_rgba(&rendered.placeholder).expect("a placeholder");
    [red, green, blue].map(|part| (part * 255.0).round() as i32)
}

#[track_caller]
fn assert_near(real: [i32; 3], wanted: [i32; 3]) {
    assert!(real.iter().zip(wanted).all(|(a, b)| (a - b).abs() <= 10), "{real:?} is not near {wanted:?}");
}

fn edits(photo: &str) -> String {
    format!("/v1/photos/{photo}/edits")
}

/// Requests an edit; returns its path.
async fn ask(client: &Client, photo: &str, filters: &Value) -> String {
    let edit = client.post(&edits(photo), &json!({ "filters": filters })).await.expect(202);
    assert_eq!((&edit["filters"], &edit["photo_id"], &edit["renditions"]), (filters, &json!(photo), &json!([])));
    format!("{}/{}", edits(photo), id(&edit))
}

/// Waits until an edit is ready or failed, and returns it.
async fn settled(client: &Client, edit: &str) -> Value {
    eventually("ready or failed", async || {
        let edit = client.get(edit).await.expect(200);
        matches!(edit["state"].as_str(), Some("ready" | "failed")).then_some(edit)
    })
    .await
}

/// The bytes of an edit's rendition.
async fn rendition(client: &Client, edit: &Value, name: &str) -> Vec<u8> {
    let renditions = edit["renditions"].as_array().expect("renditions");
    let found = renditions.iter().find(|it| it["name"] == name).unwrap_or_else(|| panic!("no {name} in {edit}"));
    let answer = client.get(found["url"].as_str().expect("a URL")).await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, "image/jpeg"));
    assert_eq!(answer.bytes.len() as u64, found["bytes"]);
    assert_eq!(jpeg_size(&answer.bytes), (found["width"].as_u64().unwrap(), found["height"].as_u64().unwrap()));
    answer.bytes
}

/// Kind and edit of an album's edit events.
async fn told(client: &Client, album: &str) -> Vec<(String, String)> {
    let events = client.get(&format!("/v1/albums/{album}/events")).await.expect(200);
    let about = |event: &Value| Some((event["kind"].as_str()?.to_owned(), event["edit_id"].as_str()?.to_owned()));
    events["items"].as_array().expect("items").iter().filter_map(about).collect()
}

/// Creates an album with a ready photo; returns both.
async fn ready_photo(host: &Client, bytes: &[u8], media_type: &str) -> (String, String) {
    let album = host.album("edits").await;
    let photo = host.upload(&album, media_type, bytes).await;
    assert_eq!(host.settled(&photo).await["state"], "ready");
    (album, photo)
}

/// Creates a ready photo by the test's own steps.
async fn ready_by_hand(server: &TestServer, host: &Client) -> (String, String) {
    let album = host.album("edits").await;
    let photo = host.upload(&album, "image/png", &two_colours(64, 32)).await;
    drain(server).await;
    (album, photo)
}

/// Runs all due jobs.
async fn drain(server: &TestServer) {
    while runner::run_next(&server.app).await.expect("the database answers") != JobOutcome::Idle {}
}

fn edit_id(path: &str) -> EditId {
    path.rsplit('/').next().and_then(|id| id.parse().ok()).expect("an id")
}

/// The files of a photo's edits.
fn files(server: &TestServer, photo: &str) -> Vec<std::path::PathBuf> {
    let folder = server.photos().join("renditions").join(&photo[34..]).join(photo);
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.path().is_dir()).map(|entry| entry.path()).collect()
}

#[tokio::test]
async fn creates_renditions_of_edit() {
    let server = TestServer::start().await;
    let host = server.user("alice");
    let (album, photo) = ready_photo(&host, &two_colours(800, 400), "image/png").await;
    let before = host.get(&format!("/v1/photos/{photo}")).await.expect(200);
    let half = json!({ "name": "crop", "x": 0.5, "y": 0.0, "width": 0.5, "height": 1.0 });
    let blue = settled(&host, &ask(&host, &photo, &json!([half])).await).await;
    assert_eq!((&blue["state"], &blue["fail_reason"]), (&json!("ready"), &Value::Null), "{blue}");
    assert!(time(&blue["ready_at"]) > time(&blue["created_at"]), "{blue}");
    let bytes = rendition(&host, &blue, "large").await;
    assert_eq!(jpeg_size(&bytes), (400, 400));
    assert_near(mean_colour(&bytes), [40, 40, 200]);
    assert_eq!(jpeg_size(&rendition(&host, &blue, "thumb").await), (320, 320));
    rendition(&host, &blue, "small").await;

    // One stop brighter and greyscale, computed from linear light, not from the encoded levels.
    let filters = json!([half, { "name": "brightness", "amount": 0.5 }, { "name": "grayscale" }]);
    let grey = settled(&host, &ask(&host, &photo, &filters).await).await;
    assert_near(mean_colour(&rendition(&host, &grey, "small").await), [93, 93, 93]);

    let all = host.all(&edits(&photo)).await;
    assert_eq!(all.iter().map(id).collect::<Vec<_>>(), [id(&grey), id(&blue)], "newest first");
    let page = host.get(&format!("{}?limit=1", edits(&photo))).await.expect(200);
    let next = format!("{}?cursor={}", edits(&photo), page["next_cursor"].as_str().unwrap());
    assert_eq!(id(&host.get(&next).await.expect(200)["items"][0]), id(&blue));
    let ready = |edit: &Value| ("edit.ready".to_owned(), id(edit));
    assert_eq!(told(&host, &album).await, [ready(&blue), ready(&grey)]);
    // The photo is unchanged.
    assert_eq!(host.get(&format!("/v1/photos/{photo}")).await.expect(200)["renditions"], before["renditions"]);

    // Deletions are complete.
    assert_eq!(files(&server, &photo).len(), 2);
    let url = blue["renditions"][0]["url"].as_str().unwrap();
    assert_eq!(host.get(&url.replace("thumb", "large")).await.status, 401, "one URL opens one rendition");
    host.delete(&format!("/v1/photos/{photo}")).await.expect(204);
    eventually("no files", async || files(&server, &photo).is_empty().then_some(())).await;
    eventually("no rendition", async || (host.get(url).await.status == 404).then_some(())).await;
    assert_eq!(server.database.count("SELECT COUNT(*) FROM edits").await, 0);
}

#[tokio::test]
async fn accepts_every_filter() {
    let server = TestServer::start().await;
    let host = server.user("alice");
    let (_, photo) = ready_photo(&host, &numbered_photo(1), "image/jpeg").await;
    let mut asked = Vec::new();
    for filter in [
        json!({ "name": "grayscale" }),
        json!({ "name": "sepia", "amount": 1.0 }),
        json!({ "name": "brightness", "amount": -0.5 }),
        json!({ "name": "contrast", "amount": 0.5 }),
        json!({ "name": "saturation", "amount": 1.0 }),
        json!({ "name": "warmth", "amount": 0.5 }),
        json!({ "name": "sharpen", "amount": 1.0, "radius": 1.0 }),
        json!({ "name": "blur", "radius": 10.0 }),
        json!({ "name": "vignette", "amount": 0.5 }),
        json!({ "name": "crop", "x": 0.1, "y": 0.1, "width": 0.5, "height": 0.5 }),
        json!({ "name": "rotate", "degrees": 90 }),
        json!({ "name": "straighten", "degrees": -3.5 }),
        json!({ "name": "auto" }),
    ] {
        asked.push(ask(&host, &photo, &json!([filter])).await);
    }
    let mut pictures = Vec::new();
    for edit in &asked {
        let edit = settled(&host, edit).await;
        assert_eq!(edit["state"], "ready", "{edit}");
        pictures.push(rendition(&host, &edit, "large").await);
    }
    pictures.sort();
    pictures.dedup();
    assert_eq!(pictures.len(), 13, "each image is different");
}

#[tokio::test]
async fn names_fields_of_invalid_filters() {
    let server = TestServer::start_with(BY_HAND).await;
    let host = server.user("alice");
    let (_, photo) = ready_by_hand(&server, &host).await;
    let path = edits(&photo);
    let crop = |x: f64, width: f64| json!({ "name": "crop", "x": x, "y": 0.0, "width": width, "height": 1.0 });
    for (filters, fields) in [
        (json!([]), vec!["filters"]),
        (json!(vec![json!({ "name": "auto" }); 17]), vec!["filters"]),
        (
            json!([{ "name": "auto" }, { "name": "brightness", "amount": 2 }, { "name": "blur", "radius": 0 }]),
            vec!["filters[1].amount", "filters[2].radius"],
        ),
        (json!([{ "name": "rotate", "degrees": 45 }]), vec!["filters[0].degrees"]),
        (json!([crop(0.5, 0.6)]), vec!["filters[0].width"]),
        (json!([crop(-0.1, 0.5)]), vec!["filters[0].x"]),
        (json!([{ "name": "sepia" }]), vec!["filters[0].amount"]),
        (json!([{ "name": "sepia", "amount": 1, "radius": 1 }]), vec!["filters[0].radius"]),
        (json!([{ "name": "emboss" }]), vec!["filters[0].name"]),
        (json!([{ "amount": 1 }]), vec!["filters[0].name"]),
        (json!([{ "name": "sepia", "amount": "much" }]), vec!["filters[0]"]),
        (json!("sepia"), vec!["filters"]),
    ] {
        let answer = host.post(&path, &json!({ "filters": filters })).await;
        assert_eq!(answer.fields(), fields, "{filters}");
    }
    assert_eq!(host.post(&path, &json!({})).await.fields(), ["filters"]);
    assert_eq!(host.post(&path, &json!({ "filters": [{ "name": "auto" }], "title": 1 })).await.fields(), ["title"]);
    let huge = host.request(Method::POST, &path).header("content-type", "application/json");
    let huge = huge.body(r#"{"filters": [{"name": "sepia", "amount": 1e999}]}"#);
    assert!(host.send(huge).await.status.is_client_error());
    assert_eq!(host.get(&format!("{path}?limit=0")).await.fields(), ["limit"]);
    host.get(&format!("{path}/no-id")).await.expect(404);
    assert_eq!(server.database.count("SELECT COUNT(*) FROM edits").await, 0);

    // The first step detects valid filters that leave no pixels of this photo.
    let nothing = ask(&host, &photo, &json!([crop(0.5, 0.001)])).await;
    drain(&server).await;
    let nothing = host.get(&nothing).await.expect(200);
    assert_eq!((&nothing["state"], &nothing["ready_at"]), (&json!("failed"), &Value::Null));
    assert_eq!(nothing["fail_reason"], "the filters leave nothing of the photo");
}

#[tokio::test]
async fn rejects_edits_of_unready_photo() {
    let server = TestServer::start_with(BY_HAND).await;
    let host = server.user("alice");
    let (album, photo) = ready_by_hand(&server, &host).await;
    let auto = json!({ "filters": [{ "name": "auto" }] });
    let raw = host.upload(&album, "image/jpeg", &numbered_photo(2)).await;
    host.post(&edits(&raw), &auto).await.expect(409);
    for _ in 0..50 {
        host.post(&edits(&photo), &auto).await.expect(202);
    }
    host.post(&edits(&photo), &auto).await.expect(409);
    assert_eq!(host.all(&edits(&photo)).await.len(), 50);
    // A failed edit frees a slot.
    server.database.change("UPDATE edits SET state = 'failed', step = NULL, fail_reason = 'x' LIMIT 1").await;
    host.post(&edits(&photo), &auto).await.expect(202);
    host.post(&edits(&photo), &auto).await.expect(409);
    // But not without limit.
    let copies = "INSERT INTO edits (id, photo_id, album_id, state, fail_reason, filters, created_at)
         SELECT UNHEX(LEFT(SHA2(RAND(), 256), 32)), photo_id, album_id, 'failed', 'x', filters, created_at FROM edits LIMIT";
    server.database.change("UPDATE edits SET state = 'failed', step = NULL, fail_reason = 'x'").await;
    for number in [51, 102, 204, 499 - 8 * 51] {
        server.database.change(format!("{copies} {number}")).await;
    }
    assert_eq!(server.database.count("SELECT COUNT(*) FROM edits").await, 499);
    host.post(&edits(&photo), &auto).await.expect(202);
    host.post(&edits(&photo), &auto).await.expect(409);
}

#[tokio::test]
async fn host_reviews_guest_edits() {
    let server = TestServer::start().await;
    let host = server.user("alice");
    let album = id(&host.post("/v1/albums", &json!({ "title": "reviewed", "review": true })).await.expect(201));
    let guest = server.bearer(&host.invite(&album, &json!({ "role": "contribute" })).await);
    let viewer = server.bearer(&host.invite(&album, &json!({ "role": "view" })).await);
    let photo = guest.upload(&album, "image/png", &two_colours(64, 32)).await;
    host.settled(&photo).await;
    let sepia = json!([{ "name": "sepia", "amount": 0.5 }]);
    let (approve, refuse) = (json!({ "review": "approve" }), json!({ "review": "refuse" }));
    let asked = [ask(&guest, &photo, &sepia).await, ask(&guest, &photo, &sepia).await];
    for edit in &asked {
        assert_eq!(guest.get(edit).await.expect(200)["state"], "pending_review");
        // The photo is not public yet.
        viewer.get(edit).await.expect(404);
    }
    host.patch(&format!("/v1/photos/{photo}"), &json!({ "visibility": "visible" })).await.expect(200);
    viewer.get(&asked[0]).await.expect(404);
    assert_eq!(viewer.all(&edits(&photo)).await, Vec::<Value>::new());
    guest.patch(&asked[0], &approve).await.expect(403);
    viewer.patch(&asked[0], &approve).await.expect(404);
    assert_eq!(host.patch(&asked[0], &json!({ "review": "perhaps" })).await.fields(), ["review"]);
    // After the first step, only the host's decision continues it.
    eventually("no jobs", async || {
        (server.database.count("SELECT COUNT(*) FROM jobs WHERE kind = 'apply_edit'").await == 0).then_some(())
    })
    .await;
    assert_eq!(guest.get(&asked[0]).await.expect(200)["state"], "pending_review");

    assert_eq!(host.patch(&asked[0], &approve).await.expect(200)["state"], "processing");
    let refused = host.patch(&asked[1], &refuse).await.expect(200);
    assert_eq!((&refused["state"], &refused["fail_reason"]), (&json!("failed"), &json!("the host refused it")));
    let made = settled(&guest, &asked[0]).await;
    assert_eq!(made["state"], "ready");
    for edit in &asked {
        host.patch(edit, &approve).await.expect(409);
        host.patch(edit, &refuse).await.expect(409);
    }
    assert_eq!(viewer.get(&asked[0]).await.expect(200), made, "who sees the photo sees what is ready");
    viewer.get(&asked[1]).await.expect(404);
    assert_eq!(viewer.all(&edits(&photo)).await.len(), 1);
    assert_eq!(host.all(&edits(&photo)).await.len(), 2);
    let ready = ("edit.ready".to_owned(), id(&made));
    assert_eq!(told(&viewer, &album).await, std::slice::from_ref(&ready));
    for who in [&guest, &host] {
        let mut all = told(who, &album).await;
        all.sort();
        assert_eq!(all, [("edit.failed".to_owned(), id(&refused)), ready.clone()]);
    }
    // The host's own edits need no review.
    assert_eq!(settled(&host, &ask(&host, &photo, &sepia).await).await["state"], "ready");
}

#[tokio::test]
async fn runs_edit_approved_before_its_job() {
    let server = TestServer::start_with(BY_HAND).await;
    let host = server.user("alice");
    let album = id(&host.post("/v1/albums", &json!({ "title": "reviewed", "review": true })).await.expect(201));
    let guest = server.bearer(&host.invite(&album, &json!({ "role": "drop" })).await);
    let photo = guest.upload(&album, "image/png", &two_colours(64, 32)).await;
    drain(&server).await;
    let edit = ask(&guest, &photo, &json!([{ "name": "auto" }])).await;
    host.patch(&edit, &json!({ "review": "approve" })).await.expect(200);
    drain(&server).await;
    assert_eq!(guest.get(&edit).await.expect(200)["state"], "ready");
}

#[tokio::test]
async fn shows_edits_to_host_and_uploader_only() {
    let server = TestServer::start().await;
    let host = server.user("alice");
    let album = host.album("edits").await;
    let invite = async |role: &str| server.bearer(&host.invite(&album, &json!({ "role": role })).await);
    let (viewer, other, drop) = (invite("view").await, invite("contribute").await, invite("drop").await);
    let photo = host.upload(&album, "image/png", &two_colours(64, 32)).await;
    host.settled(&photo).await;
    let auto = json!([{ "name": "auto" }]);
    let edit = ask(&host, &photo, &auto).await;
    settled(&host, &edit).await;
    let body = json!({ "filters": auto });
    for guest in [&viewer, &other] {
        assert_eq!(guest.get(&edit).await.expect(200)["state"], "ready");
        guest.post(&edits(&photo), &body).await.expect(403);
        guest.patch(&edit, &json!({ "review": "approve" })).await.expect(403);
    }
    for stranger in [&drop, &server.user("bob")] {
        stranger.get(&edit).await.expect(404);
        stranger.get(&edits(&photo)).await.expect(404);
        stranger.post(&edits(&photo), &body).await.expect(404);
        stranger.patch(&edit, &json!({ "review": "approve" })).await.expect(404);
    }
    server.anybody().get(&edit).await.expect(401);
    let own = drop.upload(&album, "image/png", &two_colours(32, 64)).await;
    drop.settled(&own).await;
    let mine = ask(&drop, &own, &auto).await;
    assert_eq!(settled(&drop, &mine).await["state"], "ready");
    // An edit exists only under its photo.
    host.get(&format!("{}/{}", edits(&photo), edit_id(&mine))).await.expect(404);
    host.patch(&format!("/v1/photos/{photo}"), &json!({ "visibility": "hidden" })).await.expect(200);
    viewer.get(&edit).await.expect(404);
}

#[tokio::test]
async fn idempotency_key_creates_one_edit() {
    let server = TestServer::start_with(BY_HAND).await;
    let host = server.user("alice");
    let (_, photo) = ready_by_hand(&server, &host).await;
    let post = async |amount: f64| {
        let body = json!({ "filters": [{ "name": "sepia", "amount": amount }] });
        let request = host.request(Method::POST, &edits(&photo)).header("idempotency-key", "once").json(&body);
        host.send(request).await
    };
    let (first, again) = (post(0.5).await, post(0.5).await);
    assert_eq!((first.status.as_u16(), &first.bytes), (202, &again.bytes));
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(post(0.6).await.fields(), ["idempotency-key"]);
    assert_eq!(host.all(&edits(&photo)).await.len(), 1);
}

#[tokio::test]
async fn repeated_steps_change_nothing() {
    let server = TestServer::start_with(BY_HAND).await;
    let host = server.user("alice");
    let (album, photo) = ready_by_hand(&server, &host).await;
    let path = ask(&host, &photo, &json!([{ "name": "rotate", "degrees": 90 }])).await;
    let edit = edit_id(&path);
    let done = async |it: Step| run_step(&server.app, edit, it).await.expect("no failure");
    let next = |next: Step| StepOutcome::Next { next };
    // A step out of order names the next one.
    assert_eq!(done(Step::File {}).await, next(Step::Validate {}));
    assert_eq!(done(Step::Apply {}).await, next(Step::Validate {}));
    for _ in 0..2 {
        assert_eq!(done(Step::Validate {}).await, next(Step::Apply {}));
    }
    for _ in 0..2 {
        assert_eq!(done(Step::Apply {}).await, next(Step::File {}));
    }
    assert_eq!(host.get(&path).await.expect(200)["renditions"], json!([]), "not before it is ready");
    for _ in 0..2 {
        assert_eq!(done(Step::File {}).await, next(Step::Announce {}));
    }
    for late in [Step::Announce {}, Step::Announce {}, Step::Apply {}, Step::Fail { reason: "late".to_owned() }] {
        assert_eq!(done(late).await, StepOutcome::Ended);
    }
    assert_eq!(host.get(&path).await.expect(200)["state"], "ready");
    assert_eq!(told(&host, &album).await, [("edit.ready".to_owned(), edit.to_string())]);
    drain(&server).await;
    assert_eq!(told(&host, &album).await.len(), 1);
    assert_eq!(
        run_step(&server.app, EditId::generate(), Step::Apply {}).await.expect("no failure"),
        StepOutcome::Ended
    );
}

#[tokio::test]
async fn resumes_edit_of_killed_worker() {
    let server = TestServer::start_with(BY_HAND.replace("60s", "1s").as_str()).await;
    let host = server.user("alice");
    let album = host.album("killed").await;
    let photo = host.upload(&album, "image/png", &slow_photo()).await;
    drain(&server).await;
    let path = ask(&host, &photo, &json!([{ "name": "blur", "radius": 20.0 }, { "name": "auto" }])).await;
    let first = Process::start(&server, "worker", &[]).await;
    let decoder = first.halt_decoder().await;
    let step = "SELECT COUNT(*) FROM edits WHERE step = 'apply'";
    assert_eq!(server.database.count(step).await, 1, "the first step is kept");
    first.kill();
    eventually("decoder exited", async || (!runs(decoder)).then_some(())).await;
    let _second = Process::start(&server, "worker", &[]).await;
    let edit = settled(&host, &path).await;
    assert_eq!(edit["state"], "ready");
    rendition(&host, &edit, "large").await;
    assert_eq!(told(&host, &album).await, [("edit.ready".to_owned(), id(&edit))]);
}

#[tokio::test]
async fn deletes_edits_with_their_photo() {
    let server = TestServer::start_with(BY_HAND).await;
    let host = server.user("alice");
    let (album, photo) = ready_by_hand(&server, &host).await;
    let waiting = ask(&host, &photo, &json!([{ "name": "auto" }])).await;
    let path = ask(&host, &photo, &json!([{ "name": "auto" }])).await;
    let edit = edit_id(&path);
    run_step(&server.app, edit, Step::Validate {}).await.expect("no failure");
    // Deletion and purge happen between storing the renditions and updating the row.
    let mut holder = server.database.connect().await;
    let mut tx = holder.begin().await.unwrap();
    for table in ["edits WHERE photo_id", "photos WHERE id"] {
        let delete = format!("DELETE FROM {table} = {}", literal(&photo));
        sqlx::query(AssertSqlSafe(delete)).execute(&mut *tx).await.unwrap();
    }
    let app = Arc::clone(&server.app);
    let applying = tokio::spawn(async move { run_step(&app, edit, Step::Apply {}).await });
    eventually("stored", async || (files(&server, &photo).len() == 1).then_some(())).await;
    tx.commit().await.unwrap();
    assert_eq!(applying.await.unwrap().expect("no failure"), StepOutcome::Ended);
    assert_eq!(files(&server, &photo).len(), 0);
    drain(&server).await;
    for gone in [waiting, path] {
        host.get(&gone).await.expect(404);
    }

    // By request, and with the whole album.
    let other = host.upload(&album, "image/png", &two_colours(40, 40)).await;
    drain(&server).await;
    let left = ask(&host, &other, &json!([{ "name": "auto" }])).await;
    drain(&server).await;
    assert_eq!(files(&server, &other).len(), 1);
    ask(&host, &other, &json!([{ "name": "grayscale" }])).await;
    host.delete(&format!("/v1/albums/{album}")).await.expect(204);
    drain(&server).await;
    host.get(&left).await.expect(404);
    assert_eq!(files(&server, &other).len(), 0);
    for left in ["SELECT COUNT(*) FROM edits", "SELECT COUNT(*) FROM photos", "SELECT COUNT(*) FROM jobs"] {
        assert_eq!(server.database.count(left).await, 0, "{left}");
    }
}

#[tokio::test]
async fn reconciles_edit_without_job() {
    let server = TestServer::start_with(BY_HAND).await;
    let host = server.user("alice");
    let (album, photo) = ready_by_hand(&server, &host).await;
    let path = ask(&host, &photo, &json!([{ "name": "auto" }])).await;
    server.database.change("DELETE FROM jobs WHERE kind = 'apply_edit'").await;
    server.database.change("UPDATE edits SET sweep_at = '2020-01-01'").await;
    assert_eq!(reconciler::run(&server.app, false).await.expect("a sweep").enqueued, 1);
    let original = server.photos().join("originals").join(&photo[34..]).join(&photo);
    std::fs::rename(&original, original.with_extension("away")).unwrap();
    assert!(matches!(runner::run_next(&server.app).await.unwrap(), JobOutcome::Failed(NextAttempt::After(_))));
    // As an older release left it: this one fails the edit itself.
    server.database.change("UPDATE jobs SET dead = TRUE").await;
    assert_eq!(host.get(&path).await.expect(200)["state"], "processing");
    let job = server.database.connect().await;
    let job: uuid::Uuid =
        sqlx::query_scalar("SELECT id FROM jobs WHERE dead").fetch_one(&mut { job }).await.expect("a dead job");
    let (code, said, _) = run(darkroom(&["jobs", "drop", &job.to_string()], &server.environment())).await;
    assert_eq!((code, said.as_str()), (0, "dropped\n"));
    let edit = host.get(&path).await.expect(200);
    assert_eq!((&edit["state"], &edit["fail_reason"]), (&json!("failed"), &json!("the edit could not be made")));
    assert_eq!(told(&host, &album).await, [("edit.failed".to_owned(), id(&edit))]);
    assert_eq!(server.database.count("SELECT COUNT(*) FROM edits WHERE sweep_at IS NOT NULL").await, 0);
}

/// Neither needs an operator: the guest sees the failure and may try again.
#[tokio::test]
async fn fails_edit_after_killed_attempts() {
    let server = TestServer::start_with(&format!("{BY_HAND}worker.max_attempts = 2\n")).await;
    let host = server.user("alice");
    let (album, photo) = ready_by_hand(&server, &host).await;
    let mut all = Vec::new();
    for attempts in [0, 2] {
        let path = ask(&host, &photo, &json!([{ "name": "auto" }])).await;
        server.database.change(format!("UPDATE jobs SET attempts = {attempts} WHERE kind = 'apply_edit'")).await;
        let original = server.photos().join("originals").join(&photo[34..]).join(&photo);
        std::fs::rename(&original, original.with_extension("away")).unwrap();
        eventually("exited", async || {
            drain(&server).await;
            (server.database.count("SELECT COUNT(*) FROM jobs").await == 0).then_some(())
        })
        .await;
        std::fs::rename(original.with_extension("away"), &original).unwrap();
        let edit = host.get(&path).await.expect(200);
        assert_eq!((&edit["state"], &edit["fail_reason"]), (&json!("failed"), &json!("the edit could not be made")));
        all.push(("edit.failed".to_owned(), id(&edit)));
        assert_eq!(told(&host, &album).await, all);
    }
}

/// The attempt ends like any failed one: a worker that repeated the abandon step would do nothing else.
#[tokio::test]
async fn dead_letters_edit_that_cannot_fail() {
    let server = TestServer::start_with(&format!("{BY_HAND}worker.max_attempts = 1\n")).await;
    let host = server.user("alice");
    let (_, photo) = ready_by_hand(&server, &host).await;
    server.database.change("ALTER TABLE edits ADD CONSTRAINT refused CHECK (state <> 'failed')").await;
    let crop = json!({ "name": "crop", "x": 0.0, "y": 0.0, "width": 0.01, "height": 0.01 });
    let path = ask(&host, &photo, &json!(vec![crop; 5])).await;
    let tried = tokio::time::timeout(DEADLINE, runner::run_next(&server.app)).await.expect("it ends");
    assert_eq!(tried.expect("the database answers"), JobOutcome::Failed(NextAttempt::DeadLetter));
    assert_eq!(host.get(&path).await.expect(200)["state"], "processing");
    server.database.change("ALTER TABLE edits DROP CONSTRAINT refused").await;
    let (code, said, complaint) = run(darkroom(&["jobs", "retry"], &server.environment())).await;
    assert_eq!(code, 0, "{said}{complaint}");
    drain(&server).await;
    assert_eq!(host.get(&path).await.expect(200)["fail_reason"], "the filters leave nothing of the photo");
}

#[tokio::test]
async fn fails_unreviewed_edit_after_a_week() {
    let server = TestServer::start_with(BY_HAND).await;
    let host = server.user("alice");
    let album = host.album("reviewed").await;
    host.patch(&format!("/v1/albums/{album}"), &json!({ "review": true })).await.expect(200);
    let guest = server.bearer(&host.invite(&album, &json!({ "role": "contribute" })).await);
    let own = guest.upload(&album, "image/jpeg", &numbered_photo(7)).await;
    drain(&server).await;
    let path = ask(&guest, &own, &json!([{ "name": "auto" }])).await;
    drain(&server).await;
    let sweep = async || {
        reconciler::run(&server.app, false).await.expect("a sweep");
        drain(&server).await;
        guest.get(&path).await.expect(200)
    };
    assert_eq!(sweep().await["state"], "pending_review");
    server
        .database
        .change("UPDATE edits SET created_at = created_at - INTERVAL 6 DAY, sweep_at = sweep_at - INTERVAL 6 DAY")
        .await;
    assert_eq!(sweep().await["state"], "pending_review");
    server
        .database
        .change("UPDATE edits SET created_at = created_at - INTERVAL 1 DAY, sweep_at = sweep_at - INTERVAL 1 DAY")
        .await;
    let edit = sweep().await;
    assert_eq!(
        (&edit["state"], &edit["fail_reason"]),
        (&json!("failed"), &json!("the host did not review it in time"))
    );
    host.patch(&path, &json!({ "review": "approve" })).await.expect(409);
    assert!(told(&host, &album).await.contains(&("edit.failed".to_owned(), id(&edit))));
}
