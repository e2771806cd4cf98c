//! The AWS emulator enforces the roles of `deploy/stacks`, and its services are connected as `deploy` connects them.

use std::time::{Duration, Instant};

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_s3::{
    Client as S3,
    config::{Credentials, SharedCredentialsProvider},
    error::ProvideErrorMetadata,
    primitives::ByteStream,
};
use aws_sdk_sns::{Client as Sns, types::MessageAttributeValue};
use aws_sdk_sqs::Client as Sqs;
use serde_json::{Value, json};

use crate::harness::{
    TestServer,
    aws::{Cloud, Notifications, Part, Role},
    eventually,
    fault_proxy::{Fault, FaultProxy},
    process::{darkroom, run},
    tiny_photo,
};

/// The next notification about an object, without the test message that S3 sends first.
async fn next_upload(cloud: &Cloud) -> Value {
    loop {
        let message = cloud.received(&cloud.queue).await;
        let body: Value = serde_json::from_str(message.body().expect("a body")).expect("JSON");
        if !body.to_string().contains("s3:TestEvent") {
            return body;
        }
    }
}

async fn upload(cloud: &Cloud, role: Role, key: &str) -> Result<(), Option<String>> {
    let s3 = S3::new(&cloud.sdk(role));
    let put = s3.put_object().bucket(&cloud.bucket).key(key).body(ByteStream::from_static(b"a photo")).send().await;
    put.map(drop).map_err(|error| error.code().map(str::to_owned))
}

#[tokio::test]
async fn rejects_wrong_key() {
    let cloud = Cloud::start().await;
    let [(_, id), (_, secret), ..] = &cloud.environment(Role::Work)[..] else { panic!("a key") };
    let code = async |id: &str, secret: &str| {
        let key = SharedCredentialsProvider::new(Credentials::new(id, secret, None, None, "tests"));
        let sdk = cloud.admin().into_builder().credentials_provider(key).build();
        let attributes = Sqs::new(&sdk).get_queue_attributes().queue_url(&cloud.queue).send().await;
        attributes.map_err(|error| error.code().map(str::to_owned)).map(drop)
    };
    assert_eq!(code(id, secret).await, Ok(()));
    assert_eq!(code(id, &format!("{secret}x")).await, Err(Some("SignatureDoesNotMatch".to_owned())));
    assert_eq!(code("AKIANOBODYNOBODYNOBO", secret).await, Err(Some("InvalidClientTokenId".to_owned())));
}

#[tokio::test]
async fn rejects_missing_permission() {
    let cloud = Cloud::start().await;
    let denied = Err(Some("AccessDenied".to_owned()));
    assert_eq!(upload(&cloud, Role::Serve, "originals/00/a").await, Ok(()));
    assert_eq!(upload(&cloud, Role::Serve, "renditions/00/a").await, denied);
    assert_eq!(upload(&cloud, Role::Work, "renditions/00/a").await, Ok(()));
    assert_eq!(upload(&cloud, Role::Work, "elsewhere/00/a").await, denied);
    for role in [Role::Operator, Role::Migrate, Role::LambdaAnnounce] {
        assert_eq!(upload(&cloud, role, "originals/00/a").await, denied, "{role:?}");
    }
    // Of another test, in the same account.
    let other = Cloud::start().await;
    let s3 = S3::new(&cloud.sdk(Role::Work));
    let theirs = s3.get_object().bucket(&other.bucket).key("originals/00/a").send().await.unwrap_err();
    assert_eq!(theirs.code(), Some("AccessDenied"));
    let table = aws_sdk_dynamodb::Client::new(&cloud.sdk(Role::Serve));
    let item = table.get_item().table_name(&cloud.table).key("pk", AttributeValue::S("a".to_owned()));
    assert!(item.key("sk", AttributeValue::S("b".to_owned())).send().await.expect("its own").item.is_none());
    let scan = table.scan().table_name(&cloud.table).send().await.unwrap_err();
    assert_eq!(scan.code(), Some("AccessDeniedException"));
}

