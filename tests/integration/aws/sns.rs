//! Notifications to SNS: in order and once on FIFO topics, filtered by attributes, never lost.

use aws_sdk_sns::Client as Sns;
use aws_sdk_sqs::{
    Client as Sqs,
    types::{Message, MessageSystemAttributeName},
};
use darkroom::db::jobs::PUBLISH_EVENTS;
use serde_json::{Value, json};

use crate::harness::{
    Client, TestServer,
    aws::{Cloud, Part, Role},
    eventually,
    fault_proxy::{Fault, FaultProxy},
    process::{Process, darkroom, run},
    tiny_photo,
};

/// Uploads photos one after the other, one event each.
async fn photos(host: &Client, album: &str, numbers: std::ops::Range<u32>) {
    for number in numbers {
        host.settled(&host.upload(album, "image/png", &tiny_photo(number)).await).await;
    }
}

/// The next messages of a queue with their attributes.
async fn heard(cloud: &Cloud, queue: &str, count: usize) -> Vec<Message> {
    let sqs = Sqs::new(&cloud.admin());
    let mut all = Vec::new();
    eventually("received", async || {
        let call = sqs.receive_message().queue_url(queue).message_attribute_names("All");
        let call = call.message_system_attribute_names(MessageSystemAttributeName::All);
        for message in call.send().await.expect("a queue").messages.unwrap_or_default() {
            let receipt = message.receipt_handle().expect("a receipt");
            sqs.delete_message().queue_url(queue).receipt_handle(receipt).send().await.expect("it is deleted");
            all.push(message);
        }
        (all.len() >= count).then_some(())
    })
    .await;
    all
}

fn body(message: &Message) -> Value {
    serde_json::from_str(message.body().expect("a body")).expect("JSON")
}

fn seqs(messages: &[Message]) -> Vec<u64> {
    messages.iter().map(|message| body(message)["data"]["seq"].as_u64().expect("a number")).collect()
}

fn attribute<'a>(message: &'a Message, name: &str) -> &'a str {
    message.message_attributes().expect("attributes")[name].string_value().expect("text")
}

async fn at_rest(server: &TestServer) {
    eventually("idle", async || (server.database.count("SELECT COUNT(*) FROM jobs").await == 0).then_some(())).await;
}

/// The topic in `/health`.
async fn health(operations: &str) -> Value {
    let details: Value = reqwest::get(format!("{operations}/health")).await.unwrap().json().await.unwrap();
    details["dependencies"]["sns"].clone()
}

#[tokio::test]
async fn publishes_cloud_events_to_fifo_topic() {
    let cloud = Cloud::start().await;
    let server = TestServer::start_in(&cloud, &[Part::Announce], "").await;
    let host = server.user("alice");
    let album = host.album("told").await;
    photos(&host, &album, 0..3).await;
    host.patch(&format!("/v1/albums/{album}"), &json!({ "title": "renamed" })).await.expect(200);
    let messages = heard(&cloud, &cloud.fifo_subscriber, 4).await;
    assert_eq!(seqs(&messages), [1, 2, 3, 4]);
    let events = host.get(&format!("/v1/albums/{album}/events")).await.expect(200);
    for (message, event) in messages.iter().zip(events["items"].as_array().unwrap()) {
        let (seq, kind) = (event["seq"].as_u64().unwrap(), event["kind"].as_str().unwrap());
        let whole = json!({
            "specversion": "1.0",
            "id": format!("{album}-{seq}"),
            "source": format!("/v1/albums/{album}"),
            "type": format!("darkroom.{kind}"),
            "time": event["at"],
            "datacontenttype": "application/json",
            "data": { "album_id": album, "seq": seq, "kind": kind, "photo_id": event["photo_id"] },
        });
        assert_eq!(body(message), whole);
        let attributes = ["kind", "album", "reviewed"].map(|name| attribute(message, name));
        assert_eq!(attributes, [kind, &*album, "true"]);
        let parts: Vec<usize> = attribute(message, "traceparent").split('-').map(str::len).collect();
        assert_eq!(parts, [2, 32, 16, 2]);
        let system = message.attributes().expect("system attributes");
        assert_eq!(system[&MessageSystemAttributeName::MessageGroupId], album);
        assert_eq!(system[&MessageSystemAttributeName::MessageDeduplicationId], format!("{album}-{seq}"));
    }
    assert_eq!(health(&server.operations).await["status"], "ok");

    // As after a crash between publishing and recording it.
    at_rest(&server).await;
    server.database.change("UPDATE albums SET announced_seq = 0").await;
    server.app.db.enqueue(PUBLISH_EVENTS, album.parse().unwrap()).await.unwrap();
    at_rest(&server).await;
    photos(&host, &album, 3..4).await;
    assert_eq!(seqs(&heard(&cloud, &cloud.fifo_subscriber, 1).await), [5], "repeats were dropped");
}

