//! Spans at a collector that speaks OTLP over HTTP and can be unreachable.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::{AnyValue, any_value::Value as Any},
    trace::v1::{Span, span::SpanKind},
};
use prost::Message;
use reqwest::Method;
use rustix::process::Signal;
use serde_json::Value;
use tokio::net::TcpListener;

use super::lines;
use crate::harness::{
    TestServer, Webhook, eventually,
    process::{Process, free_address},
};

/// A collector that records spans and the service's name.
#[derive(Clone)]
struct Collector {
    address: String,
    got: Arc<Mutex<Vec<(String, Span)>>>,
}

impl Collector {
    /// Does not listen yet.
    fn absent() -> Self {
        Self { address: free_address(), got: Arc::default() }
    }

    async fn listen(&self) {
        let listener = TcpListener::bind(&self.address).await.unwrap();
        let router = Router::new().route("/base/v1/traces", post(take)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
    }

    fn url(&self) -> String {
        format!("http://{}/base", self.address)
    }

    fn spans(&self, name: &str) -> Vec<Span> {
        self.got.lock().unwrap().iter().filter(|(_, span)| span.name == name).map(|(_, span)| span.clone()).collect()
    }

    async fn span(&self, name: &str) -> Span {
        eventually(name, async || self.spans(name).pop()).await
    }
}

async fn take(State(collector): State<Collector>, headers: HeaderMap, body: Bytes) -> Vec<u8> {
    assert_eq!(headers["content-type"], "application/x-protobuf");
    assert_eq!(
        (&headers["x-team"], &headers["authorization"]),
        (&"photos".parse().unwrap(), &"Bearer s3cret=".parse().unwrap())
    );
    let request = ExportTraceServiceRequest::decode(body).expect("protobuf");
    let mut got = collector.got.lock().unwrap();
    for part in request.resource_spans {
        let resource = part.resource.expect("a resource").attributes;
        let name =
            text(resource.iter().find(|pair| pair.key == "service.name").expect("a name").value.as_ref()).to_owned();
        got.extend(part.scope_spans.into_iter().flat_map(|scope| scope.spans).map(|span| (name.clone(), span)));
    }
    ExportTraceServiceResponse::default().encode_to_vec()
}

fn text(value: Option<&AnyValue>) -> &str {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Any::StringValue(text)) => text,
        other => panic!("{other:?}"),
    }
}

