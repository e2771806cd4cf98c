//! External checkers on the templates and the state machine.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

use crate::harness::{
    template::{self, STACKS},
    tools,
};

/// All templates: the stacks, and the one for CI.
fn templates() -> Vec<&'static str> {
    [&STACKS[..], &["ci"]].concat()
}

fn output(mut command: Command) -> Output {
    command.output().expect("the checker starts")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn cfn_lint(templates: &[PathBuf]) -> Output {
    let mut command = Command::new(tools::program("cfn-lint"));
    command.arg("--template").args(templates);
    output(command)
}

/// The failed checks: id, resource and file.
fn checkov(templates: &[PathBuf]) -> Vec<String> {
    let mut command = Command::new(tools::program("checkov"));
    command.args(["--skip-download", "--framework", "cloudformation", "--quiet", "--output", "json"]);
    // checkov replaces `${Domain}` by the template's path and the name. A path of 40 characters before `.yaml`
    // (`/srv/ci/darkroom/deploy/stacks/functions`) looks like a secret access key. So it gets copies in a folder with
    // an underscore at the end of its name.
    let folder = tempfile::Builder::new().prefix("templates_").suffix("_").tempdir().expect("a folder");
    for template in templates {
        let copy = folder.path().join(template.file_name().expect("a file's name"));
        std::fs::copy(template, &copy).expect("a copy");
        command.arg("--file").arg(copy);
    }
    // Deterministic: one process, a fixed hash seed, and no search for newer versions.
    command.env("CHECKOV_PARALLELIZATION_TYPE", "none").env("PYTHONHASHSEED", "0");
    command.env("CKV_SKIP_PACKAGE_UPDATE_CHECK", "true");
    let output = output(command);
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", said(&output)));
    assert_eq!(report["summary"]["parsing_errors"], 0, "{report}");
    let failed = report["results"]["failed_checks"].as_array().expect("checks that failed");
    let text = |check: &Value, field: &str| check[field].as_str().unwrap_or_default().to_owned();
    failed
        .iter()
        .map(|check| ["check_id", "resource", "file_path", "check_name"].map(|field| text(check, field)).join(" "))
        .collect()
}

fn asl_validator(definition: &Value) -> Output {
    let mut command = Command::new(tools::program("asl-validator"));
    command.args(["--json-definition", &definition.to_string()]);
    output(command)
}

/// A copy of a template with one part replaced.
fn mutated(folder: &Path, stack: &str, from: &str, to: &str) -> PathBuf {
    let text = std::fs::read_to_string(template::path(stack)).expect("a template");
    assert!(text.contains(from), "{stack} has no {from}");
    let path = folder.join(format!("{stack}.yaml"));
    std::fs::write(&path, text.replacen(from, to, 1)).expect("a file");
    path
}

/// The definition of the state machine with function names.
fn state_machine() -> Value {
    let messaging = template::read("messaging");
    let resources = messaging["Resources"].as_object().expect("resources");
    let machine =
        resources.values().find(|one| one["Type"] == "AWS::StepFunctions::StateMachine").expect("a state machine");
    let properties = &machine["Properties"];
    let mut definition = properties["Definition"].to_string();
    if let Some(names) = properties["DefinitionSubstitutions"].as_object() {
        for name in names.keys() {
            let arn = "arn:aws:lambda:eu-west-1:123456789012:function:darkroom-step";
            definition = definition.replace(&format!("${{{name}}}"), arn);
        }
    }
    assert!(!definition.contains("${"), "unresolved: {definition}");
    serde_json::from_str(&definition).expect("JSON")
}

#[test]
fn templates_pass_cfn_lint() {
    let paths: Vec<_> = templates().into_iter().map(template::path).collect();
    let clean = cfn_lint(&paths);
    assert!(clean.status.success(), "{}", said(&clean));

    let folder = tempfile::tempdir().expect("a folder");
    let broken = mutated(folder.path(), "network", "Type: AWS::EC2::VPC\n", "Type: AWS::EC2::Vpc\n");
    let found = cfn_lint(&[broken]);
    assert!(!found.status.success() && said(&found).contains("E3006"), "{}", said(&found));
}

#[test]
fn templates_pass_checkov() {
    let paths: Vec<_> = templates().into_iter().map(template::path).collect();
    let found = checkov(&paths);
    assert!(found.is_empty(), "{found:#?}");

    let folder = tempfile::tempdir().expect("a folder");
    let broken = mutated(folder.path(), "data", "BlockPublicAcls: true", "BlockPublicAcls: false");
    let found = checkov(&[broken]);
    assert!(found.iter().any(|check| check.starts_with("CKV_AWS_53 ")), "{found:?}");
}

#[test]
fn exceptions_state_reasons() {
    for stack in templates() {
        let template = template::read(stack);
        for (name, resource) in template["Resources"].as_object().expect("resources") {
            for skip in resource["Metadata"]["checkov"]["skip"].as_array().into_iter().flatten() {
                let id = skip["id"].as_str().unwrap_or_default();
                assert!(id.starts_with("CKV"), "{stack}: {name}: {skip}");
                let why = skip["comment"].as_str().unwrap_or_default();
                assert!(why.split_whitespace().count() >= 5, "{stack}: {name}: {id} is no reason: {why:?}");
            }
        }
    }
}

#[test]
fn state_machine_definition_is_valid() {
    let definition = state_machine();
    let sound = asl_validator(&definition);
    assert!(sound.status.success(), "{}", said(&sound));

    let mut broken = definition;
    broken["StartAt"] = "nowhere".into();
    let found = asl_validator(&broken);
    assert!(!found.status.success(), "{}", said(&found));
}
