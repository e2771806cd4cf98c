//! The resources that `CloudFormation` creates from a template and parameters: conditions evaluated, functions
//! resolved.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{iam::REGION, template};

/// A created resource. References in its properties are logical ids.
#[derive(Clone, Debug)]
pub struct Resource {
    pub id: String,
    pub kind: String,
    pub properties: Value,
}

impl Resource {
    /// A property as text.
    pub fn text(&self, property: &str) -> Option<String> {
        match self.properties.get(property)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            other => panic!("{}.{property} is {other}", self.id),
        }
    }
}

/// All resources whose conditions are true. Missing parameters have their defaults.
pub fn resolve_resources(template: &Value, given: &[(&str, &str)]) -> Vec<Resource> {
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    for (name, parameter) in template["Parameters"].as_object().expect("parameters") {
        let given = given.iter().find(|(given, _)| given == name).map(|(_, value)| (*value).to_owned());
        let default = || match parameter.get("Default") {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => panic!("{name} has no default and is not given"),
        };
        names.insert(name.clone(), given.unwrap_or_else(default));
    }
    let resources = template["Resources"].as_object().expect("resources");
    names.extend(resources.keys().map(|id| (id.clone(), id.clone())));
    let pseudo =
        [("Region", REGION), ("AccountId", "123456789012"), ("Partition", "aws"), ("URLSuffix", "amazonaws.com")];
    names.extend(pseudo.map(|(name, value)| (format!("AWS::{name}"), value.to_owned())));
    let scope = Scope { template, names };
    let is_made = |resource: &Value| resource["Condition"].as_str().is_none_or(|name| scope.holds(name));
    let made = resources.iter().filter(|(_, resource)| is_made(resource));
    made.map(|(id, resource)| Resource {
        id: id.clone(),
        kind: resource["Type"].as_str().expect("a type").to_owned(),
        properties: scope.value(&resource["Properties"]).unwrap_or_default(),
    })
    .collect()
}

struct Scope<'a> {
    template: &'a Value,
    names: BTreeMap<String, String>,
}

impl Scope<'_> {
    fn holds(&self, name: &str) -> bool {
        self.is_true(self.template["Conditions"].get(name).unwrap_or_else(|| panic!("no condition {name}")))
    }

    fn is_true(&self, expression: &Value) -> bool {
        let (function, of) = call(expression).unwrap_or_else(|| panic!("no condition: {expression}"));
        let all = |of: &Value| of.as_array().expect("a list").clone();
        match function {
            "Condition" => self.holds(of.as_str().expect("a name")),
            "Fn::Equals" => self.value(&of[0]) == self.value(&of[1]),
            "Fn::Not" => !self.is_true(&of[0]),
            "Fn::And" => all(of).iter().all(|each| self.is_true(each)),
            "Fn::Or" => all(of).iter().any(|each| self.is_true(each)),
            other => panic!("{other} in a condition"),
        }
    }

    /// `None` for `AWS::NoValue`.
    fn value(&self, value: &Value) -> Option<Value> {
        match value {
            Value::Array(items) => Some(items.iter().filter_map(|item| self.value(item)).collect()),
            Value::Object(fields) => call(value).map_or_else(
                || {
                    let fields = fields.iter().filter_map(|(key, value)| Some((key.clone(), self.value(value)?)));
                    Some(fields.collect::<Map<_, _>>().into())
                },
                |(function, of)| self.call(function, of),
            ),
            plain => Some(plain.clone()),
        }
    }

    fn call(&self, function: &str, of: &Value) -> Option<Value> {
        let text = |value: &Value| self.value(value)?.as_str().map(ToOwned::to_owned);
        let list = |value: &Value| self.value(value)?.as_array().cloned();
        Some(match function {
            "Ref" if of == "AWS::NoValue" => return None,
            "Ref" | "Fn::Sub" => template::resolve(&json!({ function: of }), &self.names),
            "Fn::GetAtt" => of[0].clone(),
            "Fn::If" => return self.value(&of[if self.holds(of[0].as_str().expect("a name")) { 1 } else { 2 }]),
            "Fn::GetAZs" => ["a", "b", "c"].map(|zone| format!("{REGION}{zone}")).to_vec().into(),
            "Fn::Select" => {
                let at = of[0].as_u64().and_then(|at| usize::try_from(at).ok()).expect("a number");
                list(&of[1])?.get(at).unwrap_or_else(|| panic!("no {at} in {of}")).clone()
            }
            "Fn::Split" => text(&of[1])?.split(of[0].as_str()?).collect(),
            "Fn::Join" => {
                let parts = list(&of[1])?;
                parts.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(of[0].as_str()?).into()
            }
            "Fn::Cidr" => subnets(&text(&of[0])?, of[1].as_u64()?, of[2].as_u64()?).into(),
            other => panic!("{other} is not known here"),
        })
    }
}

/// The name and arguments of an intrinsic function.
fn call(value: &Value) -> Option<(&str, &Value)> {
    let fields = value.as_object().filter(|fields| fields.len() == 1)?;
    let (name, of) = fields.iter().next()?;
    (name == "Ref" || name == "Condition" && of.is_string() || name.starts_with("Fn::")).then_some((name, of))
}

/// The first `count` subnets with `host_bits` host bits, like `Fn::Cidr`.
fn subnets(cidr: &str, count: u64, host_bits: u64) -> Vec<String> {
    let (base, _) = cidr.split_once('/').expect("a network");
    let base = u32::from(base.parse::<std::net::Ipv4Addr>().expect("an address"));
    let nth = |n: u64| u32::try_from(n << host_bits).expect("within 32 bits");
    (0..count).map(|n| format!("{}/{}", std::net::Ipv4Addr::from(base + nth(n)), 32 - host_bits)).collect()
}
