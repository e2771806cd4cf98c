//! Every metric of the registry is exported with its description after the scenario that changes it; no other is.

use std::collections::{BTreeMap, BTreeSet};

use darkroom::telemetry::metrics::{Metric, MetricKind, registry};
use serde_json::json;
use tokio::{
    io::AsyncReadExt,
    net::{TcpSocket, TcpStream},
};

use crate::{
    aws::rds::{Service, pairs},
    harness::{
        Client, TestServer, Webhook,
        aws::{Cloud, Part},
        eventually,
        fault_proxy::{Fault, FaultProxy},
        fixture,
        iam::Key,
        numbered_photo,
        process::Process,
        rds::{HOST, Rds},
        webhook::Reply,
    },
};

/// A scrape of `/metrics`, checked against the registry.
struct Scrape {
    /// The sum over all series of a metric: the count of a summary, otherwise the value.
    values: BTreeMap<&'static str, f64>,
}

impl Scrape {
    async fn of(process: &Process) -> Self {
        let answer = reqwest::get(format!("{}/metrics", process.operations)).await.unwrap();
        assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
        let text = answer.text().await.unwrap();
        let known: BTreeMap<&str, &'static Metric> = registry().iter().map(|metric| (metric.name, metric)).collect();
        let described = |word: &str| -> BTreeMap<&str, &str> {
            text.lines().filter_map(|line| line.strip_prefix(word)?.split_once(' ')).collect()
        };
        let (helps, types) = (described("# HELP "), described("# TYPE "));
        let mut values = BTreeMap::new();
        for sample in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let (series, value) = sample.rsplit_once(' ').expect("a value");
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let part = ["_sum", "_count"]
                .into_iter()
                .find(|part| name.strip_suffix(part).is_some_and(|family| types.get(family) == Some(&"summary")));
            let family = part.map_or(name, |part| name.strip_suffix(part).unwrap());
            let metric = known.get(family).unwrap_or_else(|| panic!("not in the registry: {sample}"));
            assert_eq!(helps[family], format!("{} [{}]", metric.help, metric.unit.as_str()));
            assert_eq!(types[family], word(metric.kind), "{family}");
            for label in names(labels) {
                let quantile = metric.kind == MetricKind::Summary && label == "quantile";
                assert!(quantile || metric.labels.contains(&label), "{label} of {sample}");
            }
            let id = labels.split(['"', '/']).find(|part| uuid::Uuid::try_parse(part).is_ok());
            assert_eq!(id, None, "an id: {sample}");
            if metric.kind != MetricKind::Summary || part == Some("_count") {
                *values.entry(metric.name).or_default() += value.parse::<f64>().expect("a number");
            }
        }
        Self { values }
    }

    /// Counters and summaries above 0, and all gauges.
    fn moved(&self) -> BTreeSet<&'static str> {
        let level =
            |name: &str| registry().iter().any(|metric| metric.name == name && metric.kind == MetricKind::Gauge);
        self.values.iter().filter(|(name, value)| **value > 0.0 || level(name)).map(|(name, _)| *name).collect()
    }
}

fn word(kind: MetricKind) -> &'static str {
    match kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
        MetricKind::Summary => "summary",
    }
}

/// The names in `a="x",b="y"}`. A route template may contain braces but no quotes.
fn names(labels: &str) -> Vec<&str> {
    labels.split("\",").filter_map(|pair| pair.split_once("=\"")).map(|(name, _)| name).collect()
}

