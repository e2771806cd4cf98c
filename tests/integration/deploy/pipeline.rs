//! The permissions of CI in the template that an administrator deploys: sufficient, and bounded.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::roles::{each, names, statements};
use crate::harness::{template, tools};

/// Actions on `*` although AWS supports resources: the policy, and the reason.
const ABOUT_EVERYTHING: [(&str, &str, &str); 10] = [
    ("Boundary", "ec2:", "Lambda's interfaces don't exist before it makes them"),
    ("Boundary", "logs:", "AWS's own policies of API Gateway and Step Functions are about all groups"),
    ("CloudFormationRole", "cloudwatch:Describe", "it tells what there is"),
    ("CloudFormationRole", "kms:TagResource", "a key that is being made has no ARN; the tag is asked for"),
    ("CloudFormationRole", "lambda:", "a mapping that is being made has no ARN; the function is asked for"),
    ("CloudFormationRole", "logs:Describe", "it tells what there is"),
    ("CloudFormationRole", "rds:Describe", "it tells what there is, snapshots and defaults of AWS's too"),
    (
        "CloudFormationRole",
        "secretsmanager:",
        "one that is being made has a name that nobody knows; the tag is asked for",
    ),
    ("MakeNetwork", "cloudfront:List", "it tells what there is"),
    ("MakeNetwork", "ec2:", "ids are drawn by lot, and what a VPC begins with has no tag"),
];

/// The limits of inline and managed policies in characters without white space.
const INLINE: usize = 10_240;
const MANAGED: usize = 6_144;

fn ci() -> BTreeMap<String, Value> {
    let resources = template::read("ci")["Resources"].as_object().expect("resources").clone();
    resources.into_iter().map(|(name, it)| (name, it["Properties"].clone())).collect()
}

/// The documents of inline policies or of a managed policy.
fn documents(properties: &Value) -> Vec<&Value> {
    let own = properties["Policies"].as_array().into_iter().flatten().map(|policy| &policy["PolicyDocument"]);
    own.chain(properties.get("PolicyDocument")).collect()
}

fn texts(value: &Value) -> Vec<&str> {
    each(value).into_iter().map(|it| it.as_str().expect("a text")).collect()
}

