//! Invites: the permissions of the three roles, tokens that are returned once, and limits under concurrent use.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{TimeDelta, Utc};
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Client, LONG_TIMEOUTS, TestServer, client::id, database::literal, images};

const API_ONLY: &str = "worker.enabled = false";

/// The status for each caller: host, view, contribute, drop, another user, anonymous.
struct Rule(Method, String, Value, [u16; 6]);

/// The rules for an album with an invite and a photo of the host. Deletions come last.
fn rules(album: &str, invite: &str, photo: &str) -> Vec<Rule> {
    let (album, photo) = (format!("/v1/albums/{album}"), format!("/v1/photos/{photo}"));
    let declaration = json!({ "content_type": "image/jpeg", "bytes": 9 });
    vec![
        Rule(Method::POST, "/v1/albums".into(), json!({ "title": "New" }), [201, 403, 403, 403, 201, 401]),
        Rule(Method::GET, "/v1/albums".into(), Value::Null, [200, 403, 403, 403, 200, 401]),
        Rule(Method::GET, album.clone(), Value::Null, [200, 200, 200, 200, 404, 401]),
        Rule(Method::PATCH, album.clone(), json!({ "title": "Changed" }), [200, 403, 403, 403, 404, 401]),
        Rule(Method::POST, format!("{album}/invites"), json!({ "role": "drop" }), [201, 403, 403, 403, 404, 401]),
        Rule(Method::GET, format!("{album}/invites"), Value::Null, [200, 403, 403, 403, 404, 401]),
        Rule(Method::POST, format!("{album}/photos"), declaration, [201, 403, 201, 201, 404, 401]),
        Rule(Method::GET, format!("{album}/photos"), Value::Null, [200, 200, 200, 200, 404, 401]),
        Rule(Method::GET, format!("{album}/events"), Value::Null, [200, 200, 200, 403, 404, 401]),
        Rule(Method::GET, photo.clone(), Value::Null, [200, 200, 200, 404, 404, 401]),
        Rule(Method::GET, format!("{photo}/original"), Value::Null, [303, 403, 403, 404, 404, 401]),
        Rule(Method::PATCH, photo.clone(), json!({ "caption": "Hello" }), [200, 403, 403, 404, 404, 401]),
        Rule(Method::PATCH, photo.clone(), json!({ "visibility": "visible" }), [200, 403, 403, 404, 404, 401]),
        Rule(Method::DELETE, photo, Value::Null, [204, 403, 403, 404, 404, 401]),
        Rule(Method::DELETE, format!("{album}/invites/{invite}"), Value::Null, [204, 403, 403, 403, 404, 401]),
        Rule(Method::DELETE, album, Value::Null, [204, 403, 403, 403, 404, 401]),
    ]
}

#[tokio::test]
async fn each_role_has_its_permissions_only() {
    let server = TestServer::start().await;
    let host = server.user("alice");
    let album = host.album("Roles").await;
    let spare = host.post(&format!("/v1/albums/{album}/invites"), &json!({ "role": "view" })).await.expect(201);
    let photo = host.upload(&album, "image/png", &images::png(20, 20, 1)).await;
    assert_eq!(host.settled(&photo).await["state"], "ready");
    let mut callers = vec![host.clone()];
    for role in ["view", "contribute", "drop"] {
        let guest = server.bearer(&host.invite(&album, &json!({ "role": role })).await);
        assert_eq!(guest.get(&format!("/v1/albums/{album}")).await.expect(200)["role"], role);
        callers.push(guest);
    }
    callers.extend([server.user("bob"), server.anybody()]);
    for Rule(method, path, body, wanted) in rules(&album, &id(&spare), &photo) {
        // The host comes last, because its request may delete the resource.
        for (caller, status) in callers.iter().zip(wanted).rev() {
            let request = caller.request(method.clone(), &path);
            let answer = caller.send(if body.is_null() { request } else { request.json(&body) }).await;
            assert_eq!(answer.status, status, "{method} {path}: {}", String::from_utf8_lossy(&answer.bytes));
            assert_eq!(answer.header("www-authenticate").starts_with("Bearer"), status == 401);
        }
    }
}

