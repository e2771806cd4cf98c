//! What the agent is told in `deploy/cloudwatch` exists: each metric is in the registry, and each unit is a unit. What alarms and
//! dashboard look at is held against it in `deploy::alarms`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use darkroom::telemetry::metrics::{self, Kind};
use serde_json::{Value, json};

/// Under which the agent sends all of it.
pub const NAMESPACE: &str = "Darkroom";

/// The metrics of the service: name, and whether it is a summary.
fn registry() -> BTreeMap<String, bool> {
    metrics::registry().iter().map(|metric| (metric.name.to_owned(), metric.kind == Kind::Summary)).collect()
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

/// What the agent sends: what the service tells, and what it sees of the machine itself.
pub fn sent() -> BTreeSet<Sent> {
    told().union(&seen()).cloned().collect()
}

/// What the agent sends of the machine. All are added up to the one dimension that is named here.
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

/// What the agent sends of the metrics that the service tells.
fn told() -> BTreeSet<Sent> {
    let agent = read("agent.json");
    let emf = &agent["logs"]["metrics_collected"]["prometheus"]["emf_processor"];
    assert_eq!(emf["metric_namespace"], NAMESPACE);
    let mut sent = BTreeSet::new();
    for declaration in emf["metric_declaration"].as_array().unwrap() {
        for dimensions in declaration["dimensions"].as_array().unwrap() {
            for selector in texts(&declaration["metric_selectors"]) {
                let name = selector.strip_prefix('^').and_then(|it| it.strip_suffix('$')).expect("a whole name");
                sent.insert((name.to_owned(), texts(dimensions).into_iter().collect()));
            }
        }
    }
    sent
}

#[test]
fn the_agent_asks_for_no_metric_that_does_not_exist() {
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
fn the_agent_reads_the_journal_of_units_that_exist() {
    let agent = read("agent.json");
    let lists = agent["logs"]["logs_collected"]["journald"]["collect_list"].as_array().unwrap();
    let units: Vec<String> = lists.iter().flat_map(|list| texts(&list["units"])).collect();
    assert!(!units.is_empty());
    for unit in units {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(&unit).exists(), "{unit}");
    }
}
