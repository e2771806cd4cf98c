//! Announcements: each event as a log line and, as configured, to a webhook and to a topic of SNS.
//!
//! Both get the same `CloudEvents` 1.0 JSON document, and a `traceparent` (<https://www.w3.org/TR/trace-context/>) of the
//! trace in which the event happened. Deliveries come at least once, in the album's order; `id` tells repeats. Where both are
//! told, an event is done when both have taken it: while one does not answer, the other waits too.

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

/// Where events go.
pub struct Announcer {
    webhook: Option<Webhook>,
    topic: Option<Topic>,
}

impl Announcer {
    /// An announcer as configured; a topic's client starts from `sdk`.
    ///
    /// # Errors
    /// TLS can't be set up; a topic is set and there is nothing that its client could start from.
    pub fn new(config: &config::Announce, sdk: Option<&SdkConfig>) -> anyhow::Result<Self> {
        let topic =
            |topic| Ok::<_, anyhow::Error>(Topic::new(topic, sdk.context("a topic needs AWS's configuration")?));
        Ok(Self {
            webhook: config.webhook.as_ref().map(Webhook::new).transpose()?,
            topic: config.topic.as_ref().map(topic).transpose()?,
        })
    }

    /// The topic, if there is one.
    #[must_use]
    pub fn topic(&self) -> Option<&Topic> {
        self.topic.as_ref()
    }

    /// Announces one event.
    ///
    /// # Errors
    /// The webhook did not answer with 2xx, or the topic did not take it.
    pub async fn announce(&self, album_id: AlbumId, event: &Event) -> anyhow::Result<()> {
        // Each delivery has a span of its own.
        let below = || event.traceparent.as_deref().and_then(Trace::parse).map_or_else(Trace::begin, |t| t.child());
        let document = CloudEvent::new(album_id, event);
        if let Some(webhook) = &self.webhook {
            let trace = below();
            measured(event, &trace, webhook.send(&document, &trace)).await?;
        }
        if let Some(topic) = &self.topic {
            let trace = below();
            measured(event, &trace, topic.send(album_id, event, &document, &trace)).await?;
        }
        let (photo_id, trace_id) = (event.photo_id.map(tracing::field::display), below().id());
        tracing::info!(%album_id, seq = event.seq, kind = event.kind.as_str(), photo_id, trace_id, "announced");
        Ok(())
    }
}

/// A span for one delivery.
async fn measured(
    event: &Event,
    trace: &Trace,
    delivery: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    let sent = delivery.await;
    spans::record(trace, || Span {
        name: "announce".to_owned(),
        kind: SpanKind::Producer,
        took: begun.elapsed(),
        failed: sent.is_err(),
        attributes: vec![KeyValue::new("darkroom.event", event.kind.as_str())],
    });
    sent
}
