//! Parameters of the stacks: each has a source, and the same definition in every stack.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::harness::{
    stacks::REFUSED,
    template,
    template_resources::{Resource, resolve_resources},
};

/// Parameters without a default that operators provide or the script looks up.
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
fn each_parameter_has_a_source() {
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
fn parameters_agree_between_stacks() {
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
fn emulator_exclusions_exist() {
    let all = template::STACKS.map(template::read);
    let kinds: BTreeSet<String> = all
        .iter()
        .flat_map(|template| section(template, "Resources").into_values())
        .map(|resource| resource["Type"].as_str().expect("a type").to_owned())
        .collect();
    assert_eq!(REFUSED.iter().find(|kind| !kinds.contains(**kind)), None, "no stack has it");
}

/// Resource types with deletion protection.
const PROTECTED: [&str; 5] = [
    "AWS::Cognito::UserPool",
    "AWS::DynamoDB::Table",
    "AWS::ElasticLoadBalancingV2::LoadBalancer",
    "AWS::RDS::DBCluster",
    "AWS::RDS::DBInstance",
];

/// The resources of a stack with these parameters and placeholders for all others.
fn made_with(stack: &str, given: &[(&str, &str)]) -> Vec<Resource> {
    let mut template = template::read(stack);
    let parameters = section(&template, "Parameters");
    for other in template["Resources"].as_object_mut().expect("resources").values_mut() {
        if !PROTECTED.iter().any(|kind| other["Type"] == *kind) {
            other["Properties"] = json!({});
        }
    }
    let asked = parameters.iter().filter(|(_, parameter)| parameter["Default"].is_null());
    resolve_resources(&template, &[given, &asked.map(|(name, _)| (name.as_str(), "x")).collect::<Vec<_>>()].concat())
}

#[test]
fn failed_creation_can_be_deleted() {
    let protected = |given: &[(&str, &str)]| -> BTreeSet<String> {
        let all = [made_with("data", given), made_with("service", given)].concat();
        let is_protected = |it: &Resource| {
            let of = |name: &str| it.properties[name].clone();
            let key = "deletion_protection.enabled";
            of("DeletionProtection") == true
                || of("DeletionProtection") == "ACTIVE"
                || of("DeletionProtectionEnabled") == true
                || of("LoadBalancerAttributes")
                    .as_array()
                    .into_iter()
                    .flatten()
                    .any(|it| it["Key"] == key && it["Value"] == "true")
        };
        all.into_iter().filter(is_protected).map(|it| it.id).collect()
    };
    let all = |database: &str| [database, "Balancer", "Table", "Users"].map(ToOwned::to_owned).into();
    assert_eq!(protected(&[]), all("Mysql"));
    assert_eq!(protected(&[("Engine", "aurora-mysql")]), all("Aurora"));
    assert!(protected(&[("FirstCreation", "yes")]).is_empty());
    assert!(protected(&[("FirstCreation", "yes"), ("Engine", "aurora-mysql")]).is_empty());
    assert!(protected(&[("DeletionProtection", "no")]).is_empty());

    for stack in template::STACKS {
        for (name, resource) in section(&template::read(stack), "Resources") {
            // The canary writes as soon as it exists.
            let is_left = resource["DeletionPolicy"] == "Retain";
            assert_eq!(is_left, name == "CanaryResults", "{stack}: {name}");
        }
    }
}

#[test]
fn uses_insights_only_where_available() {
    let modes = |engine, class, wanted| {
        let choice = [("Engine", engine), ("DatabaseClass", class), ("DatabaseInsights", wanted)];
        let made = made_with("data", &choice);
        let database = made.iter().find(|it| ["Mysql", "Aurora"].contains(&&*it.id)).expect("a database");
        let names = ["EnablePerformanceInsights", "PerformanceInsightsEnabled"];
        let on = names.iter().find_map(|name| database.properties[name].as_bool()).expect("on or off");
        let days = &database.properties["PerformanceInsightsRetentionPeriod"];
        assert_eq!(on, days.is_number(), "{engine} {class}");
        (on, database.text("DatabaseInsightsMode").expect("a mode"))
    };
    let (off, on) = ((false, "standard".to_owned()), (true, "standard".to_owned()));
    for class in ["db.t3.micro", "db.t4g.micro", "db.t4g.small"] {
        assert_eq!(modes("mysql", class, "advanced"), off, "{class}");
    }
    for class in ["db.t3.medium", "db.t4g.medium", "db.t4g.large"] {
        assert_eq!(modes("aurora-mysql", class, "advanced"), off, "{class}");
        assert_eq!(modes("mysql", class, "standard"), on, "{class}");
    }
    for engine in ["mysql", "aurora-mysql"] {
        assert_eq!(modes(engine, "db.r8g.large", "standard"), on);
        assert_eq!(modes(engine, "db.r8g.large", "none"), off);
        assert_eq!(modes(engine, "db.r8g.large", "advanced"), (true, "advanced".to_owned()));
    }
}
