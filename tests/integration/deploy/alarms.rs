//! Each alarm watches an existing metric with the dimensions under which it is sent, notifies a topic, and has a row
//! in the runbook of `docs/deploy.md`; each graph shows existing metrics. On an emulator alarms are created and fire.
//!
//! The metrics of AWS are those of `tests/fixtures/aws-metrics.json`, each with the AWS page that lists it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde_json::{Map, Value, json};

use crate::{
    aws::cloudwatch::{self, Sent},
    harness::{
        aws::query,
        eventually,
        iam::REGION,
        stacks::{Installation, text},
        template::{self, resolve},
    },
};

const ALARM: &str = "AWS::CloudWatch::Alarm";
const COMPOSITE: &str = "AWS::CloudWatch::CompositeAlarm";
/// The prefix of runbook links in descriptions.
const RUNBOOK: &str = "docs/deploy.md#";

/// Parameters and conditions of a small installation.
const NAMES: [(&str, &str); 27] = [
    ("Installation", "darkroom"),
    ("Domain", "photos.example.com"),
    ("ErrorBudgetPercent", "0.1"),
    ("MinHealthyHosts", "1"),
    ("DatabaseStorageFloor", "5368709120"),
    ("DatabaseMemoryFloor", "134217728"),
    ("DatabaseConnectionsCeiling", "200"),
    ("LogGroup", "/darkroom/service"),
    ("BalancerFullName", "net/darkroom/0123456789abcdef"),
    ("TargetGroupFullName", "targetgroup/darkroom/0123456789abcdef"),
    ("BalancerCertificateArn", "arn:aws:acm:eu-west-1:123456789012:certificate/1"),
    ("AutoScalingGroup", "darkroom"),
    ("ApiConcurrency", "20"),
    ("Stage", "live"),
    ("DatabaseIdentifier", "darkroom"),
    ("Table", "darkroom"),
    ("QueueName", "darkroom"),
    ("DeadLetterQueueName", "darkroom-dead"),
    ("StateMachineArn", "arn:aws:states:eu-west-1:123456789012:stateMachine:darkroom-edits"),
    ("ScheduleGroup", "default"),
    ("FunctionsDeadLetterQueueName", "darkroom-functions-dead"),
    ("HealthCanary", "darkroom"),
    ("AWS::Region", REGION),
    ("AWS::Partition", "aws"),
    ("AWS::AccountId", "123456789012"),
    ("HasCanary", "true"),
    ("HasBalancerCertificate", "true"),
];

/// The names for one kind of database.
fn names(aurora: bool) -> BTreeMap<String, String> {
    let mut names: BTreeMap<String, String> = NAMES.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    names.insert("IsAurora".to_owned(), aurora.to_string());
    names.insert("IsMysql".to_owned(), (!aurora).to_string());
    names
}

/// The resources of a type, by name.
fn resources(template: &Value, kind: &str) -> BTreeMap<String, Value> {
    let all = template["Resources"].as_object().expect("resources").iter();
    all.filter(|(_, it)| it["Type"] == kind).map(|(name, it)| (name.clone(), it.clone())).collect()
}

/// The metrics of an alarm, as (namespace, metric with dimension names).
fn watched(alarm: &Value) -> Vec<(String, Sent)> {
    let metric = |of: &Value| {
        let dimensions = of["Dimensions"].as_array().into_iter().flatten();
        let dimensions = dimensions.map(|it| it["Name"].as_str().expect("a name").to_owned()).collect();
        let text = |key: &str| of[key].as_str().unwrap_or_else(|| panic!("no {key}: {of}")).to_owned();
        (text("Namespace"), (text("MetricName"), dimensions))
    };
    match alarm["Metrics"].as_array() {
        Some(all) => all.iter().map(|it| &it["MetricStat"]["Metric"]).filter(|it| !it.is_null()).map(metric).collect(),
        None => vec![metric(alarm)],
    }
}

/// The metrics that the dashboard shows.
fn shown(template: &Value, names: &BTreeMap<String, String>) -> Vec<(String, Sent)> {
    let board = resolve(&template["Resources"]["Dashboard"]["Properties"]["DashboardBody"], names);
    let board: Value = serde_json::from_str(board.as_str().expect("a text")).expect("the dashboard is JSON");
    let widgets = board["widgets"].as_array().expect("widgets").iter().filter(|it| it["type"] == "metric");
    let rows = widgets.flat_map(|it| it["properties"]["metrics"].as_array().expect("metrics").clone());
    // A row without a name is an expression over other rows.
    rows.filter(|row| row[0].is_string())
        .map(|row| {
            let words: Vec<&str> = row.as_array().expect("a row").iter().filter_map(Value::as_str).collect();
            let dimensions = words[2..].iter().step_by(2).map(|name| (*name).to_owned()).collect();
            (words[0].to_owned(), (words[1].to_owned(), dimensions))
        })
        .collect()
}

