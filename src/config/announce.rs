//! `[announce]`: where events go.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde::Deserialize;
use url::Url;

use super::{aws::Aws, source::Source, storage::LEAST_SECRET_CHARS};

/// What `announce.kind` may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Log,
    Sns,
}

/// `[announce]`: where events go. Each is logged; a topic and a webhook are told too when they are set.
#[derive(Debug, Clone)]
pub struct Announce {
    /// The topic, with `announce.kind = "sns"`.
    pub topic: Option<Topic>,
    /// The webhook.
    pub webhook: Option<Webhook>,
}

/// A webhook after <https://www.standardwebhooks.com/>.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// Where to POST.
    pub url: Url,
    /// The key of the HMAC signature.
    pub key: SecretSlice<u8>,
    /// Longest time for one delivery.
    pub timeout: Duration,
}

/// A topic of SNS.
#[derive(Debug, Clone)]
pub struct Topic {
    /// Its ARN. One that ends in `.fifo` keeps the order of each album's events.
    pub arn: String,
}

impl Announce {
    pub(crate) fn read(s: &mut Source, aws: &Aws) -> Self {
        let topic = match s.get("announce.kind", Kind::Log) {
            Kind::Log => None,
            Kind::Sns => {
                aws.needed(s, "announce.kind = \"sns\"");
                let arn = s.require("announce.topic", String::new());
                s.check(
                    arn.starts_with("arn:") && arn.contains(":sns:"),
                    "announce.topic",
                    "must be the ARN of an SNS topic",
                );
                Some(Topic { arn })
            }
        };
        let url: Option<Url> = s.optional("announce.webhook_url");
        let secret = s.secret("announce.webhook_secret");
        let key = secret.as_ref().and_then(webhook_key);
        let timeout = s.duration("announce.webhook_timeout", "10s");
        if let Some(url) = &url {
            s.check(matches!(url.scheme(), "http" | "https"), "announce.webhook_url", "must be an http or https URL");
            let long = secret.as_ref().is_some_and(|secret| secret.expose_secret().len() >= LEAST_SECRET_CHARS);
            s.check(
                long && key.is_some(),
                "announce.webhook_secret",
                format!(
                    "must be given with announce.webhook_url, at least {LEAST_SECRET_CHARS} characters; base64 after `whsec_`"
                ),
            );
        }
        let webhook = url.zip(key).map(|(url, key)| Webhook { url, key, timeout });
        Self { topic, webhook }
    }
}

/// The key in a secret: in base64 after `whsec_`, as Standard Webhooks write it, else the text itself.
fn webhook_key(secret: &SecretString) -> Option<SecretSlice<u8>> {
    let text = secret.expose_secret();
    match text.strip_prefix("whsec_") {
        Some(encoded) => STANDARD.decode(encoded).ok().map(SecretSlice::from),
        None => Some(text.as_bytes().to_vec().into()),
    }
}