fn attribute<'a>(span: &'a Span, key: &str) -> &'a str {
    let found = span.attributes.iter().find(|pair| pair.key == key).unwrap_or_else(|| panic!("{key}: {span:?}"));
    text(found.value.as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Its headers are in a file, one on each line, like a systemd credential.
fn settings(collector: &Collector, folder: &Path) -> Vec<(&'static str, String)> {
    let file = folder.join("otlp-headers");
    std::fs::write(&file, "x-team=photos\nauthorization=Bearer s3cret=\n").unwrap();
    vec![
        ("DARKROOM_TELEMETRY_OTLP_ENDPOINT", collector.url()),
        ("DARKROOM_TELEMETRY_OTLP_HEADERS_FILE", file.display().to_string()),
    ]
}

#[tokio::test]
async fn spans_share_the_gateway_trace() {
    const ROOT: &str = "5759e988bd862e3fe1be46a994272793";
    let (collector, webhook) = (Collector::absent(), Webhook::start().await);
    collector.listen().await;
    let server = TestServer::start_with("worker.enabled = false").await;
    let more: Vec<_> = settings(&collector, server.folder()).into_iter().chain(webhook.variables()).collect();
    let more: Vec<(&str, &str)> = more.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut process = Process::start(&server, "serve", &more).await;
    let host = process.user(&server, "alice");
    let album = host.album("traced").await;
    let declared = host.declare(&album, "image/png", b"no picture").await;
    let put =
        host.request(Method::PUT, declared["upload"]["url"].as_str().unwrap()).header("content-type", "image/png");
    let root = format!("Root=1-{}-{};Parent=53995c3f42cd8ad8;Sampled=1", &ROOT[..8], &ROOT[8..]);
    host.send(put.header("x-amzn-trace-id", root).body("no picture")).await.expect(200);
    let upload = collector.span("PUT /v1/uploads/{photo_id}").await;
    let job = collector.span("job render_photo").await;
    let announced = collector.span("publish event").await;
    assert_eq!(hex(&upload.parent_span_id), "53995c3f42cd8ad8");
    assert_eq!(job.parent_span_id, upload.span_id);
    assert_eq!(announced.parent_span_id, job.span_id);
    for (span, kind) in [(&upload, SpanKind::Server), (&job, SpanKind::Consumer), (&announced, SpanKind::Producer)] {
        assert_eq!((hex(&span.trace_id).as_str(), span.kind), (ROOT, kind as i32), "{span:?}");
        assert!(span.start_time_unix_nano < span.end_time_unix_nano, "{span:?}");
    }
    assert_eq!(attribute(&upload, "http.route"), "/v1/uploads/{photo_id}");
    assert_eq!(attribute(&job, "darkroom.outcome"), "done");
    let sent = webhook.deliveries()[0].headers["traceparent"].to_str().unwrap().to_owned();
    assert_eq!(sent, format!("00-{ROOT}-{}-01", hex(&announced.span_id)), "the webhook goes on from our span");

    // An unsampled trace is not exported; the last spans arrive before the exit.
    let quiet = host
        .request(Method::GET, "/v1/albums")
        .header("x-amzn-trace-id", format!("Root=1-{}-{};Sampled=0", &ROOT[..8], &ROOT[8..]));
    host.send(quiet).await.expect(200);
    host.get(&format!("/v1/albums/{album}")).await.expect(200);
    process.signal(Signal::TERM);
    assert_eq!(process.ended().await.code(), Some(0));
    assert_eq!(collector.spans("GET /v1/albums/{album_id}").len(), 1);
    assert_eq!(collector.spans("GET /v1/albums").len(), 0);
    let all = collector.got.lock().unwrap().clone();
    assert!(all.iter().all(|(service, _)| service == "darkroom"));
    let told = format!("{all:?}");
    for secret in ["signature=", "s3cret", "alice"] {
        assert!(!told.contains(secret), "{secret}: {told}");
    }
    assert!(!process.log().contains("s3cret"));
}

#[tokio::test]
async fn missing_collector_is_logged_once() {
    let collector = Collector::absent();
    let server = TestServer::start_with("worker.enabled = false").await;
    let more = settings(&collector, server.folder());
    let more: Vec<(&str, &str)> = more.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut process = Process::start(&server, "serve", &more).await;
    let host = process.user(&server, "alice");
    let lost = "span export failed, spans are dropped";
    eventually("noticed", async || {
        host.get("/v1/albums").await.expect(200);
        process.log().contains(lost).then_some(())
    })
    .await;
    collector.listen().await;
    eventually("back", async || {
        host.get("/v1/albums").await.expect(200);
        process.log().contains("span export works again").then_some(())
    })
    .await;
    assert!(!collector.spans("GET /v1/albums").is_empty());
    assert_eq!(lines(&process, lost, |_| true).await.len(), 1);
    process.signal(Signal::TERM);
    assert_eq!(process.ended().await.code(), Some(0));
}

/// Checks the specification of CloudWatch's embedded metric format.
fn check_emf(line: &Value) {
    let units = ["Seconds", "Bytes", "Count", "Percent", "Milliseconds", "Microseconds", "Count/Second", "None"];
    assert!(line["_aws"]["Timestamp"].is_u64() && line.to_string().len() < 256 * 1024, "{line}");
    let [directive] = line["_aws"]["CloudWatchMetrics"].as_array().unwrap().as_slice() else { panic!("{line}") };
    assert_eq!(directive["Namespace"], "Photos/Test");
    for set in directive["Dimensions"].as_array().unwrap() {
        let names = set.as_array().unwrap();
        assert!(names.len() <= 30, "{line}");
        for name in names {
            let value = line[name.as_str().unwrap()].as_str().unwrap_or_else(|| panic!("{name}: {line}"));
            assert!((1..=1024).contains(&value.len()), "{name}: {line}");
        }
    }
    let metrics = directive["Metrics"].as_array().unwrap();
    assert!((1..=100).contains(&metrics.len()), "{line}");
    for metric in metrics {
        assert!(units.contains(&metric["Unit"].as_str().unwrap()), "{metric}");
        let value = &line[metric["Name"].as_str().unwrap()];
        if value.is_object() {
            let [values, counts] = ["Values", "Counts"].map(|name| value[name].as_array().unwrap());
            assert!(values.len() == counts.len() && (1..=100).contains(&values.len()), "{metric}: {line}");
            assert_eq!(
                counts.iter().map(|count| count.as_u64().unwrap()).sum::<u64>(),
                value["Count"].as_u64().unwrap()
            );
        } else {
            assert!(value.is_f64(), "{metric}: {line}");
        }
    }
}

#[tokio::test]
async fn writes_emf_metrics_before_exit() {
    let server = TestServer::start_with("worker.enabled = false").await;
    let more = [("DARKROOM_TELEMETRY_EMF", "stdout"), ("DARKROOM_TELEMETRY_EMF_NAMESPACE", "Photos/Test")];
    let mut process = Process::start(&server, "serve", &more).await;
    let host = process.user(&server, "alice");
    let album = host.album("counted").await;
    for _ in 0..5 {
        host.get(&format!("/v1/albums/{album}")).await.expect(200);
    }
    let prometheus = process.metrics().await;
    assert!(prometheus.contains("darkroom_http_requests_total{"), "both are told");
    process.signal(Signal::TERM);
    assert_eq!(process.ended().await.code(), Some(0));
    let log = process.log();
    let all: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let told: Vec<&Value> = all.iter().filter(|line| line["_aws"].is_object()).collect();
    for line in &told {
        check_emf(line);
    }
    let sum = |name: &str| {
        told.iter().filter(|line| line["outcome"] == "ok").filter_map(|line| line[name].as_f64()).sum::<f64>()
    };
    assert!(sum("darkroom_http_requests_total") >= 6.0, "{told:?}");
    let seconds =
        told.iter().find(|line| line["outcome"] == "ok").expect("requests")["darkroom_http_request_duration_seconds"]
            .clone();
    assert!(seconds["Count"].as_u64().unwrap() >= 6 && seconds["Sum"].as_f64().unwrap() > 0.0, "{seconds}");
    assert!(
        told.iter().any(|line| line["process_resident_memory_bytes"].as_f64().is_some_and(|bytes| bytes > 1e6)),
        "{told:?}"
    );
}
