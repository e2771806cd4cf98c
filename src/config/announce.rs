//! `[notifications]`: where events go.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde::Deserialize;
use url::Url;

use super::{aws::Aws, source::Source, storage::LEAST_SECRET_CHARS};

/// What `notifications.kind` may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Log,
    Sns,
}

/// `[notifications]`: where events are published: the log, and a topic and a webhook if they are set.
#[derive(Debug, Clone)]
pub struct Notifications {
    /// The topic, with `notifications.kind = "sns"`.
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

impl Notifications {
    pub(crate) fn read(s: &mut Source, aws: &Aws) -> Self {
        let topic = match s.get("notifications.kind", Kind::Log) {
            Kind::Log => None,
            Kind::Sns => {
                aws.needed(s, "notifications.kind = \"sns\"");
                let arn = s.require("notifications.topic", String::new());
                s.check(
                    arn.starts_with("arn:") && arn.contains(":sns:"),
                    "notifications.topic",
                    "must be the ARN of an SNS topic",
                );
                Some(Topic { arn })
            }
        };
        let url: Option<Url> = s.optional("notifications.webhook_url");
        let secret = s.secret("notifications.webhook_secret");
        let key = secret.as_ref().and_then(webhook_key);
        let timeout = s.duration("notifications.webhook_timeout", "10s");
        if let Some(url) = &url {
            s.check(
                matches!(url.scheme(), "http" | "https"),
                "notifications.webhook_url",
                "must be an http or https URL",
            );
            let long = secret.as_ref().is_some_and(|secret| secret.expose_secret().len() >= LEAST_SECRET_CHARS);
            s.check(
                long && key.is_some(),
                "notifications.webhook_secret",
                format!(
                    "must be given with notifications.webhook_url, at least {LEAST_SECRET_CHARS} characters; base64 after `whsec_`"
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
