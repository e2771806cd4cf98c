//! The templates of `deploy/stacks` with `CloudFormation`'s short tags in long form.

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::{Map, Value, json};
use yaml_serde::value::TaggedValue;

/// All stacks in the order of their deployment.
pub const STACKS: [&str; 8] =
    ["network", "data", "messaging", "functions", "service", "gateway", "edge", "observability"];

pub fn path(stack: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("deploy/stacks/{stack}.yaml"))
}

/// A template as JSON: `!Sub x` is `{"Fn::Sub": "x"}`, `!GetAtt A.B` is `{"Fn::GetAtt": ["A", "B"]}`.
pub fn read(stack: &str) -> Value {
    let path = path(stack);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let yaml = yaml_serde::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    long(yaml)
}

/// Evaluates `Ref`, `Fn::GetAtt`, `Fn::Sub`, `Fn::Join` and `Fn::If`. A condition is a name with the value `true` or
/// `false`. Panics at an unknown name.
pub fn resolve(value: &Value, names: &BTreeMap<String, String>) -> Value {
    let value_of = |name: &str| names.get(name).cloned().unwrap_or_else(|| panic!("no value for {name}"));
    match value {
        Value::Array(items) => items.iter().map(|item| resolve(item, names)).collect(),
        Value::Object(fields) => match fields.iter().next() {
            Some((function, of)) if fields.len() == 1 => match (function.as_str(), of) {
                ("Ref", Value::String(name)) => value_of(name).into(),
                ("Fn::GetAtt", Value::Array(parts)) => {
                    value_of(&parts.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(".")).into()
                }
                ("Fn::Sub", Value::String(text)) => substituted(text, names).into(),
                ("Fn::Sub", Value::Array(parts)) => {
                    let mut names = names.clone();
                    for (name, value) in parts[1].as_object().expect("the names of Fn::Sub") {
                        let value = resolve(value, &names);
                        names.insert(name.clone(), value.as_str().expect("a text").to_owned());
                    }
                    substituted(parts[0].as_str().expect("a text"), &names).into()
                }
                ("Fn::Join", Value::Array(parts)) => {
                    let items = resolve(&parts[1], names);
                    let items: Vec<&str> =
                        items.as_array().expect("a list").iter().map(|item| item.as_str().expect("a text")).collect();
                    items.join(parts[0].as_str().expect("a text")).into()
                }
                ("Fn::If", Value::Array(parts)) => {
                    let holds = value_of(parts[0].as_str().expect("a condition")) == "true";
                    resolve(&parts[if holds { 1 } else { 2 }], names)
                }
                _ => json!({ function: resolve(of, names) }),
            },
            _ => fields.iter().map(|(key, value)| (key.clone(), resolve(value, names))).collect::<Map<_, _>>().into(),
        },
        other => other.clone(),
    }
}

/// The emulator evaluates no expressions: an alarm on an expression becomes one on its first metric.
pub fn plain_alarms(template: &mut Value) {
    for alarm in template["Resources"].as_object_mut().expect("resources").values_mut() {
        let Some(first) = alarm["Properties"]["Metrics"].get(1).map(|it| it["MetricStat"].clone()) else { continue };
        let properties = alarm["Properties"].as_object_mut().expect("properties");
        properties.remove("Metrics");
        properties.extend(first["Metric"].as_object().expect("a metric").clone());
        properties.insert("Period".to_owned(), first["Period"].clone());
        properties.insert("Statistic".to_owned(), first["Stat"].clone());
    }
}

/// AWS has one action for single and batch calls; the emulator has one for each.
pub fn with_batches(value: &Value) -> Value {
    match value {
        Value::Array(items) => {
            let batch = |item: &Value| match item.as_str() {
                Some(action @ ("sqs:SendMessage" | "sqs:DeleteMessage" | "sqs:ChangeMessageVisibility")) => {
                    Some(format!("{action}Batch").into())
                }
                _ => None,
            };
            items.iter().map(with_batches).chain(items.iter().filter_map(batch)).collect()
        }
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| (name.clone(), with_batches(value))).collect::<Map<_, _>>().into()
        }
        other => other.clone(),
    }
}

/// Evaluates each `Fn::If` by the true conditions, and removes `AWS::NoValue`.
pub fn decide(value: &Value, holds: &[&str]) -> Value {
    let nothing = |value: &Value| *value == json!({ "Ref": "AWS::NoValue" });
    match value {
        Value::Array(items) => {
            items.iter().map(|item| decide(item, holds)).filter(|item| !nothing(item)).collect::<Vec<_>>().into()
        }
        Value::Object(fields) => {
            if let Some(choice) = fields.get("Fn::If") {
                let condition = choice[0].as_str().expect("a condition");
                return decide(&choice[if holds.contains(&condition) { 1 } else { 2 }], holds);
            }
            let decided = fields.iter().map(|(name, value)| (name.clone(), decide(value, holds)));
            decided.filter(|(_, value)| !nothing(value)).collect::<Map<_, _>>().into()
        }
        other => other.clone(),
    }
}

fn substituted(text: &str, names: &BTreeMap<String, String>) -> String {
    let mut parts = text.split("${");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once('}').unwrap_or_else(|| panic!("an open ${{ in {text}"));
        match name.strip_prefix('!') {
            Some(literal) => out.extend(["${", literal, "}"]),
            None => out += names.get(name).unwrap_or_else(|| panic!("no value for {name} in {text}")),
        }
        out += rest;
    }
    out
}

fn long(yaml: yaml_serde::Value) -> Value {
    use yaml_serde::Value as Yaml;
    match yaml {
        Yaml::Sequence(items) => items.into_iter().map(long).collect(),
        Yaml::Mapping(fields) => {
            let key = |key: Yaml| match key {
                Yaml::String(key) => key,
                other => panic!("a key that is no text: {other:?}"),
            };
            fields.into_iter().map(|(name, value)| (key(name), long(value))).collect::<Map<_, _>>().into()
        }
        Yaml::Tagged(tagged) => {
            let TaggedValue { tag, value } = *tagged;
            let name = tag.to_string();
            let name = name.trim_start_matches('!');
            match (name, long(value)) {
                ("Ref" | "Condition", value) => json!({ name: value }),
                ("GetAtt", Value::String(path)) => {
                    let (resource, attribute) = path.split_once('.').expect("Resource.Attribute");
                    json!({ "Fn::GetAtt": [resource, attribute] })
                }
                (_, value) => json!({ format!("Fn::{name}"): value }),
            }
        }
        plain => serde_json::to_value(plain).expect("JSON"),
    }
}
