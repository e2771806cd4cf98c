//! Events: numbered without gaps, followed by long polling, filtered by what the reader may see.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::harness::{Client, LONG_TIMEOUTS, TestServer, client::id, eventually, images, process::Process};

const API_ONLY: &str = "worker.enabled = false";
/// The maximum of `wait`; a poll that receives an event ends well before.
const LONGEST: Duration = Duration::from_secs(25);
const WELL_BEFORE: Duration = Duration::from_secs(10);

async fn rename(host: &Client, album: &str, title: &str) {
    host.patch(&format!("/v1/albums/{album}"), &json!({ "title": title })).await.expect(200);
}

/// Starts a long poll and waits until the service holds it; returns the response and its duration.
async fn following(server: &TestServer, who: &Client, album: &str, after: u64) -> JoinHandle<(Value, Duration)> {
    let (who, path) = (who.clone(), format!("/v1/albums/{album}/events?after={after}&wait={}", LONGEST.as_secs()));
    let poll = tokio::spawn(async move {
        let begun = Instant::now();
        (who.get(&path).await.expect(200), begun.elapsed())
    });
    let album = album.parse().unwrap();
    eventually("followed", async || server.app.db.wakeups().followed_albums().contains(&album).then_some(())).await;
    assert!(!poll.is_finished(), "no effect yet");
    poll
}

/// The event numbers of a list, and its `last`.
fn numbers(list: &Value) -> (Vec<u64>, u64) {
    let items = list["items"].as_array().unwrap();
    (items.iter().map(|event| event["seq"].as_u64().unwrap()).collect(), list["last"].as_u64().unwrap())
}

#[tokio::test]
async fn numbers_concurrent_events_without_gaps() {
    let server = TestServer::start_with(LONG_TIMEOUTS).await;
    let host = server.user("alice");
    let (album, other) = (host.album("Busy").await, host.album("Quiet").await);
    join_all((0..40).map(async |number| {
        rename(&host, &album, &format!("Title {number}")).await;
        // A failed change uses no number.
        let refused = host.request(reqwest::Method::PATCH, &format!("/v1/albums/{album}")).header("if-match", "\"0-\"");
        host.send(refused.json(&json!({ "title": "never" }))).await.expect(412);
    }))
    .await;
    rename(&host, &other, "Still quiet").await;
    let all: Vec<(u64, String)> = (1..=40).map(|seq| (seq, "album.updated".to_owned())).collect();
    assert_eq!(host.events(&album).await, all);
    assert_eq!(host.events(&other).await, all[..1]);
}

#[tokio::test]
async fn reader_resumes_after_last_number() {
    let server = TestServer::start_with(API_ONLY).await;
    let host = server.user("alice");
    let album = host.album("Zero").await;
    let read = async |query: &str| host.get(&format!("/v1/albums/{album}/events{query}")).await.expect(200);
    assert_eq!(numbers(&read("").await), (vec![], 0));
    for title in ["One", "Two", "Three"] {
        rename(&host, &album, title).await;
    }
    assert_eq!(numbers(&read("").await), (vec![1, 2, 3], 3));
    assert_eq!(numbers(&read("?after=0").await), (vec![1, 2, 3], 3));
    assert_eq!(numbers(&read("?after=2").await), (vec![3], 3));
    assert_eq!(numbers(&read("?after=3").await), (vec![], 3));
    // Existing events are returned at once.
    let begun = Instant::now();
    assert_eq!(numbers(&read("?after=2&wait=25").await), (vec![3], 3));
    assert!(begun.elapsed() < WELL_BEFORE);
    let event = &read("?after=2").await["items"][0];
    assert_eq!(event, &json!({ "seq": 3, "kind": "album.updated", "at": event["at"] }));
    // More events than a page come in order.
    for number in 0..230 {
        rename(&host, &album, &number.to_string()).await;
    }
    let first = numbers(&read("").await);
    assert_eq!(first, ((1..=200).collect(), 200));
    assert_eq!(numbers(&read("?after=200").await), ((201..=233).collect(), 233));
}

#[tokio::test]
async fn long_poll_ends_on_event() {
    let server = TestServer::start_with(API_ONLY).await;
    let host = server.user("alice");
    let (album, other) = (host.album("Followed").await, host.album("Other").await);
    let viewer = server.bearer(&host.invite(&album, &json!({ "role": "view" })).await);
    for after in 0..3 {
        let polls = [following(&server, &host, &album, after).await, following(&server, &viewer, &album, after).await];
        rename(&host, &other, &format!("Nobody cares {after}")).await;
        rename(&host, &album, &format!("News {after}")).await;
        for poll in polls {
            let (list, took) = poll.await.unwrap();
            assert_eq!(numbers(&list), (vec![after + 1], after + 1));
            assert!(took < WELL_BEFORE, "{took:?}");
        }
    }
    // Disconnected followers are removed.
    let forgotten = async || server.app.db.wakeups().followed_albums().is_empty().then_some(());
    eventually("forgotten", forgotten).await;
}

