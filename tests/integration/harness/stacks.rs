//! An installation in the AWS emulator: the stacks of `deploy/stacks`, with the outputs of each passed to the
//! parameters of the others, as `deploy/deploy` does it.
//!
//! The emulator does not support every resource type. Those of [`REFUSED`] are left out, and references to them get a
//! placeholder; `deploy::checks` and `deploy::reachability` cover them.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use aws_sdk_sqs::types::QueueAttributeName;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::{
    aws::{ACCOUNT, Emulator, admin, call, query},
    eventually,
    iam::{Key, REGION},
    template,
};

/// Resource types that the emulator does not support.
pub const REFUSED: [&str; 19] = [
    "AWS::ApiGateway::VpcLink",
    "AWS::CloudFront::KeyGroup",
    "AWS::CloudFront::PublicKey",
    "AWS::CloudWatch::CompositeAlarm",
    "AWS::EC2::EIP",
    "AWS::EC2::FlowLog",
    "AWS::EC2::NatGateway",
    "AWS::EC2::NetworkAcl",
    "AWS::EC2::NetworkAclEntry",
    "AWS::EC2::SecurityGroupEgress",
    "AWS::EC2::SecurityGroupIngress",
    "AWS::EC2::SubnetNetworkAclAssociation",
    "AWS::Lambda::EventInvokeConfig",
    "AWS::Logs::Delivery",
    "AWS::Logs::DeliveryDestination",
    "AWS::Logs::DeliverySource",
    "AWS::Route53::HealthCheck",
    "AWS::Synthetics::Canary",
    "AWS::WAFv2::LoggingConfiguration",
];

/// Attributes that the emulator does not support.
const UNKNOWN: [(&str, &str); 1] = [("AWS::RDS::DBInstance", "MasterUserSecret.SecretArn")];

/// The limit of a template in the request, in bytes.
const LARGEST: usize = 51_200;

pub struct Installation {
    pub emulator: Arc<Emulator>,
    values: BTreeMap<String, String>,
}

impl Installation {
    /// An empty account in an emulator of its own; `values` are the operator's parameters.
    pub async fn start(values: &[(&str, &str)]) -> Self {
        let values = values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { emulator: Emulator::start().await, values }
    }

    /// A parameter, or an output of a deployed stack.
    #[track_caller]
    pub fn value(&self, name: &str) -> &str {
        self.values.get(name).unwrap_or_else(|| panic!("neither a parameter nor an output: {name}"))
    }

    /// All values with `CloudFormation`'s pseudo parameters; `refused` is the placeholder of unsupported resources.
    pub fn names(&self, refused: &str) -> BTreeMap<String, String> {
        let own = [("AWS::Partition", "aws"), ("AWS::Region", REGION), ("AWS::AccountId", ACCOUNT), (refused, refused)];
        let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
        self.values.clone().into_iter().chain(own).collect()
    }

