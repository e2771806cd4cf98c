//! An installation in the emulator of AWS: the stacks of `deploy/stacks`, each output handed on to whoever has a parameter of
//! that name, as `deploy/deploy` does it.
//!
//! The emulator does not know every type of resource. Those are left out by [`REFUSED`], and what refers to them gets a
//! name in their place; `deploy::checks` and `deploy::reach` look at them otherwise.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Map, Value, json};

use super::{
    cloud::{Emulator, query},
    eventually, template,
};

/// Types that the emulator refuses.
pub const REFUSED: [&str; 24] = [
    "AWS::ApiGateway::VpcLink",
    "AWS::AutoScaling::WarmPool",
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
    "AWS::Logs::QueryDefinition",
    "AWS::Route53::HealthCheck",
    "AWS::SSM::Document",
    "AWS::SNS::TopicInlinePolicy",
    "AWS::Synthetics::Canary",
    "AWS::WAFv2::IPSet",
    "AWS::WAFv2::LoggingConfiguration",
    "AWS::WAFv2::WebACLAssociation",
    "AWS::XRay::Group",
    "AWS::XRay::SamplingRule",
];

/// An installation.
pub struct Estate {
    /// Where it is.
    pub emulator: Arc<Emulator>,
    values: BTreeMap<String, String>,
}

impl Estate {
    /// Nothing yet, in an emulator of its own; `values` are the parameters that an operator gives.
    pub async fn start(values: &[(&str, &str)]) -> Self {
        let values = values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { emulator: Emulator::start().await, values }
    }

    /// A parameter, or an output of a stack that was deployed.
    #[track_caller]
    pub fn value(&self, name: &str) -> &str {
        self.values.get(name).unwrap_or_else(|| panic!("neither a parameter nor an output: {name}"))
    }

    /// Sets a parameter for what is deployed from now on.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.values.insert(name.to_owned(), value.into());
    }

    /// Makes a stack, or updates it, and takes its outputs.
    pub async fn deploy(&mut self, stack: &str) {
        let template = known(template::read(stack));
        let name = self.stack_name(stack);
        let exists = self.describe(&name).await.is_some();
        let body = template.to_string();
        let mut parameters = vec![
            ("Action".to_owned(), if exists { "UpdateStack" } else { "CreateStack" }.to_owned()),
            ("StackName".to_owned(), name.clone()),
            ("TemplateBody".to_owned(), body),
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
        query(&self.emulator, "cloudformation", &parameters).await;
        let told = self.settled(&name).await;
        let done = if exists { "UPDATE_COMPLETE" } else { "CREATE_COMPLETE" };
        assert_eq!(text(&told, "StackStatus"), done, "{stack}: {}", self.complaints(&name).await);
        for output in each(&told, "OutputKey") {
            self.values.insert(text(&format!("<OutputKey>{output}"), "OutputKey"), text(output, "OutputValue"));
        }
    }

    /// Removes a stack.
    pub async fn delete(&self, stack: &str) {
        let name = self.stack_name(stack);
        query(&self.emulator, "cloudformation", &[("Action", "DeleteStack"), ("StackName", &name)]).await;
        eventually("removed", async || match self.describe(&name).await {
            None => Some(()),
            Some(told) => {
                let status = text(&told, "StackStatus");
                assert!(!status.ends_with("FAILED"), "{stack}: {status}: {}", self.complaints(&name).await);
                (status == "DELETE_COMPLETE").then_some(())
            }
        })
        .await;
    }

    /// The resources of a stack: their type and physical id by their logical one.
    pub async fn resources(&self, stack: &str) -> BTreeMap<String, (String, String)> {
        let name = self.stack_name(stack);
        let asked = [("Action", "DescribeStackResources"), ("StackName", &*name)];
        let answer = query(&self.emulator, "cloudformation", &asked).await;
        let members = answer.split("<member>").skip(1);
        let of = |member: &str| {
            (text(member, "LogicalResourceId"), (text(member, "ResourceType"), text(member, "PhysicalResourceId")))
        };
        members.map(of).collect()
    }

    fn stack_name(&self, stack: &str) -> String {
        format!("{}-{stack}", self.value("Installation"))
    }

    async fn settled(&self, name: &str) -> String {
        eventually("a settled stack", async || {
            let told = self.describe(name).await.expect("a stack");
            (!text(&told, "StackStatus").ends_with("IN_PROGRESS")).then_some(told)
        })
        .await
    }

    /// What is said of a stack, unless there is none.
    async fn describe(&self, name: &str) -> Option<String> {
        let answer = query(&self.emulator, "cloudformation", &[("Action", "DescribeStacks")]).await;
        let told = each(&answer, "StackName").find(|told| told.starts_with(&format!("{name}<")))?;
        (text(told, "StackStatus") != "DELETE_COMPLETE").then(|| told.to_owned())
    }

    async fn complaints(&self, name: &str) -> String {
        let asked = [("Action", "DescribeStackEvents"), ("StackName", name)];
        let answer = query(&self.emulator, "cloudformation", &asked).await;
        let failed = each(&answer, "member").filter(|event| text(event, "ResourceStatus").ends_with("FAILED"));
        let said = failed
            .map(|event| format!("{}: {}", text(event, "LogicalResourceId"), text(event, "ResourceStatusReason")));
        said.collect::<Vec<_>>().join("\n")
    }
}

