//! An API client that checks each response against the OpenAPI document.

use chrono::{DateTime, FixedOffset};
use reqwest::{
    Method, StatusCode,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use serde_json::{Value, json};

use super::{eventually, openapi, sha256_hex};

/// A complete response.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: Vec<u8>,
}

impl Answer {
    /// The body as JSON; null if it is empty.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }

    /// The JSON body; panics at another status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.bytes));
        self.json()
    }

    /// The fields that a 422 response names.
    #[track_caller]
    pub fn fields(self) -> Vec<String> {
        let errors = self.expect(422)["errors"].take();
        let errors = errors.as_array().expect("a 422 names its fields");
        errors.iter().map(|error| error["field"].as_str().expect("a field").to_owned()).collect()
    }

    /// A header as text; empty if it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap_or("(not text)"))
    }
}

/// An API client.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    token: Option<String>,
}

impl Client {
    /// A client of a base URL with a bearer token.
    pub fn new(url: &str, token: Option<String>) -> Self {
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().expect("a client");
        Self { http, url: url.to_owned(), token }
    }

    /// Adds a header to each request, as a proxy does.
    pub fn with_header(self, name: &'static str, value: &'static str) -> Self {
        let headers = HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))]);
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).default_headers(headers);
        Self { http: http.build().expect("a client"), ..self }
    }

    /// Builds a request; a path is relative to the service.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.url) };
        let request = self.http.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends a request and checks the response against the OpenAPI document.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        self.try_send(request).await.expect("an answer")
    }

    /// Like [`Self::send`], where the connection may fail.
    pub async fn try_send(&self, request: reqwest::RequestBuilder) -> reqwest::Result<Answer> {
        let request = request.build().expect("a request");
        let (method, path) = (request.method().clone(), request.url().path().to_owned());
        let of_s3 = request.url().query_pairs().any(|(name, _)| name == "X-Amz-Signature");
        let response = self.http.execute(request).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let answer = Answer { status, headers, bytes: response.bytes().await?.to_vec() };
        // Responses of S3 are not in the document.
        if !of_s3 {
            openapi::check(&method, &path, &answer);
        }
        Ok(answer)
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::PATCH, path).json(body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// Creates an album and returns its id.
    pub async fn album(&self, title: &str) -> String {
        id(&self.post("/v1/albums", &json!({ "title": title })).await.expect(201))
    }

    /// Creates an invite and returns its token.
    pub async fn invite(&self, album: &str, body: &Value) -> String {
        let invite = self.post(&format!("/v1/albums/{album}/invites"), body).await.expect(201);
        invite["token"].as_str().expect("a token").to_owned()
    }

    /// Declares a photo with its checksum and returns the whole response body.
    pub async fn declare(&self, album: &str, content_type: &str, bytes: &[u8]) -> Value {
        let answer = self.send(self.declaration(album, content_type, bytes)).await;
        assert!(answer.status.is_success(), "{}", String::from_utf8_lossy(&answer.bytes));
        answer.json()
    }

    /// The request that declares a photo.
    pub fn declaration(&self, album: &str, content_type: &str, bytes: &[u8]) -> reqwest::RequestBuilder {
        let body = json!({ "content_type": content_type, "bytes": bytes.len(), "sha256": sha256_hex(bytes) });
        self.request(Method::POST, &format!("/v1/albums/{album}/photos")).json(&body)
    }

    /// Uploads the bytes of a declared photo.
    pub async fn put(&self, upload: &Value, bytes: Vec<u8>) -> Answer {
        self.send(self.sending(upload, bytes)).await
    }

    /// The request that uploads the bytes of a declared photo.
    pub fn sending(&self, upload: &Value, bytes: Vec<u8>) -> reqwest::RequestBuilder {
        let mut request = self.http.put(upload["url"].as_str().expect("an upload URL"));
        for (name, value) in upload["headers"].as_object().expect("headers") {
            request = request.header(name, value.as_str().expect("text"));
        }
        request.body(bytes)
    }

    /// Declares and uploads a photo; returns its id.
    pub async fn upload(&self, album: &str, content_type: &str, bytes: &[u8]) -> String {
        let declared = self.declare(album, content_type, bytes).await;
        self.put(&declared["upload"], bytes.to_vec()).await.expect(200);
        id(&declared["photo"])
    }

    /// Waits until a photo is ready or rejected, and returns it.
    pub async fn settled(&self, photo: &str) -> Value {
        eventually("ready or rejected", async || {
            let photo = self.get(&format!("/v1/photos/{photo}")).await.expect(200);
            matches!(photo["state"].as_str(), Some("ready" | "rejected")).then_some(photo)
        })
        .await
    }

    /// All items of a list.
    pub async fn all(&self, path: &str) -> Vec<Value> {
        let (mut items, mut next) = (Vec::new(), path.to_owned());
        loop {
            let page = self.get(&next).await.expect(200);
            items.extend(page["items"].as_array().expect("items").iter().cloned());
            let Some(cursor) = page["next_cursor"].as_str() else { return items };
            next = format!("{path}{}cursor={cursor}", if path.contains('?') { '&' } else { '?' });
        }
    }

    /// Number and kind of all events of an album.
    pub async fn events(&self, album: &str) -> Vec<(u64, String)> {
        let (mut all, mut after) = (Vec::new(), 0);
        loop {
            let answer = self.get(&format!("/v1/albums/{album}/events?after={after}")).await.expect(200);
            for event in answer["items"].as_array().expect("items") {
                all.push((event["seq"].as_u64().expect("seq"), event["kind"].as_str().expect("kind").to_owned()));
            }
            let last = answer["last"].as_u64().expect("last");
            if last == after {
                return all;
            }
            after = last;
        }
    }
}

/// Parses a time of a response.
pub fn time(value: &Value) -> DateTime<FixedOffset> {
    DateTime::parse_from_rfc3339(value.as_str().expect("a text")).expect("a moment")
}

/// The `id` of a body.
#[track_caller]
pub fn id(body: &Value) -> String {
    body["id"].as_str().unwrap_or_else(|| panic!("no id in {body}")).to_owned()
}