    /// Sets a parameter for later deployments.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.values.insert(name.to_owned(), value.into());
    }

    /// Creates or updates a stack, and keeps its outputs.
    pub async fn deploy(&mut self, stack: &str) {
        self.apply(stack, template::read(stack)).await;
    }

    /// Creates or updates a stack from another template.
    pub async fn apply(&mut self, stack: &str, template: Value) {
        let mut template = known(template);
        locate(&mut template, &self.values);
        let name = self.stack_name(stack);
        let exists = self.describe(stack).await.is_some();
        let body = template.to_string();
        let mut parameters = vec![
            ("Action".to_owned(), if exists { "UpdateStack" } else { "CreateStack" }.to_owned()),
            ("StackName".to_owned(), name.clone()),
            if body.len() > LARGEST {
                ("TemplateURL".to_owned(), self.put(stack, body).await)
            } else {
                ("TemplateBody".to_owned(), body)
            },
        ];
        for (nth, capability) in ["CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"].iter().enumerate() {
            parameters.push((format!("Capabilities.member.{}", nth + 1), (*capability).to_owned()));
        }
        let wanted = template["Parameters"].as_object().into_iter().flat_map(Map::keys);
        for (nth, (name, value)) in wanted.filter_map(|name| self.values.get_key_value(name)).enumerate() {
            parameters.push((format!("Parameters.member.{}.ParameterKey", nth + 1), name.clone()));
            parameters.push((format!("Parameters.member.{}.ParameterValue", nth + 1), value.clone()));
        }
        let parameters: Vec<(&str, &str)> =
            parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        match self.ask(stack, &parameters).await {
            Err(refusal) if refusal.contains("No updates are to be performed") => return,
            answer => answer.unwrap_or_else(|refusal| panic!("{stack}: {refusal}")),
        };
        let told = self.settled(stack).await;
        let done = if exists { "UPDATE_COMPLETE" } else { "CREATE_COMPLETE" };
        assert_eq!(text(&told, "StackStatus"), done, "{stack}: {}", self.complaints(stack).await);
        for output in each(&told, "OutputKey") {
            let (name, value) = (text(&format!("<OutputKey>{output}"), "OutputKey"), text(output, "OutputValue"));
            let value = self.as_on_aws(&name, value).await;
            self.values.insert(name, value);
        }
    }

    pub async fn delete(&self, stack: &str) {
        let name = self.stack_name(stack);
        self.ask(stack, &[("Action", "DeleteStack"), ("StackName", &name)]).await.expect("a stack");
        eventually("removed", async || match self.describe(stack).await {
            None => Some(()),
            Some(told) => {
                let status = text(&told, "StackStatus");
                assert!(!status.ends_with("FAILED"), "{stack}: {status}: {}", self.complaints(stack).await);
                (status == "DELETE_COMPLETE").then_some(())
            }
        })
        .await;
    }

    /// Type and physical id of the resources of a stack, by logical id.
    pub async fn resources(&self, stack: &str) -> BTreeMap<String, (String, String)> {
        let name = self.stack_name(stack);
        let asked = [("Action", "DescribeStackResources"), ("StackName", &*name)];
        let answer = self.ask(stack, &asked).await.expect("a stack");
        let members = answer.split("<member>").skip(1);
        let of = |member: &str| {
            (text(member, "LogicalResourceId"), (text(member, "ResourceType"), text(member, "PhysicalResourceId")))
        };
        members.map(of).collect()
    }

    /// An output with the values of AWS where the emulator's differ.
    async fn as_on_aws(&self, name: &str, value: String) -> String {
        match name {
            // On AWS `Ref` of a secret is its ARN; the emulator returns its name.
            _ if name.ends_with("SecretArn") && !value.starts_with("arn:") && !value.starts_with("left-out") => {
                let asked = json!({ "SecretId": value });
                let secret = call(&self.emulator, "secretsmanager", "secretsmanager.DescribeSecret", &asked).await;
                secret["ARN"].as_str().expect("an ARN").to_owned()
            }
            // The emulator reports every load balancer as an application load balancer.
            "BalancerArn" | "BalancerFullName" => value.replace("app/", "net/"),
            "TargetGroupFullName" => format!("targetgroup/{}", value.trim_start_matches("targetgroup/")),
            _ => value,
        }
    }

    /// Uploads a large template and returns its URL.
    async fn put(&self, stack: &str, body: String) -> String {
        let (bucket, key) = (self.value("Artifacts"), format!("templates/{stack}.json"));
        let s3 = aws_sdk_s3::Client::new(&admin(&self.emulator).await);
        s3.put_object().bucket(bucket).key(&key).body(body.into_bytes().into()).send().await.expect("an object");
        format!("https://s3.{REGION}.amazonaws.com/{bucket}/{key}")
    }

    /// Calls `CloudFormation` in the region of the stack.
    async fn ask(&self, stack: &str, parameters: &[(&str, &str)]) -> Result<String, String> {
        let region = if stack == "edge" { "us-east-1" } else { REGION };
        query(&self.emulator, "cloudformation", region, parameters).await
    }

    /// Temporary credentials of a role that a stack has created.
    pub async fn key(&self, stack: &str, role: &str) -> Key {
        let (_, name) = self.resources(stack).await.remove(role).unwrap_or_else(|| panic!("no {role} in {stack}"));
        let arn = format!("arn:aws:iam::{ACCOUNT}:role/{name}");
        // The role trusts only its service; the tests assume it instead.
        let trust = json!({ "Effect": "Allow", "Principal": { "AWS": "*" }, "Action": "sts:AssumeRole" });
        let trust = json!({ "Version": "2012-10-17", "Statement": [trust] }).to_string();
        let set = [("Action", "UpdateAssumeRolePolicy"), ("RoleName", &*name), ("PolicyDocument", &*trust)];
        query(&self.emulator, "iam", REGION, &set).await.expect("a role");
        let asked = [("Action", "AssumeRole"), ("RoleArn", &*arn), ("RoleSessionName", "tests")];
        let answer = query(&self.emulator, "sts", REGION, &asked).await.expect("a key");
        let of = |name| text(&answer, name);
        Key { id: of("AccessKeyId"), secret: of("SecretAccessKey"), session_token: Some(of("SessionToken")) }
    }

    pub async fn secret(&self, id: &str) -> String {
        let asked = json!({ "SecretId": id });
        let secret = call(&self.emulator, "secretsmanager", "secretsmanager.GetSecretValue", &asked).await;
        secret["SecretString"].as_str().expect("a text").to_owned()
    }

    /// Subscribes a new queue to a topic; returns its URL.
    pub async fn subscribe_queue(&self, topic: &str) -> String {
        let admin = admin(&self.emulator).await;
        let sqs = aws_sdk_sqs::Client::new(&admin);
        let (place, name) = topic.rsplit_once(':').expect("an ARN");
        let name = format!("subscriber-of-{name}");
        let arn = format!("{}:{name}", place.replace(":sns:", ":sqs:"));
        let statement = json!({
            "Effect": "Allow", "Principal": { "Service": "sns.amazonaws.com" }, "Action": "sqs:SendMessage", "Resource": arn,
        });
        let policy = json!({ "Version": "2012-10-17", "Statement": [statement] }).to_string();
        let mut queue = sqs.create_queue().queue_name(&name).attributes(QueueAttributeName::Policy, policy);
        if Path::new(&name).extension().is_some_and(|kind| kind == "fifo") {
            queue = queue.attributes(QueueAttributeName::FifoQueue, "true");
        }
        let url = queue.send().await.expect("a queue").queue_url.expect("a URL");
        let subscribe = aws_sdk_sns::Client::new(&admin).subscribe().topic_arn(topic).protocol("sqs").endpoint(arn);
        subscribe.attributes("RawMessageDelivery", "true").send().await.expect("a subscription");
        url
    }

    /// Receives and deletes all current messages.
    pub async fn receive_all(&self, queue: &str) -> Vec<Value> {
        let sqs = aws_sdk_sqs::Client::new(&admin(&self.emulator).await);
        let asked = sqs.receive_message().queue_url(queue).max_number_of_messages(10);
        let mut heard = Vec::new();
        for message in asked.send().await.expect("a queue").messages.unwrap_or_default() {
            let receipt = message.receipt_handle().expect("a receipt");
            sqs.delete_message().queue_url(queue).receipt_handle(receipt).send().await.expect("it is deleted");
            heard.push(serde_json::from_str(message.body().expect("a body")).expect("JSON"));
        }
        heard
    }

    /// The configuration file that an instance writes at start-up.
    pub async fn configuration(&self) -> String {
        let (_, id) = self.resources("service").await.remove("Template").expect("a launch template");
        let asked =
            [("Action", "DescribeLaunchTemplateVersions"), ("LaunchTemplateId", &*id), ("Version", "2016-11-15")];
        let answer = query(&self.emulator, "ec2", REGION, &asked).await.expect("a launch template");
        let script = String::from_utf8(STANDARD.decode(text(&answer, "userData")).expect("base64")).expect("UTF-8");
        let after = script.split_once("/etc/darkroom/darkroom.toml <<'END'\n").expect("a configuration").1;
        after.split_once("\nEND\n").expect("its end").0.to_owned()
    }

    fn stack_name(&self, stack: &str) -> String {
        format!("{}-{stack}", self.value("Installation"))
    }

    async fn settled(&self, stack: &str) -> String {
        eventually("a settled stack", async || {
            let told = self.describe(stack).await.expect("a stack");
            (!text(&told, "StackStatus").ends_with("IN_PROGRESS")).then_some(told)
        })
        .await
    }

    /// The description of a stack, if it exists.
    async fn describe(&self, stack: &str) -> Option<String> {
        let name = self.stack_name(stack);
        let answer = self.ask(stack, &[("Action", "DescribeStacks")]).await.expect("stacks");
        let told = each(&answer, "StackName").find(|told| told.starts_with(&format!("{name}<")))?;
        (text(told, "StackStatus") != "DELETE_COMPLETE").then(|| told.to_owned())
    }

    async fn complaints(&self, stack: &str) -> String {
        let name = self.stack_name(stack);
        let answer =
            self.ask(stack, &[("Action", "DescribeStackEvents"), ("StackName", &name)]).await.expect("a stack");
        let failed = each(&answer, "member").filter(|event| text(event, "ResourceStatus").ends_with("FAILED"));
        let said = failed
            .map(|event| format!("{}: {}", text(event, "LogicalResourceId"), text(event, "ResourceStatusReason")));
        said.collect::<Vec<_>>().join("\n")
    }
}

