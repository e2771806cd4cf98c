//! The function `api`: the HTTP API behind API Gateway or a function URL.

use std::net::SocketAddr;

use anyhow::Context as _;
use axum::{
    Router,
    body::Body,
    http::{HeaderValue, Request, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use http_body_util::BodyExt;
use lambda_runtime::Context;
use serde_json::{Map, Value, json};
use tower::ServiceExt;

use super::event::{GatewayRequest, PayloadFormat};
use crate::{app::App, server::Peer};

/// Serves the request in an event; returns the response in the format of the event.
pub(crate) async fn handle(app: &App, router: &Router, event: Value, context: &Context) -> anyhow::Result<Value> {
    let request = GatewayRequest::from_event(event, app.config.http.public_url.path())?;
    let format = request.format;
    let request = to_http(app, request, context)?;
    let response = router.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
    to_payload(format, response).await
}

fn to_http(app: &App, from: GatewayRequest, context: &Context) -> anyhow::Result<Request<Body>> {
    let mut request = Request::builder().method(from.method).uri(from.uri).body(Body::from(from.body))?;
    let headers = request.headers_mut();
    *headers = from.headers;
    // The ids in the log: the gateway's, X-Ray's, and the invocation's if the client gave none.
    let value = |text: Option<&str>| text.and_then(|text| HeaderValue::from_str(text).ok());
    if let Some(id) = value(from.gateway_id.as_deref()) {
        headers.insert("x-amzn-requestid", id);
    }
    if let Some(trace) = value(context.xray_trace_id.as_deref()) {
        headers.insert("x-amzn-trace-id", trace);
    }
    if let Some(id) = value(Some(&context.request_id)) {
        headers.entry("x-request-id").or_insert(id);
    }
    if let Some(ip) = from.source_ip {
        // The gateway's client takes the place of a connection's peer.
        request.extensions_mut().insert(Peer::new(SocketAddr::new(ip, 0), &app.config.http.front));
    }
    Ok(request)
}

async fn to_payload(format: PayloadFormat, response: Response<Body>) -> anyhow::Result<Value> {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.context("the response body failed")?.to_bytes();
    let (body, is_base64) = match std::str::from_utf8(&body) {
        Ok(text) => (text.to_owned(), false),
        Err(_) => (STANDARD.encode(&body), true),
    };
    let mut headers = Map::new();
    for name in parts.headers.keys() {
        let values = parts.headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        let value = match format {
            PayloadFormat::V1 => values.collect(),
            PayloadFormat::V2 => Value::from(values.collect::<Vec<_>>().join(", ")),
        };
        headers.insert(name.to_string(), value);
    }
    let field = match format {
        PayloadFormat::V1 => "multiValueHeaders",
        PayloadFormat::V2 => "headers",
    };
    Ok(json!({ "statusCode": parts.status.as_u16(), field: headers, "body": body, "isBase64Encoded": is_base64 }))
}
