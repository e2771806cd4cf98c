//! Photos: visibility, duplicate bytes, review, captions, originals and renditions.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Client, LONG_TIMEOUTS, TestServer, client::id, eventually, fixture, images, sha256_hex};

const PNG: &str = "image/png";

/// A small PNG, different for each seed.
fn picture(seed: u8) -> Vec<u8> {
    images::png(24, 16, seed)
}

async fn guest(server: &TestServer, host: &Client, album: &str, role: &str) -> Client {
    server.bearer(&host.invite(album, &json!({ "role": role })).await)
}

/// Uploads an image and waits until it is ready; returns its id.
async fn ready(who: &Client, album: &str, seed: u8) -> String {
    let photo = who.upload(album, PNG, &picture(seed)).await;
    assert_eq!(who.settled(&photo).await["state"], "ready");
    photo
}

async fn set_visibility(host: &Client, photo: &str, visibility: &str) {
    host.patch(&format!("/v1/photos/{photo}"), &json!({ "visibility": visibility })).await.expect(200);
}

/// Declares bytes with their checksum; returns status, id and whether there is an upload.
async fn declared(who: &Client, album: &str, bytes: &[u8]) -> (u16, String, bool) {
    let body = json!({ "content_type": PNG, "bytes": bytes.len(), "sha256": sha256_hex(bytes) });
    let answer = who.post(&format!("/v1/albums/{album}/photos"), &body).await;
    let body = answer.json();
    (answer.status.as_u16(), id(&body["photo"]), body["upload"].is_object())
}

#[tokio::test]
async fn lists_visible_photos_exactly_once() {
    let server = TestServer::start().await;
    let host = server.user("alice");
    let album = host.album("Lists").await;
    let (viewer, one, two, drop) = (
        guest(&server, &host, &album, "view").await,
        guest(&server, &host, &album, "contribute").await,
        guest(&server, &host, &album, "contribute").await,
        guest(&server, &host, &album, "drop").await,
    );
    let by_host = ready(&host, &album, 1).await;
    let public = ready(&one, &album, 2).await;
    let hidden = ready(&one, &album, 3).await;
    set_visibility(&host, &hidden, "hidden").await;
    let others = ready(&two, &album, 4).await;
    let pending = ready(&two, &album, 5).await;
    set_visibility(&host, &pending, "pending_review").await;
    let dropped = ready(&drop, &album, 6).await;
    let dropped_hidden = ready(&drop, &album, 7).await;
    set_visibility(&host, &dropped_hidden, "hidden").await;
    let rejected = one.upload(&album, PNG, b"no picture").await;
    assert_eq!(one.settled(&rejected).await["state"], "rejected");
    let awaiting = id(&one.declare(&album, PNG, b"not yet").await["photo"]);

    let all = [&by_host, &public, &hidden, &others, &pending, &dropped, &dropped_hidden, &rejected, &awaiting];
    let sights: [(&str, &Client, Vec<&String>); 5] = [
        ("host", &host, all.to_vec()),
        ("view", &viewer, vec![&by_host, &public, &others, &dropped]),
        ("one", &one, vec![&by_host, &public, &hidden, &others, &dropped, &rejected, &awaiting]),
        ("two", &two, vec![&by_host, &public, &others, &pending, &dropped]),
        ("drop", &drop, vec![&dropped, &dropped_hidden]),
    ];
    for (name, who, sees) in &sights {
        let list = who.all(&format!("/v1/albums/{album}/photos?limit=2")).await;
        let newest_first: Vec<String> = sees.iter().rev().map(|id| (*id).clone()).collect();
        assert_eq!(list.iter().map(id).collect::<Vec<_>>(), newest_first, "{name}");
        for photo in all {
            let status = if sees.contains(&photo) { 200 } else { 404 };
            assert_eq!(who.get(&format!("/v1/photos/{photo}")).await.status, status, "{name} {photo}");
        }
        check_filters(name, who, &album, &list).await;
    }
}

