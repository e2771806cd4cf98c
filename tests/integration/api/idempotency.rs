//! `Idempotency-Key`: the first response is replayed byte for byte, and each change is made once.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Connection;

use crate::harness::{Answer, Client, LONG_TIMEOUTS, TestServer, client::id, database::literal, eventually};

const API_ONLY: &str = "worker.enabled = false";

async fn post(client: &Client, path: &str, key: &str, body: &Value) -> Answer {
    client.send(client.request(Method::POST, path).header("idempotency-key", key).json(body)).await
}

fn replayed(answer: &Answer) -> bool {
    answer.header("idempotency-replayed") == "true"
}

#[tokio::test]
async fn replays_first_response_byte_for_byte() {
    let server = TestServer::start_with(API_ONLY).await;
    let host = server.user("alice");
    let album = format!("/v1/albums/{}", host.album("Keys").await);
    let contribute = server.bearer(&host.invite(&album[11..], &json!({ "role": "contribute" })).await);
    let (invites, photos) = (format!("{album}/invites"), format!("{album}/photos"));
    let photo = json!({ "content_type": "image/png", "bytes": 9 });
    for (who, path, body, changed) in [
        (&host, "/v1/albums", json!({ "title": "Once 💫" }), json!({ "title": "Twice" })),
        (&host, &*invites, json!({ "role": "view" }), json!({ "role": "drop" })),
        (&host, &*photos, photo.clone(), json!({ "content_type": "image/png", "bytes": 8 })),
        (&contribute, &*photos, photo, json!({ "content_type": "image/gif", "bytes": 9 })),
    ] {
        let key = format!("key of {path}");
        let first = post(who, path, &key, &body).await;
        assert!(first.status == 201 && first.header("idempotency-replayed").is_empty(), "{path}");
        let count = server
            .database
            .count(
                "SELECT (SELECT COUNT(*) FROM albums) + (SELECT COUNT(*) FROM invites) + (SELECT COUNT(*) FROM photos)",
            )
            .await;
        for _ in 0..2 {
            let again = post(who, path, &key, &body).await;
            assert!(again.status == 201 && replayed(&again), "{path}");
            assert_eq!(again.bytes, first.bytes, "{path}");
            assert_eq!(again.header("content-type"), first.header("content-type"));
            assert_ne!(again.header("x-request-id"), first.header("x-request-id"));
        }
        assert_eq!(post(who, path, &key, &changed).await.fields(), ["idempotency-key"], "{path}");
        let now = server
            .database
            .count(
                "SELECT (SELECT COUNT(*) FROM albums) + (SELECT COUNT(*) FROM invites) + (SELECT COUNT(*) FROM photos)",
            )
            .await;
        assert_eq!(now, count, "{path}");
        let other = post(who, path, &format!("another {path}"), &body).await;
        assert!(other.status == 201 && !replayed(&other) && other.bytes != first.bytes, "{path}");
    }
    // The replayed response contains the invite's token, which works.
    let invite = post(&host, &invites, &format!("key of {invites}"), &json!({ "role": "view" })).await;
    assert!(replayed(&invite));
    server.bearer(invite.json()["token"].as_str().unwrap()).get(&album).await.expect(200);
}

#[tokio::test]
async fn keys_are_per_caller_and_path() {
    let server = TestServer::start_with(API_ONLY).await;
    let (alice, bob) = (server.user("alice"), server.user("bob"));
    let body = json!({ "title": "Mine" });
    let first = post(&alice, "/v1/albums", "shared", &body).await.expect(201);
    let second = post(&bob, "/v1/albums", "shared", &body).await;
    assert!(second.status == 201 && !replayed(&second));
    assert_ne!(id(&first), id(&second.json()));

    let photos = format!("/v1/albums/{}/photos", id(&first));
    let photo = json!({ "content_type": "image/png", "bytes": 9 });
    let mut seen = Vec::new();
    for _ in 0..2 {
        let guest = server.bearer(&alice.invite(&id(&first), &json!({ "role": "contribute" })).await);
        let answer = post(&guest, &photos, "shared", &photo).await;
        assert!(!replayed(&answer));
        seen.push(id(&answer.expect(201)["photo"]));
    }
    assert_ne!(seen[0], seen[1]);
    // The same caller, key and body on another path.
    assert_eq!(post(&alice, &photos, "shared", &photo).await.fields(), ["idempotency-key"]);
}

#[tokio::test]
async fn concurrent_request_answers_409() {
    let server = TestServer::start_with(API_ONLY).await;
    let host = server.user("alice");
    let album = host.album("Held up").await;
    let (photos, photo) = (format!("/v1/albums/{album}/photos"), json!({ "content_type": "image/png", "bytes": 9 }));

    // A lock on the album blocks the first request.
    let mut connection = server.database.connect().await;
    let mut lock = connection.begin().await.unwrap();
    let held = format!("SELECT title FROM albums WHERE id = {} FOR UPDATE", literal(&album));
    sqlx::query(sqlx::AssertSqlSafe(held)).execute(&mut *lock).await.unwrap();
    let first = tokio::spawn({
        let (host, photos, photo) = (host.clone(), photos.clone(), photo.clone());
        async move { post(&host, &photos, "slow", &photo).await }
    });
    eventually("reserved", async || {
        (server.database.count("SELECT COUNT(*) FROM idempotency WHERE status IS NULL").await == 1).then_some(())
    })
    .await;
    let second = post(&host, &photos, "slow", &photo).await;
    assert_eq!((second.status.as_u16(), second.header("retry-after")), (409, "1"));
    assert_eq!(second.json()["type"], "urn:darkroom:problem:busy");
    // Another body is rejected even now.
    let other = json!({ "content_type": "image/png", "bytes": 8 });
    assert_eq!(post(&host, &photos, "slow", &other).await.fields(), ["idempotency-key"]);
    lock.rollback().await.unwrap();

    let first = first.await.unwrap();
    assert_eq!(first.status, 201);
    let again = post(&host, &photos, "slow", &photo).await;
    assert!(replayed(&again) && again.bytes == first.bytes);
    assert_eq!(host.all(&photos).await.len(), 1);
}