/// A template without unsupported types; their names replace references to them.
pub fn known(mut template: Value) -> Value {
    template::plain_alarms(&mut template);
    let resources = template["Resources"].as_object_mut().expect("resources");
    let refused: Vec<String> = resources
        .iter()
        .filter(|(_, resource)| REFUSED.contains(&resource["Type"].as_str().unwrap_or_default()))
        .map(|(name, _)| name.clone())
        .collect();
    let attributes = resources.iter().flat_map(|(name, resource)| {
        let known = move |(kind, _): &&(&str, &str)| *kind == resource["Type"];
        UNKNOWN.iter().filter(known).map(move |(_, attribute)| format!("{name}.{attribute}"))
    });
    let left_out: Vec<String> = refused.iter().cloned().chain(attributes.collect::<Vec<_>>()).collect();
    resources.retain(|name, _| !refused.contains(name));
    for resource in resources.values_mut() {
        // The emulator has no TLS, which the policies of buckets, queues and topics require.
        if let Some(statements) =
            resource.pointer_mut("/Properties/PolicyDocument/Statement").and_then(Value::as_array_mut)
        {
            statements.retain(|it| it.pointer("/Condition/Bool/aws:SecureTransport").is_none());
        }
        let waits_for = match &resource["DependsOn"] {
            Value::String(one) => vec![one.clone()],
            Value::Array(all) => all.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => continue,
        };
        let left: Vec<String> = waits_for.into_iter().filter(|name| !refused.contains(name)).collect();
        resource["DependsOn"] = json!(left);
    }
    template::with_batches(&named(&template, &left_out))
}