/// Each filter returns the matching part of the whole list, in both orders.
async fn check_filters(name: &str, who: &Client, album: &str, whole: &[Value]) {
    let states = ["", "awaiting_upload", "processing", "ready", "rejected", "expired"];
    let mut filters = BTreeSet::new();
    for state in states {
        filters.extend(["", "visible", "pending_review", "hidden"].map(|visibility| (state, visibility)));
    }
    for (state, visibility) in filters {
        let fits = |photo: &&Value| {
            (state.is_empty() || photo["state"] == state)
                && (visibility.is_empty() || photo["visibility"] == visibility)
        };
        let mut wanted: Vec<Value> = whole.iter().filter(fits).cloned().collect();
        let part = |key, value: &str| if value.is_empty() { String::new() } else { format!("&{key}={value}") };
        let (state, visibility) = (part("state", state), part("visibility", visibility));
        let query = format!("/v1/albums/{album}/photos?limit=3{state}{visibility}");
        assert_eq!(who.all(&query).await, wanted, "{name} {query}");
        wanted.reverse();
        assert_eq!(who.all(&format!("{query}&order=oldest")).await, wanted, "{name} {query} oldest");
    }
}

#[tokio::test]
async fn same_bytes_are_the_same_photo() {
    let server = TestServer::start().await;
    let host = server.user("alice");
    let (album, other) = (host.album("Once").await, host.album("Other").await);
    let one = guest(&server, &host, &album, "contribute").await;
    let photo = ready(&one, &album, 1).await;
    let bytes = picture(1);
    for who in [&one, &host, &guest(&server, &host, &album, "contribute").await] {
        assert_eq!(declared(who, &album, &bytes).await, (200, photo.clone(), false));
    }
    // In upper case too, and with other attributes.
    let body = json!({ "content_type": "image/jpeg", "bytes": 5, "sha256": sha256_hex(&bytes).to_uppercase(), "caption": "x" });
    let again = one.post(&format!("/v1/albums/{album}/photos"), &body).await.expect(200);
    assert_eq!(
        (id(&again["photo"]), &again["photo"]["caption"], &again["upload"]),
        (photo.clone(), &Value::Null, &Value::Null)
    );
    assert_eq!(host.all(&format!("/v1/albums/{album}/photos")).await.len(), 1);
    // Another album is independent.
    let (status, elsewhere, open) = declared(&host, &other, &bytes).await;
    assert!(status == 201 && elsewhere != photo && open);
    // Deleted photos may be added again.
    one.delete(&format!("/v1/photos/{photo}")).await.expect(204);
    let (status, fresh, open) = declared(&one, &album, &bytes).await;
    assert!(status == 201 && fresh != photo && open);
}

#[tokio::test]
async fn only_uploader_resumes_upload() {
    let server = TestServer::start().await;
    let host = server.user("alice");
    let album = host.album("Resume").await;
    let (one, two) =
        (guest(&server, &host, &album, "contribute").await, guest(&server, &host, &album, "contribute").await);
    let bytes = picture(1);
    let first = one.declare(&album, PNG, &bytes).await;
    let photo = id(&first["photo"]);
    let again = one.declare(&album, PNG, &bytes).await;
    assert_eq!(id(&again["photo"]), photo);
    // For another guest or the host it is another photo, because the first upload may never arrive.
    let (status, others, open) = declared(&two, &album, &bytes).await;
    assert!(status == 201 && others != photo && open);
    two.get(&format!("/v1/photos/{photo}")).await.expect(404);
    let (status, hosts, _) = declared(&host, &album, &bytes).await;
    assert!(status == 201 && hosts != photo && hosts != others);

    one.put(&again["upload"], bytes.clone()).await.expect(200);
    assert_eq!(one.settled(&photo).await["state"], "ready");
    one.put(&first["upload"], bytes.clone()).await.expect(409);
    assert_eq!(declared(&one, &album, &bytes).await, (200, photo.clone(), false));
    let newcomer = guest(&server, &host, &album, "contribute").await;
    assert_eq!(declared(&newcomer, &album, &bytes).await, (200, photo, false));
}

