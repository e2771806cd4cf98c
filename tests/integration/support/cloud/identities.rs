//! Users that hold the documents of `deploy/iam`.

use std::collections::BTreeMap;

use aws_sdk_s3::config::Credentials;
use serde_json::json;

use super::{ACCOUNT, Cloud, Role, emulator::root, signed::query};
use crate::support::iam::{Key, REGION};

/// Each role with its documents.
const ROLES: [(Role, &[(&str, &str)]); 9] = [
    (Role::Instance, &[SERVE, WORK]),
    (Role::Serve, &[SERVE]),
    (Role::Work, &[WORK]),
    (Role::Operator, &[("operator", include_str!("../../../../deploy/iam/operator.json"))]),
    (Role::Migrate, &[("migrate", include_str!("../../../../deploy/iam/migrate.json"))]),
    (Role::LambdaApi, &[("lambda-api", include_str!("../../../../deploy/iam/lambda-api.json"))]),
    (Role::LambdaDevelop, &[("lambda-develop", include_str!("../../../../deploy/iam/lambda-develop.json"))]),
    (Role::LambdaStep, &[("lambda-step", include_str!("../../../../deploy/iam/lambda-step.json"))]),
    (Role::LambdaAnnounce, &[("lambda-announce", include_str!("../../../../deploy/iam/lambda-announce.json"))]),
];
const SERVE: (&str, &str) = ("serve", include_str!("../../../../deploy/iam/serve.json"));
const WORK: (&str, &str) = ("work", include_str!("../../../../deploy/iam/work.json"));

/// Makes a user for each role, with a key.
pub async fn make(cloud: &Cloud) -> BTreeMap<Role, Credentials> {
    let (url, root) = (&cloud.emulator.url, root());
    let mut keys = BTreeMap::new();
    for (role, documents) in ROLES {
        let user = format!("{role:?}-{}", cloud.unique);
        query(url, &root, "iam", &[("Action", "CreateUser"), ("UserName", &user)]).await;
        for (name, document) in documents {
            let document = filled_in(document, cloud);
            let parameters = [
                ("Action", "PutUserPolicy"),
                ("UserName", &user),
                ("PolicyName", *name),
                ("PolicyDocument", &document),
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

/// Makes a role that a service takes on, with the documents of one of ours; without, where the emulator asks for no right of
/// the service's. Answers its ARN.
pub async fn role(cloud: &Cloud, service: &str, ours: Option<Role>) -> String {
    let trust = json!({ "Effect": "Allow", "Principal": { "Service": service }, "Action": "sts:AssumeRole" });
    let trust = json!({ "Version": "2012-10-17", "Statement": [trust] }).to_string();
    let name = format!("{}-{}", service.split('.').next().expect("a word"), cloud.unique);
    let parameters = [("Action", "CreateRole"), ("RoleName", &*name), ("AssumeRolePolicyDocument", &trust)];
    let answer = query(&cloud.emulator.url, &root(), "iam", &parameters).await;
    let documents = ROLES.iter().filter(|(role, _)| Some(*role) == ours).flat_map(|(_, documents)| *documents);
    for (policy, document) in documents {
        let document = filled_in(document, cloud);
        let parameters =
            [("Action", "PutRolePolicy"), ("RoleName", &*name), ("PolicyName", *policy), ("PolicyDocument", &document)];
        query(&cloud.emulator.url, &root(), "iam", &parameters).await;
    }
    element(&answer, "Arn").to_owned()
}

/// Takes a role on; answers its key.
pub async fn assume(cloud: &Cloud, role: &str) -> Key {
    let parameters = [("Action", "AssumeRole"), ("RoleArn", role), ("RoleSessionName", "tests")];
    let answer = query(&cloud.emulator.url, &root(), "sts", &parameters).await;
    let of = |name| element(&answer, name).to_owned();
    Key { id: of("AccessKeyId"), secret: of("SecretAccessKey"), session_token: Some(of("SessionToken")) }
}

/// A document with this test's names in the places of `Fn::Sub`.
fn filled_in(document: &str, cloud: &Cloud) -> String {
    let arn = |service: &str, name: &str| format!("arn:aws:{service}:{REGION}:{ACCOUNT}:{name}");
    let last = |text: &str, separator| text.rsplit(separator).next().expect("a part").to_owned();
    let text = [
        ("AWS::Partition", "aws".to_owned()),
        ("AWS::Region", REGION.to_owned()),
        ("AWS::AccountId", ACCOUNT.to_owned()),
        ("Bucket", cloud.bucket.clone()),
        ("KeyArn", arn("kms", "key/11112222-3333-4444-5555-666677778888")),
        ("QueueArn", cloud.queue_arn.clone()),
        ("DeadLetterQueueArn", arn("sqs", &last(&cloud.dead_letters, '/'))),
        // Both topics of the test: the name that they share.
        ("TopicArn", format!("{}*", cloud.topic)),
        ("TableArn", arn("dynamodb", &format!("table/{}", cloud.table))),
        ("StateMachineName", last(&cloud.state_machine, ':')),
        ("DatabaseResourceId", "db-ABCDEFGHIJKL01234".to_owned()),
        ("DatabaseUser", "darkroom".to_owned()),
        ("MigrationUser", "darkroom_migrate".to_owned()),
        ("FunctionName", "darkroom".to_owned()),
    ]
    .into_iter()
    .fold(document.to_owned(), |text, (name, value)| text.replace(&format!("${{{name}}}"), &value));
    assert!(!text.contains("${"), "a name that deploy/iam/README.md does not have: {text}");
    // To AWS a batch is the same right as a single message; the emulator has a word of its own for each call.
    ["SendMessage", "DeleteMessage", "ChangeMessageVisibility"].into_iter().fold(text, |text, action| {
        text.replace(&format!("\"sqs:{action}\""), &format!("\"sqs:{action}\", \"sqs:{action}Batch\""))
    })
}

/// The text of an element that occurs once.
fn element<'a>(xml: &'a str, name: &str) -> &'a str {
    let after = xml.split_once(&format!("<{name}>")).unwrap_or_else(|| panic!("no {name} in {xml}")).1;
    after.split('<').next().expect("a text")
}
