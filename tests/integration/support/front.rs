//! What stands before the balancer: a stand-in for CloudFront and API Gateway's REST API in one, led by the document that
//! `darkroom openapi --gateway` prints. It does what is known of them and matters to the service: who does not come
//! through `CloudFront` has no API key; a path that the document does not name, or a path parameter that it does not map,
//! goes nowhere; headers are added, mapped and renamed; a body has 10 MB and an answer 29 s; some reads are a function's.
//!
//! Not compared with the real ones. A signed URL is only held to its key's id: the service's own tests verify signatures.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};
use tokio::time::timeout;
use uuid::Uuid;

use super::{
    cloud::{Bucket, Emulator, lambda},
    imds::serve,
    template,
};

/// Who asks, as CloudFront sees it, and CloudFront, as the gateway sees it.
const VIEWER: &str = "203.0.113.7";
const CLOUDFRONT: &str = "130.176.0.1";
/// The most bytes of a body, and the longest time for an answer.
const MOST: usize = 10 << 20;
const LONGEST: Duration = Duration::from_secs(29);

/// What it leads to.
pub struct Behind {
    /// The document.
    pub document: Value,
    /// The values of the gateway's stack.
    pub names: BTreeMap<String, String>,
    /// The conditions of the gateway's stack that hold.
    pub conditions: Vec<String>,
    /// Where the balancer is, `http://HOST:PORT`.
    pub balancer: String,
    /// Where functions are invoked.
    pub emulator: Arc<Emulator>,
    /// What is under `/renditions`.
    pub bucket: Bucket,
    /// The id of the key that signs URLs.
    pub key_id: String,
}

struct Front {
    behind: Behind,
    http: reqwest::Client,
}

/// Begins to serve; answers where.
pub async fn start(behind: Behind) -> String {
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().expect("a client");
    serve(Router::new().fallback(answer).with_state(Arc::new(Front { behind, http }))).await
}

async fn answer(State(front): State<Arc<Front>>, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    if let Some(key) = parts.uri.path().strip_prefix("/renditions/") {
        return front.rendition(&format!("renditions/{key}"), &parts.uri).await;
    }
    // A function of CloudFront, and then the gateway, each adds whom it sees.
    parts.headers.insert("x-forwarded-for", HeaderValue::from_static(VIEWER));
    parts.headers.insert("x-amzn-trace-id", trace());
    let Ok(body) = axum::body::to_bytes(body, MOST).await else { return front.own("REQUEST_TOO_LARGE", 413) };
    let Some((operation, values)) = front.operation(&parts.method, parts.uri.path()) else {
        return front.own("MISSING_AUTHENTICATION_TOKEN", 403);
    };
    let integration = front.resolved(&operation["x-amazon-apigateway-integration"]);
    let work = async {
        match integration["type"].as_str() {
            Some("http_proxy") => front.proxied(&integration, &values, &parts, body).await,
            Some("aws_proxy") => front.invoked(&integration, &values, &parts, &body).await,
            other => panic!("an integration of type {other:?}"),
        }
    };
    match timeout(LONGEST, work).await {
        Ok(Some(answer)) => renamed(answer),
        Ok(None) => front.own("INTEGRATION_FAILURE", 504),
        Err(_) => front.own("INTEGRATION_TIMEOUT", 504),
    }
}

impl Front {
    /// The operation of a path, and the values of its parameters. What is written out goes before what is a parameter.
    fn operation(&self, method: &Method, path: &str) -> Option<(&Value, BTreeMap<String, String>)> {
        let paths = self.behind.document["paths"].as_object().expect("paths");
        let mut found: Vec<_> =
            paths.iter().filter_map(|(known, item)| Some((known, item, fits(known, path)?))).collect();
        found.sort_by_key(|(known, _, values)| (known.contains("+}"), values.len()));
        let (_, item, values) = found.into_iter().next()?;
        let operation =
            item.get(method.as_str().to_lowercase()).or_else(|| item.get("x-amazon-apigateway-any-method"))?;
        Some((operation, values))
    }

    fn resolved(&self, value: &Value) -> Value {
        match value.get("Fn::If").and_then(Value::as_array) {
            Some(cases) => {
                let holds = self.behind.conditions.iter().any(|condition| *condition == cases[0]);
                self.resolved(&cases[if holds { 1 } else { 2 }])
            }
            None => template::resolve(value, &self.behind.names),
        }
    }

