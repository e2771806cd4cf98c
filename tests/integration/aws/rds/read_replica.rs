//! Guests' reads come from a read replica, and are never older than what the guest wrote or was told.

use serde_json::json;

use super::{Service, granted, pairs, settings};
use crate::harness::{
    Client, eventually,
    iam::Key,
    numbered_photo,
    rds::{HOST, Rds},
};

const BY_READER: &str = r#"darkroom_db_reads_total{server="reader"}"#;
const BEHIND: &str = r#"darkroom_db_reads_total{server="writer",reason="behind"}"#;
const FAILING: &str = r#"darkroom_db_reads_total{server="writer",reason="failing"}"#;

async fn ids(client: &Client, path: &str) -> Vec<String> {
    let mut ids: Vec<String> =
        client.all(path).await.iter().map(|photo| photo["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

/// Repeats reads until the replica is skipped because it is too far behind. A slow check also pauses it, so this
/// retries.
async fn passed_over(service: &Service, read: impl AsyncFn()) {
    eventually("skipped as behind", async || {
        let before = service.metric(BEHIND).await;
        read().await;
        (service.metric(BEHIND).await >= before + 2.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn replica_reads_are_never_stale_to_guests() {
    let (source, key) = (Rds::start_source().await, Key::long_lived());
    let mut replica = source.replica().await;
    source.iam().allow(&key, &["apart"]);
    let database = source.database().await;
    source.create_user("apart", &granted("darkroom_app", &database.name)).await;
    let port = replica.port().to_string();
    let mut more = key.environment();
    more.extend(pairs(&[("READ_REPLICA_HOST", HOST), ("READ_REPLICA_PORT", &port), ("REGION", "eu-west-1")]));
    let service = Service::start_on(database, &settings(&source, "apart", &more)).await;
    let host = service.user("alice");
    let album = host.album("wedding").await;
    let photos = format!("/v1/albums/{album}/photos");
    let viewer = host.invite(&album, &json!({ "role": "view" })).await;
    let viewer = Client::new(&service.process.url, Some(viewer));
    let first = host.upload(&album, "image/jpeg", &numbered_photo(1)).await;
    host.settled(&first).await;
    eventually("read from the replica", async || {
        assert_eq!(ids(&viewer, &photos).await, std::slice::from_ref(&first));
        viewer.get(&format!("/v1/photos/{first}")).await.expect(200);
        (service.metric(BY_READER).await >= 4.0).then_some(())
    })
    .await;
    assert_eq!(service.health("reader").await["status"], "ok");

    // The replica falls behind; reads still include what an event announced.
    replica.pause_replication().await;
    let second = host.upload(&album, "image/jpeg", &numbered_photo(2)).await;
    host.settled(&second).await;
    let mut both = vec![first.clone(), second.clone()];
    both.sort();
    passed_over(&service, async || {
        assert_eq!(ids(&viewer, &photos).await, both);
        viewer.get(&format!("/v1/photos/{second}")).await.expect(200);
    })
    .await;

    // In an album without events a guest sees its declaration at once.
    let quiet = host.album("quiet").await;
    let contributor = host.invite(&quiet, &json!({ "role": "contribute" })).await;
    let contributor = Client::new(&service.process.url, Some(contributor));
    let declared = contributor.declare(&quiet, "image/jpeg", &numbered_photo(3)).await;
    let own = declared["photo"]["id"].as_str().unwrap().to_owned();
    let waiting = format!("/v1/albums/{quiet}/photos?state=awaiting_upload");
    passed_over(&service, async || {
        assert_eq!(ids(&contributor, &waiting).await, std::slice::from_ref(&own));
        contributor.get(&format!("/v1/photos/{own}")).await.expect(200);
    })
    .await;

    replica.resume_replication().await;
    let before = service.metric(BY_READER).await;
    eventually("caught up", async || {
        assert_eq!(ids(&viewer, &photos).await, both);
        (service.metric(BY_READER).await > before).then_some(())
    })
    .await;

    replica.kill().await;
    for _ in 0..10 {
        assert_eq!(ids(&viewer, &photos).await, both, "without the replica");
    }
    assert!(service.metric(FAILING).await >= 10.0);
    // Check results are cached for a second.
    eventually("failing", async || (service.health("reader").await["status"] == "failing").then_some(())).await;
    replica.restart().await;
    let before = service.metric(BY_READER).await;
    eventually("read from the replica again", async || {
        assert_eq!(ids(&viewer, &photos).await, both);
        (service.metric(BY_READER).await > before).then_some(())
    })
    .await;
}
