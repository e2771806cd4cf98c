//! The main use case: a host creates an album, a guest adds a photo, everybody sees it.

use serde_json::json;

use crate::harness::{TestServer, client::id, eventually, fixture};

#[tokio::test]
async fn guest_adds_photo_seen_by_all() {
    let server = TestServer::start().await;
    let host = server.user("alice");
    let album = host.album("Wedding 👰🏽‍♀️").await;
    let guest = server.bearer(&host.invite(&album, &json!({ "role": "contribute", "label": "table 7" })).await);
    let viewer = server.bearer(&host.invite(&album, &json!({ "role": "view" })).await);

    let photo = guest.upload(&album, "image/jpeg", &fixture("camera.jpg")).await;
    let photo = guest.settled(&photo).await;
    assert_eq!(photo["state"], "ready", "{photo}");
    assert_eq!((photo["width"].as_u64(), photo["height"].as_u64()), (Some(1200), Some(800)));
    assert_eq!(photo["taken_at"], "2024-05-01T08:11:12Z");
    assert!(photo["placeholder"].is_string() && photo["sha256"].is_string());
    let names: Vec<_> = photo["renditions"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["thumb", "small", "large"]);

    let seen = viewer.get(&format!("/v1/albums/{album}/photos")).await.expect(200);
    assert_eq!(seen["items"][0], viewer.get(&format!("/v1/photos/{}", id(&photo))).await.expect(200));
    let thumb = server.anybody().get(photo["renditions"][0]["url"].as_str().unwrap()).await;
    assert_eq!((thumb.status.as_u16(), thumb.header("content-type")), (200, "image/jpeg"));
    assert_eq!(thumb.bytes.len() as u64, photo["renditions"][0]["bytes"].as_u64().unwrap());
    assert!(thumb.header("cache-control").contains("immutable"));
    assert_eq!(host.events(&album).await, [(1, "photo.ready".to_owned())]);
    assert_eq!(viewer.events(&album).await, [(1, "photo.ready".to_owned())]);
    assert_eq!(host.get(&format!("/v1/albums/{album}")).await.expect(200)["photo_count"], 1);
    eventually("published", async || (server.database.count("SELECT COUNT(*) FROM jobs").await == 0).then_some(()))
        .await;
}
