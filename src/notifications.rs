//! Notifications of album events: a log line each and, as configured, a webhook call and an SNS message.
//!
//! Webhook and SNS get the same `CloudEvents` 1.0 JSON document, with a `traceparent`
//! (<https://www.w3.org/TR/trace-context/>) of the trace that caused the event. Delivery is at least once, in album
//! order; `id` identifies repeats. With both configured, an event is published when both have accepted it, so one waits
//! for the other.

mod cloudevent;
mod sns;
mod webhook;

use std::time::Instant;

use anyhow::Context;
use aws_config::SdkConfig;
use opentelemetry::KeyValue;

pub use sns::Topic;

use crate::{
    config,
    domain::{AlbumId, Event},
    telemetry::{
        Trace,
        spans::{self, Span, SpanKind},
    },
};
use cloudevent::CloudEvent;
use webhook::Webhook;

/// Sends notifications as configured.
pub struct Notifier {
    webhook: Option<Webhook>,
    topic: Option<Topic>,
}

impl Notifier {
    /// Fails when TLS can't be set up, or a topic is configured and `sdk` is missing.
    pub fn new(config: &config::Notifications, sdk: Option<&SdkConfig>) -> anyhow::Result<Self> {
        let topic =
            |topic| Ok::<_, anyhow::Error>(Topic::new(topic, sdk.context("an SNS topic needs an AWS configuration")?));
        Ok(Self {
            webhook: config.webhook.as_ref().map(Webhook::new).transpose()?,
            topic: config.topic.as_ref().map(topic).transpose()?,
        })
    }

    #[must_use]
    pub fn topic(&self) -> Option<&Topic> {
        self.topic.as_ref()
    }

    /// Fails when the webhook does not answer with 2xx, or SNS refuses the message.
    pub async fn notify(&self, album_id: AlbumId, event: &Event) -> anyhow::Result<()> {
        // Each delivery has a span of its own.
        let child =
            || event.traceparent.as_deref().and_then(Trace::parse).map_or_else(Trace::begin, |trace| trace.child());
        let document = CloudEvent::new(album_id, event);
        if let Some(webhook) = &self.webhook {
            let trace = child();
            with_span(event, &trace, webhook.send(&document, &trace)).await?;
        }
        if let Some(topic) = &self.topic {
            let trace = child();
            with_span(event, &trace, topic.send(album_id, event, &document, &trace)).await?;
        }
        let (photo_id, trace_id) = (event.photo_id.map(tracing::field::display), child().id());
        tracing::info!(%album_id, seq = event.seq, kind = event.kind.as_str(), photo_id, trace_id, "event published");
        Ok(())
    }
}

async fn with_span(
    event: &Event,
    trace: &Trace,
    delivery: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let started = Instant::now();
    let result = delivery.await;
    spans::record(trace, || Span {
        name: "publish event".to_owned(),
        kind: SpanKind::Producer,
        duration: started.elapsed(),
        failed: result.is_err(),
        attributes: vec![KeyValue::new("darkroom.event", event.kind.as_str())],
    });
    result
}
