//! What `deploy/cloudwatch` names exists: each metric of the agent's configuration, of an alarm or of the dashboard is in
//! the registry, and what alarms and dashboard look at is sent with those very dimensions.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use darkroom::telemetry::metrics::{self, Kind};
use serde_json::Value;

const NAMESPACE: &str = "Darkroom";

/// The metrics of the service: name, and whether it is a summary.
fn registry() -> BTreeMap<String, bool> {
    metrics::registry().iter().map(|metric| (metric.name.to_owned(), metric.kind == Kind::Summary)).collect()
}

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/cloudwatch").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn json(name: &str) -> Value {
    serde_json::from_str(&file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// A metric with the names of its dimensions.
type Sent = (String, BTreeSet<String>);

/// What the agent sends.
fn sent() -> BTreeSet<Sent> {
    let agent = json("agent.json");
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

/// What alarms look at.
fn alarmed() -> Vec<Sent> {
    fn metric(of: &Value) -> Sent {
        assert_eq!(of["Namespace"], NAMESPACE);
        let dimensions = of["Dimensions"].as_array().unwrap().iter();
        (
            of["MetricName"].as_str().unwrap().to_owned(),
            dimensions.map(|it| it["Name"].as_str().unwrap().to_owned()).collect(),
        )
    }
    let alarms = json("alarms.json");
    let resources = alarms["Resources"].as_object().unwrap().values();
    let all = resources.flat_map(|alarm| {
        let alarm = &alarm["Properties"];
        assert!(!alarm["AlarmDescription"].as_str().unwrap().is_empty());
        match alarm["Metrics"].as_array() {
            Some(metrics) => metrics.iter().map(|it| &it["MetricStat"]["Metric"]).filter(|it| !it.is_null()).collect(),
            None => vec![alarm],
        }
    });
    all.map(metric).collect()
}

/// What the dashboard shows.
fn shown() -> Vec<Sent> {
    let dashboard = json("dashboard.json");
    let widgets = dashboard["widgets"].as_array().unwrap().iter();
    let rows = widgets.flat_map(|widget| widget["properties"]["metrics"].as_array().unwrap());
    rows.map(|row| {
        let words: Vec<&str> = row.as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert_eq!(words[0], NAMESPACE);
        (words[1].to_owned(), words[2..].iter().step_by(2).map(|name| (*name).to_owned()).collect())
    })
    .collect()
}

#[test]
fn no_alarm_and_no_graph_names_a_metric_that_does_not_exist() {
    let (registry, sent) = (registry(), sent());
    assert!(registry.len() > 20, "the registry is read: {registry:?}");
    let (alarmed, shown) = (alarmed(), shown());
    assert!(alarmed.len() > 10 && shown.len() > 20);
    for (name, dimensions) in sent.iter().chain(&alarmed).chain(&shown) {
        let summary = registry.get(name).unwrap_or_else(|| panic!("{name} is not in the registry"));
        assert_eq!(dimensions.contains("quantile"), *summary, "{name}: a summary, and no other, has quantiles");
        assert!(dimensions.contains("service"), "{name}: the label that prometheus.yaml adds");
    }
    for one in alarmed.iter().chain(&shown) {
        assert!(sent.contains(one), "{one:?} is not sent by agent.json");
    }
    let agent = json("agent.json");
    let units = &agent["logs"]["metrics_collected"]["prometheus"]["emf_processor"]["metric_unit"];
    for (name, _) in &sent {
        let unit = if name.ends_with("_seconds") { "Seconds" } else { "Count" };
        assert_eq!(units[name], unit, "{name}");
    }
    assert!(file("prometheus.yaml").contains("service: darkroom"));
}

#[test]
fn the_agent_reads_the_journal_of_units_that_exist() {
    let agent = json("agent.json");
    let lists = agent["logs"]["logs_collected"]["journald"]["collect_list"].as_array().unwrap();
    let units: Vec<String> = lists.iter().flat_map(|list| texts(&list["units"])).collect();
    assert!(!units.is_empty());
    for unit in units {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(&unit).exists(), "{unit}");
    }
}