#[tokio::test]
async fn filter_policy_selects_review_events() {
    let cloud = Cloud::start().await;
    let sns = Sns::new(&cloud.admin());
    let subscriptions = sns.list_subscriptions_by_topic().topic_arn(&cloud.topic).send().await.unwrap();
    let subscription = subscriptions.subscriptions()[0].subscription_arn().unwrap().to_owned();
    let policy = json!({ "reviewed": ["true"], "kind": [{ "prefix": "photo." }] }).to_string();
    let call = sns.set_subscription_attributes().subscription_arn(subscription).attribute_name("FilterPolicy");
    call.attribute_value(policy).send().await.unwrap();
    let server =
        TestServer::start_in(&cloud, &[Part::Announce], &format!("notifications.topic = \"{}\"\n", cloud.topic)).await;
    let host = server.user("alice");
    let album = host.post("/v1/albums", &json!({ "title": "reviewed", "review": true })).await.expect(201);
    let album = album["id"].as_str().unwrap();
    let guest = server.bearer(&host.invite(album, &json!({ "role": "contribute" })).await);
    let photo = guest.upload(album, "image/png", &tiny_photo(1)).await;
    host.settled(&photo).await;
    host.patch(&format!("/v1/albums/{album}"), &json!({ "title": "about no photo" })).await.expect(200);
    host.patch(&format!("/v1/photos/{photo}"), &json!({ "visibility": "visible" })).await.expect(200);
    at_rest(&server).await;
    let messages = heard(&cloud, &cloud.subscriber, 1).await;
    assert_eq!(seqs(&messages), [3], "neither the photo before its review nor the album");
    assert!(messages[0].attributes().is_none_or(|all| !all.contains_key(&MessageSystemAttributeName::MessageGroupId)));
}

