//! Requests as API Gateway and function URLs tell of them.
//!
//! - REST APIs, payload format 1.0:
//!   <https://docs.aws.amazon.com/apigateway/latest/developerguide/set-up-lambda-proxy-integrations.html>
//! - HTTP APIs and function URLs, payload format 2.0:
//!   <https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html>,
//!   <https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html>

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context, bail};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::Value;
use url::{Position, Url, form_urlencoded};

/// The format of an event, which its answer has too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Payload {
    /// Of REST APIs, 1.0: headers with lists of values.
    Rest,
    /// Of HTTP APIs and function URLs, 2.0: headers with commas.
    Http,
}

/// What was asked.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The event's format.
    pub payload: Payload,
    /// The method.
    pub method: Method,
    /// Path and query, as the router knows them.
    pub target: Uri,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
    /// Who called the gateway; none in what its console sends as a test.
    pub source: Option<IpAddr>,
    /// The gateway's own id of the request.
    pub gateway_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rest {
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
struct Http {
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
    http: HttpCall,
    stage: String,
    request_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HttpCall {
    method: String,
    source_ip: Option<String>,
}

impl Asked {
    /// Reads an event of either format. `base` is the path that all clients' paths begin with, such as what a custom domain
    /// maps to the API; the router knows nothing of it. Format 2.0 has taken it off already.
    ///
    /// # Errors
    /// It is no request.
    pub(crate) fn read(event: Value, base: &str) -> anyhow::Result<Self> {
        match (event["version"].as_str(), event["httpMethod"].is_string()) {
            (Some("2.0"), _) => {
                Self::of_http(serde_json::from_value(event).context("a request in payload format 2.0")?)
            }
            (_, true) => Self::of_rest(serde_json::from_value(event).context("a request in payload format 1.0")?, base),
            _ => bail!("the event is no request of API Gateway or a function URL"),
        }
    }

    fn of_rest(event: Rest, base: &str) -> anyhow::Result<Self> {
        let lists = |lists: Option<BTreeMap<String, Vec<String>>>, single: Option<BTreeMap<String, String>>| {
            // The lists have all that the others have.
            let single = || single.unwrap_or_default().into_iter().map(|(name, value)| (name, vec![value])).collect();
            let lists: BTreeMap<String, Vec<String>> = lists.unwrap_or_else(single);
            lists.into_iter().flat_map(|(name, values)| values.into_iter().map(move |value| (name.clone(), value)))
        };
        // Parameters come decoded.
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(lists(event.multi_value_query_string_parameters, event.query_string_parameters));
        Ok(Self {
            payload: Payload::Rest,
            method: event.http_method.parse()?,
            // The stage is not part of it.
            target: target(below(&event.path, base), &query.finish())?,
            headers: headers(lists(event.multi_value_headers, event.headers)),
            body: body(event.body, event.is_base64_encoded)?,
            source: event.request_context.identity.and_then(|identity| identity.source_ip?.parse().ok()),
            gateway_id: event.request_context.request_id,
        })
    }

    fn of_http(event: Http) -> anyhow::Result<Self> {
        let context = event.request_context;
        // Under a custom domain, too, paths begin with the stage: it comes in the place of what the domain maps to the API.
        let stage = if context.stage == "$default" { String::new() } else { format!("/{}", context.stage) };
        Ok(Self {
            payload: Payload::Http,
            method: context.http.method.parse()?,
            target: target(below(&event.raw_path, &stage), &event.raw_query_string)?,
            headers: headers(event.headers),
            body: body(event.body, event.is_base64_encoded)?,
            source: context.http.source_ip.and_then(|ip| ip.parse().ok()),
            gateway_id: context.request_id,
        })
    }
}

/// A path without what it begins with, if it does so with whole segments.
fn below<'a>(path: &'a str, base: &str) -> &'a str {
    match path.strip_prefix(base.trim_end_matches('/')) {
        Some("") => "/",
        Some(rest) if rest.starts_with('/') => rest,
        _ => path,
    }
}

/// What a URL may not hold is encoded.
fn target(path: &str, query: &str) -> anyhow::Result<Uri> {
    let mut url = Url::parse("http://localhost").expect("a constant");
    url.set_path(path);
    url.set_query(Some(query).filter(|query| !query.is_empty()));
    Ok(url[Position::BeforePath..Position::AfterQuery].parse()?)
}

/// What can't be a header has not come by HTTP, and is left out.
fn headers(pairs: impl IntoIterator<Item = (String, String)>) -> HeaderMap {
    let header =
        |(name, value): (String, String)| Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?));
    let mut headers = HeaderMap::new();
    for (name, value) in pairs.into_iter().filter_map(header) {
        headers.append(name, value);
    }
    headers
}

fn body(body: Option<String>, encoded: bool) -> anyhow::Result<Vec<u8>> {
    match body {
        Some(text) if encoded => STANDARD.decode(text).context("the body is not base64"),
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
        Asked::read(event, base).unwrap().target.to_string()
    }

    fn rest(path: &str, base: &str) -> String {
        let event = json!({
            "httpMethod": "GET",
            "path": path,
            "queryStringParameters": { "a": "&=?", "b": "2" },
            "multiValueQueryStringParameters": { "a": ["&=?"], "b": ["1", "2"] },
            "requestContext": { "stage": "prod" },
        });
        Asked::read(event, base).unwrap().target.to_string()
    }

    #[test]
    fn stage_and_base_path_are_taken_off() {
        let own = "abc.execute-api.eu-west-1.amazonaws.com";
        for (path, stage, domain, base, expected) in [
            ("/v1/albums", "$default", own, "/", "/v1/albums"),
            ("/prod/v1/albums", "prod", own, "/", "/v1/albums"),
            ("/prod/v1/albums", "prod", own, "/prod", "/v1/albums"),
            ("/prod", "prod", own, "/", "/"),
            ("/v1/v1/albums", "v1", own, "/", "/v1/albums"),
            ("/production/v1", "prod", own, "/", "/production/v1"),
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
    fn what_is_no_request_is_told() {
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
            assert!(Asked::read(event.clone(), "/").is_err(), "{event}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_path_or_query_is_too_much(path in "\\PC{0,40}", query in "\\PC{0,40}", base in "/?[a-z/]{0,6}") {
            let call = json!({ "http": { "method": "GET" }, "stage": "s", "domainName": "x.execute-api.y" });
            let event = json!({ "version": "2.0", "rawPath": path, "rawQueryString": query, "requestContext": call });
            let target = Asked::read(event, &base).unwrap().target;
            proptest::prop_assert!(target.path().starts_with('/'));
        }
    }
}