#[tokio::test]
async fn checksum_reveals_no_hidden_photo() {
    let server = TestServer::start().await;
    let host = server.user("alice");
    let album = host.album("Discreet").await;
    let (drop, other_drop) = (guest(&server, &host, &album, "drop").await, guest(&server, &host, &album, "drop").await);
    let contributor = guest(&server, &host, &album, "contribute").await;
    let public = ready(&host, &album, 1).await;
    let hidden = ready(&host, &album, 2).await;
    set_visibility(&host, &hidden, "hidden").await;
    let dropped = ready(&drop, &album, 3).await;
    for (who, seed, known) in
        [(&drop, 1, &public), (&drop, 2, &hidden), (&contributor, 2, &hidden), (&other_drop, 3, &dropped)]
    {
        let (status, photo, open) = declared(who, &album, &picture(seed)).await;
        assert!(status == 201 && &photo != known && open, "{seed}");
        // Not by uploading the bytes and not the second time.
        who.put(&who.declare(&album, PNG, &picture(seed)).await["upload"], picture(seed)).await.expect(200);
        assert_eq!(who.settled(&photo).await["state"], "ready");
        assert_eq!(declared(who, &album, &picture(seed)).await, (200, photo, false));
    }
    // A `drop` guest recognizes its own photo.
    assert_eq!(declared(&drop, &album, &picture(3)).await, (200, dropped, false));
}

#[tokio::test]
async fn concurrent_declarations_make_one_photo() {
    let server = TestServer::start_with(LONG_TIMEOUTS).await;
    let host = server.user("alice");
    let album = host.album("Race").await;
    for role in ["contribute", "drop"] {
        let token = host.invite(&album, &json!({ "role": role, "max_photos": 1 })).await;
        let guest = server.bearer(&token);
        let bytes = role.as_bytes();
        let answers = join_all((0..8).map(|_| declared(&guest, &album, bytes))).await;
        let ids: BTreeSet<&String> = answers.iter().map(|(_, id, _)| id).collect();
        assert_eq!(ids.len(), 1, "{answers:?}");
        assert_eq!(answers.iter().filter(|(status, ..)| *status == 201).count(), 1, "{answers:?}");
        assert_eq!(guest.all(&format!("/v1/albums/{album}/photos")).await.len(), 1);
    }
}

/// Kind and photo of a caller's events after a number.
async fn news(who: &Client, album: &str, after: u64) -> (Vec<(String, String)>, u64) {
    let list = who.get(&format!("/v1/albums/{album}/events?after={after}")).await.expect(200);
    let items = list["items"].as_array().unwrap().iter();
    let text = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
    (items.map(|event| (text(event, "kind"), text(event, "photo_id"))).collect(), list["last"].as_u64().unwrap())
}

#[tokio::test]
async fn guests_see_photos_approved_in_review() {
    let server = TestServer::start().await;
    let host = server.user("alice");
    let album = id(&host.post("/v1/albums", &json!({ "title": "Reviewed", "review": true })).await.expect(201));
    let (uploader, viewer) =
        (guest(&server, &host, &album, "contribute").await, guest(&server, &host, &album, "view").await);
    let photo = ready(&uploader, &album, 1).await;
    let path = format!("/v1/photos/{photo}");
    let list = format!("/v1/albums/{album}/photos");
    let count = async || host.get(&format!("/v1/albums/{album}")).await.expect(200)["photo_count"].clone();
    let event = |kind: &str| vec![(kind.to_owned(), photo.clone())];

    for who in [&uploader, &host] {
        assert_eq!(who.get(&path).await.expect(200)["visibility"], "pending_review");
        assert_eq!(news(who, &album, 0).await, (event("photo.ready"), 1));
    }
    assert_eq!(host.all(&format!("{list}?visibility=pending_review")).await.len(), 1);
    viewer.get(&path).await.expect(404);
    assert_eq!(viewer.all(&list).await, [Value::Null; 0]);
    assert_eq!(news(&viewer, &album, 0).await, (vec![], 1));
    assert_eq!(count().await, 0);

    // The new visibility, the events of host and viewer, the viewer's status, and the number of public photos.
    for (after, visibility, viewers_event, status, public) in [
        (1, "visible", Some("photo.updated"), 200, 1),
        (2, "hidden", Some("photo.removed"), 404, 0),
        (3, "pending_review", None, 404, 0),
        (4, "visible", Some("photo.updated"), 200, 1),
    ] {
        set_visibility(&host, &photo, visibility).await;
        assert_eq!(viewer.get(&path).await.status, status, "{visibility}");
        assert_eq!(viewer.all(&list).await.len(), public, "{visibility}");
        assert_eq!(count().await, public);
        assert_eq!(news(&viewer, &album, after).await, (viewers_event.map(event).unwrap_or_default(), after + 1));
        for who in [&host, &uploader] {
            assert_eq!(news(who, &album, after).await, (event("photo.updated"), after + 1));
            assert_eq!(who.get(&path).await.expect(200)["visibility"], visibility);
        }
    }
    // The same change again adds no event.
    set_visibility(&host, &photo, "visible").await;
    assert_eq!(news(&host, &album, 5).await, (vec![], 5));
    // The host's own photos need no review.
    let own = ready(&host, &album, 2).await;
    assert_eq!(viewer.get(&format!("/v1/photos/{own}")).await.expect(200)["visibility"], "visible");
}

