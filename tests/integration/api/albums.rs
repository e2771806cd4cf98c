//! Albums: create, list, read, update and delete by the host; other callers get 404.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{
    Answer, Client, TestServer,
    album_invariants::files,
    client::{id, time},
    eventually, images,
};

/// Without a worker.
const API_ONLY: &str = "worker.enabled = false";

#[tokio::test]
async fn host_creates_reads_and_updates_album() {
    let server = TestServer::start_with(API_ONLY).await;
    let host = server.user("alice");
    let album = host.post("/v1/albums", &json!({ "title": "Summer", "review": true })).await.expect(201);
    let path = format!("/v1/albums/{}", id(&album));
    assert_eq!(
        album,
        json!({
            "id": album["id"], "title": "Summer", "role": "host", "review": true, "closed": false, "photo_count": 0,
            "created_at": album["created_at"], "updated_at": album["created_at"],
        })
    );
    assert_eq!(host.get(&path).await.expect(200), album);
    assert_eq!(host.get("/v1/albums").await.expect(200), json!({ "items": [album], "next_cursor": null }));

    let mut wanted = album.clone();
    for (field, value) in [("title", json!("Winter")), ("review", json!(false)), ("closed", json!(true))] {
        let changed = host.patch(&path, &json!({ field: value })).await.expect(200);
        wanted[field] = value;
        assert!(time(&changed["updated_at"]) >= time(&wanted["updated_at"]), "{changed}");
        wanted["updated_at"] = changed["updated_at"].clone();
        assert_eq!(changed, wanted);
    }
    assert!(time(&wanted["updated_at"]) > time(&wanted["created_at"]), "{wanted}");
    // A change without effect adds no event.
    assert_eq!(host.patch(&path, &json!({})).await.expect(200), wanted);
    assert_eq!(host.patch(&path, &json!({ "title": "Winter", "closed": true })).await.expect(200), wanted);
    assert_eq!(host.get(&path).await.expect(200), wanted);
    let updated = |seq| (seq, "album.updated".to_owned());
    assert_eq!(host.events(&id(&album)).await, [updated(1), updated(2), updated(3)]);
}

/// The routes of an album, each with a valid body.
fn routes(album: &str, invite: &str) -> Vec<(Method, String, Value)> {
    let album = format!("/v1/albums/{album}");
    vec![
        (Method::GET, album.clone(), Value::Null),
        (Method::PATCH, album.clone(), json!({ "title": "Mine now" })),
        (Method::POST, format!("{album}/invites"), json!({ "role": "view" })),
        (Method::GET, format!("{album}/invites"), Value::Null),
        (Method::DELETE, format!("{album}/invites/{invite}"), Value::Null),
        (Method::POST, format!("{album}/photos"), json!({ "content_type": "image/jpeg", "bytes": 9 })),
        (Method::GET, format!("{album}/photos"), Value::Null),
        (Method::GET, format!("{album}/events"), Value::Null),
        (Method::DELETE, album, Value::Null),
    ]
}

async fn ask(client: &Client, (method, path, body): &(Method, String, Value)) -> Answer {
    let request = client.request(method.clone(), path);
    client.send(if body.is_null() { request } else { request.json(body) }).await
}

#[tokio::test]
async fn hides_album_of_another_host() {
    let server = TestServer::start_with(API_ONLY).await;
    let (alice, bob) = (server.user("alice"), server.user("bob"));
    let album = alice.album("Private").await;
    let invite = id(&alice.post(&format!("/v1/albums/{album}/invites"), &json!({ "role": "view" })).await.expect(201));
    let elsewhere = bob.album("Bob's").await;
    let stranger = server.bearer(&bob.invite(&elsewhere, &json!({ "role": "contribute" })).await);
    let unknown = uuid::Uuid::now_v7().to_string();
    let mut shapes = Vec::new();
    for who in [&bob, &stranger] {
        for name in [&album, &unknown, "not-an-id"] {
            for route in routes(name, &invite) {
                let mut problem = ask(who, &route).await.expect(404);
                problem["request_id"].take();
                shapes.push(problem);
            }
        }
    }
    assert!(shapes.windows(2).all(|pair| pair[0] == pair[1]), "a 404 tells which: {shapes:?}");
    assert_eq!(bob.all("/v1/albums").await.len(), 1);
    // None of these requests had an effect.
    assert_eq!(alice.get(&format!("/v1/albums/{album}")).await.expect(200)["title"], "Private");
    assert_eq!(alice.all(&format!("/v1/albums/{album}/invites")).await.len(), 1);
}

