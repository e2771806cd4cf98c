//! The AWS services that the service uses: S3, SQS, SNS, DynamoDB, Step Functions, `EventBridge` and IAM, by an
//! emulator that checks signatures and policies. Each test has its own bucket, queues, topics and table, and users
//! with the policies of the templates in `deploy/stacks`, so that a missing permission fails a test.
//!
//! Not compared with the real AWS. Known differences: the emulator accepts state machines that AWS rejects, has no
//! `StartMessageMoveTask`, and does not check trust policies or the permissions of a state machine's role (it does
//! check those of a function's role).

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

/// A holder of the policies of a role in `deploy/stacks`, or of some of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// `darkroom serve` with a worker.
    Instance,
    /// `darkroom serve` without a worker.
    Serve,
    /// `darkroom worker`.
    Work,
    /// The instance: its start-up and termination scripts, and its agents.
    Itself,
    /// An operator with `darkroom jobs` and `darkroom read-model sync`.
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

/// The AWS resources of one test.
pub struct Cloud {
    pub emulator: Arc<Emulator>,
    pub bucket: String,
    /// The URL of the queue of jobs and uploads: visibility timeout 60 s, 20 receives before the dead-letter queue.
    pub queue: String,
    pub queue_arn: String,
    /// The URL of its dead-letter queue.
    pub dead_letters: String,
    pub fifo_topic: String,
    /// The URL of a FIFO queue that is subscribed to it.
    pub fifo_subscriber: String,
    pub topic: String,
    /// The URL of a queue that is subscribed to it.
    pub subscriber: String,
    pub table: String,
    /// The ARN of the state machine of edits, which the test may create.
    pub state_machine: String,
    /// The unique part of this test's names.
    pub unique: String,
    base: SdkConfig,
    keys: BTreeMap<Role, Credentials>,
}

impl Cloud {
    /// On the shared emulator, with notifications of uploads from S3 to the queue.
    pub async fn start() -> Self {
        Self::start_with(Notifications::Direct).await
    }

    /// On the shared emulator, with another path of upload notifications.
    pub async fn start_with(notifications: Notifications) -> Self {
        Self::on(Emulator::shared().await, notifications).await
    }

    /// On an emulator of its own, which the test may stop or freeze.
    pub async fn alone() -> Self {
        Self::on(Emulator::start().await, Notifications::Direct).await
    }

    async fn on(emulator: Arc<Emulator>, notifications: Notifications) -> Self {
        let unique = Uuid::now_v7().simple().to_string();
        // The service's own timeouts and retries.
        let base = darkroom::aws::sdk_config(REGION).await.into_builder().endpoint_url(&emulator.url).build();
        let mut this = parts::make(emulator, base, unique, notifications).await;
        this.keys = identities::make(&this).await;
        this
    }

    /// The SDK configuration of a role.
    pub fn sdk(&self, role: Role) -> SdkConfig {
        signed_by(&self.base, self.keys[&role].clone())
    }

    /// The SDK configuration of the account's root user.
    pub fn admin(&self) -> SdkConfig {
        signed_by(&self.base, emulator::root())
    }

    /// Credentials, region and endpoint as the environment variables of the AWS SDKs.
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

    /// The settings that enable these services, with the region, as keys and values.
    pub fn settings(&self, parts: &[Part]) -> Vec<(&'static str, String)> {
        let region = ("aws.region", REGION.to_owned());
        [region].into_iter().chain(parts.iter().flat_map(|part| part.settings(self))).collect()
    }

    /// The bucket, with all permissions.
    pub fn objects(&self) -> Bucket {
        Bucket { client: aws_sdk_s3::Client::new(&self.admin()), name: self.bucket.clone() }
    }

    /// Creates the state machine [`Cloud::state_machine`] from a definition in the Amazon States Language.
    pub async fn make_state_machine(&self, definition: &str) {
        let role = identities::role(self, "states.amazonaws.com", None).await;
        let name = self.state_machine.rsplit(':').next().expect("a name");
        let call = aws_sdk_sfn::Client::new(&self.admin()).create_state_machine().name(name).definition(definition);
        let made = call.role_arn(role).send().await.expect("a state machine");
        assert_eq!(made.state_machine_arn, self.state_machine);
    }

    /// Creates a Lambda function: the program as `bootstrap`, a handler, environment variables and the policies of a
    /// role. Returns its ARN.
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

    /// Creates a secret and returns its ARN. The roles may read `signing` and `cloudfront`.
    pub async fn keep(&self, name: &str, text: &str) -> String {
        let secret = serde_json::json!({ "Name": format!("{name}-{}", self.unique), "SecretString": text });
        let made = call(&self.emulator, "secretsmanager", "secretsmanager.CreateSecret", &secret).await;
        made["ARN"].as_str().expect("an ARN").to_owned()
    }

    /// Temporary credentials of an instance role, with the policies of a role.
    pub async fn temporary_key(&self, role: Role) -> Key {
        let role = identities::role(self, "ec2.amazonaws.com", Some(role)).await;
        identities::assume(self, &role).await
    }

    /// Waits for a message and deletes it.
    pub async fn received(&self, queue: &str) -> Message {
        eventually("received", async || self.receive(queue).await).await
    }

    /// Receives and deletes a message, if there is one.
    pub async fn receive(&self, queue: &str) -> Option<Message> {
        let sqs = aws_sdk_sqs::Client::new(&self.admin());
        let asked = sqs.receive_message().queue_url(queue).message_attribute_names("All");
        let message = asked.send().await.expect("a queue").messages.unwrap_or_default().pop()?;
        let receipt = message.receipt_handle().expect("a receipt");
        sqs.delete_message().queue_url(queue).receipt_handle(receipt).send().await.expect("it is deleted");
        Some(message)
    }
}

/// The SDK configuration of the account's root user.
pub async fn admin(emulator: &Emulator) -> SdkConfig {
    let base = darkroom::aws::sdk_config(REGION).await.into_builder().endpoint_url(&emulator.url).build();
    signed_by(&base, emulator::root())
}

/// Calls a service of the JSON protocol as root, such as `secretsmanager` with the target
/// `secretsmanager.CreateSecret`. Returns the JSON; panics at an error.
pub async fn call(emulator: &Emulator, service: &str, target: &str, body: &serde_json::Value) -> serde_json::Value {
    let (status, answer) = signed::json(&emulator.url, &emulator::root(), service, target, body).await;
    assert_eq!(status, 200, "{target}: {answer}");
    serde_json::from_str(&answer).expect("JSON")
}

/// Calls a service of the query protocol as root. Returns the XML of the response or of the error.
pub async fn query(
    emulator: &Emulator,
    service: &str,
    region: &str,
    parameters: &[(&str, &str)],
) -> Result<String, String> {
    signed::try_query(&emulator.url, &emulator::root(), service, region, parameters).await
}

/// Invokes a function and waits for its result or error.
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

/// A bucket.
pub struct Bucket {
    /// With all permissions.
    pub client: aws_sdk_s3::Client,
    pub name: String,
}

impl Bucket {
    pub async fn keys(&self) -> BTreeSet<String> {
        let mut pages = self.client.list_objects_v2().bucket(&self.name).into_paginator().send();
        let mut keys = BTreeSet::new();
        while let Some(page) = pages.next().await {
            keys.extend(page.expect("a list").contents().iter().filter_map(|it| it.key().map(str::to_owned)));
        }
        keys
    }
}

/// The configuration with other credentials.
fn signed_by(base: &SdkConfig, key: Credentials) -> SdkConfig {
    base.clone().into_builder().credentials_provider(SharedCredentialsProvider::new(key)).build()
}