/// `left_out` has resources, and attributes as `Resource.Attribute`.
fn named(value: &Value, left_out: &[String]) -> Value {
    let instead = |name: &str| {
        let resource = name.split('.').next().unwrap_or_default();
        let is_out = left_out.iter().any(|it| it == name || it == resource);
        is_out.then(|| format!("left-out-{resource}"))
    };
    match value {
        Value::Array(items) => items.iter().map(|item| named(item, left_out)).collect(),
        Value::Object(fields) => {
            let target = match (fields.get("Ref"), fields.get("Fn::GetAtt")) {
                (Some(Value::String(name)), _) => Some(name.clone()),
                (_, Some(Value::Array(path))) => {
                    Some(path.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("."))
                }
                _ => None,
            };
            match target.and_then(|name| instead(&name)) {
                Some(other) => other.into(),
                None => fields
                    .iter()
                    .map(|(key, value)| (key.clone(), named(value, left_out)))
                    .collect::<Map<_, _>>()
                    .into(),
            }
        }
        Value::String(text) => {
            let mut parts = text.split("${");
            let mut out = parts.next().unwrap_or_default().to_owned();
            for part in parts {
                let (name, rest) = part.split_once('}').unwrap_or((part, ""));
                match instead(name) {
                    Some(other) => out += &(other + rest),
                    None => out.extend(["${", part]),
                }
            }
            out.into()
        }
        other => other.clone(),
    }
}

/// Resolves the locations of included documents, which the emulator reads before it substitutes parameters.
fn locate(value: &mut Value, values: &BTreeMap<String, String>) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| locate(item, values)),
        Value::Object(fields) => {
            if let Some(include) = fields.get_mut("Fn::Transform") {
                *include = template::resolve(include, values);
            }
            fields.values_mut().for_each(|value| locate(value, values));
        }
        _ => {}
    }
}

/// The text after each opening tag, up to the next one.
fn each<'x>(xml: &'x str, name: &str) -> impl Iterator<Item = &'x str> + use<'x> {
    xml.split(&format!("<{name}>")).skip(1).collect::<Vec<_>>().into_iter()
}

/// The text of the first element of that name, or an empty text.
pub fn text(xml: &str, name: &str) -> String {
    let text =
        xml.split_once(&format!("<{name}>")).and_then(|(_, rest)| rest.split_once("</")).map_or("", |(text, _)| text);
    let signs = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&#39;", "'"), ("&amp;", "&")];
    signs.iter().fold(text.to_owned(), |text, (escaped, sign)| text.replace(escaped, sign))
}