#[tokio::test]
async fn returns_token_once_and_stores_hash() {
    let server = TestServer::start_with(API_ONLY).await;
    let host = server.user("alice");
    let album = host.album("Secrets").await;
    let invites = format!("/v1/albums/{album}/invites");
    let expires = Utc::now() + TimeDelta::days(1);
    let body = json!({ "role": "contribute", "label": "table 7", "expires_at": expires, "max_photos": 3 });
    let key = host.request(Method::POST, &invites).header("idempotency-key", "once");
    let mut created = host.send(key.json(&body)).await.expect(201);
    let (token, url) = (created["token"].take(), created["url"].take());
    let (token, url) = (token.as_str().unwrap(), url.as_str().unwrap());
    let guest = server.bearer(token);
    guest
        .post(&format!("/v1/albums/{album}/photos"), &json!({ "content_type": "image/jpeg", "bytes": 9 }))
        .await
        .expect(201);

    let (front, fragment) = url.split_once('#').unwrap();
    assert_eq!(front, format!("{}/join", server.url));
    assert_eq!(fragment, format!("album={album}&invite={token}"));
    let join = server.anybody().get(front).await;
    assert_eq!((join.status.as_u16(), join.header("referrer-policy")), (200, "no-referrer"));

    // Equal to the creation's response, without the token.
    let listed = host.get(&invites).await;
    assert!(!String::from_utf8_lossy(&listed.bytes).contains(&token[4..]));
    let mut listed = listed.expect(200)["items"][0].take();
    assert_eq!(listed["photos_used"].take(), 1);
    created["photos_used"].take();
    for gone in ["token", "url"] {
        assert!(listed.get(gone).is_none());
        created.as_object_mut().unwrap().remove(gone);
    }
    assert_eq!(listed, created);

    let bits = URL_SAFE_NO_PAD.decode(&token[4..]).unwrap();
    assert_eq!(bits.len(), 32);
    for secret in [token.as_bytes(), &token.as_bytes()[4..], &token.as_bytes()[10..30], &bits] {
        assert_eq!(server.database.columns_with(secret).await, Vec::<String>::new());
    }
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
    assert_eq!(server.database.columns_with(hash.as_ref()).await, ["invites.token_hash"]);
}

#[tokio::test]
async fn rejects_expired_or_revoked_invite() {
    let server = TestServer::start_with(API_ONLY).await;
    let host = server.user("alice");
    let album = host.album("Closed doors").await;
    let (path, invites) = (format!("/v1/albums/{album}"), format!("/v1/albums/{album}/invites"));
    let make = async || host.post(&invites, &json!({ "role": "contribute" })).await.expect(201);
    let (expired, revoked, good) = (make().await, make().await, make().await);
    let guest = |invite: &Value| server.bearer(invite["token"].as_str().unwrap());
    for invite in [&expired, &revoked, &good] {
        guest(invite).get(&path).await.expect(200);
    }
    let photo =
        guest(&revoked).post(&format!("{path}/photos"), &json!({ "content_type": "image/jpeg", "bytes": 9 })).await;
    let photo = id(&photo.expect(201)["photo"]);

    let past = format!("UPDATE invites SET expires_at = UTC_TIMESTAMP(3) WHERE id = {}", literal(&id(&expired)));
    assert_eq!(server.database.change(past).await, 1);
    let revoke = format!("{invites}/{}", id(&revoked));
    let elsewhere = host.album("Elsewhere").await;
    host.delete(&format!("/v1/albums/{elsewhere}/invites/{}", id(&revoked))).await.expect(404);
    guest(&revoked).get(&path).await.expect(200);
    host.delete(&revoke).await.expect(204);
    host.delete(&revoke).await.expect(404);

    let token = good["token"].as_str().unwrap();
    let (altered, longer, shorter) =
        (token.replace(&token[9..10], "~"), format!("{token}A"), &token[..token.len() - 1]);
    let dead = [expired["token"].as_str().unwrap(), revoked["token"].as_str().unwrap()];
    for token in dead.into_iter().chain(["dki_", "dki_garbage", &altered, &longer, shorter, &token[4..]]) {
        let nobody = server.bearer(token);
        for path in [&path, &format!("{path}/photos"), &format!("/v1/photos/{photo}"), "/v1/albums"] {
            nobody.get(path).await.expect(401);
        }
        nobody.post(&format!("{path}/photos"), &json!({ "content_type": "image/jpeg", "bytes": 9 })).await.expect(401);
    }
    guest(&good).get(&path).await.expect(200);
    // Revoked invites leave the list; their photos stay.
    let listed: Vec<String> = host.all(&invites).await.iter().map(id).collect();
    assert_eq!(listed, [id(&good), id(&expired)]);
    host.get(&format!("/v1/photos/{photo}")).await.expect(200);
}