#[tokio::test]
async fn queue_receives_each_notification_format() {
    for way in [Notifications::Direct, Notifications::Topic, Notifications::EventBridge] {
        let cloud = Cloud::start_with(way).await;
        for key in ["renditions/00/none", "originals/00/a b+c"] {
            upload(&cloud, Role::Work, key).await.expect("it is put");
        }
        let body = next_upload(&cloud).await;
        let key = match way {
            Notifications::Direct => body["Records"][0]["s3"]["object"]["key"].clone(),
            Notifications::Topic => {
                let inner: Value = serde_json::from_str(body["Message"].as_str().expect("a text")).expect("JSON");
                inner["Records"][0]["s3"]["object"]["key"].clone()
            }
            Notifications::EventBridge => body["detail"]["object"]["key"].clone(),
        };
        // Only EventBridge does not URL-encode keys.
        let wanted = if way == Notifications::EventBridge { "originals/00/a b+c" } else { "originals/00/a+b%2Bc" };
        assert_eq!(key, wanted, "{way:?}: {body}");
    }
}

#[tokio::test]
async fn fifo_topic_delivers_once_in_order() {
    let cloud = Cloud::start().await;
    let sns = Sns::new(&cloud.sdk(Role::LambdaAnnounce));
    let kind = MessageAttributeValue::builder().data_type("String").string_value("photo.ready").build().unwrap();
    for (number, text) in [(1, "one"), (1, "one"), (2, "two")] {
        let call = sns.publish().topic_arn(&cloud.fifo_topic).message(text).message_attributes("kind", kind.clone());
        call.message_group_id("album").message_deduplication_id(number.to_string()).send().await.expect("published");
    }
    for wanted in ["one", "two"] {
        let message = cloud.received(&cloud.fifo_subscriber).await;
        assert_eq!(message.body(), Some(wanted));
        let attribute = &message.message_attributes().expect("attributes")["kind"];
        assert_eq!(attribute.string_value(), Some("photo.ready"));
    }
    assert!(cloud.receive(&cloud.fifo_subscriber).await.is_none());
    sns.publish().topic_arn(&cloud.topic).message("three").send().await.expect("published");
    assert_eq!(cloud.received(&cloud.subscriber).await.body(), Some("three"));
}

#[tokio::test]
async fn fault_proxy_injects_each_fault() {
    let cloud = Cloud::start().await;
    let proxy = FaultProxy::start(&cloud.emulator.url).await;
    // Without retries, so that each fault is visible.
    let once = aws_config::retry::RetryConfig::disabled();
    let sdk = cloud.sdk(Role::Instance).into_builder().endpoint_url(&proxy.url).retry_config(once).build();
    let (s3, sqs, sns) = (S3::new(&sdk), Sqs::new(&sdk), Sns::new(&sdk));
    let put = async |key: &str| {
        let put = s3.put_object().bucket(&cloud.bucket).key(key).body(ByteStream::from_static(b"a photo"));
        put.send()
            .await
            .map_err(|error| (error.code().map(str::to_owned), error.raw_response().map(|raw| raw.status().as_u16())))
    };
    let send = async || sqs.send_message().queue_url(&cloud.queue).message_body("x").send().await;
    let publish = async || sns.publish().topic_arn(&cloud.topic).message("x").send().await;
    put("originals/00/a").await.expect("signed for the proxy, and the emulator sees that it is");
    send().await.expect("the same");

    proxy.every(5, Fault::Status(503));
    let outcomes: Vec<bool> =
        futures_util::future::join_all((0..10).map(|_| send())).await.iter().map(Result::is_ok).collect();
    assert_eq!(outcomes.iter().filter(|well| !**well).count(), 2, "one in five: {outcomes:?}");
    assert_eq!(proxy.faults_injected(), 2);

    proxy.every(1, Fault::Throttle);
    assert_eq!(put("originals/00/b").await.unwrap_err(), (Some("SlowDown".to_owned()), Some(503)));
    assert_eq!(send().await.unwrap_err().code(), Some("ThrottlingException"));
    assert_eq!(publish().await.unwrap_err().code(), Some("Throttling"));
    proxy.every(1, Fault::Status(500));
    assert_eq!(put("originals/00/b").await.unwrap_err(), (Some("InternalError".to_owned()), Some(500)));
    proxy.every_of("sns", 1, Fault::Cut);
    assert!(publish().await.unwrap_err().raw_response().is_none());
    put("originals/00/c").await.expect("only SNS is cut off");

    proxy.every_of("s3", 1, Fault::LoseAnswer);
    assert_eq!(put("originals/00/d").await.unwrap_err(), (None, None));
    proxy.every_of("s3", 1, Fault::Delay(Duration::from_millis(200)));
    let begun = Instant::now();
    let head = s3.head_object().bucket(&cloud.bucket).key("originals/00/d").send().await;
    assert_eq!(head.expect("what nobody heard of was done").content_length(), Some(7));
    assert!(begun.elapsed() >= Duration::from_millis(200));
    proxy.clear_faults();
    let missing = s3.head_object().bucket(&cloud.bucket).key("originals/00/b").send().await;
    assert!(missing.unwrap_err().into_service_error().is_not_found(), "what was refused was not done");
}

