//! `[telemetry]`: exports of metrics and spans besides `/metrics` and the log.

use axum::http::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::{Host, Url};

use super::source::Source;

/// Metrics as log lines that CloudWatch reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Emf {
    /// None.
    Off,
    /// On standard output, each minute: for Lambda, and wherever no agent scrapes `/metrics`.
    Stdout,
}

/// A collector of traces.
#[derive(Debug, Clone)]
pub struct Otlp {
    /// What `/v1/traces` is appended to.
    pub endpoint: Url,
    /// Sent with each request: names, and values that may be secrets.
    pub headers: Vec<(String, SecretString)>,
}

/// `[telemetry]`.
#[derive(Debug, Clone)]
pub struct Telemetry {
    /// The collector, if there is one.
    pub otlp: Option<Otlp>,
    /// Metrics as log lines.
    pub emf: Emf,
    /// The namespace that CloudWatch files those under.
    pub emf_namespace: String,
}

impl Telemetry {
    pub(crate) fn read(s: &mut Source) -> Self {
        let endpoint: Option<Url> = s.optional("telemetry.otlp_endpoint");
        let headers = s.secrets("telemetry.otlp_headers");
        let parsed: Option<Vec<_>> = headers.iter().map(header).collect();
        s.check(parsed.is_some(), "telemetry.otlp_headers", "each must be a header as `name=value`");
        if let Some(url) = &endpoint {
            let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
            let web = matches!(url.scheme(), "http" | "https") && plain;
            s.check(web, "telemetry.otlp_endpoint", "must be an http or https URL without user and query");
            let near = match url.host() {
                Some(Host::Domain(name)) => name == "localhost",
                Some(Host::Ipv4(ip)) => ip.is_loopback(),
                Some(Host::Ipv6(ip)) => ip.is_loopback(),
                None => false,
            };
            let safe = headers.is_empty() || near || url.scheme() == "https";
            s.check(safe, "telemetry.otlp_headers", "are sent to an https URL only (http only on loopback)");
        }
        let emf = if s.in_lambda() { Emf::Stdout } else { Emf::Off };
        let this = Self {
            otlp: endpoint.map(|endpoint| Otlp { endpoint, headers: parsed.unwrap_or_default() }),
            emf: s.get("telemetry.emf", emf),
            emf_namespace: s.get("telemetry.emf_namespace", "Darkroom".to_owned()),
        };
        // https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricData.html
        let name = |c: char| c.is_ascii_alphanumeric() || "._-/#: ".contains(c);
        let namespace = &this.emf_namespace;
        let valid = (1..=255).contains(&namespace.len())
            && namespace.chars().all(name)
            && !namespace.trim().is_empty()
            && !namespace.starts_with("AWS/");
        s.check(valid, "telemetry.emf_namespace", "must be 1 to 255 letters, digits or ._-/#: and not begin with AWS/");
        this
    }
}

fn header(text: &SecretString) -> Option<(String, SecretString)> {
    let (name, value) = text.expose_secret().split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let valid = HeaderName::try_from(name).is_ok() && HeaderValue::try_from(value).is_ok();
    valid.then(|| (name.to_owned(), value.into()))
}
