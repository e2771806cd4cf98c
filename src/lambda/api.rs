//! The function `api`: the router behind API Gateway or a function URL.

use std::net::{IpAddr, SocketAddr};

use anyhow::Context as _;
use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderValue, Request, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use http_body_util::BodyExt;
use lambda_runtime::Context;
use serde_json::{Map, Value, json};
use tower::ServiceExt;

use super::event::{Asked, Payload};
use crate::{app::App, server::Peer};

/// Answers a request that comes as an event, in the event's own format.
pub(crate) async fn answer(app: &App, router: &Router, event: Value, context: &Context) -> anyhow::Result<Value> {
    let asked = Asked::read(event, app.config.http.public_url.path())?;
    let payload = asked.payload;
    let request = request(app, asked, context)?;
    let response = router.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
    write(payload, response).await
}

fn request(app: &App, asked: Asked, context: &Context) -> anyhow::Result<Request<Body>> {
    let mut request = Request::builder().method(asked.method).uri(asked.target).body(Body::from(asked.body))?;
    let headers = request.headers_mut();
    *headers = asked.headers;
    // What the log knows a request by: the gateway's id, and the invocation's where the client gave none.
    let text = |value: Option<&str>| value.and_then(|value| HeaderValue::from_str(value).ok());
    if let Some(id) = text(asked.gateway_id.as_deref()) {
        headers.insert("x-amzn-requestid", id);
    }
    if let Some(trace) = text(context.xray_trace_id.as_deref()) {
        headers.insert("x-amzn-trace-id", trace);
    }
    if let Some(id) = text(Some(&context.request_id)) {
        headers.entry("x-request-id").or_insert(id);
    }
    if let Some(source) = asked.source {
        request.extensions_mut().insert(peer(app, source));
    }
    Ok(request)
}

/// Who called the gateway stands where a connection's other side stands elsewhere.
fn peer(app: &App, source: IpAddr) -> Peer {
    Peer::new(SocketAddr::new(source, 0), &app.config.http.front)
}

/// Text as it is, all else in base64.
async fn write(payload: Payload, response: Response<Body>) -> anyhow::Result<Value> {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.context("the answer breaks off")?.to_bytes();
    let (body, encoded) = encode(&body);
    let mut headers = Map::new();
    for name in parts.headers.keys() {
        let values = parts.headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        let value = match payload {
            Payload::Rest => values.collect(),
            // https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html
            Payload::Http => Value::from(values.collect::<Vec<_>>().join(", ")),
        };
        headers.insert(name.to_string(), value);
    }
    let name = match payload {
        Payload::Rest => "multiValueHeaders",
        Payload::Http => "headers",
    };
    Ok(json!({ "statusCode": parts.status.as_u16(), name: headers, "body": body, "isBase64Encoded": encoded }))
}

fn encode(body: &Bytes) -> (String, bool) {
    match std::str::from_utf8(body) {
        Ok(text) => (text.to_owned(), false),
        Err(_) => (STANDARD.encode(body), true),
    }
}