#[tokio::test]
async fn topic_created_later_gets_all_events() {
    let cloud = Cloud::start().await;
    let sns = Sns::new(&cloud.admin());
    sns.delete_topic().topic_arn(&cloud.topic).send().await.unwrap();
    let setting = format!("notifications.topic = \"{}\"\n", cloud.topic);
    let server = TestServer::start_in(&cloud, &[Part::Announce], &setting).await;
    let host = server.user("alice");
    let album = host.album("patient").await;
    photos(&host, &album, 0..3).await;
    let refused = "SELECT COUNT(*) FROM jobs WHERE kind = 'publish_events' AND attempts > 1 AND last_error LIKE '%NotFound%region%'";
    eventually("refused", async || (server.database.count(refused).await == 1).then_some(())).await;
    let told = health(&server.operations).await;
    let detail = told["detail"].as_str().unwrap();
    assert!(
        told["status"] == "failing" && detail.contains(&cloud.topic) && detail.contains("are the name, the region"),
        "{told}"
    );

    let mut environment = server.environment();
    environment.retain(|(name, _)| name != "DARKROOM_NOTIFICATIONS_TOPIC" && !name.starts_with("AWS_"));
    environment.extend(cloud.environment(Role::Operator));
    environment.push(("DARKROOM_NOTIFICATIONS_TOPIC".to_owned(), cloud.topic.clone()));
    let check = async |code: i32| {
        let (ended, said, complaint) = run(darkroom(&["check"], &environment)).await;
        assert_eq!(ended, code, "{said}{complaint}");
        said.lines().skip_while(|line| !line.starts_with("sns ")).take(2).collect::<Vec<_>>().join("\n")
    };
    let row = check(1).await;
    assert!(
        row.contains("FAILED") && row.contains(&cloud.topic) && row.contains("-> are the name, the region"),
        "{row}"
    );

    // No job may run between the creation of the topic and its subscription: its messages would be lost.
    let later = "UPDATE jobs SET visible_at = UTC_TIMESTAMP(3) + INTERVAL 1 HOUR WHERE kind = 'publish_events' AND lease IS NULL";
    eventually("held back", async || (server.database.change(later).await == 1).then_some(())).await;
    let name = cloud.topic.rsplit(':').next().unwrap();
    sns.create_topic().name(name).send().await.unwrap();
    let subscriber = format!("arn:aws:sqs:eu-west-1:{}:{name}-subscriber", crate::harness::aws::ACCOUNT);
    let subscribe = sns.subscribe().topic_arn(&cloud.topic).protocol("sqs").endpoint(subscriber);
    subscribe.attributes("RawMessageDelivery", "true").send().await.unwrap();
    server.database.change("UPDATE jobs SET visible_at = UTC_TIMESTAMP(3) WHERE kind = 'publish_events'").await;
    let mut seqs = seqs(&heard(&cloud, &cloud.subscriber, 3).await);
    // Standard topics are unordered.
    seqs.sort_unstable();
    assert_eq!(seqs, [1, 2, 3]);
    // Check results are cached for a second.
    eventually("healthy", async || (health(&server.operations).await["status"] == "ok").then_some(())).await;
    let row = check(0).await;
    assert!(row.contains("ok ") && row.contains("is there"), "{row}");
}

#[tokio::test]
async fn check_reports_missing_topic_read_right() {
    let cloud = Cloud::start().await;
    let server = TestServer::start_in(&cloud, &[Part::Announce], "worker.enabled = false").await;
    let (code, said, complaint) = run(darkroom(&["check"], &server.environment())).await;
    let row = said.lines().find(|line| line.starts_with("sns ")).unwrap_or_default();
    assert!(code == 0 && row.contains("sns:GetTopicAttributes"), "{code}: {said}{complaint}");
    let told = health(&server.operations).await;
    assert!(told["status"] == "ok" && told["detail"].as_str().unwrap().contains("nothing yet"), "{told}");
}

#[tokio::test]
async fn retries_failing_topic_in_order() {
    let cloud = Cloud::start().await;
    let server = TestServer::start_in(&cloud, &[Part::Announce], "worker.enabled = false").await;
    let proxy = FaultProxy::start(&cloud.emulator.url).await;
    let worker = Process::start(&server, "worker", &[("AWS_ENDPOINT_URL", &proxy.url)]).await;
    let host = server.user("alice");
    let album = host.album("trouble").await;
    proxy.every_of("sns", 5, Fault::Status(503));
    photos(&host, &album, 0..8).await;
    at_rest(&server).await;
    assert!(proxy.faults_injected() > 0);
    for (round, fault) in [Fault::Throttle, Fault::Status(500), Fault::LoseAnswer].into_iter().enumerate() {
        let hit = proxy.faults_injected();
        proxy.every_of("sns", 1, fault);
        let first = 10 * u32::try_from(round + 1).unwrap();
        photos(&host, &album, first..first + 2).await;
        let failed = "SELECT COUNT(*) FROM jobs WHERE kind = 'publish_events' AND last_error IS NOT NULL";
        eventually("failed", async || (server.database.count(failed).await == 1).then_some(())).await;
        assert!(proxy.faults_injected() > hit);
        proxy.clear_faults();
        at_rest(&server).await;
    }
    assert_eq!(seqs(&heard(&cloud, &cloud.fifo_subscriber, 14).await), (1..=14).collect::<Vec<_>>());
    assert!(worker.log().contains("will be retried"), "{}", worker.log());
}