/// All existing metrics: of the agent, of log filters, and of AWS.
fn known(template: &Value, names: &BTreeMap<String, String>) -> BTreeSet<(String, Sent)> {
    let ours = cloudwatch::sent().into_iter().map(|sent| (cloudwatch::NAMESPACE.to_owned(), sent));
    let filters = resources(template, "AWS::Logs::MetricFilter").into_values();
    let filtered = filters.flat_map(|filter| {
        let made = resolve(&filter["Properties"]["MetricTransformations"], names);
        let made = made.as_array().expect("transformations").clone();
        made.into_iter().map(|it| {
            let text = |key: &str| it[key].as_str().expect("a name").to_owned();
            (text("MetricNamespace"), (text("MetricName"), BTreeSet::new()))
        })
    });
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/aws-metrics.json");
    let listed: Value = serde_json::from_str(&std::fs::read_to_string(path).expect("the list")).expect("JSON");
    let texts = |of: &Value| -> Vec<String> {
        of.as_array().expect("a list").iter().map(|it| it.as_str().expect("a text").to_owned()).collect()
    };
    let mut aws = Vec::new();
    for entry in listed.as_array().expect("a list") {
        assert!(entry["source"].as_str().expect("its page").starts_with("https://docs.aws.amazon.com/"));
        for dimensions in entry["dimensions"].as_array().expect("a list") {
            for metric in texts(&entry["metrics"]) {
                let namespace = entry["namespace"].as_str().expect("a namespace").to_owned();
                aws.push((namespace, (metric, texts(dimensions).into_iter().collect())));
            }
        }
    }
    ours.chain(filtered).chain(aws).collect()
}

#[test]
fn alarms_and_graphs_use_existing_metrics() {
    let template = template::read("observability");
    for names in [names(false), names(true)] {
        let known = known(&template, &names);
        let alarms = resources(&template, ALARM);
        assert!(alarms.len() > 40, "alarms are read");
        for (name, alarm) in alarms {
            for one in watched(&resolve(&alarm["Properties"], &names)) {
                assert!(known.contains(&one), "{name} watches {one:?}, which nobody sends");
            }
        }
        let shown = shown(&template, &names);
        assert!(shown.len() > 40, "graphs are read");
        for one in shown {
            assert!(known.contains(&one), "the dashboard shows {one:?}, which nobody sends");
        }
    }
}