#[tokio::test]
async fn restricts_caption_and_visibility_changes() {
    let server = TestServer::start().await;
    let host = server.user("alice");
    let album = host.album("Captions").await;
    let (uploader, other) =
        (guest(&server, &host, &album, "contribute").await, guest(&server, &host, &album, "contribute").await);
    let (viewer, drop) = (guest(&server, &host, &album, "view").await, guest(&server, &host, &album, "drop").await);
    let bytes = picture(1);
    let body = json!({ "content_type": PNG, "bytes": bytes.len(), "caption": "First\nline", "guest_name": "Zoë 🐝" });
    let added = uploader.post(&format!("/v1/albums/{album}/photos"), &body).await.expect(201);
    uploader.put(&added["upload"], bytes).await.expect(200);
    let (photo, path) = (id(&added["photo"]), format!("/v1/photos/{}", id(&added["photo"])));
    let settled = uploader.settled(&photo).await;
    assert_eq!(
        (&settled["caption"], &settled["uploader"]),
        (&json!("First\nline"), &json!({ "kind": "guest", "name": "Zoë 🐝" }))
    );

    for (who, caption) in [(&uploader, json!("By uploader")), (&host, json!("شكرا 👋")), (&uploader, Value::Null)]
    {
        let changed = who.patch(&path, &json!({ "caption": caption })).await.expect(200);
        assert_eq!(changed["caption"], caption);
        assert_eq!(viewer.get(&path).await.expect(200), changed);
    }
    assert_eq!(viewer.events(&album).await.len(), 4);
    for (who, status) in [(&other, 403), (&viewer, 403), (&drop, 404), (&server.user("bob"), 404)] {
        who.patch(&path, &json!({ "caption": "Mine" })).await.expect(status);
        who.patch(&path, &json!({ "caption": null })).await.expect(status);
        who.patch(&path, &json!({ "visibility": "hidden" })).await.expect(status);
    }
    // Not even in one request with a permitted change.
    uploader.patch(&path, &json!({ "visibility": "hidden" })).await.expect(403);
    uploader.patch(&path, &json!({ "caption": "x", "visibility": "visible" })).await.expect(403);
    for (body, field) in [
        (json!({ "caption": "" }), "caption"),
        (json!({ "caption": "x".repeat(1001) }), "caption"),
        (json!({ "caption": "a\u{0}" }), "caption"),
        (json!({ "caption": 5 }), "caption"),
        (json!({ "visibility": null }), "visibility"),
        (json!({ "visibility": "secret" }), "visibility"),
        (json!({ "state": "ready" }), "state"),
    ] {
        assert_eq!(host.patch(&path, &body).await.fields(), [field], "{body}");
    }
    let after = viewer.get(&path).await.expect(200);
    assert_eq!((&after["caption"], &after["visibility"]), (&Value::Null, &json!("visible")));
    assert_eq!(host.events(&album).await.len(), 4);
}