#[tokio::test]
async fn closed_album_rejects_photos() {
    let server = TestServer::start_with(API_ONLY).await;
    let host = server.user("alice");
    let album = host.album("Closing time").await;
    let (path, photos) = (format!("/v1/albums/{album}"), format!("/v1/albums/{album}/photos"));
    let guests = ["contribute", "drop"].map(|role| json!({ "role": role }));
    let guests = [host.invite(&album, &guests[0]).await, host.invite(&album, &guests[1]).await];
    let mut everybody = vec![host.clone()];
    everybody.extend(guests.iter().map(|token| server.bearer(token)));
    let photo = json!({ "content_type": "image/jpeg", "bytes": 9 });
    host.patch(&path, &json!({ "closed": true })).await.expect(200);
    for who in &everybody {
        assert!(who.get(&path).await.expect(200)["closed"].as_bool().unwrap());
        who.post(&photos, &photo).await.expect(409);
        assert_eq!(who.all(&photos).await, [Value::Null; 0]);
    }
    host.patch(&path, &json!({ "closed": false })).await.expect(200);
    for who in &everybody {
        who.post(&photos, &photo).await.expect(201);
    }
}

#[tokio::test]
async fn etag_validates_reads_and_updates() {
    let server = TestServer::start_with(API_ONLY).await;
    let host = server.user("alice");
    let path = format!("/v1/albums/{}", host.album("One").await);
    let first = host.get(&path).await.header("etag").to_owned();
    let known = async |tag: &str| host.send(host.request(Method::GET, &path).header("if-none-match", tag)).await;
    for tag in [&first, &format!("W/{first}"), &format!("\"x\", {first}"), "*"] {
        let answer = known(tag).await;
        assert_eq!((answer.status.as_u16(), answer.header("etag"), &answer.bytes[..]), (304, &*first, &b""[..]));
    }
    assert_eq!(known("\"another\"").await.status, 200);

    let matching = |method, tag: &str| host.request(method, &path).header("if-match", tag);
    let changed = host.send(matching(Method::PATCH, &first).json(&json!({ "title": "Two" }))).await;
    assert_eq!(changed.status, 200);
    assert_ne!(changed.header("etag"), first);
    assert_eq!(known(&first).await.status, 200);
    assert_eq!(known(changed.header("etag")).await.status, 304);
    for tag in [&*first, "\"nonsense\"", ""] {
        host.send(matching(Method::PATCH, tag).json(&json!({ "title": "Three" }))).await.expect(412);
        host.send(matching(Method::DELETE, tag)).await.expect(412);
    }
    assert_eq!(host.get(&path).await.expect(200)["title"], "Two");
    host.send(matching(Method::PATCH, "*").json(&json!({ "title": "Four" }))).await.expect(200);
    let last = host.get(&path).await.header("etag").to_owned();
    host.send(matching(Method::DELETE, &last)).await.expect(204);
}

#[tokio::test]
async fn deletes_album_rows_and_files() {
    let server = TestServer::start().await;
    let host = server.user("alice");
    let (album, kept) = (host.album("Gone").await, host.album("Kept").await);
    let invite = host.post(&format!("/v1/albums/{album}/invites"), &json!({ "role": "contribute" })).await.expect(201);
    let guest = server.bearer(invite["token"].as_str().unwrap());
    let mut photos = Vec::new();
    for (who, album, seed) in [(&host, &album, 1), (&guest, &album, 2), (&host, &kept, 3)] {
        let photo = who.upload(album, "image/png", &images::png(40, 30, seed)).await;
        photos.push(who.settled(&photo).await);
    }
    guest
        .post(&format!("/v1/albums/{album}/photos"), &json!({ "content_type": "image/jpeg", "bytes": 9 }))
        .await
        .expect(201);
    assert!(files(&server.photos()).len() > 3);

    host.delete(&format!("/v1/albums/{album}")).await.expect(204);
    for route in routes(&album, &id(&invite)) {
        ask(&host, &route).await.expect(404);
        // An invite ends with its album.
        ask(&guest, &route).await.expect(401);
    }
    for photo in &photos[..2] {
        for path in [format!("/v1/photos/{}", id(photo)), format!("/v1/photos/{}/original", id(photo))] {
            host.get(&path).await.expect(404);
            guest.get(&path).await.expect(401);
        }
    }
    eventually("purged", async || {
        let left = "SELECT (SELECT COUNT(*) FROM albums) + (SELECT COUNT(*) FROM photos) + (SELECT COUNT(*) FROM jobs)
            + (SELECT COUNT(*) FROM invites) + (SELECT COUNT(*) FROM events)";
        (server.database.count(left).await == 3).then_some(())
    })
    .await;
    // The other album is unchanged.
    assert_eq!(host.all("/v1/albums").await.len(), 1);
    let left = files(&server.photos());
    assert!(left.iter().all(|path| path.contains(&id(&photos[2]))), "{left:?}");
    let url = |photo: &Value| photo["renditions"][0]["url"].as_str().unwrap().to_owned();
    server.anybody().get(&url(&photos[0])).await.expect(404);
    assert_eq!(server.anybody().get(&url(&photos[2])).await.status, 200);
}