#[tokio::test]
async fn does_not_store_errors() {
    let server = TestServer::start_with(API_ONLY).await;
    let host = server.user("alice");
    let album = host.album("Closed").await;
    let (path, photos) = (format!("/v1/albums/{album}"), format!("/v1/albums/{album}/photos"));
    let photo = json!({ "content_type": "image/png", "bytes": 9 });
    let guest = server.bearer(&host.invite(&album, &json!({ "role": "drop", "max_photos": 1 })).await);
    host.patch(&path, &json!({ "closed": true })).await.expect(200);
    for who in [&host, &guest] {
        post(who, &photos, "k", &photo).await.expect(409);
        post(who, &photos, "k", &json!({ "content_type": "image/png", "bytes": 0 })).await.expect(422);
    }
    assert_eq!(server.database.count("SELECT COUNT(*) FROM idempotency").await, 0);
    host.patch(&path, &json!({ "closed": false })).await.expect(200);
    for who in [&host, &guest] {
        let answer = post(who, &photos, "k", &photo).await;
        assert!(answer.status == 201 && !replayed(&answer));
    }
    // The invite is used up; the first response is still replayed.
    post(&guest, &photos, "another", &photo).await.expect(409);
    let again = post(&guest, &photos, "k", &photo).await;
    assert!(again.status == 201 && replayed(&again));
}

#[tokio::test]
async fn replay_requires_current_permission() {
    let server = TestServer::start_with(API_ONLY).await;
    let host = server.user("alice");
    let album = host.album("Rights").await;
    let invites = format!("/v1/albums/{album}/invites");
    let invite = host.post(&invites, &json!({ "role": "contribute" })).await.expect(201);
    let guest = server.bearer(invite["token"].as_str().unwrap());
    let (photos, photo) = (format!("/v1/albums/{album}/photos"), json!({ "content_type": "image/png", "bytes": 9 }));
    post(&guest, &photos, "k", &photo).await.expect(201);
    host.delete(&format!("{invites}/{}", id(&invite))).await.expect(204);
    post(&guest, &photos, "k", &photo).await.expect(401);
    post(&host, &invites, "k", &json!({ "role": "view" })).await.expect(201);
    host.delete(&format!("/v1/albums/{album}")).await.expect(204);
    post(&host, &invites, "k", &json!({ "role": "view" })).await.expect(404);
}

#[tokio::test]
async fn rejects_invalid_keys() {
    let server = TestServer::start_with(API_ONLY).await;
    let host = server.user("alice");
    let body = json!({ "title": "x" });
    let (longest, longer) = ("k".repeat(255), "k".repeat(256));
    for key in ["", &longer, "clé", "tab\tkey\u{80}"] {
        assert_eq!(post(&host, "/v1/albums", key, &body).await.fields(), ["idempotency-key"], "{key:?}");
    }
    let two = host.request(Method::POST, "/v1/albums").header("idempotency-key", "a").header("idempotency-key", "b");
    assert_eq!(host.send(two.json(&body)).await.fields(), ["idempotency-key"]);
    assert_eq!(host.all("/v1/albums").await, [Value::Null; 0]);
    post(&host, "/v1/albums", &longest, &body).await.expect(201);
    assert!(replayed(&post(&host, "/v1/albums", &longest, &body).await));
}

#[tokio::test]
async fn concurrent_requests_create_one_album() {
    let server = TestServer::start_with(LONG_TIMEOUTS).await;
    let host = server.user("alice");
    let body = json!({ "title": "Only one" });
    let answers = join_all((0..20).map(|_| post(&host, "/v1/albums", "together", &body))).await;
    let fresh: Vec<_> = answers.iter().filter(|answer| answer.status == 201 && !replayed(answer)).collect();
    assert_eq!(fresh.len(), 1);
    for answer in &answers {
        match answer.status.as_u16() {
            201 => assert_eq!(answer.bytes, fresh[0].bytes),
            409 => assert_eq!(answer.header("retry-after"), "1"),
            other => panic!("{other}: {}", String::from_utf8_lossy(&answer.bytes)),
        }
    }
    assert_eq!(host.all("/v1/albums").await.len(), 1);
    assert_eq!(post(&host, "/v1/albums", "together", &body).await.bytes, fresh[0].bytes);
}

#[tokio::test]
async fn encrypts_stored_response() {
    let server = TestServer::start_with(API_ONLY).await;
    let host = server.user("alice");
    let album = host.album("Sealed").await;
    let invites = format!("/v1/albums/{album}/invites");
    let invite =
        post(&host, &invites, "a secret key", &json!({ "role": "view", "label": "readable label" })).await.expect(201);
    assert_eq!(server.database.count("SELECT COUNT(*) FROM idempotency WHERE LENGTH(body) > 100").await, 1);
    for secret in [invite["token"].as_str().unwrap(), "dki_", "/join#", "a secret key"] {
        assert_eq!(server.database.columns_with(secret.as_bytes()).await, Vec::<String>::new(), "{secret}");
    }
    // The search does find clear text.
    assert_eq!(server.database.columns_with(b"readable label").await, ["invites.label"]);
}
