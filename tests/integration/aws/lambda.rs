//! The program as AWS Lambda functions, with events as AWS documents them (`tests/fixtures/lambda`). Each function has
//! the role that `deploy/stacks/functions.yaml` gives it.

use std::time::{Duration, Instant};

use aws_sdk_sqs::Client as Sqs;
use base64::{Engine, engine::general_purpose::STANDARD};
use darkroom::{
    db::jobs::RENDER_PHOTO,
    jobs::{reconciler, sqs::message},
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{
    TestServer, Webhook,
    aws::{Cloud, Part, Role},
    client::id,
    eventually,
    fault_proxy::{Fault, FaultProxy},
    fixture,
    lambda::Function,
    numbered_photo,
    process::darkroom,
    tiny_photo,
    webhook::Reply,
};

/// A documented event.
pub fn sample(name: &str) -> Value {
    serde_json::from_slice(&fixture(&format!("lambda/{name}.json"))).expect("JSON")
}

/// The shared resources of the functions: a migrated database, a bucket and a queue.
struct Parts {
    cloud: Cloud,
    server: TestServer,
}

impl Parts {
    async fn start() -> Self {
        let cloud = Cloud::start().await;
        // Without a worker.
        let settings = "worker.enabled = false";
        let server = TestServer::start_in(&cloud, &[Part::Storage, Part::Queue], settings).await;
        Self { cloud, server }
    }

    /// The variables of a function; the last value of a name applies.
    fn environment(&self, role: Role, more: &[(&str, String)]) -> Vec<(String, String)> {
        let more = more.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        [self.server.environment(), self.cloud.environment(role)].concat().into_iter().chain(more).collect()
    }

    async fn function(&self, handler: &str, role: Role, more: &[(&str, String)]) -> Function {
        Function::start(handler, &self.environment(role, more)).await
    }

    /// The event of a queue's event source with `count` messages.
    async fn batch(&self, count: usize) -> Value {
        let sqs = Sqs::new(&self.cloud.admin());
        let mut records = Vec::new();
        eventually("a batch", async || {
            let asked = sqs.receive_message().queue_url(&self.cloud.queue).max_number_of_messages(10);
            for message in asked.send().await.expect("a queue").messages.unwrap_or_default() {
                let mut record = sample("sqs")["Records"][0].clone();
                record["messageId"] = message.message_id().into();
                record["receiptHandle"] = message.receipt_handle().into();
                record["body"] = message.body().into();
                records.push(record);
            }
            (records.len() >= count).then_some(())
        })
        .await;
        json!({ "Records": records })
    }
}

/// The REST API event of a request.
pub fn rest(method: &str, path: &str, token: &str, body: Option<&Value>) -> Value {
    let mut event = sample("rest");
    event["httpMethod"] = method.into();
    event["path"] = path.into();
    event["multiValueQueryStringParameters"] = Value::Null;
    event["queryStringParameters"] = Value::Null;
    event["multiValueHeaders"]["authorization"] = json!([format!("Bearer {token}")]);
    event["multiValueHeaders"]["content-type"] = json!(["application/json"]);
    event["body"] = body.map(Value::to_string).into();
    event
}

/// The body of a response in either format.
fn body(answer: &Value) -> Value {
    serde_json::from_str(answer["body"].as_str().expect("a text")).expect("JSON")
}

#[tokio::test]
async fn answers_each_gateway_event_format() {
    let parts = Parts::start().await;
    let token = parts.server.identity.token("host").expect("a token");
    let more = [("DARKROOM_HTTP_PUBLIC_URL", "https://photos.example/api".to_owned())];
    let function = parts.function("api", Role::LambdaApi, &more).await;

    // As in the documentation: an unknown path.
    for (name, headers) in [("rest", "multiValueHeaders"), ("http", "headers"), ("url", "headers")] {
        let answer = function.invoke(sample(name)).await.expect(name);
        assert_eq!((&answer["statusCode"], &answer["isBase64Encoded"]), (&json!(404), &json!(false)), "{answer}");
        let kind = &answer[headers]["content-type"];
        let kind = kind.as_str().or_else(|| kind[0].as_str());
        assert_eq!(kind, Some("application/problem+json"), "{answer}");
        assert_eq!(body(&answer)["status"], 404);
    }
    let created = function.invoke(rest("POST", "/api/v1/albums", &token, Some(&json!({ "title": "REST" })))).await;
    assert_eq!(created.as_ref().expect("an answer")["statusCode"], 201, "{created:?}");

    for name in ["http", "url"] {
        let mut event = sample(name);
        let stage = if name == "http" { "/prod" } else { "" };
        event["rawPath"] = format!("{stage}/v1/albums").into();
        event["headers"]["authorization"] = format!("Bearer {token}").into();
        event["headers"]["content-type"] = "application/json".into();
        event["body"] = STANDARD.encode(json!({ "title": name }).to_string()).into();
        event["isBase64Encoded"] = true.into();
        event["rawQueryString"] = "".into();
        let created = function.invoke(event).await.expect("an answer");
        assert_eq!((&created["statusCode"], &body(&created)["title"]), (&json!(201), &json!(name)), "{created}");
    }

    let mut list = rest("GET", "/api/v1/albums", &token, None);
    list["multiValueQueryStringParameters"] = json!({ "limit": ["2"] });
    let first = body(&function.invoke(list.clone()).await.expect("a list"));
    list["multiValueQueryStringParameters"]["cursor"] = json!([first["next_cursor"]]);
    let second = body(&function.invoke(list).await.expect("a list"));
    let titles: Vec<&Value> = [&first, &second]
        .iter()
        .flat_map(|page| page["items"].as_array().expect("items"))
        .map(|it| &it["title"])
        .collect();
    assert_eq!(titles, ["url", "http", "REST"], "newest first, over two pages");

    let image = function.invoke(rest("GET", "/docs/favicon-32x32.png", "", None)).await.expect("an answer");
    assert_eq!((&image["statusCode"], &image["isBase64Encoded"]), (&json!(200), &json!(true)), "{image}");
    let image = STANDARD.decode(image["body"].as_str().expect("a text")).expect("base64");
    assert!(image.starts_with(b"\x89PNG"));

    let told: Vec<Value> = function.log().lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect();
    let line = told.iter().find(|line| line["route"] == "/v1/albums" && line["method"] == "POST").expect("a line");
    for (field, expected) in [
        ("client_ip", "192.0.2.17"),
        ("gateway_request_id", "id="),
        ("amzn_trace_id", "1-5759e988-bd862e3fe1be46a994272793"),
    ] {
        assert_eq!(line[field], expected, "{line}");
    }
    let count = |line: &&Value| line["darkroom_http_requests_total"] == 1.0 && line["_aws"].is_object();
    assert!(told.iter().filter(count).count() >= 3, "told after each invocation: {told:?}");
}

#[tokio::test]
async fn functions_process_photos() {
    let parts = Parts::start().await;
    let webhook = Webhook::start().await;
    let (api, develop, announce) = (
        parts.function("api", Role::LambdaApi, &[]).await,
        parts.function("develop", Role::LambdaDevelop, &[]).await,
        parts.function("announce", Role::LambdaAnnounce, &webhook.variables()).await,
    );
    let token = parts.server.identity.token("host").expect("a token");
    let ask = async |method: &str, path: &str, content: Option<&Value>| {
        api.invoke(rest(method, path, &token, content)).await.expect("an answer")
    };
    let album = id(&body(&ask("POST", "/v1/albums", Some(&json!({ "title": "Lambda" }))).await));
    let mut photos = Vec::new();
    for number in [1, 2] {
        let bytes = tiny_photo(number);
        let declared = json!({ "content_type": "image/png", "bytes": bytes.len() });
        let declared = body(&ask("POST", &format!("/v1/albums/{album}/photos"), Some(&declared)).await);
        let client = parts.server.anybody();
        let put = client.sending(&declared["upload"], bytes).send().await.expect("an answer of S3");
        assert_eq!(put.status(), 200, "{declared}");
        photos.push(id(&declared["photo"]));
    }

    // Two uploads, S3's test message, and an invalid message.
    Sqs::new(&parts.cloud.admin())
        .send_message()
        .queue_url(&parts.cloud.queue)
        .message_body("Test message.")
        .send()
        .await
        .expect("sent");
    let batch = parts.batch(4).await;
    assert_eq!(develop.invoke(batch.clone()).await, Ok(json!({ "batchItemFailures": [] })));
    assert_eq!(parts.cloud.received(&parts.cloud.dead_letters).await.body(), Some("Test message."));
    for photo in &photos {
        let photo = body(&ask("GET", &format!("/v1/photos/{photo}"), None).await);
        assert_eq!(photo["state"], "ready", "{photo}");
        let url = photo["renditions"][0]["url"].as_str().expect("a URL");
        assert_eq!(reqwest::get(url).await.expect("an answer of S3").status(), 200);
    }
    // The whole batch again, as SQS may deliver it.
    let again = develop.invoke(batch).await;
    assert_eq!(again, Ok(json!({ "batchItemFailures": [] })));

    let relayed = announce.invoke(sample("schedule")).await.expect("an answer");
    assert_eq!(relayed, json!({ "announcements": 1, "failed": 0, "jobs_sent": 0 }), "one album's");
    assert_eq!(webhook.accepted(&album), [1, 2]);
    // Alarms see waiting jobs without an instance.
    let told = announce.log();
    for level in ["darkroom_jobs_dead_lettered", "darkroom_job_queue_depth", "darkroom_outbox_lag_seconds"] {
        assert!(told.contains(&format!("\"{level}\":0")), "{level}: {told}");
    }

    let deleted = ask("DELETE", &format!("/v1/photos/{}", photos[0]), None).await;
    assert_eq!(deleted["statusCode"], 204, "{deleted}");
    let relayed = announce.invoke(sample("schedule")).await.expect("an answer");
    assert_eq!(relayed, json!({ "announcements": 1, "failed": 0, "jobs_sent": 1 }));
    let purge = parts.batch(1).await;
    assert_eq!(develop.invoke(purge).await, Ok(json!({ "batchItemFailures": [] })));
    let s3 = aws_sdk_s3::Client::new(&parts.cloud.admin());
    let left = s3.list_objects_v2().bucket(&parts.cloud.bucket).send().await.expect("a list");
    let keys: Vec<&str> = left.contents().iter().filter_map(aws_sdk_s3::types::Object::key).collect();
    assert!(!keys.is_empty() && keys.iter().all(|key| key.contains(&photos[1])), "{keys:?}");
    assert_eq!(parts.server.database.count("SELECT COUNT(*) FROM jobs").await, 0);
}

#[tokio::test]
async fn functions_run_edit_steps() {
    let parts = Parts::start().await;
    let develop = parts.function("develop", Role::LambdaDevelop, &[]).await;
    let step = parts.function("step", Role::LambdaStep, &[]).await;
    let host = parts.server.user("host");
    let album = host.album("edited").await;
    let photo = host.declare(&album, "image/png", &tiny_photo(1)).await;
    assert_eq!(host.sending(&photo["upload"], tiny_photo(1)).send().await.expect("an answer of S3").status(), 200);
    develop.invoke(parts.batch(2).await).await.expect("the test message and the upload");
    let edits = format!("/v1/photos/{}/edits", id(&photo["photo"]));
    let edit = id(&host.post(&edits, &json!({ "filters": [{ "name": "grayscale" }] })).await.expect(202));

    let mut outcome = json!({ "next": { "step": "validate" } });
    let mut steps = Vec::new();
    while let Some(mut event) = outcome.get("next").cloned() {
        steps.push(event["step"].clone());
        event["edit_id"] = edit.as_str().into();
        outcome = step.invoke(event.clone()).await.expect("an outcome");
        // Again, as a state machine may retry.
        assert_eq!(step.invoke(event).await.as_ref(), Ok(&outcome));
    }
    assert_eq!(
        (json!(steps), &outcome["outcome"]),
        (json!(["validate", "apply", "file", "announce"]), &json!("ended"))
    );
    let ready = host.get(&format!("{edits}/{edit}")).await.expect(200);
    assert_eq!(ready["state"], "ready");
    let url = ready["renditions"][0]["url"].as_str().expect("a URL");
    assert_eq!(reqwest::get(url).await.expect("an answer of S3").status(), 200);
    for event in [json!({}), json!({ "edit_id": edit, "step": "dance" }), sample("schedule")] {
        let failed = step.invoke(event).await.expect_err("no step");
        assert!(failed["errorMessage"].as_str().is_some_and(|said| said.contains("not a step of an edit")), "{failed}");
    }
}

#[tokio::test]
async fn reports_partial_batch_failures() {
    let parts = Parts::start().await;
    // The dead-letter queue is unusable.
    let nowhere = [("DARKROOM_QUEUE_DEAD_LETTER_URL", format!("{}-nowhere", parts.cloud.queue))];
    let develop = parts.function("develop", Role::LambdaDevelop, &nowhere).await;
    let batch = async |bodies: &[&str]| {
        for body in bodies {
            let sqs = Sqs::new(&parts.cloud.admin());
            sqs.send_message().queue_url(&parts.cloud.queue).message_body(*body).send().await.expect("sent");
        }
        parts.batch(bodies.len()).await
    };
    let nobody = message::write(Uuid::now_v7(), RENDER_PHOTO.name, Uuid::now_v7());
    let batch = batch(&["Test message.", &nobody]).await;
    let bad = batch["Records"].as_array().expect("records").iter().find(|record| record["body"] == "Test message.");
    let answer = develop.invoke(batch.clone()).await.expect("an answer");
    assert_eq!(answer, json!({ "batchItemFailures": [{ "itemIdentifier": bad.expect("it")["messageId"] }] }));
    // Without remaining time no message is processed, and none is lost.
    let answer = develop.invoke_within(Duration::from_millis(1450), batch.clone()).await.expect("an answer");
    assert_eq!(answer["batchItemFailures"].as_array().map(Vec::len), batch["Records"].as_array().map(Vec::len));

    let failed = develop.invoke(sample("schedule")).await.expect_err("no batch");
    assert_eq!(failed["errorType"], "Darkroom.develop");
    assert!(
        failed["errorMessage"].as_str().is_some_and(|said| said.contains("not a batch of SQS messages")),
        "{failed}"
    );
}

#[tokio::test]
async fn invocation_timeout_loses_no_work() {
    const LIMIT: Duration = Duration::from_secs(4);
    let parts = Parts::start().await;
    let webhook = Webhook::start().await;
    webhook.answer(|_| Reply::Silence);
    let api = parts.function("api", Role::LambdaApi, &[]).await;
    let announce = parts.function("announce", Role::LambdaAnnounce, &webhook.variables()).await;
    let host = parts.server.user("host");
    let album = host.album("slow").await;
    host.patch(&format!("/v1/albums/{album}"), &json!({ "title": "renamed" })).await.expect(200);

    let begun = Instant::now();
    let relayed = announce.invoke_within(LIMIT, sample("schedule")).await.expect("an answer");
    assert_eq!(relayed["announcements"], 0);
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    webhook.answer(|_| Reply::Status(200));
    let relayed = announce.invoke(sample("schedule")).await.expect("an answer");
    assert_eq!((&relayed["announcements"], webhook.accepted(&album)), (&json!(1), vec![1]));

    let token = parts.server.identity.token("host").expect("a token");
    let mut wait = rest("GET", &format!("/v1/albums/{album}/events"), &token, None);
    wait["multiValueQueryStringParameters"] = json!({ "after": ["1"], "wait": ["25"] });
    let begun = Instant::now();
    let answer = api.invoke_within(LIMIT, wait).await.expect("an answer");
    assert_eq!((&answer["statusCode"], &body(&answer)["items"]), (&json!(200), &json!([])), "{answer}");
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
}

/// With one decoder and a stalled original, only the photo that was processed has used an attempt.
#[tokio::test]
async fn returns_messages_without_free_decoder() {
    let parts = Parts::start().await;
    let host = parts.server.user("host");
    let album = host.album("many").await;
    for number in 0..3 {
        host.upload(&album, "image/jpeg", &numbered_photo(number)).await;
    }
    parts.server.database.change("UPDATE photos SET sweep_at = '2020-01-01'").await;
    assert_eq!(reconciler::run(&parts.server.app, false).await.expect("a sweep").accepted, 3);
    let proxy = FaultProxy::start(&parts.cloud.emulator.url).await;
    let more = [("AWS_ENDPOINT_URL", proxy.url.clone()), ("DARKROOM_IMAGING_PROCESSES", "1".to_owned())];
    let develop = parts.function("develop", Role::LambdaDevelop, &more).await;
    // S3's test message too.
    let batch = parts.batch(4).await;
    // Excludes the start-up time.
    assert_eq!(develop.invoke(json!({ "Records": [] })).await, Ok(json!({ "batchItemFailures": [] })));
    proxy.every_of("s3", 1, Fault::Delay(Duration::from_mins(1)));
    let answer = develop.invoke_within(Duration::from_secs(10), batch.clone()).await.expect("an answer");
    assert_eq!(answer["batchItemFailures"].as_array().map(Vec::len), Some(3), "{answer}");
    let tries = async |tries: u32| {
        let query = format!("SELECT COUNT(*) FROM jobs WHERE kind = 'render_photo' AND attempts = {tries}");
        parts.server.database.count(sqlx::AssertSqlSafe(query)).await
    };
    assert_eq!((tries(0).await, tries(1).await), (2, 1));
    // SQS hides received messages for longer than this test runs.
    parts.batch(3).await;
    proxy.clear_faults();
    assert_eq!(develop.invoke(batch).await, Ok(json!({ "batchItemFailures": [] })));
    assert_eq!(parts.server.database.count("SELECT COUNT(*) FROM photos WHERE state = 'ready'").await, 3);
}

#[tokio::test]
async fn reports_initialization_error() {
    let parts = Parts::start().await;
    let files = ("DARKROOM_STORAGE_KIND", "files".to_owned());
    let table = ("DARKROOM_QUEUE_KIND", "table".to_owned());
    let loud = ("DARKROOM_LOG_LEVEL", "=".to_owned());
    for (handler, more, words) in [
        ("index.handler", vec![], &["index.handler", "api, develop, step, announce"][..]),
        ("api", vec![files, loud], &["storage.kind", "storage.directory", "log.level"]),
        ("develop", vec![table], &["queue.kind"]),
    ] {
        let mut environment = parts.environment(Role::LambdaApi, &more);
        // With a table these would be configuration errors.
        environment
            .retain(|(name, _)| handler != "develop" || !name.starts_with("DARKROOM_QUEUE_") || name.ends_with("KIND"));
        let mut function = Function::start(handler, &environment).await;
        assert_eq!(function.ended().await.code(), Some(64), "{handler}: {}", function.log());
        let told = function.init_error().expect("reported to Lambda");
        for word in words {
            let said = told["errorMessage"].as_str().expect("a text");
            assert!(said.contains(word) && function.log().contains(word), "{word}: {said}\n{}", function.log());
        }
    }
}

#[tokio::test]
async fn exits_cleanly_on_sigterm() {
    let parts = Parts::start().await;
    let mut api = parts.function("api", Role::LambdaApi, &[]).await;
    let token = parts.server.identity.token("host").expect("a token");
    let answer = api.invoke(rest("GET", "/v1/albums", &token, None)).await.expect("an answer");
    assert_eq!(answer["statusCode"], 200, "{answer}");
    for event in [json!({}), sample("sqs"), json!("text")] {
        let failed = api.invoke(event).await.expect_err("no request");
        assert!(failed["errorMessage"].as_str().is_some_and(|said| said.contains("not a request")), "{failed}");
    }
    assert_eq!(api.stop().await.code(), Some(0), "{}", api.log());

    // With arguments it is the command-line program.
    let mut environment = parts.environment(Role::LambdaApi, &[]);
    environment.push(("AWS_LAMBDA_RUNTIME_API".to_owned(), "127.0.0.1:1".to_owned()));
    let (code, said, _) = crate::harness::process::run(darkroom(&["openapi"], &environment)).await;
    assert!(code == 0 && said.starts_with('{'), "{code}");
}