#[tokio::test]
async fn uploader_and_host_delete_photo() {
    let server = TestServer::start().await;
    let host = server.user("alice");
    let album = host.album("Deleted").await;
    let (uploader, other) =
        (guest(&server, &host, &album, "contribute").await, guest(&server, &host, &album, "contribute").await);
    let viewer = guest(&server, &host, &album, "view").await;
    for (seed, who) in [(1, &uploader), (2, &host)] {
        let photo = ready(&uploader, &album, seed).await;
        let path = format!("/v1/photos/{photo}");
        let shown = viewer.get(&path).await.expect(200);
        let original = host.get(&format!("{path}/original")).await;
        for stranger in [&other, &viewer] {
            stranger.delete(&path).await.expect(403);
        }
        let (_, last) = news(&viewer, &album, 0).await;
        who.delete(&path).await.expect(204);
        for who in [&uploader, &host, &viewer] {
            who.get(&path).await.expect(404);
            who.delete(&path).await.expect(404);
            assert_eq!(news(who, &album, last).await, (vec![("photo.removed".to_owned(), photo.clone())], last + 1));
        }
        assert_eq!(host.get(&format!("/v1/albums/{album}")).await.expect(200)["photo_count"], 0);
        let urls = shown["renditions"].as_array().unwrap().iter().map(|r| r["url"].as_str().unwrap());
        for url in urls.chain([original.header("location")]) {
            eventually("purged", async || (server.anybody().get(url).await.status == 404).then_some(())).await;
        }
    }
    assert!(crate::harness::album_invariants::files(&server.photos()).is_empty());
}

#[tokio::test]
async fn original_is_for_host_and_uploader() {
    let server = TestServer::start().await;
    let host = server.user("alice");
    let album = host.album("Originals").await;
    let uploader = guest(&server, &host, &album, "contribute").await;
    let bytes = fixture("camera.jpg");
    let awaiting = uploader.declare(&album, "image/jpeg", &bytes).await;
    let path = format!("/v1/photos/{}/original", id(&awaiting["photo"]));
    uploader.get(&path).await.expect(409);
    uploader.put(&awaiting["upload"], bytes.clone()).await.expect(200);
    let photo = uploader.settled(&id(&awaiting["photo"])).await;

    for who in [&uploader, &host] {
        let answer = who.get(&path).await;
        assert_eq!((answer.status.as_u16(), answer.header("cache-control")), (303, "no-store"));
        let original = server.anybody().get(answer.header("location")).await;
        assert_eq!((original.status.as_u16(), original.bytes == bytes), (200, true));
        for (header, value) in [
            ("content-type", "image/jpeg"),
            ("cache-control", "private, no-store"),
            ("content-disposition", "attachment"),
            ("x-content-type-options", "nosniff"),
        ] {
            assert_eq!(original.header(header), value);
        }
    }
    for (role, status) in [("view", 403), ("contribute", 403), ("drop", 404)] {
        guest(&server, &host, &album, role).await.get(&path).await.expect(status);
    }
    server.user("bob").get(&path).await.expect(404);
    server.anybody().get(&path).await.expect(401);

    // No altered rendition URL reaches the original.
    let thumb = photo["renditions"][0]["url"].as_str().unwrap();
    let original = format!("/v1/originals/{}", id(&photo));
    let renditions = format!("/v1/renditions/{}/thumb.jpg", id(&photo));
    for bent in [
        thumb.replace(&renditions, &original),
        thumb.replace("thumb.jpg", &format!("..%2F..%2F..%2Foriginals%2F{}", id(&photo))),
        thumb.replace("thumb.jpg", "large.jpg"),
        thumb.replace('?', "?content_type=image%2Fjpeg&"),
    ] {
        assert_ne!(bent, thumb);
        server.anybody().get(&bent).await.expect(401);
    }
}

