//! As much of the contract as an upload needs, in memory, and faults on demand.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// What goes wrong, once, at the next call of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A declaration is answered with this status.
    Declare(u16),
    /// 429 with `Retry-After: 1`.
    Busy,
    /// The album closes.
    Close,
    /// An upload is answered with this status.
    Put(u16),
    /// An upload is cut half-way.
    CutPut,
    /// The bytes are kept and the answer is lost.
    LoseAnswer,
    /// The photo is rejected.
    Reject,
    /// The photo is never developed.
    Sleep,
}

/// What was seen of an upload.
pub struct Put {
    pub length: Option<String>,
    pub chunked: bool,
    pub authorization: bool,
}

#[derive(Default)]
pub struct Seen {
    pub keys: Vec<String>,
    pub names: Vec<String>,
    pub puts: Vec<Put>,
    pub kept: usize,
    pub most_at_once: usize,
    now: usize,
    faults: Vec<Fault>,
    closed: bool,
    photos: HashMap<String, Value>,
    stop: Option<(usize, CancellationToken)>,
}

impl Seen {
    fn fault(&mut self, kinds: impl Fn(Fault) -> bool) -> Option<Fault> {
        let at = self.faults.iter().position(|fault| kinds(*fault))?;
        Some(self.faults.remove(at))
    }

    fn photo(&mut self, id: &str) -> &mut Value {
        self.photos.values_mut().find(|photo| photo["id"] == id).unwrap()
    }
}

type Shared = State<Arc<Mutex<Seen>>>;

/// A server of its own for one test. It listens under a path, as behind a gateway's stage.
pub struct Server {
    pub url: url::Url,
    seen: Arc<Mutex<Seen>>,
}

impl Server {
    pub async fn start() -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let routes = Router::new()
            .route("/v1/albums/{id}", get(album))
            .route("/v1/albums/{id}/photos", post(declare))
            .route("/v1/photos/{id}", get(photo))
            .route("/upload/{id}", put(receive));
        let service = Router::new().nest("/stage", routes).with_state(seen.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/stage/", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move { axum::serve(listener, service).await.unwrap() });
        Self { url, seen }
    }

    pub fn will(&self, faults: Vec<Fault>) {
        self.seen.lock().unwrap().faults = faults;
    }

    pub fn stop_after(&self, puts: usize, stop: CancellationToken) {
        self.seen.lock().unwrap().stop = Some((puts, stop));
    }

    pub fn seen<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.seen.lock().unwrap())
    }
}

fn no(status: u16, detail: &str) -> Response {
    (StatusCode::from_u16(status).unwrap(), json!({ "title": "No", "detail": detail }).to_string()).into_response()
}

async fn album(State(seen): Shared) -> String {
    json!({ "title": "t", "role": "drop", "closed": seen.lock().unwrap().closed }).to_string()
}

async fn photo(State(seen): Shared, uri: Uri) -> String {
    seen.lock().unwrap().photo(uri.path().rsplit('/').next().unwrap()).to_string()
}

async fn declare(State(seen): Shared, headers: HeaderMap, uri: Uri, body: Bytes) -> Response {
    let mut seen = seen.lock().unwrap();
    let new: Value = serde_json::from_slice(&body).unwrap();
    seen.keys.push(headers["idempotency-key"].to_str().unwrap().to_owned());
    seen.names.extend(new["guest_name"].as_str().map(str::to_owned));
    match seen.fault(|fault| matches!(fault, Fault::Declare(_) | Fault::Busy | Fault::Close)) {
        Some(Fault::Busy) => return (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")]).into_response(),
        Some(Fault::Declare(status)) => return no(status, "no"),
        Some(_) => seen.closed = true,
        None => {}
    }
    if seen.closed {
        return no(409, "the album is closed");
    }
    let fresh =
        json!({ "id": Uuid::now_v7(), "state": "awaiting_upload", "reject_reason": null, "bytes": new["bytes"] });
    let photo = seen.photos.entry(new["sha256"].as_str().unwrap().to_owned()).or_insert(fresh).clone();
    let url = format!("http://{}/stage/upload/{}", headers["host"].to_str().unwrap(), photo["id"].as_str().unwrap());
    assert!(uri.path().ends_with("/photos"));
    let upload = json!({ "method": "PUT", "url": url, "headers": { "content-type": new["content_type"] }, "expires_at": "2030-01-01T00:00:00Z" });
    let upload = if photo["state"] == "awaiting_upload" { upload } else { Value::Null };
    json!({ "photo": photo, "upload": upload }).to_string().into_response()
}

async fn receive(State(seen): Shared, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let header = |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let id = parts.uri.path().rsplit('/').next().unwrap().to_owned();
    let put = Put {
        length: header("content-length"),
        chunked: header("transfer-encoding").is_some(),
        authorization: header("authorization").is_some(),
    };
    let fault = {
        let mut seen = seen.lock().unwrap();
        seen.puts.push(put);
        seen.now += 1;
        seen.most_at_once = seen.most_at_once.max(seen.now);
        seen.fault(|fault| !matches!(fault, Fault::Declare(_) | Fault::Busy | Fault::Close))
    };
    let answer = keep(&seen, &id, fault, body).await;
    seen.lock().unwrap().now -= 1;
    answer
}

async fn keep(seen: &Mutex<Seen>, id: &str, fault: Option<Fault>, body: Body) -> Response {
    let mut stream = body.into_data_stream();
    let mut bytes = 0;
    while let Some(piece) = stream.next().await {
        let Ok(piece) = piece else { return no(400, "the upload was cut off") };
        bytes += piece.len();
        assert_ne!(fault, Some(Fault::CutPut), "so that the connection is cut");
    }
    if let Some(Fault::Put(status)) = fault {
        return no(status, "no");
    }
    tokio::time::sleep(Duration::from_millis(5)).await;
    let mut seen = seen.lock().unwrap();
    assert_eq!(seen.photo(id)["bytes"], bytes);
    seen.kept += 1;
    let photo = seen.photo(id);
    photo["state"] = "ready".into();
    match fault {
        Some(Fault::Reject) => {
            photo["state"] = "rejected".into();
            photo["reject_reason"] = "this picture is cut off".into();
        }
        Some(Fault::Sleep) => photo["state"] = "processing".into(),
        Some(Fault::LoseAnswer) => return no(502, "lost"),
        _ => {}
    }
    if let Some((puts, stop)) = &seen.stop
        && seen.kept >= *puts
    {
        stop.cancel();
    }
    StatusCode::OK.into_response()
}