#[test]
fn alarms_watch_existing_functions() {
    let template = template::read("observability");
    let text = resolve(&json!(resources(&template, ALARM)), &names(false)).to_string();
    for name in ["api", "develop", "step", "announce", "migrate"] {
        assert!(text.contains(&format!(r#""Value":"darkroom-{name}""#)), "{name} has no alarm");
    }
}

#[test]
fn alarms_keep_cloudwatch_limits() {
    let template = template::read("observability");
    for (name, alarm) in resources(&template, ALARM) {
        let alarm = resolve(&alarm["Properties"], &names(false));
        let number = |key: &str| alarm[key].as_u64().unwrap_or_else(|| panic!("{name} has no {key}"));
        let (of, need) = (number("EvaluationPeriods"), number("DatapointsToAlarm"));
        assert!((1..=of).contains(&need), "{name}: {need} of {of}");
        assert!(!alarm["TreatMissingData"].is_null(), "{name} says what silence means");
        let math = alarm["Metrics"].as_array().cloned().unwrap_or_default();
        let periods: BTreeSet<u64> = match math.as_slice() {
            [] => [number("Period")].into(),
            all => all.iter().filter_map(|it| it["MetricStat"]["Period"].as_u64()).collect(),
        };
        assert_eq!(periods.len(), 1, "{name}: one period for all that is reckoned with");
        let period = *periods.first().expect("a period");
        // https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricAlarm.html
        assert_eq!(period % 60, 0, "{name}: a period of {period} s");
        let longest = if period < 3600 { 86_400 } else { 604_800 };
        assert!(period * of <= longest, "{name} looks back {} s", period * of);
        reckoned(&name, &math);
    }
}

/// An expression of at most ten metrics that uses exactly the declared ones.
fn reckoned(name: &str, math: &[Value]) {
    let [expression, metrics @ ..] = math else { return };
    assert!(metrics.len() <= 10, "{name}: more than ten metrics");
    let words = expression["Expression"].as_str().expect("an expression");
    let used: BTreeSet<&str> = words
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|it| it.starts_with(|c: char| c.is_lowercase()))
        .collect();
    let declared: BTreeSet<&str> = metrics.iter().map(|it| it["Id"].as_str().expect("an id")).collect();
    assert_eq!(used, declared, "{name}: {words}");
    assert!(metrics.iter().all(|it| it["ReturnData"] == false), "{name}: one series alone is compared");
}

#[test]
fn each_alarm_notifies_page_or_ticket() {
    let template = template::read("observability");
    let (alarms, composites) = (resources(&template, ALARM), resources(&template, COMPOSITE));
    let mut told: Vec<String> = Vec::new();
    for (name, composite) in &composites {
        let rule = composite["Properties"]["AlarmRule"].to_string();
        let children: Vec<String> =
            rule.split("ALARM(\\\"${").skip(1).map(|it| it.split('}').next().expect("a name").to_owned()).collect();
        assert!(children.len() > 1, "{name} composes");
        for child in &children {
            assert!(alarms.contains_key(child) || composites.contains_key(child), "{name} names {child}");
            let condition = alarms.get(child).and_then(|it| it["Condition"].as_str());
            if let Some(condition) = condition {
                assert!(rule.contains(&format!(
                    r#"{{"Fn::If":["{condition}",{{"Fn::Sub":"ALARM(\"${{{child}}}\")"}},"FALSE"]}}"#
                )));
            }
        }
        told.extend(children);
        let speaks = !composite["Properties"]["AlarmActions"].is_null();
        let suppressed = composite["Properties"]["ActionsSuppressor"] == json!({ "Ref": "Page" });
        assert_eq!(suppressed, speaks && name != "Page", "{name}: tickets are silent while there is a page");
    }
    told.sort();
    let of = |name: &&String| composites.get(*name).is_none_or(|it| it["Properties"]["AlarmActions"].is_null());
    let mut all: Vec<String> = alarms.keys().chain(composites.keys()).filter(of).cloned().collect();
    all.sort();
    assert_eq!(told, all, "each alarm has one place");
    assert!(alarms.values().all(|it| it["Properties"]["AlarmActions"].is_null()), "the alarm itself has no action");
}

/// The alarms in each section of the runbook, by anchor.
fn runbook() -> BTreeMap<String, BTreeSet<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/deploy.md");
    let text = std::fs::read_to_string(path).expect("docs/deploy.md");
    let book = text.split("\n## ").find(|it| it.starts_with("Runbook")).expect("a runbook");
    let sections = book.split("\n### ").skip(1);
    let rows = |section: &str| {
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
        rows.map(|(name, _)| name.to_owned()).collect()
    };
    let anchor = |section: &str| section.lines().next().expect("a heading").to_lowercase().replace(' ', "-");
    sections.map(|section| (anchor(section), rows(section))).collect()
}

#[test]
fn runbook_lists_each_alarm() {
    let mut described: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for stack in ["observability", "edge"] {
        let template = template::read(stack);
        for (name, alarm) in resources(&template, ALARM).into_iter().chain(resources(&template, COMPOSITE)) {
            let description = alarm["Properties"]["AlarmDescription"].as_str().unwrap_or_default();
            let (says, section) = description.split_once(RUNBOOK).unwrap_or_else(|| panic!("{name} names no section"));
            assert!(says.len() > 20 && says.trim_end().ends_with(['.', '?']), "{name} says what it means: {says}");
            let silent = alarm["Properties"]["AlarmActions"].is_null();
            // The edge has no composite alarms: each alarm notifies itself, and has a row.
            let alone = stack == "edge";
            assert!(!(alone && silent), "{name} tells nobody");
            described.entry(section.to_owned()).or_default().extend((alone || silent).then_some(name));
        }
    }
    assert_eq!(runbook(), described);
}

#[tokio::test]
async fn raises_ticket_and_page() {
    let template = template::read("observability");
    let composites = resources(&template, COMPOSITE);
    let mut installation = Installation::start(&NAMES).await;
    // Resources of other stacks: log groups, and the bucket of large templates.
    let mut before = log_groups(&template);
    before.insert("Files".to_owned(), json!({ "Type": "AWS::S3::Bucket" }));
    let outputs = json!({ "Artifacts": { "Value": { "Ref": "Files" } } });
    let parameters = template["Parameters"].clone();
    installation.apply("before", json!({ "Parameters": parameters, "Resources": before, "Outputs": outputs })).await;
    installation.deploy("observability").await;
    let made = installation.resources("observability").await;

    // The emulator creates composite alarms, but not from a template.
    let mut names = names(false);
    names.extend(made.iter().map(|(name, (_, id))| (name.clone(), id.clone())));
    for absent in ["HasCanary", "HasBalancerCertificate"] {
        names.insert(absent.to_owned(), "false".to_owned());
    }
    let (pages, tickets) =
        (installation.subscribe_queue(&names["Pages"]).await, installation.subscribe_queue(&names["Tickets"]).await);
    let silent = |it: &(&String, &Value)| it.1["Properties"]["AlarmActions"].is_null();
    let (first, last): (Vec<_>, Vec<_>) = composites.iter().partition(silent);
    for (id, composite) in first.into_iter().chain(last) {
        let mut of = composite["Properties"].clone();
        of.as_object_mut().expect("properties").remove("ActionsSuppressor");
        let of = resolve(&of, &names);
        let name = of["AlarmName"].as_str().unwrap_or(id);
        names.insert(id.clone(), name.to_owned());
        let mut call = vec![("Action", "PutCompositeAlarm"), ("Version", "2010-08-01"), ("AlarmName", name)];
        call.push(("AlarmRule", of["AlarmRule"].as_str().expect("a rule")));
        if let Some(topic) = of["AlarmActions"][0].as_str() {
            call.push(("AlarmActions.member.1", topic));
        }
        query(&installation.emulator, "monitoring", REGION, &call).await.expect("an alarm");
    }

    put(&installation, "darkroom_jobs_dead_lettered", "1").await;
    let ticket = told(&installation, &tickets).await;
    assert_eq!(ticket["AlarmName"], "darkroom-work-ticket");
    assert_eq!(state(&installation, "darkroom-page").await, "OK", "nothing is notified");

    put(&installation, "darkroom_job_queue_oldest_age_seconds", "301").await;
    let page = told(&installation, &pages).await;
    assert_eq!(page["AlarmName"], "darkroom-page");
    assert_eq!(state(&installation, "darkroom-page").await, "ALARM");
}

/// The log groups of metric filters, which other stacks create.
fn log_groups(template: &Value) -> Map<String, Value> {
    let mut groups = Map::new();
    for (name, filter) in resources(template, "AWS::Logs::MetricFilter") {
        let properties = json!({ "LogGroupName": filter["Properties"]["LogGroupName"] });
        let group = json!({ "Type": "AWS::Logs::LogGroup", "Properties": properties });
        if groups.values().all(|known| *known != group) {
            groups.insert(format!("LogOf{name}"), group);
        }
    }
    groups
}

/// The first alarm notification in a queue.
async fn told(installation: &Installation, queue: &str) -> Value {
    let said = eventually("notified", async || installation.receive_all(queue).await.pop()).await;
    assert_eq!(said["NewStateValue"], "ALARM");
    said
}

/// Sends a value of a metric, as the agent does.
async fn put(installation: &Installation, metric: &str, value: &str) {
    let call = [
        ("Action", "PutMetricData"),
        ("Version", "2010-08-01"),
        ("Namespace", cloudwatch::NAMESPACE),
        ("MetricData.member.1.MetricName", metric),
        ("MetricData.member.1.Value", value),
        ("MetricData.member.1.Dimensions.member.1.Name", "service"),
        ("MetricData.member.1.Dimensions.member.1.Value", "darkroom"),
    ];
    query(&installation.emulator, "monitoring", REGION, &call).await.expect("an answer");
}

/// The state of a composite alarm.
async fn state(installation: &Installation, alarm: &str) -> String {
    let call = [
        ("Action", "DescribeAlarms"),
        ("Version", "2010-08-01"),
        ("AlarmNames.member.1", alarm),
        ("AlarmTypes.member.1", "CompositeAlarm"),
    ];
    let answer = query(&installation.emulator, "monitoring", REGION, &call).await.expect("an alarm");
    text(&answer, "StateValue")
}
