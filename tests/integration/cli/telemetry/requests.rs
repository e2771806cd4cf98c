//! One log line for each request, and the last requests that were slow or failed.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::line_of;
use crate::harness::{Client, TestServer, database::literal, eventually, fixture, process::Process};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const ROOT: &str = "Root=1-5759e988-bd862e3fe1be46a994272793";

async fn idle_process(more: &[(&str, &str)]) -> (TestServer, Process) {
    let server = TestServer::start_with("worker.enabled = false").await;
    let process = Process::start(&server, "serve", more).await;
    (server, process)
}

async fn requests(process: &Process, outcome: &str) -> Vec<String> {
    let text = process.metrics().await;
    let of = |line: &&str| line.starts_with("darkroom_http_requests_total") && line.contains(&format!("\"{outcome}\""));
    text.lines().filter(of).map(str::to_owned).collect()
}

async fn slow(process: &Process) -> Vec<Value> {
    let body: Value = reqwest::get(format!("{}/slow", process.operations)).await.unwrap().json().await.unwrap();
    body["items"].as_array().unwrap().clone()
}

#[tokio::test]
async fn logs_one_line_per_request() {
    let (server, process) = idle_process(&[]).await;
    let host = process.user(&server, "alice");
    let album = host.album("lines").await;
    let path = format!("/v1/albums/{album}?key=a-secret-query");
    let request = host
        .request(Method::GET, &path)
        .header("traceparent", PARENT)
        .header("x-amzn-trace-id", ROOT)
        .header("x-amzn-requestid", "c6af9ac6-7b61-11e6-9a41-93e8deadbeef")
        .header("x-request-id", "mine");
    host.send(request).await.expect(200);
    let line = line_of(&process, "mine").await;
    assert!(line["duration_seconds"].as_f64().unwrap() > 0.0, "{line}");
    for (field, expected) in [
        ("method", json!("GET")),
        ("route", json!("/v1/albums/{album_id}")),
        ("status", json!(200)),
        ("outcome", json!("ok")),
        ("principal", json!("user")),
        ("trace_id", json!("4bf92f3577b34da6a3ce929d0e0e4736")),
        ("amzn_trace_id", json!("1-5759e988-bd862e3fe1be46a994272793")),
        ("gateway_request_id", json!("c6af9ac6-7b61-11e6-9a41-93e8deadbeef")),
        ("client_ip", json!("127.0.0.1")),
        ("level", json!("INFO")),
        ("span", Value::Null),
    ] {
        assert_eq!(line[field], expected, "{field}: {line}");
    }
    assert!(!process.log().contains("a-secret-query"));
    // Each kind of caller; the gateway's header alone names the trace; a request without one starts a trace.
    let album_path = format!("/v1/albums/{album}");
    for role in ["view", "contribute", "drop"] {
        let token = host.invite(&album, &json!({ "role": role })).await;
        let guest = Client::new(&process.url, Some(token));
        let request =
            guest.request(Method::GET, &album_path).header("x-request-id", role).header("x-amzn-trace-id", ROOT);
        guest.send(request).await.expect(200);
        let line = line_of(&process, role).await;
        assert_eq!((&line["principal"], &line["outcome"]), (&json!(role), &json!("ok")));
        assert_eq!(line["trace_id"], "5759e988bd862e3fe1be46a994272793");
    }
    let anybody = Client::new(&process.url, None);
    anybody.send(anybody.request(Method::GET, &album_path).header("x-request-id", "who")).await.expect(401);
    let line = line_of(&process, "who").await;
    assert_eq!((&line["principal"], &line["outcome"]), (&json!("none"), &json!("client_error")));
    assert!(line["trace_id"].as_str().unwrap().len() == 32 && line["amzn_trace_id"].is_null(), "{line}");
    // An unknown method adds no label.
    let odd = Method::from_bytes(b"X-MADE-UP").unwrap();
    anybody.send(anybody.request(odd, "/v1/albums")).await.expect(405);
    let counted = requests(&process, "client_error").await;
    assert!(counted.iter().any(|line| line.contains(r#"method="OTHER""#)), "{counted:?}");
    assert!(counted.iter().all(|line| !line.contains("MADE-UP")), "{counted:?}");
}

#[tokio::test]
async fn logs_cancelled_request() {
    let (server, process) = idle_process(&[]).await;
    let host = process.user(&server, "alice");
    let album = host.album("gone").await;
    let events = format!("/v1/albums/{album}/events?wait=25");
    let request = host.request(Method::GET, &events).header("x-request-id", "gone").timeout(Duration::from_secs(1));
    assert!(request.send().await.unwrap_err().is_timeout());
    let line = line_of(&process, "gone").await;
    assert_eq!((&line["outcome"], &line["status"]), (&json!("cancelled"), &Value::Null));
    assert_eq!(line["route"], "/v1/albums/{album_id}/events");
    let counted = requests(&process, "cancelled").await;
    assert_eq!(counted.len(), 1, "{counted:?}");
    assert!(counted[0].contains(r#"status="none""#) && counted[0].ends_with(" 1"), "{counted:?}");
    eventually("no other request in flight", async || {
        let text = process.metrics().await;
        text.lines().any(|line| line == "darkroom_http_requests_in_flight 1").then_some(())
    })
    .await;
}

#[tokio::test]
async fn keeps_slow_and_failed_requests() {
    let (server, process) =
        idle_process(&[("DARKROOM_LOG_SLOW_REQUEST_THRESHOLD", "1s"), ("DARKROOM_WORKER_ENABLED", "false")]).await;
    let host = process.user(&server, "alice");
    let album = host.album("slow").await;
    let photo = host.upload(&album, "image/jpeg", &fixture("camera.jpg")).await;
    // Another transaction locks the album's row.
    let mut other = server.database.connect().await;
    let held = format!("START TRANSACTION; SELECT id FROM albums WHERE id = {} FOR UPDATE", literal(&album));
    sqlx::raw_sql(sqlx::AssertSqlSafe(held)).execute(&mut other).await.unwrap();
    let change = host.request(Method::PATCH, &format!("/v1/albums/{album}")).header("x-request-id", "waited");
    let change = tokio::spawn({
        let host = process.user(&server, "alice");
        async move { host.send(change.json(&json!({ "title": "slower" }))).await }
    });
    // A long poll is not a slow request.
    let events = format!("/v1/albums/{album}/events?wait=2");
    host.send(host.request(Method::GET, &events).header("x-request-id", "followed")).await.expect(200);
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    change.await.unwrap().expect(200);
    let kept = slow(&process).await;
    let of = |id: &str| kept.iter().find(|request| request["request_id"] == id);
    assert_eq!(of("followed"), None);
    let waited = of("waited").unwrap_or_else(|| panic!("{kept:?}"));
    assert_eq!((&waited["route"], &waited["status"]), (&json!("/v1/albums/{album_id}"), &json!(200)));
    assert!(waited["duration_seconds"].as_f64().unwrap() > 1.0 && waited["error"].is_null(), "{waited}");
    assert!(waited["database_wait_seconds"].as_f64().unwrap() >= 0.0, "{waited}");
    assert!(waited["at"].is_string() && waited["trace_id"].as_str().unwrap().len() == 32, "{waited}");
    for secret in [&album, &photo, "wait=", "alice"] {
        assert!(kept.iter().all(|request| !request.to_string().contains(secret)), "{secret}: {kept:?}");
    }
}

#[tokio::test]
async fn keeps_last_hundred_failures() {
    let nowhere = [("DARKROOM_DATABASE_SOCKET", "/nowhere/s3cret.sock"), ("DARKROOM_DATABASE_ACQUIRE_TIMEOUT", "20ms")];
    let (server, process) = idle_process(&nowhere).await;
    let host = process.user(&server, "alice");
    for number in 0..105 {
        let request = host.request(Method::GET, "/v1/albums").header("x-request-id", format!("failed-{number}"));
        host.send(request).await.expect(503);
    }
    let kept = slow(&process).await;
    let ids: Vec<&str> = kept.iter().map(|request| request["request_id"].as_str().unwrap()).collect();
    let expected: Vec<String> = (5..105).rev().map(|number| format!("failed-{number}")).collect();
    assert_eq!(ids, expected, "newest first");
    assert_eq!(kept[0]["error"], "the database is unavailable");
    assert_eq!((&kept[0]["outcome"], &kept[0]["principal"]), (&json!("server_error"), &json!("user")));
    assert!(kept[0]["database_wait_seconds"].as_f64().unwrap() > 0.0, "{}", kept[0]);
    assert!(kept.iter().all(|request| !request.to_string().contains("s3cret")), "a path");
}