#[tokio::test]
async fn private_emulator_can_be_frozen() {
    let cloud = Cloud::alone().await;
    let hasty = aws_config::timeout::TimeoutConfig::builder().operation_timeout(Duration::from_millis(300)).build();
    let sqs = Sqs::new(&cloud.admin().into_builder().timeout_config(hasty).build());
    let ask = async || sqs.get_queue_attributes().queue_url(&cloud.queue).send().await;
    cloud.emulator.freeze().await;
    assert!(ask().await.is_err());
    cloud.emulator.thaw();
    eventually("an answer", async || ask().await.ok()).await;
    assert!(!cloud.emulator.log().is_empty());
}

#[tokio::test]
async fn runs_state_machine() {
    let cloud = Cloud::start().await;
    let definition = json!({ "StartAt": "Done", "States": { "Done": { "Type": "Pass", "End": true } } });
    cloud.make_state_machine(&definition.to_string()).await;
    let states = aws_sdk_sfn::Client::new(&cloud.sdk(Role::Work));
    let started = states.start_execution().state_machine_arn(&cloud.state_machine).name("edit-1").send().await;
    let execution = started.expect("started").execution_arn;
    let ended = eventually("ended", async || {
        let told = states.describe_execution().execution_arn(&execution).send().await.expect("its own");
        (told.status().as_str() != "RUNNING").then_some(told)
    })
    .await;
    assert_eq!(ended.status().as_str(), "SUCCEEDED");
    let denied = aws_sdk_sfn::Client::new(&cloud.sdk(Role::Serve));
    let denied = denied.start_execution().state_machine_arn(&cloud.state_machine).send().await.unwrap_err();
    assert_eq!(denied.code(), Some("AccessDeniedException"));
}

#[tokio::test]
async fn configures_server_and_processes() {
    let cloud = Cloud::start().await;
    let server =
        TestServer::start_in(&cloud, &[Part::Storage, Part::Queue, Part::ReadModel], "worker.enabled = false").await;
    let config = &server.app.config;
    assert_eq!(config.queue.sqs.as_ref().map(|queue| &queue.url), Some(&cloud.queue));
    assert_eq!(config.read_model.table.as_ref(), Some(&cloud.table));
    assert_eq!(config.aws.region.as_deref(), Some("eu-west-1"));
    assert!(config.notifications.topic.is_none());
    let host = server.user("host");
    let album = host.album("in the cloud").await;
    let photo = tiny_photo(1);
    let upload = host.declare(&album, "image/png", &photo).await;
    assert!(upload["upload"]["url"].as_str().expect("a URL").starts_with(&cloud.emulator.url), "{upload}");
    let put = host.sending(&upload["upload"], photo).send().await.expect("an answer of S3");
    assert_eq!(put.status(), 200);
    next_upload(&cloud).await;
    let (code, _, said) = run(darkroom(&["migrate", "--check"], &server.environment())).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(cloud.settings(&Part::USUAL).len(), 1 + 2 + 3 + 2 + 2);
    assert!(cloud.settings(&[Part::Workflow]).contains(&("workflow.state_machine", cloud.state_machine.clone())));
}
