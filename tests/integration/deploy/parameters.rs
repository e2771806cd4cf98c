//! What stacks ask for and hand on: each parameter is somebody's to give, and the same wherever it stands.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::support::{estate::REFUSED, template};

/// What operators give, or the script looks up for them, where there is no default.
const GIVEN: [&str; 10] = [
    "ApiKey",
    "BucketRegion",
    "CloudFrontPrivateKey",
    "Domain",
    "DynamoDbPrefixList",
    "HostedZoneId",
    "Jwks",
    "PackageSha256",
    "Release",
    "S3PrefixList",
];

fn section(template: &Value, name: &str) -> Map<String, Value> {
    template[name].as_object().cloned().unwrap_or_default()
}

#[test]
fn what_a_stack_asks_for_was_handed_on_or_is_given() {
    let (mut outputs, mut asked) = (BTreeSet::new(), BTreeSet::new());
    for stack in template::STACKS {
        let template = template::read(stack);
        for (name, parameter) in section(&template, "Parameters") {
            assert!(!parameter["Description"].is_null(), "{stack}: {name} is not described");
            if parameter["Default"].is_null() && !outputs.contains(&name) {
                asked.insert(name);
            }
        }
        for (name, output) in section(&template, "Outputs") {
            let export = output["Export"]["Name"]["Fn::Sub"].as_str();
            assert_eq!(
                export,
                Some(&*format!("${{Installation}}-{name}")),
                "{stack}: {name} is exported under its name"
            );
            assert!(outputs.insert(name.clone()), "{name} is an output of two stacks");
        }
    }
    assert_eq!(asked.iter().map(String::as_str).collect::<Vec<_>>(), GIVEN);
}

#[test]
fn a_parameter_is_the_same_wherever_it_stands() {
    let (mut outputs, mut first) = (BTreeSet::new(), BTreeMap::<String, (&str, Value)>::new());
    for stack in template::STACKS {
        let template = template::read(stack);
        for (name, mut parameter) in section(&template, "Parameters") {
            parameter.as_object_mut().expect("a parameter").remove("Description");
            match first.get(&name) {
                Some((other, known)) if !outputs.contains(&name) => {
                    assert_eq!(parameter, *known, "{name} in {stack} and in {other}");
                }
                Some(_) => {}
                None => drop(first.insert(name, (stack, parameter))),
            }
        }
        outputs.extend(section(&template, "Outputs").into_iter().map(|(name, _)| name));
    }
}

#[test]
fn what_is_left_out_for_the_emulator_is_there() {
    let all = template::STACKS.map(template::read);
    let kinds: BTreeSet<String> = all
        .iter()
        .flat_map(|template| section(template, "Resources").into_values())
        .map(|resource| resource["Type"].as_str().expect("a type").to_owned())
        .collect();
    assert_eq!(REFUSED.iter().find(|kind| !kinds.contains(**kind)), None, "no stack has it");
}
