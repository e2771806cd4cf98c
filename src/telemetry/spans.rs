//! Spans to an OpenTelemetry collector, over OTLP/HTTP: requests, jobs and announcements, under the ids that logs and
//! headers have.
//!
//! They wait in a bounded queue and leave in batches, from a thread of their own. When the collector is away they are
//! lost, and nothing else: one line says so, another that it is back.

use std::{
    collections::HashMap,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{SpanContext, Status, TraceState},
};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor},
};
use secrecy::ExposeSecret;

pub use opentelemetry::trace::SpanKind;

use super::Trace;
use crate::config::Otlp;

/// The most spans that wait; some 2 MB.
const QUEUE: usize = 2048;
/// How long a span waits at most.
const EACH: Duration = Duration::from_secs(2);
/// Longest time for one batch.
const TIMEOUT: Duration = Duration::from_secs(5);

static EXPORTER: OnceLock<BatchSpanProcessor> = OnceLock::new();

/// What something did, once it is done.
pub struct Span {
    /// A route with its method, or a kind of job.
    pub name: String,
    /// Its part in a conversation.
    pub kind: SpanKind,
    /// How long it took, until now.
    pub took: Duration,
    /// Whether it failed by a fault of ours.
    pub failed: bool,
    /// What else is known; no secrets.
    pub attributes: Vec<KeyValue>,
}

/// Exports spans from now on, once for the process.
///
/// # Errors
/// TLS can't be set up.
pub fn start(config: &Otlp) -> anyhow::Result<()> {
    let endpoint = format!("{}/v1/traces", config.endpoint.as_str().trim_end_matches('/'));
    let headers: HashMap<String, String> =
        config.headers.iter().map(|(name, value)| (name.clone(), value.expose_secret().to_owned())).collect();
    // A blocking client may not be made on a thread of the runtime.
    let client = std::thread::spawn(|| {
        // A redirect would take the headers to a place that nobody configured.
        let builder = reqwest::blocking::Client::builder().redirect(reqwest::redirect::Policy::none());
        builder.timeout(TIMEOUT).build()
    });
    let client = client.join().map_err(|_| anyhow::anyhow!("no client for the collector"))??;
    let exporter = SpanExporter::builder().with_http().with_http_client(client).with_protocol(Protocol::HttpBinary);
    let exporter = exporter.with_endpoint(endpoint).with_headers(headers).with_timeout(TIMEOUT).build()?;
    let batches = BatchConfigBuilder::default().with_max_queue_size(QUEUE).with_scheduled_delay(EACH).build();
    let mut processor = BatchSpanProcessor::new(Watched { exporter, failing: AtomicBool::new(false) }, batches);
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    processor.set_resource(&Resource::builder().with_service_name("darkroom").with_attribute(version).build());
    anyhow::ensure!(EXPORTER.set(processor).is_ok(), "spans are exported already");
    Ok(())
}

/// Exports a span that ends now, if spans are exported and its trace is sampled.
pub fn record(trace: &Trace, span: impl FnOnce() -> Span) {
    let Some(exporter) = EXPORTER.get().filter(|_| trace.sampled) else { return };
    let Span { name, kind, took, failed, attributes } = span();
    let end = SystemTime::now();
    let context = SpanContext::new(
        TraceId::from(trace.id),
        SpanId::from(trace.span),
        TraceFlags::SAMPLED,
        false,
        TraceState::NONE,
    );
    exporter.on_end(SpanData {
        span_context: context,
        parent_span_id: trace.parent.map_or(SpanId::INVALID, SpanId::from),
        parent_span_is_remote: trace.parent.is_some(),
        span_kind: kind,
        name: name.into(),
        start_time: end.checked_sub(took).unwrap_or(end),
        end_time: end,
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: if failed { Status::error("") } else { Status::Unset },
        instrumentation_scope: InstrumentationScope::builder(env!("CARGO_PKG_NAME")).build(),
    });
}

/// Sends what waits, for so long at most, and ends the export.
pub async fn finish(within: Duration) {
    let Some(exporter) = EXPORTER.get() else { return };
    let ended = tokio::task::spawn_blocking(move || exporter.shutdown_with_timeout(within));
    if !matches!(tokio::time::timeout(within, ended).await, Ok(Ok(Ok(())))) {
        tracing::warn!("the last spans did not reach the collector");
    }
}

/// An exporter that says when it begins to fail, and when it works again.
#[derive(Debug)]
struct Watched {
    exporter: SpanExporter,
    failing: AtomicBool,
}

impl opentelemetry_sdk::trace::SpanExporter for Watched {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let outcome = self.exporter.export(batch).await;
        match (&outcome, self.failing.swap(outcome.is_err(), Ordering::Relaxed)) {
            (Err(error), false) => tracing::warn!(%error, "spans don't reach the collector and are lost"),
            (Ok(()), true) => tracing::info!("spans reach the collector again"),
            _ => {}
        }
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
