//! IAM users with the policies of the templates in `deploy/stacks`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use aws_sdk_s3::config::Credentials;
use serde_json::{Value, json};

use super::{ACCOUNT, Cloud, Role, emulator::root, signed::query};
use crate::harness::{
    iam::{Key, REGION},
    template,
};

static POLICIES: LazyLock<BTreeMap<Role, Vec<Value>>> =
    LazyLock::new(|| Role::ALL.into_iter().map(|role| (role, role.read())).collect());

impl Role {
    pub const ALL: [Self; 10] = [
        Self::Instance,
        Self::Serve,
        Self::Work,
        Self::Operator,
        Self::Migrate,
        Self::LambdaApi,
        Self::LambdaDevelop,
        Self::LambdaStep,
        Self::LambdaAnnounce,
        Self::Itself,
    ];

    /// The stack and the roles or managed policies in it.
    const fn place(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Instance => ("service", &["ServePolicy", "WorkPolicy"]),
            Self::Serve => ("service", &["ServePolicy"]),
            Self::Work => ("service", &["WorkPolicy"]),
            Self::Itself => ("service", &["BootPolicy", "WatchPolicy"]),
            Self::Operator => ("service", &["OperatorRole"]),
            Self::Migrate => ("functions", &["MigrateRole"]),
            Self::LambdaApi => ("functions", &["ApiRole"]),
            Self::LambdaDevelop => ("functions", &["DevelopRole"]),
            Self::LambdaStep => ("functions", &["StepRole"]),
            Self::LambdaAnnounce => ("functions", &["AnnounceRole"]),
        }
    }

    /// The policies of the templates, with unresolved names.
    pub fn policies(self) -> &'static [Value] {
        &POLICIES[&self]
    }

    /// The allowed actions, such as `s3:GetObject`.
    pub fn actions(self) -> BTreeSet<String> {
        let statements = self.policies().iter().flat_map(|policy| policy["Statement"].as_array().expect("a list"));
        let actions = statements.flat_map(|statement| statement["Action"].as_array().expect("a list"));
        actions.map(|action| action.as_str().expect("a word").to_owned()).collect()
    }

    fn read(self) -> Vec<Value> {
        let (stack, resources) = self.place();
        let template = template::read(stack);
        let of = |resource: &&str| match &template["Resources"][*resource]["Properties"] {
            Value::Object(role) if role.contains_key("Policies") => {
                let policies = role["Policies"].as_array().expect("a list");
                policies.iter().map(|policy| policy["PolicyDocument"].clone()).collect()
            }
            managed => vec![managed["PolicyDocument"].clone()],
        };
        resources.iter().flat_map(of).collect()
    }
}

/// Creates a user with a key for each role.
pub async fn make(cloud: &Cloud) -> BTreeMap<Role, Credentials> {
    let (url, root) = (&cloud.emulator.url, root());
    let mut keys = BTreeMap::new();
    for role in Role::ALL {
        let user = format!("{role:?}-{}", cloud.unique);
        query(url, &root, "iam", &[("Action", "CreateUser"), ("UserName", &user)]).await;
        for (name, document) in documents(role, cloud) {
            let parameters = [
                ("Action", "PutUserPolicy"),
                ("UserName", &*user),
                ("PolicyName", &*name),
                ("PolicyDocument", &*document),
            ];
            query(url, &root, "iam", &parameters).await;
        }
        let answer = query(url, &root, "iam", &[("Action", "CreateAccessKey"), ("UserName", &user)]).await;
        let key =
            Credentials::new(element(&answer, "AccessKeyId"), element(&answer, "SecretAccessKey"), None, None, "tests");
        keys.insert(role, key);
    }
    keys
}

