//! A webhook receiver that records deliveries and responds as the test says.

use std::sync::{Arc, Mutex};

use aws_lc_rs::hmac;
use axum::{Router, body::Bytes, extract::State, http::HeaderMap, http::StatusCode, routing::post};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;
use tokio::net::TcpListener;

use super::process::free_address;

/// The key of the signatures, as Standard Webhooks write it: base64 after `whsec_`.
const KEY: &[u8] = b"thirty-two bytes of a secret key";

#[derive(Debug, Clone)]
pub struct Delivery {
    pub headers: HeaderMap,
    pub body: Value,
    pub accepted: bool,
}

impl Delivery {
    pub fn seq(&self) -> u64 {
        self.body["data"]["seq"].as_u64().expect("a number")
    }

    pub fn album(&self) -> &str {
        self.body["data"]["album_id"].as_str().expect("an id")
    }
}

#[derive(Debug, Clone, Copy)]
pub enum Reply {
    /// With this status.
    Status(u16),
    /// Without a response.
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
    /// Accepts every delivery.
    pub async fn start() -> Self {
        let webhook = Self::absent();
        webhook.listen().await;
        webhook
    }

    /// Does not listen yet.
    pub fn absent() -> Self {
        let rule: Rule = Box::new(|_| Reply::Status(200));
        let shared = Shared { rule: Mutex::new(rule), deliveries: Mutex::default() };
        Self { address: free_address(), shared: Arc::new(shared) }
    }

    pub async fn listen(&self) {
        let listener = TcpListener::bind(&self.address).await.expect("its address is free");
        let router = Router::new().route("/hook", post(take)).with_state(self.shared.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
    }

    /// Sets the rule for replies.
    pub fn answer(&self, rule: impl Fn(&Delivery) -> Reply + Send + 'static) {
        *self.shared.rule.lock().unwrap() = Box::new(rule);
    }

    /// All deliveries in order.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.shared.deliveries.lock().unwrap().clone()
    }

    /// The numbers of an album's accepted events in order.
    pub fn accepted(&self, album: &str) -> Vec<u64> {
        let all = self.deliveries();
        all.iter().filter(|delivery| delivery.accepted && delivery.album() == album).map(Delivery::seq).collect()
    }

    /// The secret as in the configuration.
    pub fn secret() -> String {
        format!("whsec_{}", STANDARD.encode(KEY))
    }

    /// The environment variables that send notifications here.
    pub fn variables(&self) -> [(&'static str, String); 2] {
        [("DARKROOM_NOTIFICATIONS_WEBHOOK_URL", self.url()), ("DARKROOM_NOTIFICATIONS_WEBHOOK_SECRET", Self::secret())]
    }

    /// The settings that send notifications here.
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

/// Panics, without a response, unless the signature is valid. Written from the standard, not from the service's code.
fn verify(headers: &HeaderMap, body: &[u8]) {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_else(|| panic!("no {name}"));
    let (id, timestamp) = (text("webhook-id"), text("webhook-timestamp"));
    let age = chrono::Utc::now().timestamp() - timestamp.parse::<i64>().expect("a time after the epoch");
    assert!((-5..=5).contains(&age), "sent {age} s ago");
    let signed = [format!("{id}.{timestamp}.").as_bytes(), body].concat();
    let signature = text("webhook-signature").strip_prefix("v1,").expect("version 1");
    let signature = STANDARD.decode(signature).expect("base64");
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, KEY), &signed, &signature).expect("the signature fits");
}