/// A template without the types that the emulator refuses; their names stand where they were referred to.
pub fn known(mut template: Value) -> Value {
    let resources = template["Resources"].as_object_mut().expect("resources");
    let refused: Vec<String> = resources
        .iter()
        .filter(|(_, resource)| REFUSED.contains(&resource["Type"].as_str().unwrap_or_default()))
        .map(|(name, _)| name.clone())
        .collect();
    resources.retain(|name, _| !refused.contains(name));
    for resource in resources.values_mut() {
        let waits_for = match &resource["DependsOn"] {
            Value::String(one) => vec![one.clone()],
            Value::Array(all) => all.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => continue,
        };
        let left: Vec<String> = waits_for.into_iter().filter(|name| !refused.contains(name)).collect();
        resource["DependsOn"] = json!(left);
    }
    named(&template, &refused)
}

fn named(value: &Value, refused: &[String]) -> Value {
    match value {
        Value::Array(items) => items.iter().map(|item| named(item, refused)).collect(),
        Value::Object(fields) => {
            let target = match (fields.get("Ref"), fields.get("Fn::GetAtt")) {
                (Some(Value::String(name)), _) => Some(name),
                (_, Some(Value::Array(path))) => match &path[0] {
                    Value::String(name) => Some(name),
                    _ => None,
                },
                _ => None,
            };
            match target {
                Some(name) if refused.contains(name) => format!("left-out-{name}").into(),
                _ => {
                    fields.iter().map(|(key, value)| (key.clone(), named(value, refused))).collect::<Map<_, _>>().into()
                }
            }
        }
        Value::String(text) => {
            let text = refused.iter().fold(text.clone(), |text, name| {
                let text = text.replace(&format!("${{{name}}}"), &format!("left-out-{name}"));
                let attribute = format!("${{{name}.");
                let mut parts = text.split(&attribute);
                let mut out = parts.next().unwrap_or_default().to_owned();
                for part in parts {
                    out += &format!("left-out-{name}{}", part.split_once('}').map_or("", |(_, rest)| rest));
                }
                out
            });
            text.into()
        }
        other => other.clone(),
    }
}

/// What follows each opening of an element, up to the next.
fn each<'x>(xml: &'x str, name: &str) -> impl Iterator<Item = &'x str> + use<'x> {
    xml.split(&format!("<{name}>")).skip(1).collect::<Vec<_>>().into_iter()
}

/// The text of the first element of that name; empty when there is none.
fn text(xml: &str, name: &str) -> String {
    let text =
        xml.split_once(&format!("<{name}>")).and_then(|(_, rest)| rest.split_once("</")).map_or("", |(text, _)| text);
    let signs = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&#39;", "'"), ("&amp;", "&")];
    signs.iter().fold(text.to_owned(), |text, (escaped, sign)| text.replace(escaped, sign))
}