/// Whether a text matches a policy pattern, in which `*` is any text. A `*` in the text matches only `*`.
fn fits(pattern: &str, text: &str) -> bool {
    let Some((begin, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(left) = text.strip_prefix(begin) else { return false };
    (0..=left.len()).filter(|at| left.is_char_boundary(*at)).any(|at| fits(rest, &left[at..]))
}

#[test]
fn wildcard_matches_any_text() {
    assert!(fits("arn:aws:s3:::a-*", "arn:aws:s3:::a-b/c") && fits("*", "*") && fits("a*c*", "abcd") && fits("a", "a"));
    assert!(!fits("arn:aws:s3:::a-*", "*") && !fits("a*c", "abcd") && !fits("a", "ab") && !fits("ab*", "a"));
}

#[test]
fn policies_use_wildcards_only_when_needed() {
    let aws = tools::actions_of_aws();
    // All actions of a pattern such as `logs:Describe*` that support resources.
    let with_resources = |pattern: &str| {
        let (service, name) = pattern.split_once(':').expect("service:Action");
        let known = aws[service]["privileges"].as_object().unwrap_or_else(|| panic!("no service {service}"));
        let meant: Vec<_> = known.iter().filter(|(action, _)| fits(name, action)).collect();
        assert!(!meant.is_empty(), "AWS has no {pattern}");
        let about = |of: &Value| of["resource_types"].as_object().expect("types").keys().any(|kind| !kind.is_empty());
        meant
            .into_iter()
            .filter(|(_, of)| about(of))
            .map(|(action, _)| format!("{service}:{action}"))
            .collect::<Vec<_>>()
    };
    let (mut without_reason, mut used) = (Vec::new(), BTreeSet::new());
    for (name, properties) in ci() {
        for statement in documents(&properties).iter().flat_map(|it| each(&it["Statement"])) {
            let actions = texts(&statement["Action"]);
            if statement["Effect"] == "Deny" || !each(&statement["Resource"]).contains(&&"*".into()) {
                continue;
            }
            for action in actions.iter().flat_map(|pattern| with_resources(pattern)) {
                let reason = ABOUT_EVERYTHING.iter().find(|(of, begin, _)| *of == name && action.starts_with(begin));
                match reason {
                    Some((of, begin, _)) => drop(used.insert((*of, *begin))),
                    None => without_reason.push(format!("{name}: {action}")),
                }
            }
        }
    }
    assert!(without_reason.is_empty(), "{without_reason:#?}");
    let listed: BTreeSet<_> = ABOUT_EVERYTHING.iter().map(|(of, begin, _)| (*of, *begin)).collect();
    assert_eq!(used, listed, "unused exceptions");
}

/// The statements of the boundary: actions and resources.
fn boundary() -> Vec<(Vec<String>, Vec<String>)> {
    let boundary = ci().remove("Boundary").expect("a boundary");
    let owned = |value: &Value| texts(value).into_iter().map(str::to_owned).collect();
    let statements = each(&boundary["PolicyDocument"]["Statement"]).into_iter();
    statements.map(|it| (owned(&it["Action"]), owned(&template::resolve(&it["Resource"], &names())))).collect()
}

#[test]
fn boundary_allows_what_roles_do() {
    let (most, names) = (boundary(), names());
    let mut done = BTreeSet::new();
    for (stack, role, statement) in statements() {
        let resources = template::resolve(&statement["Resource"], &names);
        for action in texts(&statement["Action"]) {
            for resource in texts(&resources) {
                let within = most.iter().any(|(actions, on)| {
                    actions.iter().any(|it| fits(it, action)) && on.iter().any(|it| fits(it, resource))
                });
                assert!(within, "{stack}: {role}: {action} on {resource} is not in the boundary");
            }
            done.insert(action.to_owned());
        }
    }
    // The boundary contains no unused actions.
    let idle: Vec<_> = most
        .iter()
        .flat_map(|(actions, _)| actions)
        .filter(|pattern| !done.iter().any(|action| fits(pattern, action)))
        .collect();
    assert!(idle.is_empty(), "in the boundary but unused: {idle:?}");
}

#[test]
fn boundary_denies_other_installations() {
    let most = boundary();
    let another = |resource: &str| resource.replace("photos-of-a-wedding", "accounts");
    for (_, role, statement) in statements() {
        let resources = template::resolve(&statement["Resource"], &names());
        for (action, resource) in
            texts(&statement["Action"]).iter().flat_map(|it| texts(&resources).into_iter().map(move |on| (*it, on)))
        {
            let theirs = another(resource);
            // Log groups are the exception above.
            if theirs == resource || action.starts_with("logs:") {
                continue;
            }
            let within = most.iter().any(|(actions, on)| {
                actions.iter().any(|it| fits(it, action)) && on.iter().any(|it| fits(it, &theirs))
            });
            assert!(!within, "{role}: {action} on {theirs}");
        }
    }
}

#[test]
fn deployment_cannot_change_boundary() {
    let mut names = names();
    names.insert("HostedZoneId".to_owned(), "Z0123456789ABCDEFGHIJ".to_owned());
    names.insert("Boundary".to_owned(), "arn:aws:iam::123456789012:policy/photos-of-a-wedding-boundary".to_owned());
    let role = ci().remove("CloudFormationRole").expect("a role");
    let denied: Vec<String> = documents(&role)
        .iter()
        .flat_map(|it| each(&it["Statement"]))
        .filter(|it| it["Effect"] == "Deny" && texts(&it["Action"]).contains(&"iam:*"))
        .flat_map(|it| {
            texts(&template::resolve(&it["Resource"], &names)).into_iter().map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    for what in [
        "role/photos-of-a-wedding-cloudformation",
        "role/photos-of-a-wedding-pipeline",
        "policy/photos-of-a-wedding-boundary",
        "policy/another-boundary",
        "policy/photos-of-a-wedding-ci-MakeNetwork-1ABCDEFGHIJKL",
    ] {
        let arn = format!("arn:aws:iam::123456789012:{what}");
        assert!(denied.iter().any(|it| fits(it, &arn)), "{what}: {denied:?}");
    }
}

#[test]
fn ci_policies_fit_iam_limits() {
    let mut names = names();
    names.insert("HostedZoneId".to_owned(), "Z0123456789ABCDEFGHIJ".to_owned());
    let longest = "arn:aws:iam::123456789012:policy/photos-of-a-wedding-boundary";
    for (name, value) in [
        ("Boundary", longest),
        ("CloudFormationRole.Arn", longest),
        ("HasRestApi", "true"),
        ("RestApiId", "a1b2c3d4e5"),
    ] {
        names.insert(name.to_owned(), value.to_owned());
    }
    for (name, properties) in ci() {
        let documents = documents(&properties);
        let length: usize = documents.iter().map(|it| template::resolve(it, &names).to_string().len()).sum();
        let most = if properties.get("PolicyDocument").is_some() { MANAGED } else { INLINE };
        println!("{name}: {length} of {most}");
        assert!(length <= most, "{name}: {length} of {most}");
    }
}
