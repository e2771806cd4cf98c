//! HTTP requests in the events of API Gateway and function URLs:
//!
//! - REST APIs, payload format 1.0:
//!   <https://docs.aws.amazon.com/apigateway/latest/developerguide/set-up-lambda-proxy-integrations.html>
//! - HTTP APIs and function URLs, payload format 2.0:
//!   <https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html>,
//!   <https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html>
//!
//! `lambda_http` 1.3 is not used: it keeps one value of a repeated header in format 1.0 requests and in format 2.0
//! responses, and panics on a path or `Host` header that makes no URL.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context, bail};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::Value;
use url::{Position, Url, form_urlencoded};

/// The format of an event and its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PayloadFormat {
    /// 1.0, of REST APIs: headers with lists of values.
    V1,
    /// 2.0, of HTTP APIs and function URLs: header values joined by commas.
    V2,
}

/// The request in an event.
#[derive(Debug)]
pub(crate) struct GatewayRequest {
    pub format: PayloadFormat,
    pub method: Method,
    /// Path and query as in the router.
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    /// The client's address; absent in test events of the console.
    pub source_ip: Option<IpAddr>,
    /// The gateway's own request id.
    pub gateway_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RestEvent {
    http_method: String,
    path: String,
    headers: Option<BTreeMap<String, String>>,
    multi_value_headers: Option<BTreeMap<String, Vec<String>>>,
    query_string_parameters: Option<BTreeMap<String, String>>,
    multi_value_query_string_parameters: Option<BTreeMap<String, Vec<String>>>,
    request_context: RestContext,
    body: Option<String>,
    #[serde(default)]
    is_base64_encoded: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RestContext {
    identity: Option<Identity>,
    request_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    source_ip: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HttpEvent {
    raw_path: String,
    raw_query_string: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    request_context: HttpContext,
    body: Option<String>,
    #[serde(default)]
    is_base64_encoded: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HttpContext {
    http: HttpRequest,
    stage: String,
    request_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HttpRequest {
    method: String,
    source_ip: Option<String>,
}

impl GatewayRequest {
    /// Parses an event of either format. `base` is the path prefix of all client URLs, such as the base path mapping of
    /// a custom domain, which the router does not know; in format 2.0 it is removed already.
    pub(crate) fn from_event(event: Value, base: &str) -> anyhow::Result<Self> {
        match (event["version"].as_str(), event["httpMethod"].is_string()) {
            (Some("2.0"), _) => Self::from_http(serde_json::from_value(event).context("payload format 2.0")?),
            (_, true) => Self::from_rest(serde_json::from_value(event).context("payload format 1.0")?, base),
            _ => bail!("the event is not a request of API Gateway or a function URL"),
        }
    }

    fn from_rest(event: RestEvent, base: &str) -> anyhow::Result<Self> {
        let pairs = |lists: Option<BTreeMap<String, Vec<String>>>, single: Option<BTreeMap<String, String>>| {
            // The lists contain all single values.
            let single = || single.unwrap_or_default().into_iter().map(|(name, value)| (name, vec![value])).collect();
            let lists: BTreeMap<String, Vec<String>> = lists.unwrap_or_else(single);
            lists.into_iter().flat_map(|(name, values)| values.into_iter().map(move |value| (name.clone(), value)))
        };
        // Parameters are decoded in the event.
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(pairs(event.multi_value_query_string_parameters, event.query_string_parameters));
        Ok(Self {
            format: PayloadFormat::V1,
            method: event.http_method.parse()?,
            // Without the stage.
            uri: build_uri(strip_base(&event.path, base), &query.finish())?,
            headers: build_headers(pairs(event.multi_value_headers, event.headers)),
            body: decode_body(event.body, event.is_base64_encoded)?,
            source_ip: event.request_context.identity.and_then(|identity| identity.source_ip?.parse().ok()),
            gateway_id: event.request_context.request_id,
        })
    }

    fn from_http(event: HttpEvent) -> anyhow::Result<Self> {
        let context = event.request_context;
        // Under a custom domain, too, the path begins with the stage, which replaces the base path mapping.
        let base = if context.stage == "$default" { String::new() } else { format!("/{}", context.stage) };
        Ok(Self {
            format: PayloadFormat::V2,
            method: context.http.method.parse()?,
            uri: build_uri(strip_base(&event.raw_path, &base), &event.raw_query_string)?,
            headers: build_headers(event.headers),
            body: decode_body(event.body, event.is_base64_encoded)?,
            source_ip: context.http.source_ip.and_then(|ip| ip.parse().ok()),
            gateway_id: context.request_id,
        })
    }
}

/// Removes a prefix of whole path segments.
fn strip_base<'a>(path: &'a str, base: &str) -> &'a str {
    match path.strip_prefix(base.trim_end_matches('/')) {
        Some("") => "/",
        Some(rest) if rest.starts_with('/') => rest,
        _ => path,
    }
}

/// Percent-encodes what a URL must not contain.
fn build_uri(path: &str, query: &str) -> anyhow::Result<Uri> {
    let mut url = Url::parse("http://localhost").expect("a valid URL");
    url.set_path(path);
    url.set_query(Some(query).filter(|query| !query.is_empty()));
    Ok(url[Position::BeforePath..Position::AfterQuery].parse()?)
}

/// Drops invalid headers, which did not arrive by HTTP.
fn build_headers(pairs: impl IntoIterator<Item = (String, String)>) -> HeaderMap {
    let header =
        |(name, value): (String, String)| Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?));
    let mut headers = HeaderMap::new();
    for (name, value) in pairs.into_iter().filter_map(header) {
        headers.append(name, value);
    }
    headers
}

fn decode_body(body: Option<String>, is_base64: bool) -> anyhow::Result<Vec<u8>> {
    match body {
        Some(text) if is_base64 => STANDARD.decode(text).context("the body is not base64"),
        text => Ok(text.unwrap_or_default().into_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn http(path: &str, stage: &str, domain: &str, base: &str) -> String {
        let context = json!({ "http": { "method": "GET" }, "stage": stage, "domainName": domain });
        let event =
            json!({ "version": "2.0", "rawPath": path, "rawQueryString": "a=%20&b", "requestContext": context });
        GatewayRequest::from_event(event, base).unwrap().uri.to_string()
    }

    fn rest(path: &str, base: &str) -> String {
        let event = json!({
            "httpMethod": "GET",
            "path": path,
            "queryStringParameters": { "a": "&=?", "b": "2" },
            "multiValueQueryStringParameters": { "a": ["&=?"], "b": ["1", "2"] },
            "requestContext": { "stage": "prod" },
        });
        GatewayRequest::from_event(event, base).unwrap().uri.to_string()
    }

    #[test]
    fn strips_stage_and_base_path() {
        let gateway = "abc.execute-api.eu-west-1.amazonaws.com";
        for (path, stage, domain, base, expected) in [
            ("/v1/albums", "$default", gateway, "/", "/v1/albums"),
            ("/prod/v1/albums", "prod", gateway, "/", "/v1/albums"),
            ("/prod/v1/albums", "prod", gateway, "/prod", "/v1/albums"),
            ("/prod", "prod", gateway, "/", "/"),
            ("/v1/v1/albums", "v1", gateway, "/", "/v1/albums"),
            ("/production/v1", "prod", gateway, "/", "/production/v1"),
            ("/prod/v1/albums", "prod", "api.example.com", "/photos", "/v1/albums"),
            ("/v1/v1/albums", "v1", "api.example.com", "/v1", "/v1/albums"),
            ("/v1/albums", "$default", "api.example.com", "/photos", "/v1/albums"),
            ("/v1/albums", "$default", "abc.lambda-url.eu-west-1.on.aws", "/", "/v1/albums"),
        ] {
            assert_eq!(http(path, stage, domain, base), format!("{expected}?a=%20&b"), "{path} at {base}");
        }
        assert_eq!(rest("/v1/albums", "/"), "/v1/albums?a=%26%3D%3F&b=1&b=2");
        assert_eq!(rest("/photos/v1/albums", "/photos/"), "/v1/albums?a=%26%3D%3F&b=1&b=2");
        assert_eq!(rest("/photosv1/albums", "/photos"), "/photosv1/albums?a=%26%3D%3F&b=1&b=2");
        assert!(rest("/v1/ü x", "/").starts_with("/v1/%C3%BC%20x?"));
    }

    #[test]
    fn rejects_other_events() {
        for event in [
            json!({}),
            json!([]),
            json!("text"),
            json!({ "Records": [] }),
            json!({ "version": "2.0" }),
            json!({ "httpMethod": "GET" }),
            json!({ "httpMethod": "G T", "path": "/", "requestContext": {} }),
            json!({ "httpMethod": "GET", "path": "/", "requestContext": {}, "body": "%", "isBase64Encoded": true }),
        ] {
            assert!(GatewayRequest::from_event(event.clone(), "/").is_err(), "{event}");
        }
    }

    proptest::proptest! {
        #[test]
        fn accepts_any_path_and_query(path in "\\PC{0,40}", query in "\\PC{0,40}", base in "/?[a-z/]{0,6}") {
            let call = json!({ "http": { "method": "GET" }, "stage": "s", "domainName": "x.execute-api.y" });
            let event = json!({ "version": "2.0", "rawPath": path, "rawQueryString": query, "requestContext": call });
            let uri = GatewayRequest::from_event(event, &base).unwrap().uri;
            proptest::prop_assert!(uri.path().starts_with('/'));
        }
    }
}
