//! The resources of a test in each service.

use std::{collections::BTreeMap, sync::Arc};

use aws_config::SdkConfig;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, TimeToLiveSpecification,
};
use aws_sdk_s3::types::{
    BucketLocationConstraint, CorsConfiguration, CorsRule, CreateBucketConfiguration, Event, EventBridgeConfiguration,
    FilterRule, FilterRuleName, NotificationConfiguration, NotificationConfigurationFilter, QueueConfiguration,
    S3KeyFilter, TopicConfiguration,
};
use aws_sdk_sqs::types::QueueAttributeName;
use serde_json::json;

use super::{ACCOUNT, Cloud, Emulator, emulator::root, signed, signed_by};
use crate::harness::iam::REGION;

/// The path of upload notifications to the queue, which determines the message format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notifications {
    Direct,
    /// Through a topic without raw delivery, in an envelope.
    Topic,
    /// Through `EventBridge`.
    EventBridge,
}

/// A part of the service that uses AWS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// `storage.kind = "s3"`.
    Storage,
    /// `queue.kind = "sqs"`.
    Queue,
    /// `notifications.kind = "sns"`, to the FIFO topic.
    Announce,
    /// `read_model.kind = "dynamodb"`.
    ReadModel,
    /// `workflow.kind = "step-functions"`.
    Workflow,
}

impl Part {
    /// All but the workflow, which needs a state machine.
    pub const USUAL: [Self; 4] = [Self::Storage, Self::Queue, Self::Announce, Self::ReadModel];

    /// The settings that enable it.
    pub(super) fn settings(self, cloud: &Cloud) -> Vec<(&'static str, String)> {
        let pairs: &[(&str, &str)] = match self {
            Self::Storage => &[("storage.kind", "s3"), ("storage.bucket", &cloud.bucket)],
            Self::Queue => {
                &[("queue.kind", "sqs"), ("queue.url", &cloud.queue), ("queue.dead_letter_url", &cloud.dead_letters)]
            }
            Self::Announce => &[("notifications.kind", "sns"), ("notifications.topic", &cloud.fifo_topic)],
            Self::ReadModel => &[("read_model.kind", "dynamodb"), ("read_model.table", &cloud.table)],
            Self::Workflow => &[("workflow.kind", "step-functions"), ("workflow.state_machine", &cloud.state_machine)],
        };
        pairs.iter().map(|(key, value)| (*key, (*value).to_owned())).collect()
    }
}

/// Creates all resources as root.
pub async fn make(emulator: Arc<Emulator>, base: SdkConfig, unique: String, notifications: Notifications) -> Cloud {
    let admin = signed_by(&base, root());
    let (sqs, sns) = (aws_sdk_sqs::Client::new(&admin), aws_sdk_sns::Client::new(&admin));
    let (s3, dynamodb) = (aws_sdk_s3::Client::new(&admin), aws_sdk_dynamodb::Client::new(&admin));
    let name = format!("t-{unique}");

    let dead_letters = queue(&sqs, &format!("{name}-dead"), &[]).await;
    let redrive = json!({ "deadLetterTargetArn": arn("sqs", &format!("{name}-dead")), "maxReceiveCount": "100" });
    let jobs = [
        (QueueAttributeName::VisibilityTimeout, "60".to_owned()),
        (QueueAttributeName::RedrivePolicy, redrive.to_string()),
        (QueueAttributeName::Policy, may_send(&arn("sqs", &name))),
    ];
    let url = queue(&sqs, &name, &jobs).await;

    let (topic, subscriber) = topic(&sns, &sqs, &name, false).await;
    let (fifo_topic, fifo_subscriber) = self::topic(&sns, &sqs, &format!("{name}.fifo"), true).await;
    table(&dynamodb, &name).await;

    let cloud = Cloud {
        bucket: name.clone(),
        queue: url,
        queue_arn: arn("sqs", &name),
        dead_letters,
        fifo_topic,
        fifo_subscriber,
        topic,
        subscriber,
        table: name.clone(),
        state_machine: arn("states", &format!("stateMachine:{name}")),
        unique,
        emulator,
        base,
        keys: BTreeMap::new(),
    };
    bucket(&s3, &name).await;
    notify(&cloud, &s3, &sns, notifications).await;
    cloud
}