#[tokio::test]
async fn enforces_photo_limit_concurrently() {
    let server = TestServer::start_with(LONG_TIMEOUTS).await;
    let host = server.user("alice");
    let album = host.album("Ten").await;
    let guest = server.bearer(&host.invite(&album, &json!({ "role": "contribute", "max_photos": 10 })).await);
    let photos = format!("/v1/albums/{album}/photos");
    let declare = async |number: u32| {
        guest.post(&photos, &json!({ "content_type": "image/jpeg", "bytes": 1 + number, "caption": "x" })).await
    };
    let answers = join_all((0..50).map(declare)).await;
    let count = |status: u16| answers.iter().filter(|answer| answer.status == status).count();
    assert_eq!((count(201), count(409)), (10, 40));
    assert_eq!(server.database.count("SELECT COUNT(*) FROM photos").await, 10);
    let used = async || host.all(&format!("/v1/albums/{album}/invites")).await[0]["photos_used"].clone();
    assert_eq!(used().await, 10);

    // An expired upload frees one unit of the quota, once.
    let photo = answers.iter().find(|answer| answer.status == 201).unwrap().json();
    let photo = format!("/v1/photos/{}", id(&photo["photo"]));
    guest.delete(&photo).await.expect(204);
    guest.delete(&photo).await.expect(404);
    assert_eq!(used().await, 9);
    declare(100).await.expect(201);
    declare(101).await.expect(409);
}

#[tokio::test]
async fn only_expired_upload_frees_invite_quota() {
    let server = TestServer::start().await;
    let host = server.user("alice");
    let album = host.album("One").await;
    let guest = server.bearer(&host.invite(&album, &json!({ "role": "drop", "max_photos": 1 })).await);
    let photo = guest.upload(&album, "image/png", &images::png(10, 10, 1)).await;
    guest.settled(&photo).await;
    let another = json!({ "content_type": "image/png", "bytes": 9 });
    let photos = format!("/v1/albums/{album}/photos");
    guest.post(&photos, &another).await.expect(409);
    guest.delete(&format!("/v1/photos/{photo}")).await.expect(204);
    guest.post(&photos, &another).await.expect(409);
    // A used-up quota does not affect other requests.
    guest.get(&photos).await.expect(200);
}

#[tokio::test]
async fn validates_each_invite_field() {
    let server = TestServer::start_with(API_ONLY).await;
    let host = server.user("alice");
    let album = host.album("Checks").await;
    let invites = format!("/v1/albums/{album}/invites");
    let with = |field: &str, value: Value| {
        let mut body = json!({ "role": "view" });
        body[field] = value;
        body
    };
    let past = Utc::now() - TimeDelta::seconds(1);
    for (body, field) in [
        (json!({}), "role"),
        (json!({ "role": "host" }), "role"),
        (json!({ "role": null }), "role"),
        (with("label", json!("")), "label"),
        (with("label", json!("x".repeat(101))), "label"),
        (with("label", json!("a\u{0}b")), "label"),
        (with("expires_at", json!(past)), "expires_at"),
        (with("expires_at", json!("+10000-01-01T00:00:00Z")), "expires_at"),
        (with("expires_at", json!("9999-12-31T23:59:60Z")), "expires_at"),
        (with("expires_at", json!("tomorrow")), "expires_at"),
        (with("expires_at", json!(4_102_444_800_u64)), "expires_at"),
        (with("max_photos", json!(0)), "max_photos"),
        (with("max_photos", json!(-1)), "max_photos"),
        (with("max_photos", json!(1_000_001)), "max_photos"),
        (with("max_photos", json!(u64::MAX)), "max_photos"),
        (with("max_photos", json!("5")), "max_photos"),
        (with("max_photos", json!(1.5)), "max_photos"),
        (with("colour", json!("red")), "colour"),
    ] {
        assert_eq!(host.post(&invites, &body).await.fields(), [field], "{body}");
    }
    let all_wrong = json!({ "role": "view", "label": "", "expires_at": past, "max_photos": 0 });
    assert_eq!(host.post(&invites, &all_wrong).await.fields(), ["label", "expires_at", "max_photos"]);
    assert_eq!(host.all(&invites).await, [Value::Null; 0]);
}

/// Times are stored in milliseconds, and the response equals later reads.
#[tokio::test]
async fn keeps_unusual_valid_times() {
    let server = TestServer::start_with(API_ONLY).await;
    let host: Client = server.user("alice");
    let album = host.album("Times").await;
    let invites = format!("/v1/albums/{album}/invites");
    for time in [
        "2999-01-01T00:00:00.123456789Z",
        "2999-01-01T00:00:00+14:00",
        "2998-12-31T23:59:60Z",
        "9999-12-31T23:59:59.9999Z",
    ] {
        let created = host.post(&invites, &json!({ "role": "view", "expires_at": time })).await.expect(201);
        let listed = host.get(&invites).await.expect(200)["items"][0].take();
        assert_eq!((&listed["id"], &listed["expires_at"]), (&created["id"], &created["expires_at"]), "{time}");
        server.bearer(created["token"].as_str().unwrap()).get(&format!("/v1/albums/{album}")).await.expect(200);
    }
}