#[tokio::test]
async fn renditions_are_cacheable_and_take_ranges() {
    let server = TestServer::start_with("storage.url_window = '1h'").await;
    let host = server.user("alice");
    let album = host.album("Cached").await;
    let viewer = guest(&server, &host, &album, "view").await;
    let photo = host.upload(&album, "image/jpeg", &fixture("camera.jpg")).await;
    let photo = host.settled(&photo).await;
    let listed = viewer.get(&format!("/v1/albums/{album}/photos")).await.expect(200);
    assert_eq!(listed["items"][0]["renditions"], photo["renditions"], "the same for all and again");

    let anybody = server.anybody();
    for rendition in photo["renditions"].as_array().unwrap() {
        let url = rendition["url"].as_str().unwrap();
        let get = async |method: Method, header: &str, value: &str| {
            anybody.send(anybody.request(method, url).header(header, value)).await
        };
        let whole = anybody.get(url).await;
        let age =
            whole.header("cache-control").strip_prefix("public, max-age=").and_then(|v| v.strip_suffix(", immutable"));
        let age: u64 = age.expect("immutable").parse().unwrap();
        assert!((3590..=7200).contains(&age), "{age}");
        assert_eq!(
            images::jpeg_size(&whole.bytes),
            (rendition["width"].as_u64().unwrap(), rendition["height"].as_u64().unwrap())
        );

        let head = get(Method::HEAD, "accept", "*/*").await;
        assert_eq!((head.status.as_u16(), head.bytes.len()), (200, 0));
        assert_eq!(head.header("content-length"), whole.bytes.len().to_string());
        let part = get(Method::GET, "range", "bytes=100-299").await;
        assert_eq!((part.status.as_u16(), &part.bytes[..]), (206, &whole.bytes[100..300]));
        assert_eq!(part.header("content-range"), format!("bytes 100-299/{}", whole.bytes.len()));
        let beyond = get(Method::GET, "range", "bytes=99999999-").await;
        assert_eq!(beyond.header("content-range"), format!("bytes */{}", whole.bytes.len()));
        beyond.expect(416);
        let unchanged = get(Method::GET, "if-modified-since", whole.header("last-modified")).await;
        assert_eq!(unchanged.status, 304);
    }
}

#[tokio::test]
async fn renditions_carry_no_metadata() {
    let original = fixture("camera.jpg");
    for word in ["Exif", "Secret", "http://ns.adobe.com"] {
        assert!(contains(&original, word.as_bytes()), "the fixture has lost its {word}");
    }
    let server = TestServer::start().await;
    let host = server.user("alice");
    let album = host.album("Clean").await;
    let photo = host.upload(&album, "image/jpeg", &original).await;
    let photo = host.settled(&photo).await;
    assert!(photo["camera"].is_string() && photo["taken_at"].is_string());
    assert!(!photo.to_string().contains("Secret") && !photo.to_string().contains("48.8"), "{photo}");
    for rendition in photo["renditions"].as_array().unwrap() {
        let jpeg = server.anybody().get(rendition["url"].as_str().unwrap()).await.bytes;
        for (marker, payload) in images::segments(&jpeg) {
            // APP0 (JFIF) is allowed; other application segments and comments are not.
            assert!(!(0xE1..=0xEF).contains(&marker) && marker != 0xFE, "segment {marker:02x}");
            assert!(marker != 0xE0 || payload.starts_with(b"JFIF\0"));
        }
        for word in ["Exif", "Secret", "GPS", "adobe", "ICC_PROFILE", "photoshop", "2024:05:01"] {
            assert!(!contains(&jpeg, word.as_bytes()), "{word}");
        }
    }
}