fn arn(service: &str, name: &str) -> String {
    format!("arn:aws:{service}:{REGION}:{ACCOUNT}:{name}")
}

/// The policy that allows services to send to a queue.
fn may_send(queue: &str) -> String {
    let services = json!({ "Service": ["s3.amazonaws.com", "sns.amazonaws.com", "events.amazonaws.com"] });
    let ours = json!({ "StringEquals": { "aws:SourceAccount": ACCOUNT } });
    let statement = json!({
        "Effect": "Allow", "Principal": services, "Action": "sqs:SendMessage", "Resource": queue, "Condition": ours,
    });
    json!({ "Version": "2012-10-17", "Statement": [statement] }).to_string()
}

/// Creates a queue and returns its URL.
async fn queue(sqs: &aws_sdk_sqs::Client, name: &str, attributes: &[(QueueAttributeName, String)]) -> String {
    let call = attributes
        .iter()
        .fold(sqs.create_queue().queue_name(name), |call, (key, value)| call.attributes(key.clone(), value));
    call.send().await.expect("a queue").queue_url.expect("a URL")
}

/// Creates a topic and a subscribed queue of the same kind with raw delivery.
async fn topic(sns: &aws_sdk_sns::Client, sqs: &aws_sdk_sqs::Client, name: &str, fifo: bool) -> (String, String) {
    let subscriber = if fifo { name.replace(".fifo", "-subscriber.fifo") } else { format!("{name}-subscriber") };
    let mut attributes = vec![(QueueAttributeName::Policy, may_send(&arn("sqs", &subscriber)))];
    let mut call = sns.create_topic().name(name);
    if fifo {
        attributes.push((QueueAttributeName::FifoQueue, "true".to_owned()));
        call = call.attributes("FifoTopic", "true");
    }
    let topic = call.send().await.expect("a topic").topic_arn.expect("an ARN");
    let url = queue(sqs, &subscriber, &attributes).await;
    let subscribe = sns.subscribe().topic_arn(&topic).protocol("sqs").endpoint(arn("sqs", &subscriber));
    subscribe.attributes("RawMessageDelivery", "true").send().await.expect("a subscription");
    (topic, url)
}

async fn table(dynamodb: &aws_sdk_dynamodb::Client, name: &str) {
    let mut call = dynamodb.create_table().table_name(name).billing_mode(BillingMode::PayPerRequest);
    for (key, kind) in [("pk", KeyType::Hash), ("sk", KeyType::Range)] {
        let schema = KeySchemaElement::builder().attribute_name(key).key_type(kind).build().expect("all is given");
        let text = AttributeDefinition::builder().attribute_name(key).attribute_type(ScalarAttributeType::S);
        call = call.key_schema(schema).attribute_definitions(text.build().expect("all is given"));
    }
    call.send().await.expect("a table");
    let expiry = TimeToLiveSpecification::builder().enabled(true).attribute_name("expires_at").build();
    let expiry = expiry.expect("all is given");
    dynamodb.update_time_to_live().table_name(name).time_to_live_specification(expiry).send().await.expect("expiry");
}

async fn bucket(s3: &aws_sdk_s3::Client, name: &str) {
    let place = BucketLocationConstraint::from(REGION);
    let place = CreateBucketConfiguration::builder().location_constraint(place).build();
    s3.create_bucket().bucket(name).create_bucket_configuration(place).send().await.expect("a bucket");
    let rule = CorsRule::builder().allowed_origins("*").allowed_headers("*").allowed_methods("PUT");
    let rule = rule.allowed_methods("GET").expose_headers("etag").build().expect("all is given");
    let cors = CorsConfiguration::builder().cors_rules(rule).build().expect("all is given");
    s3.put_bucket_cors().bucket(name).cors_configuration(cors).send().await.expect("CORS");
}