#[tokio::test]
async fn lists_each_album_once_newest_first() {
    let server = TestServer::start_with(API_ONLY).await;
    let (host, other) = (server.user("alice"), server.user("bob"));
    let mut opened = Vec::new();
    for number in 0..120 {
        opened.push(host.album(&format!("Album {number}")).await);
        if number % 40 == 0 {
            other.album("Not hers").await;
        }
    }
    opened.reverse();
    for limit in [1, 7, 50, 200] {
        let mut path = format!("/v1/albums?limit={limit}");
        let (mut seen, mut pages) = (Vec::new(), 0);
        loop {
            let page = host.get(&path).await.expect(200);
            let items = page["items"].as_array().unwrap();
            assert!(!items.is_empty() && items.len() <= limit);
            seen.extend(items.iter().map(id));
            pages += 1;
            let Some(cursor) = page["next_cursor"].as_str() else { break };
            assert_eq!(items.len(), limit);
            path = format!("/v1/albums?limit={limit}&cursor={cursor}");
        }
        assert_eq!((seen, pages), (opened.clone(), 120_usize.div_ceil(limit)), "limit {limit}");
    }
    assert_eq!(host.get("/v1/albums").await.expect(200)["items"].as_array().unwrap().len(), 50);
}

/// The `next_cursor` of a list with one item per page.
async fn cursor(client: &Client, path: &str) -> String {
    let joint = if path.contains('?') { '&' } else { '?' };
    let page = client.get(&format!("{path}{joint}limit=1")).await.expect(200);
    page["next_cursor"].as_str().expect("a second page").to_owned()
}

#[tokio::test]
async fn names_invalid_query_parameters() {
    let server = TestServer::start_with(API_ONLY).await;
    let (host, other) = (server.user("alice"), server.user("bob"));
    let (one, two) = (host.album("One").await, host.album("Two").await);
    for who in [&other, &other] {
        who.album("Another's").await;
    }
    for album in [&one, &two] {
        for bytes in [8, 9] {
            host.invite(album, &json!({ "role": "view" })).await;
            let photo = json!({ "content_type": "image/jpeg", "bytes": bytes });
            host.post(&format!("/v1/albums/{album}/photos"), &photo).await.expect(201);
        }
    }
    let lists = [
        "/v1/albums?".to_owned(),
        format!("/v1/albums/{one}/photos?"),
        format!("/v1/albums/{one}/photos?order=oldest&"),
        format!("/v1/albums/{one}/invites?"),
    ];
    let mut cursors = vec![cursor(&other, "/v1/albums").await];
    for list in ["photos", "photos?order=oldest", "invites"] {
        cursors.push(cursor(&host, &format!("/v1/albums/{two}/{list}")).await);
    }
    let mut own = Vec::new();
    for list in &lists {
        own.push(cursor(&host, list.trim_end_matches(['?', '&'])).await);
    }
    for (at, list) in lists.iter().enumerate() {
        host.get(&format!("{list}cursor={}", own[at])).await.expect(200);
        let foreign =
            cursors.iter().chain(own.iter().enumerate().filter(|(of, _)| *of != at).map(|(_, cursor)| cursor));
        let forged = own[at].replace(&own[at][8..9], if &own[at][8..9] == "A" { "B" } else { "A" });
        let garbage =
            [forged, format!("{}A", own[at]), String::new(), "-1".into(), "%00".into(), "x".repeat(4000), one.clone()];
        for cursor in foreign.chain(&garbage) {
            assert_eq!(host.get(&format!("{list}cursor={cursor}")).await.fields(), ["cursor"], "{list}cursor={cursor}");
        }
        for limit in ["0", "-1", "201", "99999999999999999999999", "-99999999999999999999999", "1.5", "x", "1e2"] {
            assert_eq!(host.get(&format!("{list}limit={limit}")).await.fields(), ["limit"], "{list}limit={limit}");
        }
        assert_eq!(host.get(&format!("{list}limit=1&limit=2")).await.fields(), ["limit"]);
        for unknown in ["offset", "page", "Limit"] {
            assert_eq!(host.get(&format!("{list}{unknown}=1")).await.fields(), [unknown]);
        }
    }
    for (query, field) in [("state=lost", "state"), ("visibility=secret", "visibility"), ("order=random", "order")] {
        assert_eq!(host.get(&format!("/v1/albums/{one}/photos?{query}")).await.fields(), [field]);
    }
}
