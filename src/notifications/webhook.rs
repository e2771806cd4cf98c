//! A webhook, signed according to Standard Webhooks (<https://www.standardwebhooks.com/>): `webhook-id`,
//! `webhook-timestamp` and `webhook-signature: v1,BASE64`, an HMAC-SHA256 of `id.timestamp.body`.

use anyhow::Context;
use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::Utc;
use secrecy::ExposeSecret;

use super::cloudevent::{CloudEvent, MEDIA_TYPE};
use crate::{config, telemetry::Trace};

pub(crate) struct Webhook {
    url: url::Url,
    key: hmac::Key,
    client: reqwest::Client,
}

impl Webhook {
    pub(crate) fn new(config: &config::Webhook) -> reqwest::Result<Self> {
        // Events go only to the configured URL.
        let client = reqwest::Client::builder().timeout(config.timeout).redirect(reqwest::redirect::Policy::none());
        let key = hmac::Key::new(hmac::HMAC_SHA256, config.key.expose_secret());
        Ok(Self { url: config.url.clone(), key, client: client.build()? })
    }

    pub(crate) async fn send(&self, event: &CloudEvent, trace: &Trace) -> anyhow::Result<()> {
        let timestamp = Utc::now().timestamp().to_string();
        let mut mac = hmac::Context::with_key(&self.key);
        for part in [event.id.as_bytes(), b".", timestamp.as_bytes(), b".", event.body.as_bytes()] {
            mac.update(part);
        }
        let signature = format!("v1,{}", STANDARD.encode(mac.sign()));
        let request = self
            .client
            .post(self.url.clone())
            .header("content-type", MEDIA_TYPE)
            .header("traceparent", trace.to_string())
            .header("webhook-id", &event.id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature)
            .body(event.body.clone());
        // The URL may contain a secret, and errors are logged.
        let response =
            request.send().await.map_err(reqwest::Error::without_url).context("the webhook does not answer")?;
        anyhow::ensure!(response.status().is_success(), "the webhook answered {}", response.status());
        Ok(())
    }
}