    /// None where the balancer does not answer.
    async fn proxied(
        &self,
        integration: &Value,
        values: &BTreeMap<String, String>,
        parts: &axum::http::request::Parts,
        body: Bytes,
    ) -> Option<Response> {
        assert_eq!(integration["connectionType"], "VPC_LINK", "{integration}");
        let mut path = integration["uri"].as_str().expect("a URI").parse::<Uri>().expect("a URI").path().to_owned();
        let mut headers = parts.headers.clone();
        for (to, from) in integration["requestParameters"].as_object().into_iter().flatten() {
            let from = from.as_str().expect("a text");
            let value = match from.strip_prefix("method.request.path.") {
                Some(name) => values.get(name).cloned(),
                None => match from.strip_prefix("method.request.header.") {
                    Some(name) => headers.get(name).map(|value| value.to_str().expect("a text").to_owned()),
                    None if from == "context.requestId" => Some(Uuid::now_v7().to_string()),
                    None => {
                        Some(from.strip_prefix('\'').and_then(|it| it.strip_suffix('\'')).expect("a value").to_owned())
                    }
                },
            };
            let Some(value) = value else { continue };
            if let Some(name) = to.strip_prefix("integration.request.path.") {
                path = path.replace(&format!("{{{name}}}"), &value);
            } else if let Some(name) = to.strip_prefix("integration.request.header.") {
                let name: HeaderName = name.parse().expect("a header");
                headers.insert(name, value.parse().expect("a value"));
            } else {
                panic!("{to} is mapped");
            }
        }
        for name in ["host", "content-length", "transfer-encoding", "connection"] {
            headers.remove(name);
        }
        headers.append("x-forwarded-for", HeaderValue::from_static(CLOUDFRONT));
        let query = parts.uri.query().map_or_else(String::new, |query| format!("?{query}"));
        let url = format!("{}{path}{query}", self.behind.balancer);
        let answer = self.http.request(parts.method.clone(), url).headers(headers).body(body).send().await.ok()?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        Some((status, headers, answer.bytes().await.ok()?).into_response())
    }

