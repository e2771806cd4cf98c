//! The agent's configuration in `deploy/cloudwatch` names only existing metrics and units. `deploy::alarms` checks
//! alarms and dashboards.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

use darkroom::telemetry::metrics::{self, MetricKind};
use serde_json::{Value, json};

use crate::harness::{process::write_program, template};

/// The namespace of the agent's metrics.
pub const NAMESPACE: &str = "Darkroom";

/// The registered metrics: name, and whether it is a summary.
fn registry() -> BTreeMap<String, bool> {
    metrics::registry().iter().map(|metric| (metric.name.to_owned(), metric.kind == MetricKind::Summary)).collect()
}

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/cloudwatch").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn read(name: &str) -> Value {
    serde_json::from_str(&file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// A metric with the names of its dimensions.
pub type Sent = (String, BTreeSet<String>);

/// All metrics that the agent sends: of the service and of the machine.
pub fn sent() -> BTreeSet<Sent> {
    told().union(&seen()).cloned().collect()
}

/// The machine metrics that the agent sends, aggregated to one dimension.
fn seen() -> BTreeSet<Sent> {
    let agent = read("agent.json");
    assert_eq!(agent["metrics"]["namespace"], NAMESPACE);
    assert_eq!(agent["agent"]["omit_hostname"], true, "a machine's name is no dimension");
    assert_eq!(agent["metrics"]["aggregation_dimensions"], json!([["service"]]));
    let plugins = agent["metrics"]["metrics_collected"].as_object().unwrap().values();
    let names = plugins.flat_map(|plugin| {
        assert_eq!(plugin["append_dimensions"], json!({ "service": "darkroom" }));
        texts(&plugin["measurement"])
    });
    names.map(|name| (name, BTreeSet::from(["service".to_owned()]))).collect()
}

/// The service metrics that the agent sends.
fn told() -> BTreeSet<Sent> {
    let agent = read("agent.json");
    let emf = &agent["logs"]["metrics_collected"]["prometheus"]["emf_processor"];
    assert_eq!(emf["metric_namespace"], NAMESPACE);
    let mut sent = BTreeSet::new();
    for declaration in emf["metric_declaration"].as_array().unwrap() {
        for dimensions in declaration["dimensions"].as_array().unwrap() {
            for selector in texts(&declaration["metric_selectors"]) {
                let name = selector.strip_prefix('^').and_then(|it| it.strip_suffix('$')).expect("a full name");
                sent.insert((name.to_owned(), texts(dimensions).into_iter().collect()));
            }
        }
    }
    sent
}

#[test]
fn agent_sends_only_existing_metrics() {
    let (registry, told) = (registry(), told());
    assert!(registry.len() > 20 && told.len() > 20, "both are read: {registry:?} {told:?}");
    let agent = read("agent.json");
    let units = &agent["logs"]["metrics_collected"]["prometheus"]["emf_processor"]["metric_unit"];
    for (name, dimensions) in &told {
        let summary = registry.get(name).unwrap_or_else(|| panic!("{name} is not in the registry"));
        assert_eq!(dimensions.contains("quantile"), *summary, "{name}: a summary, and no other, has quantiles");
        assert!(dimensions.contains("service"), "{name}: the label that prometheus.yaml adds");
        let unit = if name.ends_with("_seconds") { "Seconds" } else { "Count" };
        assert_eq!(units[name], unit, "{name}");
    }
    assert!(file("prometheus.yaml").contains("service: darkroom"));
}

#[test]
fn agent_reads_existing_units() {
    let agent = read("agent.json");
    let lists = agent["logs"]["logs_collected"]["journald"]["collect_list"].as_array().unwrap();
    let units: Vec<String> = lists.iter().flat_map(|list| texts(&list["units"])).collect();
    assert!(!units.is_empty());
    for unit in units {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(&unit).exists(), "{unit}");
    }
}

/// The agent configuration of an instance if the repository has this version.
fn told_by_an_instance(version: &str) -> Value {
    let service = template::read("service");
    let data =
        &service["Resources"]["Template"]["Properties"]["LaunchTemplateData"]["UserData"]["Fn::Base64"]["Fn::Sub"][0];
    let script = data.as_str().unwrap().split_once("bash -euo pipefail <<'END'").unwrap().1;
    let script = script.split_once('\n').unwrap().1.split_once("\nEND\n").unwrap().0;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let script = script.replace("${Installation}", "party").replace("/opt/aws/amazon-cloudwatch-agent/etc", path);
    let ours = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/cloudwatch");
    let script = script
        .replace("/usr/share/darkroom/cloudwatch/prometheus.yaml", &format!("{ours}/prometheus.yaml"))
        .replace("/usr/share/darkroom/cloudwatch/agent.json", &format!("{ours}/agent.json"));
    // The lower version first.
    let dnf = format!(
        "#!/bin/sh\nwanted=${{3#*>= }}\n[ \"$wanted\" = \"$3\" ] || \
         [ \"$(printf '%s\\n' \"$wanted\" {version} | sort -V | head -1)\" = \"$wanted\" ]\n"
    );
    for (name, text) in [("dnf", &*dnf), ("usermod", "#!/bin/sh\n"), ("amazon-cloudwatch-agent-ctl", "#!/bin/sh\n")] {
        write_program(&folder.path().join(name), text);
    }
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", &script]).env("PATH", format!("{path}:/usr/bin:/bin"));
    let ended = bash.output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let file = std::fs::read_to_string(folder.path().join("darkroom.json")).unwrap();
    serde_json::from_str(&file.replace(path, "")).unwrap_or_else(|error| panic!("{error}: {file}"))
}

#[test]
fn agent_without_journal_sends_metrics() {
    let mut newest = told_by_an_instance("1.300070.0");
    assert_eq!(newest["logs"]["metrics_collected"]["prometheus"]["log_group_name"], "/party/metrics");
    let lists = &newest["logs"]["logs_collected"]["journald"]["collect_list"];
    assert_eq!(lists[0]["log_group_name"], "/party/service");

    newest["logs"].as_object_mut().unwrap().remove("logs_collected");
    assert_eq!(told_by_an_instance("1.300064.1"), newest);
}