/// Sends notifications of uploads below `originals/` to the queue.
async fn notify(cloud: &Cloud, s3: &aws_sdk_s3::Client, sns: &aws_sdk_sns::Client, way: Notifications) {
    let created = Event::from("s3:ObjectCreated:*");
    let originals = FilterRule::builder().name(FilterRuleName::Prefix).value("originals/").build();
    let originals = S3KeyFilter::builder().filter_rules(originals).build();
    let originals = NotificationConfigurationFilter::builder().key(originals).build();
    let configuration = match way {
        Notifications::Direct => {
            let queue = QueueConfiguration::builder().queue_arn(&cloud.queue_arn).events(created).filter(originals);
            NotificationConfiguration::builder().queue_configurations(queue.build().expect("all is given"))
        }
        Notifications::Topic => {
            let topic = uploads_topic(cloud, sns).await;
            let topic = TopicConfiguration::builder().topic_arn(topic).events(created).filter(originals);
            NotificationConfiguration::builder().topic_configurations(topic.build().expect("all is given"))
        }
        Notifications::EventBridge => {
            rule(cloud).await;
            let all = EventBridgeConfiguration::builder().build();
            NotificationConfiguration::builder().event_bridge_configuration(all)
        }
    };
    let call = s3.put_bucket_notification_configuration().bucket(&cloud.bucket);
    call.notification_configuration(configuration.build()).send().await.expect("notifications");
}

/// Creates a topic to which S3 may publish and the queue is subscribed.
async fn uploads_topic(cloud: &Cloud, sns: &aws_sdk_sns::Client) -> String {
    let name = format!("{}-uploads", cloud.bucket);
    let statement = json!({
        "Effect": "Allow",
        "Principal": { "Service": "s3.amazonaws.com" },
        "Action": "sns:Publish",
        "Resource": arn("sns", &name),
        "Condition": { "ArnLike": { "aws:SourceArn": format!("arn:aws:s3:::{}", cloud.bucket) } },
    });
    let policy = json!({ "Version": "2012-10-17", "Statement": [statement] }).to_string();
    let topic = sns.create_topic().name(name).attributes("Policy", policy).send().await.expect("a topic");
    let topic = topic.topic_arn.expect("an ARN");
    let subscribe = sns.subscribe().topic_arn(&topic).protocol("sqs").endpoint(&cloud.queue_arn);
    subscribe.send().await.expect("a subscription");
    topic
}

/// Creates an `EventBridge` rule that sends uploads to the queue.
async fn rule(cloud: &Cloud) {
    let pattern = json!({
        "source": ["aws.s3"],
        "detail-type": ["Object Created"],
        "detail": { "bucket": { "name": [cloud.bucket] }, "object": { "key": [{ "prefix": "originals/" }] } },
    });
    let rule = json!({ "Name": cloud.bucket, "EventPattern": pattern.to_string() });
    let target = json!({ "Rule": cloud.bucket, "Targets": [{ "Id": "queue", "Arn": cloud.queue_arn }] });
    for (action, body) in [("PutRule", rule), ("PutTargets", target)] {
        let (status, said) =
            signed::json(&cloud.emulator.url, &root(), "events", &format!("AWSEvents.{action}"), &body).await;
        assert_eq!(status, 200, "{action}: {said}");
    }
}

/// A Lambda package that executes the program in place, because copying it would be slow.
pub fn bootstrap() -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let mut package = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Stored)
        .unix_permissions(0o755);
    package.start_file("bootstrap", options).expect("a file");
    let script = format!("#!/bin/sh\nexec {}\n", env!("CARGO_BIN_EXE_darkroom"));
    std::io::Write::write_all(&mut package, script.as_bytes()).expect("a script");
    STANDARD.encode(package.finish().expect("a package").into_inner())
}
