//! All AWS services at once: a photo passes through all of them, `darkroom check` names the failing one, and
//! `docs/aws.md` lists the permissions.

use std::collections::BTreeSet;

use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};

use crate::harness::{
    TestServer,
    aws::{Cloud, Part, Role},
    client::id,
    diagnostics::{check, health, row},
    eventually,
    fault_proxy::{Fault, FaultProxy},
    fixture,
    instance_metadata::MetadataService,
    process::Process,
};

const PARTS: [Part; 5] = [Part::Storage, Part::Queue, Part::Announce, Part::ReadModel, Part::Workflow];
/// The row names in `darkroom check`.
const ROWS: [&str; 5] = ["storage", "sqs", "sns", "dynamodb", "step_functions"];
/// The names in `/health`.
const LOOKS: [&str; 5] = ["storage", "queue", "sns", "dynamodb", "step_functions"];
/// A trivial state machine, because edits are not tested here.
const NOTHING_TO_DO: &str = r#"{"StartAt": "A", "States": {"A": {"Type": "Succeed"}}}"#;

#[tokio::test]
async fn processes_photo_on_all_services() {
    let cloud = Cloud::start().await;
    let server = TestServer::start_in(&cloud, &Part::USUAL, "reconciler.orphan_grace_period = \"0s\"").await;
    let host = server.user("alice");
    let album = host.album("Wedding").await;
    let guest = server.bearer(&host.invite(&album, &json!({ "role": "contribute" })).await);
    let viewer = server.bearer(&host.invite(&album, &json!({ "role": "view" })).await);
    let photo = guest.upload(&album, "image/jpeg", &fixture("camera.jpg")).await;
    let ready = guest.settled(&photo).await;
    assert_eq!(ready["state"], "ready", "{ready}");
    // Published by SNS.
    let told = cloud.received(&cloud.fifo_subscriber).await;
    let told: Value = serde_json::from_str(told.body().expect("a body")).expect("JSON");
    assert_eq!((&told["type"], &told["data"]["photo_id"]), (&json!("darkroom.photo.ready"), &json!(photo)));
    // Served from DynamoDB, equal to MySQL.
    let pages = format!("/v1/albums/{album}/photos");
    eventually("from the read model", async || {
        let page = viewer.get(&pages).await.expect(200);
        let metrics = reqwest::get(format!("{}/metrics", server.operations)).await.ok()?.text().await.ok()?;
        let hit =
            metrics.lines().any(|line| line.starts_with("darkroom_read_model_reads_total") && line.contains("hit"));
        (hit && page["items"][0] == ready).then_some(())
    })
    .await;
    let thumb = server.anybody().get(ready["renditions"][0]["url"].as_str().expect("a URL")).await;
    assert_eq!(thumb.status, 200);
    // Edits are in the bucket too.
    let edits = format!("/v1/photos/{photo}/edits");
    let edit = host.post(&edits, &json!({ "filters": [{ "name": "grayscale" }] })).await.expect(202);
    let edit = eventually("made", async || {
        let edit = host.get(&format!("{edits}/{}", id(&edit))).await.expect(200);
        (edit["state"] == "ready").then_some(edit)
    })
    .await;
    assert_eq!(server.anybody().get(edit["renditions"][0]["url"].as_str().expect("a URL")).await.status, 200);
    assert!(server.stored().await.iter().any(|key| key.ends_with(&format!("{photo}/{}/thumb.jpg", id(&edit)))));
    assert_eq!(host.delete(&format!("/v1/photos/{photo}")).await.status, 204);
    eventually("purged", async || server.stored().await.is_empty().then_some(())).await;
}

#[tokio::test]
async fn check_names_failing_service_and_remedy() {
    let cloud = Cloud::start().await;
    cloud.make_state_machine(NOTHING_TO_DO).await;
    let server = TestServer::start_in(&cloud, &PARTS, "worker.enabled = false").await;
    let operator = cloud.environment(Role::Operator);
    let operator: Vec<(&str, &str)> = operator.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let (code, table) = check(&server, &operator).await;
    assert_eq!(code, 0, "{table}");
    for part in ROWS {
        assert!(row(&table, part).is_some_and(|row| row.contains(" ok ")), "{part}: {table}");
    }
    // A resource that does not exist.
    let nowhere = format!("{}-nowhere", cloud.queue);
    for (part, variable, name) in [
        ("storage", "DARKROOM_STORAGE_BUCKET", "nowhere"),
        ("sqs", "DARKROOM_QUEUE_URL", &nowhere),
        ("dynamodb", "DARKROOM_READ_MODEL_TABLE", "nowhere"),
        ("step_functions", "DARKROOM_WORKFLOW_STATE_MACHINE", &format!("{}x", cloud.state_machine)),
    ] {
        let (code, table) = check(&server, &[&operator[..], &[(variable, name)]].concat()).await;
        let told = row(&table, part).unwrap_or_else(|| panic!("no row {part}: {table}"));
        assert!(
            code == 1 && told.starts_with(part) && told.lines().next().unwrap().contains("FAILED"),
            "{part}: {table}"
        );
        let others = ROWS.iter().filter(|other| **other != part);
        for other in others {
            assert!(
                row(&table, other).is_some_and(|row| row.lines().next().unwrap().contains(" ok ")),
                "{other}: {table}"
            );
        }
    }
}

