//! One trace from the request that added a photo to the notification about it.

use reqwest::Method;
use serde_json::json;

use super::lines;
use crate::harness::{TestServer, Webhook, client::id, eventually, process::Process};

/// A `traceparent` header.
fn parent(id: &str) -> String {
    format!("00-{id}-00f067aa0ba902b7-01")
}

#[tokio::test]
async fn trace_follows_photo_to_webhook() {
    let (webhook, server) = (Webhook::start().await, TestServer::start_with("worker.enabled = false").await);
    let variables = webhook.variables();
    let more: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    // One process receives the upload, another does the rest.
    let web = Process::start(&server, "serve", &[("DARKROOM_WORKER_ENABLED", "false")]).await;
    let host = web.user(&server, "alice");
    let album = host.album("traced").await;
    let (upload, title) = ("4bf92f3577b34da6a3ce929d0e0e4736", "5759e988bd862e3fe1be46a994272793");
    let declared = host.declare(&album, "image/png", b"no picture").await;
    let put = host.request(Method::PUT, declared["upload"]["url"].as_str().unwrap());
    let put = put.header("content-type", "image/png").header("traceparent", parent(upload)).body("no picture");
    host.send(put).await.expect(200);
    let patch = host.request(Method::PATCH, &format!("/v1/albums/{album}")).json(&json!({ "title": "new" }));
    // A gateway request without a client's trace.
    let root = format!("Root=1-{}-{}", &title[..8], &title[8..]);
    host.send(patch.header("x-amzn-trace-id", root)).await.expect(200);

    let worker = Process::start(&server, "worker", &more).await;
    let rejected = lines(&worker, "photo rejected", |_| true).await;
    assert_eq!(rejected[0]["span"]["trace_id"], upload, "{rejected:?}");
    assert_eq!(rejected[0]["span"]["subject"], id(&declared["photo"]));
    eventually("notified of both", async || (webhook.accepted(&album).len() == 2).then_some(())).await;
    let mut told: Vec<(String, String)> = webhook
        .deliveries()
        .iter()
        .map(|told| {
            (told.body["type"].as_str().unwrap().to_owned(), told.headers["traceparent"].to_str().unwrap().to_owned())
        })
        .collect();
    told.sort();
    for ((kind, traceparent), (expected, trace)) in
        told.iter().zip([("darkroom.album.updated", title), ("darkroom.photo.rejected", upload)])
    {
        assert_eq!((kind.as_str(), &traceparent[3..35], traceparent.len()), (expected, trace, 55));
        assert_ne!(traceparent, &parent(trace), "a span of its own");
        lines(&worker, "event published", |line| line["trace_id"] == trace).await;
    }
}
