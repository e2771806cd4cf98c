//! Exports spans of requests, jobs and notifications to an OpenTelemetry collector over OTLP/HTTP, with the same trace
//! ids as logs and headers.
//!
//! Spans are queued up to a limit and sent in batches by a thread of their own. While the collector does not answer,
//! they are dropped; one log line says so, another that it is back.
//!
//! `tracing-opentelemetry` is not used: with it, trace ids exist only while the log filter enables the spans of
//! `tracing`, and an `X-Amzn-Trace-Id` without `Parent`, which API Gateway sends, can't continue a trace, because a
//! span id of 0 makes the remote context invalid.

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

/// Maximum number of queued spans, about 2 MB.
const MAX_QUEUE_SIZE: usize = 2048;
const SCHEDULED_DELAY: Duration = Duration::from_secs(2);
/// For one batch.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

static PROCESSOR: OnceLock<BatchSpanProcessor> = OnceLock::new();

/// A completed span.
pub struct Span {
    pub name: String,
    pub kind: SpanKind,
    /// Until now.
    pub duration: Duration,
    pub failed: bool,
    /// No secrets.
    pub attributes: Vec<KeyValue>,
}

/// Starts the export, once for the process.
pub fn start_export(config: &Otlp) -> anyhow::Result<()> {
    let endpoint = format!("{}/v1/traces", config.endpoint.as_str().trim_end_matches('/'));
    let headers: HashMap<String, String> =
        config.headers.iter().map(|(name, value)| (name.clone(), value.expose_secret().to_owned())).collect();
    // A blocking client can't be built on a thread of the runtime.
    let client = std::thread::spawn(|| {
        // A redirect would send the secret headers to an address that is not configured.
        let builder = reqwest::blocking::Client::builder().redirect(reqwest::redirect::Policy::none());
        builder.timeout(EXPORT_TIMEOUT).build()
    });
    let client = client.join().map_err(|_| anyhow::anyhow!("the OTLP client's thread panicked"))??;
    let exporter = SpanExporter::builder().with_http().with_http_client(client).with_protocol(Protocol::HttpBinary);
    let exporter = exporter.with_endpoint(endpoint).with_headers(headers).with_timeout(EXPORT_TIMEOUT).build()?;
    let batches = BatchConfigBuilder::default();
    let batches = batches.with_max_queue_size(MAX_QUEUE_SIZE).with_scheduled_delay(SCHEDULED_DELAY).build();
    let exporter = LoggingExporter { exporter, failing: AtomicBool::new(false) };
    let mut processor = BatchSpanProcessor::new(exporter, batches);
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    processor.set_resource(&Resource::builder().with_service_name("darkroom").with_attribute(version).build());
    anyhow::ensure!(PROCESSOR.set(processor).is_ok(), "the export of spans was started before");
    Ok(())
}

/// Exports a span that ends now, if the export was started and the trace is sampled.
pub fn record(trace: &Trace, span: impl FnOnce() -> Span) {
    let Some(processor) = PROCESSOR.get().filter(|_| trace.sampled) else { return };
    let Span { name, kind, duration, failed, attributes } = span();
    let end_time = SystemTime::now();
    let (trace_id, span_id) = (TraceId::from(trace.id), SpanId::from(trace.span));
    processor.on_end(SpanData {
        span_context: SpanContext::new(trace_id, span_id, TraceFlags::SAMPLED, false, TraceState::NONE),
        parent_span_id: trace.parent.map_or(SpanId::INVALID, SpanId::from),
        parent_span_is_remote: trace.parent.is_some(),
        span_kind: kind,
        name: name.into(),
        start_time: end_time.checked_sub(duration).unwrap_or(end_time),
        end_time,
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: if failed { Status::error("") } else { Status::Unset },
        instrumentation_scope: InstrumentationScope::builder(env!("CARGO_PKG_NAME")).build(),
    });
}

/// Sends the queued spans and ends the export.
pub async fn shutdown(timeout: Duration) {
    let Some(processor) = PROCESSOR.get() else { return };
    let ended = tokio::task::spawn_blocking(move || processor.shutdown_with_timeout(timeout));
    if !matches!(tokio::time::timeout(timeout, ended).await, Ok(Ok(Ok(())))) {
        tracing::warn!("the last spans were not exported");
    }
}

/// Logs when the export begins to fail and when it works again.
#[derive(Debug)]
struct LoggingExporter {
    exporter: SpanExporter,
    failing: AtomicBool,
}

impl opentelemetry_sdk::trace::SpanExporter for LoggingExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.exporter.export(batch).await;
        match (&result, self.failing.swap(result.is_err(), Ordering::Relaxed)) {
            (Err(error), false) => tracing::warn!(%error, "span export failed, spans are dropped"),
            (Ok(()), true) => tracing::info!("span export works again"),
            _ => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