/// Waits until these metrics of a process have changed, and adds them to `all`.
async fn moves(process: &Process, scenario: &str, names: &[&'static str], all: &mut BTreeSet<&'static str>) {
    let begun = tokio::time::Instant::now();
    loop {
        let moved = Scrape::of(process).await.moved();
        let missing: Vec<_> = names.iter().filter(|name| !moved.contains(*name)).collect();
        if missing.is_empty() {
            break;
        }
        assert!(begun.elapsed() < crate::harness::DEADLINE, "{scenario}: not moved: {missing:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    all.extend(names);
}

/// A photo, an invalid file, a retried notification, lost objects and failed writes.
async fn a_day(webhook: &Webhook, all: &mut BTreeSet<&'static str>) {
    let beside = TestServer::start_with("worker.enabled = false").await;
    let variables = webhook.variables();
    let mut more: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    more.extend([
        ("DARKROOM_RECONCILER_INTERVAL", "500ms"),
        ("DARKROOM_RECONCILER_FULL_SCAN_INTERVAL", "500ms"),
        ("DARKROOM_HTTP_PROXY_PROTOCOL", "127.0.0.2/32"),
        ("DARKROOM_LIMITS_HEADER_TIMEOUT", "200ms"),
        ("DARKROOM_LIMITS_INVITE_PER_SECOND", "1"),
        ("DARKROOM_LIMITS_INVITE_BURST", "1"),
    ]);
    let process = Process::start(&beside, "serve", &more).await;
    let host = process.user(&beside, "alice");
    moves(&process, "started", STARTED, all).await;

    webhook.answer(|_| Reply::Status(500));
    let album = host.album("day").await;
    let photo = host.upload(&album, "image/jpeg", &fixture("camera.jpg")).await;
    let settled = host.settled(&photo).await;
    assert_eq!(host.get(settled["renditions"][0]["url"].as_str().unwrap()).await.status, 200);
    host.post(&format!("/v1/photos/{photo}/edits"), &json!({ "filters": [{ "name": "auto" }] })).await.expect(202);
    host.settled(&host.upload(&album, "image/png", b"no picture").await).await;
    moves(&process, "two photos", PHOTO, all).await;
    eventually("lagging", async || {
        Scrape::of(&process).await.values["darkroom_outbox_lag_seconds"].gt(&0.0).then_some(())
    })
    .await;
    webhook.answer(|_| Reply::Status(200));
    moves(&process, "announcements that fail first", ANNOUNCED, all).await;

    // A lost rendition is created again.
    let renditions = beside.photos().join("renditions");
    let folder = |photo: &str| renditions.join(&photo[photo.len() - 2..]).join(photo);
    std::fs::remove_dir_all(folder(&photo)).unwrap();
    moves(&process, "the sweep", SWEPT, all).await;

    // A file blocks the folder of the next photo's renditions.
    let declared = host.declare(&album, "image/jpeg", &numbered_photo(1)).await;
    let place = folder(declared["photo"]["id"].as_str().unwrap());
    std::fs::create_dir_all(place.parent().unwrap()).unwrap();
    std::fs::write(&place, "in the way").unwrap();
    host.put(&declared["upload"], numbered_photo(1)).await.expect(200);
    moves(&process, "storage that fails", STORAGE, all).await;

    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let to = process.url.strip_prefix("http://").unwrap().parse::<std::net::SocketAddr>().unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let _ = stream.read_to_end(&mut Vec::new()).await;
    moves(&process, "a connection without its header", &["darkroom_connections_refused_total"], all).await;

    let mut stream = TcpStream::connect(to).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET / HTTP").await.unwrap();
    let _ = stream.read_to_end(&mut Vec::new()).await;
    moves(&process, "a head that does not end", &["darkroom_connection_timeouts_total"], all).await;

    let guesser = Client::new(&process.url, Some("dki_guessed".to_owned()));
    guesser.get("/v1/albums").await.expect(401);
    eventually("limited", async || (guesser.get("/v1/albums").await.status == 429).then_some(())).await;
    moves(&process, "an invite that asks too often", &["darkroom_http_requests_rate_limited_total"], all).await;

    eventually("a second of work", async || {
        for _ in 0..100 {
            host.get("/v1/albums").await.expect(200);
        }
        let values = Scrape::of(&process).await.values;
        TIME.iter().all(|name| values[name] > 0.0).then_some(())
    })
    .await;
    all.extend(TIME);
}

/// An unreachable database, and missing keys.
async fn nothing_there(all: &mut BTreeSet<&'static str>) {
    let beside = TestServer::start_with("worker.enabled = false").await;
    let nowhere = [
        ("DARKROOM_DATABASE_SOCKET", "/nowhere/mysqld.sock"),
        ("DARKROOM_DATABASE_ACQUIRE_TIMEOUT", "100ms"),
        ("DARKROOM_IDENTITY_JWKS", "/nowhere/jwks.json"),
    ];
    let process = Process::start(&beside, "serve", &nowhere).await;
    let names = [
        "darkroom_db_connections_timeout_total",
        "hikaricp_connections_timeout_total",
        "darkroom_jwks_fetch_failures_total",
    ];
    moves(&process, "nothing there", &names, all).await;
}

/// Tokens: obtained, refused and missing; a certificate; a read replica.
async fn signed_in(all: &mut BTreeSet<&'static str>) {
    // A server of its own: repeated login failures would slow the shared one.
    let (rds, key) = (&Rds::start().await, Key::long_lived());
    rds.iam().allow(&key, &["measured"]);
    let port = rds.port().to_string();
    let mut more = key.environment();
    more.extend(pairs(&[("READ_REPLICA_HOST", HOST), ("READ_REPLICA_PORT", &port), ("REGION", "eu-west-1")]));
    let service = Service::start(rds, "measured", &more).await;
    let host = service.user("alice");
    let album = host.album("read").await;
    let viewer = host.invite(&album, &json!({ "role": "view" })).await;
    Client::new(&service.process.url, Some(viewer)).get(&format!("/v1/albums/{album}/photos")).await.expect(200);
    moves(&service.process, "signed in by a token", TOKENS, all).await;
    // This key is not allowed.
    let refused = Service::start(rds, "refused", &Key::long_lived().environment()).await;
    let names = ["darkroom_db_access_denied_total"];
    moves(&refused.process, "a token that is refused", &names, all).await;
    let nobody = pairs(&[]).into_iter().chain([("AWS_EC2_METADATA_DISABLED".to_owned(), "true".to_owned())]);
    let without = Service::start(rds, "without", &nobody.collect::<Vec<_>>()).await;
    moves(&without.process, "no credentials", &["darkroom_db_token_renewal_failures_total"], all).await;
}

/// Read model pages, an unavailable table, and a queue.
async fn with_aws(all: &mut BTreeSet<&'static str>) {
    let cloud = Cloud::start().await;
    let beside = TestServer::start_in(&cloud, &[Part::ReadModel, Part::Queue], "worker.enabled = false").await;
    let proxy = FaultProxy::start(&cloud.emulator.url).await;
    proxy.every_of("dynamodb", 1, Fault::Status(500));
    let process = Process::start(&beside, "serve", &[("AWS_ENDPOINT_URL", &proxy.url)]).await;
    let host = process.user(&beside, "alice");
    let album = host.album("projected").await;
    let viewer = host.invite(&album, &json!({ "role": "view" })).await;
    Client::new(&process.url, Some(viewer)).get(&format!("/v1/albums/{album}/photos")).await.expect(200);
    moves(&process, "a read model in trouble", READ_MODEL, all).await;
    host.upload(&album, "image/jpeg", &fixture("grey.jpg")).await;
    moves(&process, "a job by a message", MESSAGES, all).await;
}

const STARTED: &[&str] = &[
    "darkroom_http_requests_total",
    "darkroom_http_request_duration_seconds",
    "darkroom_http_requests_in_flight",
    "darkroom_http_requests_concurrency_limit",
    "darkroom_db_connections_active",
    "darkroom_db_connections_idle",
    "darkroom_db_connections_pending",
    "darkroom_db_connections_max",
    "darkroom_db_connections_acquire_seconds",
    "darkroom_db_connections_creation_seconds",
    "darkroom_db_connections_usage_seconds",
    "hikaricp_connections",
    "hikaricp_connections_active",
    "hikaricp_connections_idle",
    "hikaricp_connections_pending",
    "hikaricp_connections_max",
    "hikaricp_connections_acquire_seconds",
    "hikaricp_connections_creation_seconds",
    "hikaricp_connections_usage_seconds",
    "darkroom_job_queue_depth",
    "darkroom_jobs_dead_lettered",
    "darkroom_job_queue_oldest_age_seconds",
    "darkroom_outbox_lag_seconds",
    "process_resident_memory_bytes",
    "process_open_fds",
    "process_max_fds",
    "process_threads",
    "process_virtual_memory_bytes",
    "process_virtual_memory_max_bytes",
    "process_start_time_seconds",
    "tokio_workers_count",
    "tokio_live_tasks_count",
    "tokio_global_queue_depth",
];
const PHOTO: &[&str] = &[
    "darkroom_job_runs_total",
    "darkroom_job_duration_seconds",
    "darkroom_job_attempts",
    "darkroom_photos_ready_total",
    "darkroom_edits_total",
    "darkroom_photos_rejected_total",
    "darkroom_imaging_duration_seconds",
    "darkroom_imaging_decode_duration_seconds",
    "darkroom_imaging_resize_duration_seconds",
    "darkroom_imaging_encode_duration_seconds",
    "darkroom_imaging_decoded_pixels_total",
    "darkroom_storage_operation_duration_seconds",
    "darkroom_storage_bytes_total",
];
const ANNOUNCED: &[&str] = &["darkroom_notifications_sent_total", "darkroom_notification_failures_total"];
const SWEPT: &[&str] = &["darkroom_reconciled_total"];
const STORAGE: &[&str] = &["darkroom_storage_operation_failures_total"];
const TIME: [&str; 2] = ["process_cpu_seconds_total", "tokio_busy_seconds_total"];
const READ_MODEL: &[&str] =
    &["darkroom_read_model_reads_total", "darkroom_read_model_write_failures_total", "darkroom_read_model_lag_seconds"];
const MESSAGES: &[&str] = &["darkroom_sqs_messages_total"];
const TOKENS: &[&str] = &[
    "darkroom_db_token_age_seconds",
    "darkroom_db_token_expiry_timestamp_seconds",
    "darkroom_db_token_renewals_total",
    "darkroom_db_certificate_expiry_timestamp_seconds",
    "darkroom_db_reads_total",
];

#[tokio::test]
async fn exports_exactly_the_registered_metrics() {
    let (webhook, mut moved) = (Webhook::start().await, BTreeSet::new());
    a_day(&webhook, &mut moved).await;
    nothing_there(&mut moved).await;
    signed_in(&mut moved).await;
    with_aws(&mut moved).await;
    let never: Vec<&str> = registry().iter().map(|metric| metric.name).filter(|name| !moved.contains(name)).collect();
    assert!(never.is_empty(), "no scenario moves {never:?}");
}

#[test]
fn metric_names_state_kind_and_unit() {
    let mut names = BTreeSet::new();
    for Metric { name, kind, unit, help, labels } in registry() {
        assert!(names.insert(name), "{name} is there twice");
        assert_eq!(name.ends_with("_total"), *kind == MetricKind::Counter, "{name}");
        let stem = name.strip_suffix("_total").unwrap_or(name);
        if matches!(unit.as_str(), "seconds" | "bytes") {
            assert!(stem.ends_with(&format!("_{}", unit.as_str())), "{name} is in {}", unit.as_str());
        }
        assert!(help.ends_with('.') && !help.starts_with(' '), "{name}: {help}");
        let ids = ["id", "album", "photo", "subject", "client", "invite"];
        assert!(labels.iter().all(|label| !ids.contains(label)), "{name}: {labels:?}");
    }
}

/// Compares the table of docs/observability.md. Replace it with the printed one when the registry has changed.
#[test]
fn documentation_lists_each_metric() {
    let row = |Metric { name, kind, unit, help, labels }: &Metric| {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{name}` | {} | {} | {} | {help} |", word(*kind), unit.as_str(), labels.join(", "))
    };
    let expected: Vec<String> = registry().iter().map(row).collect();
    let document = include_str!("../../../../docs/observability.md");
    let shown: Vec<&str> = document
        .lines()
        .skip_while(|line| *line != "| metric | kind | unit | labels | what |")
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .collect();
    assert!(shown == expected, "docs/observability.md should have:\n{}", expected.join("\n"));
}
