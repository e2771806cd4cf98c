//! AWS as far as the service uses it: S3, SQS, SNS, DynamoDB, Step Functions, `EventBridge` and IAM, by an emulator that
//! checks signatures and policies. Each test has a bucket, queues, topics and a table of its own in it, and users that
//! hold the policies of the templates in `deploy/stacks`, so that a right that is missing there fails a test.
//!
//! Not compared with the real AWS. What the emulator is known not to do: it takes a state machine that AWS would refuse,
//! has no `StartMessageMoveTask`, and checks neither trust policies nor the rights of a state machine's role; those of a function's it does.

mod emulator;
mod identities;
mod parts;
mod signed;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use aws_config::SdkConfig;
use aws_sdk_s3::config::{Credentials, SharedCredentialsProvider};
use aws_sdk_sqs::types::Message;
use uuid::Uuid;

use super::{
    eventually,
    iam::{Key, REGION},
};
pub use emulator::{ACCOUNT, Emulator, root};
pub use parts::{Notifications, Part, bootstrap};

/// Who somebody is: the holder of one role's policies in `deploy/stacks`, or of some of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// `darkroom serve` with a worker.
    Instance,
    /// `darkroom serve` without.
    Serve,
    /// `darkroom work`.
    Work,
    /// An instance itself: how it comes up and goes, and its agents.
    Itself,
    /// Who runs `darkroom jobs` and `darkroom project`.
    Operator,
    /// `darkroom migrate`.
    Migrate,
    /// The function `api`.
    LambdaApi,
    /// The function `develop`.
    LambdaDevelop,
    /// The function `step`.
    LambdaStep,
    /// The function `announce`.
    LambdaAnnounce,
}

/// A test's own part of an account.
pub struct Cloud {
    /// The emulator.
    pub emulator: Arc<Emulator>,
    /// The bucket.
    pub bucket: String,
    /// The URL of the queue of jobs and uploads. It hides a message for 60 s and gives it up after 20 tries.
    pub queue: String,
    /// The queue's ARN.
    pub queue_arn: String,
    /// The URL of its dead-letter queue.
    pub dead_letters: String,
    /// The ARN of a FIFO topic.
    pub fifo_topic: String,
    /// The URL of a FIFO queue that hears all of it.
    pub fifo_ear: String,
    /// The ARN of a standard topic.
    pub topic: String,
    /// The URL of a queue that hears all of it.
    pub ear: String,
    /// The table.
    pub table: String,
    /// The ARN that the state machine of edits will have, once the test makes it.
    pub state_machine: String,
    /// What makes this test's names its own.
    pub unique: String,
    base: SdkConfig,
    keys: BTreeMap<Role, Credentials>,
}

impl Cloud {
    /// On the emulator that all tests of this process share; uploads are told straight to the queue.
    pub async fn start() -> Self {
        Self::start_with(Notifications::Direct).await
    }

    /// The same with another way for the news of uploads.
    pub async fn start_with(notifications: Notifications) -> Self {
        Self::on(Emulator::shared().await, notifications).await
    }

    /// On an emulator of the test's own, to be ended or frozen.
    pub async fn alone() -> Self {
        Self::on(Emulator::start().await, Notifications::Direct).await
    }

    async fn on(emulator: Arc<Emulator>, notifications: Notifications) -> Self {
        let unique = Uuid::now_v7().simple().to_string();
        // The service's own timeouts and tries.
        let base = darkroom::aws::sdk_config(REGION).await.into_builder().endpoint_url(&emulator.url).build();
        let mut this = parts::make(emulator, base, unique, notifications).await;
        this.keys = identities::make(&this).await;
        this
    }

    /// What the AWS clients of a process start from.
    pub fn sdk(&self, role: Role) -> SdkConfig {
        signed_by(&self.base, self.keys[&role].clone())
    }

    /// The same for the account's root, which may do everything.
    pub fn admin(&self) -> SdkConfig {
        signed_by(&self.base, emulator::root())
    }

