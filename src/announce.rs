//! Announcements: each event as a log line and, when one is set, to a webhook.
//!
//! The webhook gets a `CloudEvents` 1.0 JSON document (<https://cloudevents.io/>), signed as Standard Webhooks say
//! (<https://www.standardwebhooks.com/>): `webhook-id`, `webhook-timestamp` and `webhook-signature: v1,BASE64`, an
//! HMAC-SHA256 over `id.timestamp.body`; a secret that begins with `whsec_` goes on with its key in base64, any other
//! is the key itself. It also gets a `traceparent` (<https://www.w3.org/TR/trace-context/>) of the trace in which the event
//! happened. Deliveries come at least once, in the album's order; `id` tells repeats.

use std::time::Instant;

use anyhow::Context;
use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::Utc;
use opentelemetry::KeyValue;
use secrecy::ExposeSecret;
use serde_json::json;

use crate::{
    config,
    domain::{AlbumId, Event},
    telemetry::{
        Trace,
        spans::{self, Span, SpanKind},
    },
};

/// Where events go.
pub struct Announcer {
    webhook: Option<Webhook>,
}

struct Webhook {
    url: url::Url,
    key: hmac::Key,
    client: reqwest::Client,
}

impl Announcer {
    /// An announcer as configured.
    ///
    /// # Errors
    /// TLS can't be set up.
    pub fn new(config: &config::Announce) -> anyhow::Result<Self> {
        let webhook = config.webhook.as_ref().map(|webhook| {
            // A redirect would take the event to a place that nobody configured.
            let client =
                reqwest::Client::builder().timeout(webhook.timeout).redirect(reqwest::redirect::Policy::none());
            let key = hmac::Key::new(hmac::HMAC_SHA256, webhook.key.expose_secret());
            Ok::<_, reqwest::Error>(Webhook { url: webhook.url.clone(), key, client: client.build()? })
        });
        Ok(Self { webhook: webhook.transpose()? })
    }

    /// Announces one event.
    ///
    /// # Errors
    /// The webhook did not answer with 2xx.
    pub async fn announce(&self, album_id: AlbumId, event: &Event) -> anyhow::Result<()> {
        let trace =
            event.traceparent.as_deref().and_then(Trace::parse).map_or_else(Trace::begin, |above| above.child());
        if let Some(webhook) = &self.webhook {
            let begun = Instant::now();
            let sent = webhook.send(album_id, event, &trace).await;
            spans::record(&trace, || Span {
                name: "announce".to_owned(),
                kind: SpanKind::Producer,
                took: begun.elapsed(),
                failed: sent.is_err(),
                attributes: vec![KeyValue::new("darkroom.event", event.kind.as_str())],
            });
            sent?;
        }
        let (photo_id, trace_id) = (event.photo_id.map(tracing::field::display), trace.id());
        tracing::info!(%album_id, seq = event.seq, kind = event.kind.as_str(), photo_id, trace_id, "announced");
        Ok(())
    }
}

impl Webhook {
    async fn send(&self, album_id: AlbumId, event: &Event, trace: &Trace) -> anyhow::Result<()> {
        let id = format!("{album_id}-{}", event.seq);
        let body = serde_json::to_vec(&json!({
            "specversion": "1.0",
            "id": id,
            "source": format!("/v1/albums/{album_id}"),
            "type": format!("darkroom.{}", event.kind.as_str()),
            "time": event.at,
            "datacontenttype": "application/json",
            "data": { "album_id": album_id, "seq": event.seq, "kind": event.kind, "photo_id": event.photo_id },
        }))?;
        let timestamp = Utc::now().timestamp().to_string();
        let mut mac = hmac::Context::with_key(&self.key);
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", &body] {
            mac.update(part);
        }
        let signature = format!("v1,{}", STANDARD.encode(mac.sign()));
        let request = self
            .client
            .post(self.url.clone())
            .header("content-type", "application/cloudevents+json")
            .header("traceparent", trace.to_string())
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature)
            .body(body);
        // The URL may hold a secret of its own; errors go to the log.
        let response =
            request.send().await.map_err(reqwest::Error::without_url).context("the webhook does not answer")?;
        anyhow::ensure!(response.status().is_success(), "the webhook answered {}", response.status());
        Ok(())
    }
}
