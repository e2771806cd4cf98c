//! Notifications by webhook: signed, in order, at least once, and not repeated after a successful delivery.

use futures_util::{StreamExt, stream};
use serde_json::json;

use crate::harness::{
    Client, TestServer, eventually,
    process::Process,
    tiny_photo,
    webhook::{Reply, Webhook},
};

/// An album with ready photos, one event each.
async fn album_with(host: &Client, photos: u32) -> String {
    let album = host.album("told").await;
    let sent: Vec<String> =
        stream::iter(0..photos).then(async |n| host.upload(&album, "image/png", &tiny_photo(n)).await).collect().await;
    for photo in sent {
        host.settled(&photo).await;
    }
    album
}

async fn told(webhook: &Webhook, album: &str, count: usize) {
    let what = format!("told of {count} events");
    eventually(&what, async || (webhook.accepted(album).len() >= count).then_some(())).await;
}

#[tokio::test]
async fn delivers_signed_cloud_events_in_order() {
    let webhook = Webhook::start().await;
    let server = TestServer::start_with(&webhook.settings()).await;
    let host = server.user("alice");
    let album = album_with(&host, 3).await;
    host.patch(&format!("/v1/albums/{album}"), &json!({ "title": "renamed" })).await.expect(200);
    told(&webhook, &album, 4).await;
    assert_eq!(webhook.accepted(&album), [1, 2, 3, 4]);
    let events = host.get(&format!("/v1/albums/{album}/events")).await.expect(200);
    for (delivery, event) in webhook.deliveries().iter().zip(events["items"].as_array().unwrap()) {
        let seq = delivery.seq();
        assert_eq!(delivery.headers["content-type"], "application/cloudevents+json");
        assert_eq!(delivery.headers["webhook-id"], delivery.body["id"].as_str().unwrap());
        let data = json!({ "album_id": album, "seq": seq, "kind": event["kind"], "photo_id": event["photo_id"] });
        assert!(event["edit_id"].is_null(), "only of an edit there is its id, too");
        let whole = json!({
            "specversion": "1.0",
            "id": format!("{album}-{seq}"),
            "source": format!("/v1/albums/{album}"),
            "type": format!("darkroom.{}", event["kind"].as_str().unwrap()),
            "time": event["at"],
            "datacontenttype": "application/json",
            "data": data,
        });
        assert_eq!(delivery.body, whole);
    }
}

#[tokio::test]
async fn retries_only_failed_deliveries() {
    let webhook = Webhook::absent();
    let server =
        TestServer::start_with(&format!("{}notifications.webhook_timeout = \"3s\"\n", webhook.settings())).await;
    let host = server.user("alice");
    let album = album_with(&host, 3).await;
    let tries = "SELECT CAST(COALESCE(MAX(attempts), 0) AS SIGNED) FROM jobs WHERE kind = 'publish_events' AND last_error IS NOT NULL";
    eventually("refused twice", async || (server.database.count(tries).await >= 2).then_some(())).await;

    // The receiver fails for the second event and sends no response for the third, twice each.
    let mut failures = vec![Reply::Silence, Reply::Silence, Reply::Status(500), Reply::Status(503)];
    let failures = std::sync::Mutex::new(std::mem::take(&mut failures));
    webhook.answer(move |delivery| {
        let mut left = failures.lock().unwrap();
        let due = match delivery.seq() {
            2 => left.len() > 2,
            3 => !left.is_empty(),
            _ => false,
        };
        if due { left.pop().unwrap() } else { Reply::Status(200) }
    });
    webhook.listen().await;
    told(&webhook, &album, 3).await;
    eventually("idle", async || (server.database.count("SELECT COUNT(*) FROM jobs").await == 0).then_some(())).await;
    let all: Vec<(u64, bool)> = webhook.deliveries().iter().map(|d| (d.seq(), d.accepted)).collect();
    let expected = [(1, true), (2, false), (2, false), (2, true), (3, false), (3, false), (3, true)];
    assert_eq!(all, expected);
}

#[tokio::test]
async fn resumes_after_last_delivered_event() {
    let webhook = Webhook::start().await;
    let settings = webhook.settings();
    let server = TestServer::start_with(&settings).await;
    let host = server.user("alice");
    webhook.answer(|delivery| Reply::Status(if delivery.seq() <= 2 { 204 } else { 500 }));
    let album = album_with(&host, 4).await;
    eventually("failing", async || webhook.deliveries().iter().any(|d| !d.accepted).then_some(())).await;
    let server = server.restart_with(&settings).await;
    webhook.answer(|_| Reply::Status(200));
    told(&webhook, &album, 4).await;
    eventually("idle", async || (server.database.count("SELECT COUNT(*) FROM jobs").await == 0).then_some(())).await;
    assert_eq!(webhook.accepted(&album), [1, 2, 3, 4]);
}

#[tokio::test]
async fn failing_album_does_not_delay_others() {
    let webhook = Webhook::start().await;
    // With one worker: a slow receiver must not block photos and other albums.
    let settings = format!("{}worker.concurrency = 1\nnotifications.webhook_timeout = \"2s\"\n", webhook.settings());
    let server = TestServer::start_with(&settings).await;
    let host = server.user("alice");
    let stuck = host.album("stuck").await;
    let never = stuck.clone();
    webhook.answer(move |delivery| if delivery.album() == never { Reply::Silence } else { Reply::Status(200) });
    let photo = host.upload(&stuck, "image/png", &tiny_photo(1)).await;
    host.settled(&photo).await;
    eventually("blocked", async || (!webhook.deliveries().is_empty()).then_some(())).await;
    let other = album_with(&host, 3).await;
    told(&webhook, &other, 3).await;
    assert_eq!(webhook.accepted(&stuck), [0; 0]);
}

#[tokio::test]
async fn never_logs_webhook_secret_or_url() {
    let webhook = Webhook::start().await;
    webhook.answer(|_| Reply::Status(500));
    let server = TestServer::start_with("worker.enabled = false").await;
    let host = server.user("alice");
    let variables = webhook.variables();
    let mut more: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    more.push(("DARKROOM_LOG_LEVEL", "trace"));
    let worker = Process::start(&server, "worker", &more).await;
    let album = album_with(&host, 1).await;
    eventually("refused", async || worker.log().contains("500 Internal Server Error").then_some(())).await;
    webhook.answer(|_| Reply::Status(200));
    told(&webhook, &album, 1).await;
    let log = worker.log();
    let secret = Webhook::secret();
    let signature = webhook.deliveries()[0].headers["webhook-signature"].to_str().unwrap()[3..].to_owned();
    for secret in [&secret, &secret[6..], "thirty-two bytes", "a-secret-of-the-url", &signature] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret}");
    }
}
