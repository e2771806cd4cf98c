//! Somebody who is told of events: a small HTTP server that keeps what it gets and answers as the test says.

use std::sync::{Arc, Mutex};

use aws_lc_rs::hmac;
use axum::{Router, body::Bytes, extract::State, http::HeaderMap, http::StatusCode, routing::post};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;
use tokio::net::TcpListener;

use super::process::free_address;

/// The key of the signatures, as Standard Webhooks write it: base64 after `whsec_`.
const KEY: &[u8] = b"thirty-two bytes of a secret key";

/// What it got.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Value,
    /// Whether it was answered with 2xx.
    pub accepted: bool,
}

impl Delivery {
    /// The event's number.
    pub fn seq(&self) -> u64 {
        self.body["data"]["seq"].as_u64().expect("a number")
    }

    /// The event's album.
    pub fn album(&self) -> &str {
        self.body["data"]["album_id"].as_str().expect("an id")
    }
}

/// How it answers.
#[derive(Debug, Clone, Copy)]
pub enum Reply {
    /// With this status.
    Status(u16),
    /// Not at all.
    Silence,
}

type Rule = Box<dyn Fn(&Delivery) -> Reply + Send>;

struct Shared {
    rule: Mutex<Rule>,
    deliveries: Mutex<Vec<Delivery>>,
}

/// The server; it ends with the test.
pub struct Webhook {
    address: String,
    shared: Arc<Shared>,
}

impl Webhook {
    /// One that takes everything.
    pub async fn start() -> Self {
        let webhook = Self::absent();
        webhook.listen().await;
        webhook
    }

    /// One that does not listen yet.
    pub fn absent() -> Self {
        let rule: Rule = Box::new(|_| Reply::Status(200));
        let shared = Shared { rule: Mutex::new(rule), deliveries: Mutex::default() };
        Self { address: free_address(), shared: Arc::new(shared) }
    }

    /// Begins to listen.
    pub async fn listen(&self) {
        let listener = TcpListener::bind(&self.address).await.expect("its address is free");
        let router = Router::new().route("/hook", post(take)).with_state(self.shared.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
    }

    /// From now on it answers like this.
    pub fn answer(&self, rule: impl Fn(&Delivery) -> Reply + Send + 'static) {
        *self.shared.rule.lock().unwrap() = Box::new(rule);
    }

    /// All that it got, in order.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.shared.deliveries.lock().unwrap().clone()
    }

    /// The numbers of an album's events that it has taken, in order.
    pub fn accepted(&self, album: &str) -> Vec<u64> {
        let all = self.deliveries();
        all.iter().filter(|delivery| delivery.accepted && delivery.album() == album).map(Delivery::seq).collect()
    }

    /// The secret, as an operator would write it down.
    pub fn secret() -> String {
        format!("whsec_{}", STANDARD.encode(KEY))
    }

    /// What makes a service tell it, as variables.
    pub fn variables(&self) -> [(&'static str, String); 2] {
        [("DARKROOM_NOTIFICATIONS_WEBHOOK_URL", self.url()), ("DARKROOM_NOTIFICATIONS_WEBHOOK_SECRET", Self::secret())]
    }

    /// What makes a service tell it, as settings.
    pub fn settings(&self) -> String {
        format!(
            "notifications.webhook_url = \"{}\"\nnotifications.webhook_secret = \"{}\"\n",
            self.url(),
            Self::secret()
        )
    }

    fn url(&self) -> String {
        format!("http://{}/hook?key=a-secret-of-the-url", self.address)
    }
}

async fn take(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    verify(&headers, &body);
    let body = serde_json::from_slice(&body).expect("JSON");
    let mut delivery = Delivery { headers, body, accepted: false };
    let reply = (shared.rule.lock().unwrap())(&delivery);
    delivery.accepted = matches!(reply, Reply::Status(200..=299));
    shared.deliveries.lock().unwrap().push(delivery);
    match reply {
        Reply::Status(status) => StatusCode::from_u16(status).expect("a status"),
        Reply::Silence => std::future::pending().await,
    }
}

/// Panics, and so answers nothing, unless the signature is right: written after the text of the standard, not after
/// our own code.
fn verify(headers: &HeaderMap, body: &[u8]) {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_else(|| panic!("no {name}"));
    let (id, timestamp) = (text("webhook-id"), text("webhook-timestamp"));
    let age = chrono::Utc::now().timestamp() - timestamp.parse::<i64>().expect("seconds since 1970");
    assert!((-5..=5).contains(&age), "sent {age} s ago");
    let signed = [format!("{id}.{timestamp}.").as_bytes(), body].concat();
    let signature = text("webhook-signature").strip_prefix("v1,").expect("version 1");
    let signature = STANDARD.decode(signature).expect("base64");
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, KEY), &signed, &signature).expect("the signature fits");
}