#[tokio::test]
async fn long_poll_sees_other_processes() {
    let server = TestServer::start_with(API_ONLY).await;
    let host = server.user("alice");
    let album = host.album("Shared").await;
    let beside = Process::start(&server, "serve", &[("DARKROOM_WORKER_ENABLED", "false")]).await;
    let there = Client::new(&beside.url, Some(server.identity.token("alice").unwrap()));
    let poll = following(&server, &host, &album, 0).await;
    rename(&there, &album, "From the other one").await;
    let (list, took) = poll.await.unwrap();
    assert_eq!(numbers(&list), (vec![1], 1));
    assert!(took < WELL_BEFORE, "{took:?}");
}

#[tokio::test]
async fn long_poll_times_out() {
    let server = TestServer::start_with(API_ONLY).await;
    let host = server.user("alice");
    let album = host.album("Silence").await;
    let begun = Instant::now();
    let list = host.get(&format!("/v1/albums/{album}/events?after=0&wait=1")).await.expect(200);
    assert_eq!(numbers(&list), (vec![], 0));
    assert!((Duration::from_secs(1)..WELL_BEFORE).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn shutdown_answers_long_poll() {
    let mut server = TestServer::start_with(API_ONLY).await;
    let host = server.user("alice");
    let album = host.album("Stopped").await;
    let poll = following(&server, &host, &album, 0).await;
    server.stop().await.unwrap();
    let (list, took) = poll.await.unwrap();
    assert_eq!(numbers(&list), (vec![], 0));
    assert!(took < WELL_BEFORE, "{took:?}");
}

#[tokio::test]
async fn hides_events_but_advances_numbers() {
    let server = TestServer::start().await;
    let host = server.user("alice");
    let album = id(&host.post("/v1/albums", &json!({ "title": "Reviewed", "review": true })).await.expect(201));
    let guest = async |role: &str| server.bearer(&host.invite(&album, &json!({ "role": role })).await);
    let (uploader, other, viewer) = (guest("contribute").await, guest("contribute").await, guest("view").await);
    let poll = following(&server, &viewer, &album, 0).await;
    let photo = uploader.upload(&album, "image/png", &images::png(8, 8, 1)).await;
    assert_eq!(uploader.settled(&photo).await["state"], "ready");
    let list = format!("/v1/albums/{album}/events");
    for (who, seen) in [(&host, vec![1]), (&uploader, vec![1]), (&other, vec![]), (&viewer, vec![])] {
        assert_eq!(numbers(&who.get(&list).await.expect(200)), (seen, 1));
    }
    // Hidden events do not end the viewer's poll; visible ones do.
    assert!(!poll.is_finished());
    host.patch(&format!("/v1/photos/{photo}"), &json!({ "visibility": "visible" })).await.expect(200);
    let (list, took) = poll.await.unwrap();
    assert_eq!(numbers(&list), (vec![2], 2));
    assert_eq!(
        list["items"][0],
        json!({ "seq": 2, "kind": "photo.updated", "at": list["items"][0]["at"], "photo_id": photo })
    );
    assert!(took < LONGEST, "{took:?}");
}

#[tokio::test]
async fn rejects_drop_guest_and_invalid_queries() {
    let server = TestServer::start_with(API_ONLY).await;
    let host = server.user("alice");
    let album = host.album("Odd").await;
    let path = format!("/v1/albums/{album}/events");
    let drop = server.bearer(&host.invite(&album, &json!({ "role": "drop" })).await);
    drop.get(&path).await.expect(403);
    drop.get(&format!("{path}?wait=25")).await.expect(403);
    for (query, field) in [
        ("after=-1", "after"),
        ("after=x", "after"),
        ("after=99999999999999999999", "after"),
        ("after=1.5", "after"),
        ("wait=-1", "wait"),
        ("wait=26", "wait"),
        ("wait=x", "wait"),
        ("wait=99999999999999999999", "wait"),
        ("limit=5", "limit"),
        ("after=1&after=2", "after"),
    ] {
        assert_eq!(host.get(&format!("{path}?{query}")).await.fields(), [field], "{query}");
    }
    assert_eq!(numbers(&host.get(&format!("{path}?after={}", i64::MAX)).await.expect(200)), (vec![], i64::MAX as u64));
}