/// Creates a role that a service can assume, with the policies of `ours` if given. Returns its ARN.
pub async fn role(cloud: &Cloud, service: &str, ours: Option<Role>) -> String {
    let trust = json!({ "Effect": "Allow", "Principal": { "Service": service }, "Action": "sts:AssumeRole" });
    let trust = json!({ "Version": "2012-10-17", "Statement": [trust] }).to_string();
    let name = format!("{}-{}", service.split('.').next().expect("a word"), cloud.unique);
    let parameters = [("Action", "CreateRole"), ("RoleName", &*name), ("AssumeRolePolicyDocument", &trust)];
    let answer = query(&cloud.emulator.url, &root(), "iam", &parameters).await;
    for (policy, document) in ours.into_iter().flat_map(|role| documents(role, cloud)) {
        let parameters = [
            ("Action", "PutRolePolicy"),
            ("RoleName", &*name),
            ("PolicyName", &*policy),
            ("PolicyDocument", &*document),
        ];
        query(&cloud.emulator.url, &root(), "iam", &parameters).await;
    }
    element(&answer, "Arn").to_owned()
}

/// Assumes a role; returns its credentials.
pub async fn assume(cloud: &Cloud, role: &str) -> Key {
    let parameters = [("Action", "AssumeRole"), ("RoleArn", role), ("RoleSessionName", "tests")];
    let answer = query(&cloud.emulator.url, &root(), "sts", &parameters).await;
    let of = |name| element(&answer, name).to_owned();
    Key { id: of("AccessKeyId"), secret: of("SecretAccessKey"), session_token: Some(of("SessionToken")) }
}

/// The named policies of a role with this test's resource names.
fn documents(role: Role, cloud: &Cloud) -> Vec<(String, String)> {
    let filled_in = |policy: &Value| template::with_batches(&template::resolve(policy, &names(cloud))).to_string();
    role.policies().iter().enumerate().map(|(nth, policy)| (format!("policy-{nth}"), filled_in(policy))).collect()
}

/// The values of parameters and resources of the templates in this test.
fn names(cloud: &Cloud) -> BTreeMap<String, String> {
    let arn = |service: &str, name: &str| format!("arn:aws:{service}:{REGION}:{ACCOUNT}:{name}");
    let last = |text: &str, separator| text.rsplit(separator).next().expect("a part").to_owned();
    let log = |name: &str| arn("logs", &format!("log-group:{name}:*"));
    // Secrets Manager appends a random suffix to names.
    let secret = |name: &str| arn("secretsmanager", &format!("secret:{name}-{}-*", cloud.unique));
    [
        ("AWS::Partition", "aws".to_owned()),
        ("AWS::Region", REGION.to_owned()),
        ("AWS::AccountId", ACCOUNT.to_owned()),
        ("Installation", "darkroom".to_owned()),
        ("Bucket", cloud.bucket.clone()),
        ("Artifacts", "releases".to_owned()),
        ("Release", "0.1.0".to_owned()),
        ("KeyArn", arn("kms", "key/11112222-3333-4444-5555-666677778888")),
        ("QueueArn", cloud.queue_arn.clone()),
        ("DeadLetterQueueArn", arn("sqs", &last(&cloud.dead_letters, '/'))),
        ("FailedInvocations.Arn", arn("sqs", "darkroom-functions-dead")),
        // The common prefix of both topics.
        ("TopicArn", format!("{}*", cloud.topic)),
        ("TableArn", arn("dynamodb", &format!("table/{}", cloud.table))),
        ("StateMachineArn", cloud.state_machine.clone()),
        ("StateMachineName", last(&cloud.state_machine, ':')),
        ("DatabaseResourceId", "db-ABCDEFGHIJKL01234".to_owned()),
        ("MasterSecretArn", arn("secretsmanager", "secret:master")),
        ("CloudFrontKeySecretArn", secret("cloudfront")),
        ("SigningKeysSecretArn", secret("signing")),
        ("SigningKeys.Id", secret("signing")),
        ("ServiceLog.Arn", log("/darkroom/service")),
        ("MetricsLog.Arn", log("/darkroom/metrics")),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// The text of an element.
fn element<'a>(xml: &'a str, name: &str) -> &'a str {
    let after = xml.split_once(&format!("<{name}>")).unwrap_or_else(|| panic!("no {name} in {xml}")).1;
    after.split('<').next().expect("a text")
}