/// Asserts that all components fail at once with this text.
async fn all_fail_saying(server: &TestServer, variables: &[(&str, &str)], words: &[&str]) {
    let (code, table) = check(server, variables).await;
    assert_eq!(code, 1, "{table}");
    for part in ROWS {
        let told = row(&table, part).unwrap_or_else(|| panic!("no row {part}: {table}"));
        let told: String = told.lines().take(2).collect();
        assert!(told.contains("FAILED") && words.iter().any(|word| told.contains(word)), "{part}: {table}");
    }
}

#[tokio::test]
async fn check_classifies_aws_failures() {
    let cloud = Cloud::start().await;
    cloud.make_state_machine(NOTHING_TO_DO).await;
    let server = TestServer::start_in(&cloud, &PARTS, "worker.enabled = false").await;
    let keys = cloud.environment(Role::Instance);
    let keys: Vec<(&str, &str)> = keys.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let with = |name: &'static str, value: &'static str| {
        let mut keys: Vec<(&str, &str)> = keys.iter().filter(|(other, _)| *other != name).copied().collect();
        keys.push((name, value));
        keys
    };
    all_fail_saying(
        &server,
        &with("AWS_ACCESS_KEY_ID", "AKIANOBODYNOBODYNOBO"),
        &["the access key is unknown", "AccessDenied"],
    )
    .await;
    all_fail_saying(
        &server,
        &with("AWS_SECRET_ACCESS_KEY", "another"),
        &["does the secret key belong to the access key", "AccessDenied"],
    )
    .await;
    all_fail_saying(&server, &with("AWS_ENDPOINT_URL", "http://127.0.0.1:1"), &["->"]).await;
    let proxy = FaultProxy::start(&cloud.emulator.url).await;
    let mut proxied: Vec<(&str, &str)> = keys.iter().filter(|(name, _)| *name != "AWS_ENDPOINT_URL").copied().collect();
    proxied.push(("AWS_ENDPOINT_URL", &proxy.url));
    proxy.every(1, Fault::Throttle);
    all_fail_saying(&server, &proxied, &["Throttling", "SlowDown", "ProvisionedThroughput"]).await;
    proxy.every(1, Fault::Refuse("ExpiredToken"));
    all_fail_saying(&server, &proxied, &["the credentials have expired"]).await;
    proxy.every(1, Fault::Refuse("RequestTimeTooSkewed"));
    all_fail_saying(&server, &proxied, &["this host's clock is wrong"]).await;
    // One failing call in five is hidden by retries.
    proxy.every(5, Fault::Status(503));
    let (code, table) = check(&server, &proxied).await;
    assert_eq!(code, 0, "{table}");
    let hit = proxy.faults_injected();
    proxy.every(1, Fault::Status(500));
    all_fail_saying(&server, &proxied, &["500", "InternalError", "InternalFailure", "InternalServerError", "->"]).await;
    assert!(proxy.faults_injected() > hit);
}

/// Invalid credentials and a wrong clock affect all components, and each reports them until they are corrected.
#[tokio::test]
async fn health_explains_expired_keys_and_clock() {
    let cloud = Cloud::start().await;
    cloud.make_state_machine(NOTHING_TO_DO).await;
    let server = TestServer::start_in(&cloud, &PARTS, "worker.enabled = false").await;
    let proxy = FaultProxy::start(&cloud.emulator.url).await;
    let process = Process::start(&server, "serve", &[("AWS_ENDPOINT_URL", &proxy.url)]).await;
    let host = process.user(&server, "alice");
    let album = host.album("Wedding").await;
    let all = async |is: &dyn Fn(&Value) -> bool| {
        eventually("notified of all parts", async || {
            let parts = health(&process.operations).await;
            LOOKS.iter().all(|part| is(&parts[part])).then_some(())
        })
        .await;
    };
    for (code, advice) in [
        ("ExpiredToken", "the credentials have expired: those of a role are renewed automatically"),
        ("RequestTimeTooSkewed", "this host's clock is wrong: is chronyd"),
    ] {
        proxy.every(1, Fault::Refuse(code));
        // The state of a topic is known from publishing to it.
        host.patch(&format!("/v1/albums/{album}"), &json!({ "title": code })).await.expect(200);
        let told = |detail: &Value| detail.as_str().is_some_and(|text| text.contains(code) && text.contains(advice));
        all(&|part| part["status"] == "failing" && told(&part["detail"])).await;
        proxy.clear_faults();
        all(&|part| part["status"] == "ok" && told(&part["last_error"]["detail"])).await;
    }
}