/// Scanned photos predate computer clocks, and camera clocks may be wrong in both directions.
#[tokio::test]
async fn keeps_capture_time_of_any_year() {
    let server = TestServer::start().await;
    let host = server.user("alice");
    let album = host.album("Old").await;
    for year in ["1931", "1969", "2039", "2999"] {
        let mut jpeg = fixture("camera.jpg");
        let dates: Vec<usize> = memchr::memmem::find_iter(&jpeg, b"2024:05:01").collect();
        for at in dates {
            jpeg[at..at + 4].copy_from_slice(year.as_bytes());
        }
        let photo = host.upload(&album, "image/jpeg", &jpeg).await;
        assert_eq!(host.settled(&photo).await["taken_at"], format!("{year}-05-01T08:11:12Z"));
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(bytes, part).is_some()
}

#[tokio::test]
async fn photo_etag_validates_reads_and_updates() {
    let server = TestServer::start().await;
    let host = server.user("alice");
    let album = host.album("Tags").await;
    let photo = ready(&host, &album, 1).await;
    let path = format!("/v1/photos/{photo}");
    let with = async |method: Method, header: &str, tag: &str, body: Value| -> Answer {
        let request = host.request(method, &path).header(header, tag);
        host.send(if body.is_null() { request } else { request.json(&body) }).await
    };
    let first = host.get(&path).await.header("etag").to_owned();
    let same = with(Method::GET, "if-none-match", &first, Value::Null).await;
    assert_eq!((same.status.as_u16(), same.header("etag"), same.bytes.len()), (304, &*first, 0));
    let changed = with(Method::PATCH, "if-match", &first, json!({ "caption": "Two" })).await;
    assert_eq!(changed.status, 200);
    let second = changed.header("etag").to_owned();
    assert_eq!(with(Method::GET, "if-none-match", &first, Value::Null).await.status, 200);
    assert_eq!(with(Method::GET, "if-none-match", &second, Value::Null).await.status, 304);
    with(Method::PATCH, "if-match", &first, json!({ "caption": "Three" })).await.expect(412);
    with(Method::DELETE, "if-match", &first, Value::Null).await.expect(412);
    assert_eq!(host.get(&path).await.expect(200)["caption"], "Two");
    with(Method::DELETE, "if-match", &second, Value::Null).await.expect(204);
}

#[tokio::test]
async fn validates_each_declaration_field() {
    let server = TestServer::start_with("worker.enabled = false\nuploads.max_bytes = 1000").await;
    let host = server.user("alice");
    let album = host.album("Checks").await;
    let path = format!("/v1/albums/{album}/photos");
    let with = |field: &str, value: Value| {
        let mut body = json!({ "content_type": PNG, "bytes": 9 });
        body[field] = value;
        body
    };
    let digest = sha256_hex(b"x");
    for (body, field) in [
        (json!({ "bytes": 9 }), "content_type"),
        (json!({ "content_type": PNG }), "bytes"),
        (with("bytes", json!(0)), "bytes"),
        (with("bytes", json!(-1)), "bytes"),
        (with("bytes", json!("9")), "bytes"),
        (with("bytes", json!(9.5)), "bytes"),
        (with("bytes", json!(u64::MAX)), "bytes"),
        (with("bytes", json!(1e300)), "bytes"),
        (with("bytes", Value::Null), "bytes"),
        (with("sha256", json!("")), "sha256"),
        (with("sha256", json!(&digest[1..])), "sha256"),
        (with("sha256", json!(format!("{digest}0"))), "sha256"),
        (with("sha256", json!(digest.replace(&digest[..2], "zz"))), "sha256"),
        (with("sha256", json!(format!("0x{}", &digest[2..]))), "sha256"),
        (with("sha256", json!(5)), "sha256"),
        (with("caption", json!(" ")), "caption"),
        (with("guest_name", json!("x".repeat(101))), "guest_name"),
        (with("visibility", json!("visible")), "visibility"),
    ] {
        assert_eq!(host.post(&path, &body).await.fields(), [field], "{body}");
    }
    for too_large in [json!(1001), json!(i64::MAX)] {
        host.post(&path, &with("bytes", too_large)).await.expect(413);
    }
    for content_type in ["", "image", "image/bmp", "text/html", "application/pdf", "image/svg+xml"] {
        host.post(&path, &with("content_type", json!(content_type))).await.expect(415);
    }
    for content_type in ["image/heic", "image/HEIF", "image/avif", "image/heic-sequence"] {
        let problem = host.post(&path, &with("content_type", json!(content_type))).await.expect(415);
        assert!(problem["detail"].as_str().unwrap().contains("HEIC and AVIF are not supported"), "{problem}");
    }
    assert_eq!(host.all(&path).await, [Value::Null; 0]);
    host.post(&path, &with("bytes", json!(1000))).await.expect(201);
}