    /// Key, region and endpoint as the variables that every AWS SDK knows.
    pub fn environment(&self, role: Role) -> Vec<(String, String)> {
        let key = &self.keys[&role];
        [
            ("AWS_ACCESS_KEY_ID", key.access_key_id()),
            ("AWS_SECRET_ACCESS_KEY", key.secret_access_key()),
            ("AWS_REGION", REGION),
            ("AWS_ENDPOINT_URL", &self.emulator.url),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    /// The settings that switch parts on, as keys and values; the region among them.
    pub fn settings(&self, parts: &[Part]) -> Vec<(&'static str, String)> {
        let region = ("aws.region", REGION.to_owned());
        [region].into_iter().chain(parts.iter().flat_map(|part| part.settings(self))).collect()
    }

    /// The bucket as its owner sees it.
    pub fn objects(&self) -> Bucket {
        Bucket { client: aws_sdk_s3::Client::new(&self.admin()), name: self.bucket.clone() }
    }

    /// Makes the state machine of [`Cloud::state_machine`] from its definition in the States Language.
    pub async fn make_state_machine(&self, definition: &str) {
        let role = identities::role(self, "states.amazonaws.com", None).await;
        let name = self.state_machine.rsplit(':').next().expect("a name");
        let call = aws_sdk_sfn::Client::new(&self.admin()).create_state_machine().name(name).definition(definition);
        let made = call.role_arn(role).send().await.expect("a state machine");
        assert_eq!(made.state_machine_arn, self.state_machine);
    }

    /// Makes a function of Lambda: the real program as its `bootstrap`, under a handler, with these variables, and with the
    /// rights of one of our roles, whose keys Lambda gives it. Answers its ARN.
    pub async fn make_function(&self, handler: &str, role: Role, variables: &[(String, String)]) -> String {
        let role = identities::role(self, "lambda.amazonaws.com", Some(role)).await;
        let variables: BTreeMap<&str, &str> = variables.iter().map(|(name, value)| (&**name, &**value)).collect();
        let function = serde_json::json!({
            "FunctionName": format!("{handler}-{}", self.unique), "Runtime": "provided.al2023", "Handler": handler, "Role": role,
            "Timeout": 60, "MemorySize": 2048, "Code": { "ZipFile": parts::bootstrap() }, "Environment": { "Variables": variables },
        });
        let target = "POST /2015-03-31/functions";
        let (status, answer) = signed::json(&self.emulator.url, &emulator::root(), "lambda", target, &function).await;
        assert_eq!(status, 201, "{answer}");
        let made: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
        made["FunctionArn"].as_str().expect("an ARN").to_owned()
    }

    /// Has Secrets Manager keep a text; answers the secret's ARN. `signing` and `cloudfront` are those that the roles may read.
    pub async fn keep(&self, name: &str, text: &str) -> String {
        let secret = serde_json::json!({ "Name": format!("{name}-{}", self.unique), "SecretString": text });
        let made = call(&self.emulator, "secretsmanager", "secretsmanager.CreateSecret", &secret).await;
        made["ARN"].as_str().expect("an ARN").to_owned()
    }

    /// A key of an instance's role: temporary, with a session token, and with the rights of one of ours.
    pub async fn temporary_key(&self, role: Role) -> Key {
        let role = identities::role(self, "ec2.amazonaws.com", Some(role)).await;
        identities::assume(self, &role).await
    }

    /// Waits for a message in a queue, and takes it out.
    pub async fn received(&self, queue: &str) -> Message {
        eventually("received", async || self.receive(queue).await).await
    }

    /// Takes a message out of a queue, if one is there.
    pub async fn receive(&self, queue: &str) -> Option<Message> {
        let sqs = aws_sdk_sqs::Client::new(&self.admin());
        let asked = sqs.receive_message().queue_url(queue).message_attribute_names("All");
        let message = asked.send().await.expect("a queue").messages.unwrap_or_default().pop()?;
        let receipt = message.receipt_handle().expect("a receipt");
        sqs.delete_message().queue_url(queue).receipt_handle(receipt).send().await.expect("it is deleted");
        Some(message)
    }
}

/// What the AWS clients of the account's root start from.
pub async fn admin(emulator: &Emulator) -> SdkConfig {
    let base = darkroom::aws::sdk_config(REGION).await.into_builder().endpoint_url(&emulator.url).build();
    signed_by(&base, emulator::root())
}

/// A call of a service of the JSON protocol by the account's root, such as `secretsmanager` with the target
/// `secretsmanager.CreateSecret`; answers its JSON, and panics at a refusal.
pub async fn call(emulator: &Emulator, service: &str, target: &str, body: &serde_json::Value) -> serde_json::Value {
    let (status, answer) = signed::json(&emulator.url, &emulator::root(), service, target, body).await;
    assert_eq!(status, 200, "{target}: {answer}");
    serde_json::from_str(&answer).expect("JSON")
}

/// A call of a service of the query protocol by the account's root; answers its XML, or what a refusal says.
pub async fn query(
    emulator: &Emulator,
    service: &str,
    region: &str,
    parameters: &[(&str, &str)],
) -> Result<String, String> {
    signed::try_query(&emulator.url, &emulator::root(), service, region, parameters).await
}

/// Invokes a function, and waits for what it answers; the error that it ended in is one here.
pub async fn lambda(
    emulator: &Emulator,
    function: &str,
    event: &serde_json::Value,
) -> Result<serde_json::Value, String> {
    let target = format!("POST /2015-03-31/functions/{function}/invocations");
    let (status, answer) = signed::json(&emulator.url, &emulator::root(), "lambda", &target, event).await;
    let answer: serde_json::Value = serde_json::from_str(&answer).map_err(|_| answer)?;
    if status == 200 && answer.get("errorType").is_none() { Ok(answer) } else { Err(answer.to_string()) }
}

/// A bucket, to look into.
pub struct Bucket {
    /// With every right.
    pub client: aws_sdk_s3::Client,
    /// Its name.
    pub name: String,
}

impl Bucket {
    /// The keys of all its objects.
    pub async fn keys(&self) -> BTreeSet<String> {
        let mut pages = self.client.list_objects_v2().bucket(&self.name).into_paginator().send();
        let mut keys = BTreeSet::new();
        while let Some(page) = pages.next().await {
            keys.extend(page.expect("a list").contents().iter().filter_map(|it| it.key().map(str::to_owned)));
        }
        keys
    }
}

/// A configuration under another key.
fn signed_by(base: &SdkConfig, key: Credentials) -> SdkConfig {
    base.clone().into_builder().credentials_provider(SharedCredentialsProvider::new(key)).build()
}