/// As `docs/aws.md` says, for `CloudTrail`.
#[tokio::test]
async fn calls_carry_user_agent() {
    let cloud = Cloud::start().await;
    cloud.make_state_machine(NOTHING_TO_DO).await;
    let server = TestServer::start_in(&cloud, &PARTS, "worker.enabled = false").await;
    let proxy = FaultProxy::start(&cloud.emulator.url).await;
    let process = Process::start(&server, "serve", &[("AWS_ENDPOINT_URL", &proxy.url)]).await;
    let host = process.user(&server, "alice");
    let album = host.album("Wedding").await;
    let photo = host.settled(&host.upload(&album, "image/jpeg", &fixture("camera.jpg")).await).await;
    host.post(&format!("/v1/photos/{}/edits", id(&photo)), &json!({ "filters": [{ "name": "grayscale" }] }))
        .await
        .expect(202);
    for call in ["s3:PutObject", "sqs:ReceiveMessage", "sns:Publish", "dynamodb:PutItem", "states:StartExecution"] {
        eventually(call, async || proxy.calls().contains(call).then_some(())).await;
    }
    let agents = proxy.agents();
    let services: BTreeSet<&str> = agents.iter().map(|(service, _)| &**service).collect();
    assert_eq!(services, BTreeSet::from(["dynamodb", "s3", "sns", "sqs", "states"]));
    for (service, agent) in &agents {
        assert!(agent.split_whitespace().any(|word| word == "app/darkroom"), "{service}: {agent}");
    }
}

/// An instance has temporary keys from the metadata service. URLs are signed with the current key, expire with it, and
/// continue to be signed while no new key is available.
#[tokio::test]
async fn signs_with_instance_credentials() {
    let cloud = Cloud::start().await;
    let server = TestServer::start_in(&cloud, &[Part::Storage, Part::Queue], "worker.enabled = false").await;
    let metadata = MetadataService::start(&cloud.temporary_key(Role::Instance).await, TimeDelta::minutes(14)).await;
    let mut variables = metadata.environment();
    variables.extend(["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].map(|name| (name.to_owned(), String::new())));
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let process = Process::start(&server, "serve", &variables).await;
    let host = process.user(&server, "alice");
    let album = host.album("instance").await;
    let photo = host.settled(&host.upload(&album, "image/jpeg", &fixture("camera.jpg")).await).await;
    assert_eq!(photo["state"], "ready", "{}", process.log());
    let url: reqwest::Url = photo["renditions"][0]["url"].as_str().expect("a URL").parse().expect("a URL");
    let of = |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    assert!(of("X-Amz-Security-Token").is_some());
    let begun =
        chrono::NaiveDateTime::parse_from_str(&of("X-Amz-Date").expect("a date"), "%Y%m%dT%H%M%SZ").expect("a time");
    let ends = begun.and_utc() + TimeDelta::seconds(of("X-Amz-Expires").expect("a time").parse().expect("seconds"));
    let left = ends - Utc::now();
    assert!(left <= TimeDelta::minutes(14) && left > TimeDelta::minutes(10), "it ends with its key: {left}");
    assert_eq!(server.anybody().get(url.as_str()).await.status, 200);
    metadata.fail(true);
    let again = host.get(&format!("/v1/photos/{}", id(&photo))).await.expect(200);
    assert_eq!(server.anybody().get(again["renditions"][0]["url"].as_str().expect("a URL")).await.status, 200);
}

/// `docs/aws.md` lists exactly the permissions of the templates' roles for each process.
#[test]
fn documentation_lists_permissions() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/aws.md")).expect("the page");
    let page = page.split_once("## Rights").expect("the rights").1;
    for (name, role) in [
        ("serve", Role::Serve),
        ("work", Role::Work),
        ("instance", Role::Itself),
        ("operator", Role::Operator),
        ("api", Role::LambdaApi),
        ("develop", Role::LambdaDevelop),
        ("step", Role::LambdaStep),
        ("announce", Role::LambdaAnnounce),
        ("migrate", Role::Migrate),
    ] {
        let given: Vec<String> = role.actions().into_iter().collect();
        let row = page.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
        let row = row.unwrap_or_else(|| panic!("no {name}"));
        let cell = row.split('|').nth(2).expect("a cell");
        let services = cell.split(';').filter_map(|part| part.split_once(':'));
        let listed: Vec<String> = services
            .flat_map(|(service, actions)| {
                actions.split(',').map(move |it| format!("{}:{}", service.trim(), it.trim()))
            })
            .collect();
        assert_eq!(listed, given, "{name}");
    }
}