    /// None where the function fails.
    async fn invoked(
        &self,
        integration: &Value,
        values: &BTreeMap<String, String>,
        parts: &axum::http::request::Parts,
        body: &[u8],
    ) -> Option<Response> {
        let uri = integration["uri"].as_str().expect("a URI");
        let function = uri.split("/functions/").nth(1).and_then(|it| it.strip_suffix("/invocations")).expect("an ARN");
        let list = |name: &HeaderName| {
            parts.headers.get_all(name).iter().map(|it| it.to_str().expect("a text").to_owned()).collect::<Vec<_>>()
        };
        let headers: Map<String, Value> =
            parts.headers.keys().map(|name| (name.to_string(), list(name).join(",").into())).collect();
        let many: Map<String, Value> = parts.headers.keys().map(|name| (name.to_string(), list(name).into())).collect();
        let mut query = BTreeMap::<String, Vec<String>>::new();
        for (name, value) in url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()) {
            query.entry(name.into_owned()).or_default().push(value.into_owned());
        }
        let id = Uuid::now_v7().to_string();
        let event = json!({
            "resource": "/", "path": parts.uri.path(), "httpMethod": parts.method.as_str(), "headers": headers,
            "multiValueHeaders": many, "multiValueQueryStringParameters": query, "pathParameters": values,
            "queryStringParameters": query.iter().map(|(name, all)| (name.clone(), all[0].clone().into())).collect::<Map<String, Value>>(),
            "requestContext": {
                "path": format!("/v1{}", parts.uri.path()), "stage": "v1", "requestId": id, "httpMethod": parts.method.as_str(),
                "identity": { "sourceIp": CLOUDFRONT },
            },
            "body": (!body.is_empty()).then(|| STANDARD.encode(body)), "isBase64Encoded": !body.is_empty(),
        });
        let answer = lambda(&self.behind.emulator, function, &event).await.ok()?;
        let mut headers = HeaderMap::new();
        for (name, all) in answer["multiValueHeaders"].as_object().expect("headers") {
            for value in all.as_array().expect("values") {
                headers.append(name.parse::<HeaderName>().ok()?, value.as_str()?.parse().ok()?);
            }
        }
        let text = answer["body"].as_str().unwrap_or_default();
        let body = if answer["isBase64Encoded"] == true { STANDARD.decode(text).ok()? } else { text.into() };
        let status = StatusCode::from_u16(u16::try_from(answer["statusCode"].as_u64()?).ok()?).ok()?;
        Some((status, headers, body).into_response())
    }

    /// The gateway's own answer, by the document.
    fn own(&self, kind: &str, status: u16) -> Response {
        let all = &self.behind.document["x-amazon-apigateway-gateway-responses"];
        let default = if status < 500 { "DEFAULT_4XX" } else { "DEFAULT_5XX" };
        let known = all.get(kind).unwrap_or(&all[default]);
        let status = known["statusCode"].as_str().map_or(status, |code| code.parse().expect("a status"));
        let templates = known["responseTemplates"].as_object().expect("templates");
        let (content_type, body) = templates.iter().next().expect("a template");
        let body = body.as_str().expect("a text").replace("$context.requestId", &Uuid::now_v7().to_string());
        let body = body.replace("$context.error.messageString", "\"said by the gateway\"");
        let mut answer = (StatusCode::from_u16(status).expect("a status"), body).into_response();
        let headers = answer.headers_mut();
        headers.insert("content-type", content_type.parse().expect("a type"));
        for (name, value) in known["responseParameters"].as_object().into_iter().flatten() {
            let name = name.strip_prefix("gatewayresponse.header.").expect("a header");
            let value = value.as_str().expect("a text").trim_matches('\'').replace("context.requestId", "1");
            headers.insert(name.parse::<HeaderName>().expect("a header"), value.parse().expect("a value"));
        }
        answer
    }

    async fn rendition(&self, key: &str, uri: &Uri) -> Response {
        let query = uri.query().unwrap_or_default();
        let query: BTreeMap<_, _> = url::form_urlencoded::parse(query.as_bytes()).collect();
        let signed = query.get("Signature").is_some_and(|it| !it.is_empty());
        if !signed || query.get("Key-Pair-Id").is_none_or(|id| **id != *self.behind.key_id) {
            return StatusCode::FORBIDDEN.into_response();
        }
        let Bucket { client, name } = &self.behind.bucket;
        let Ok(object) = client.get_object().bucket(name).key(key).send().await else {
            return StatusCode::FORBIDDEN.into_response();
        };
        let headers = [("content-type", object.content_type().unwrap_or_default().to_owned())];
        let bytes = object.body.collect().await.expect("bytes").into_bytes();
        (headers, Body::from(bytes)).into_response()
    }
}

/// What the gateway gives another name.
/// <https://docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-known-issues.html>
fn renamed(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    if let Some(value) = headers.remove("www-authenticate") {
        headers.insert("x-amzn-remapped-www-authenticate", value);
    }
    headers.remove("transfer-encoding");
    headers.remove("content-length");
    answer
}

fn trace() -> HeaderValue {
    let id = Uuid::now_v7().simple().to_string();
    format!("Root=1-{}-{}", &id[..8], &id[8..]).parse().expect("a value")
}

/// The values of a template's parameters, if a path is of its form.
fn fits(template: &str, path: &str) -> Option<BTreeMap<String, String>> {
    let mut values = BTreeMap::new();
    let mut parts = path.trim_start_matches('/').split('/').peekable();
    for known in template.trim_start_matches('/').split('/') {
        let name = known.strip_prefix('{').and_then(|it| it.strip_suffix('}'));
        match name.map(|name| (name, name.strip_suffix('+'))) {
            Some((_, Some(greedy))) => {
                let rest: Vec<&str> = parts.by_ref().collect();
                (!rest.is_empty()).then(|| values.insert(greedy.to_owned(), rest.join("/")))?;
                return Some(values);
            }
            Some((name, None)) => {
                let part = parts.next().filter(|part| !part.is_empty())?;
                values.insert(name.to_owned(), part.to_owned());
            }
            None if parts.next()? == known => {}
            None => return None,
        }
    }
    parts.peek().is_none().then_some(values)
}
