//! A fake API Gateway: it serves only the routes of the OpenAPI document, requires the API key and the user's token,
//! maps path parameters and headers as the document says, appends to `X-Forwarded-For`, renames `WWW-Authenticate`,
//! and generates only the document's own responses.
//!
//! Not compared with the real gateway. It renders only `$context.requestId`, and accepts any JWT as a token of the
//! user pool.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::Response,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use uuid::Uuid;

use super::{
    aws::{Emulator, lambda},
    client::Client,
};

/// The API key.
pub const KEY: &str = "the-key-that-only-cloudfront-knows";
/// The host name of the load balancer in the document.
pub const BALANCER: &str = "balancer.photos.example.com";
/// API Gateway's limit of a request body, in bytes.
const LARGEST: usize = 10 << 20;
const INTEGRATION: &str = "x-amazon-apigateway-integration";

/// The running gateway; it ends when dropped.
pub struct FakeGateway {
    pub url: String,
    task: JoinHandle<()>,
}

impl FakeGateway {
    /// Starts a gateway in front of a service, for a document without `CloudFormation` functions.
    pub async fn start(document: Value, service: &str) -> Self {
        Self::of(Gateway { document, service: service.to_owned(), key: KEY.to_owned(), functions: None }).await
    }

    /// Starts a gateway with all options.
    pub async fn of(gateway: Gateway) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().expect("a client");
        let router = Router::new().fallback(answer).with_state(Arc::new((gateway, http)));
        let router = router.into_make_service_with_connect_info::<std::net::SocketAddr>();
        let task = tokio::spawn(async move { axum::serve(listener, router).await.expect("a front") });
        Self { url, task }
    }

    /// A client that sends the API key, as `CloudFront` does.
    pub fn client(&self, token: Option<String>) -> Client {
        Client::new(&self.url, token).with_header("x-api-key", KEY)
    }
}

impl Drop for FakeGateway {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The options of a gateway.
pub struct Gateway {
    /// The OpenAPI document, without `CloudFormation` functions.
    pub document: Value,
    /// The service or its load balancer, `http://HOST:PORT`.
    pub service: String,
    /// The required API key.
    pub key: String,
    /// Where functions are invoked, if some operations are integrated with them.
    pub functions: Option<Arc<Emulator>>,
}

/// The type of a gateway response.
type Own = &'static str;

async fn answer(
    State(front): State<Arc<(Gateway, reqwest::Client)>>,
    ConnectInfo(peer): ConnectInfo<std::net::SocketAddr>,
    request: Request,
) -> Response {
    let (gateway, http) = &*front;
    let id = Uuid::now_v7().to_string();
    match gateway.ask(http, &id, peer.ip(), request).await {
        Ok(response) => response,
        Err(own) => gateway.own(own, &id),
    }
}

impl Gateway {
    async fn ask(
        &self,
        http: &reqwest::Client,
        id: &str,
        peer: std::net::IpAddr,
        request: Request,
    ) -> Result<Response, Own> {
        let (mut parts, body) = request.into_parts();
        let (operation, parameters) =
            self.route(parts.method.as_str(), parts.uri.path()).ok_or("MISSING_AUTHENTICATION_TOKEN")?;
        let asks =
            |scheme| operation["security"].as_array().expect("a list").iter().any(|asked| asked.get(scheme).is_some());
        let token = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        if asks("users") && token.is_none_or(|token| token.split('.').count() != 3) {
            return Err("UNAUTHORIZED");
        }
        if asks("api_key") && parts.headers.get("x-api-key").is_none_or(|key| *key != *self.key) {
            return Err("INVALID_API_KEY");
        }
        parts.headers.insert("x-amzn-trace-id", trace());
        let integration = &operation[INTEGRATION];
        if integration["type"] == "aws_proxy" {
            let body = to_bytes(body, LARGEST).await.map_err(|_| "REQUEST_TOO_LARGE")?;
            return self.invoke(integration, id, peer, &parameters, &parts, &body).await.ok_or("INTEGRATION_FAILURE");
        }
        assert_eq!((&integration["type"], &integration["connectionType"]), (&"http_proxy".into(), &"VPC_LINK".into()));
        let uri = integration["uri"].as_str().expect("a URI");
        let mut path = uri.strip_prefix(&format!("https://{BALANCER}")).expect("by the balancer's name").to_owned();
        let mut headers = parts.headers;
        headers.remove(header::HOST);
        headers.insert(header::USER_AGENT, HeaderValue::from_static("AmazonAPIGateway"));
        let chain = headers.get("x-forwarded-for").and_then(|v| v.to_str().ok()).map(|chain| format!("{chain}, "));
        set(&mut headers, "x-forwarded-for", &format!("{}{peer}", chain.unwrap_or_default()));
        for (to, from) in integration["requestParameters"].as_object().expect("a map") {
            let value = match from.as_str().expect("a source") {
                "context.requestId" => id,
                from => {
                    let name = from.strip_prefix("method.request.path.").expect("a path parameter");
                    &parameters.iter().find(|(known, _)| known == name).expect("a parameter of the path").1
                }
            };
            match to.strip_prefix("integration.request.path.") {
                Some(name) => path = path.replace(&format!("{{{name}}}"), value),
                None => set(&mut headers, to.strip_prefix("integration.request.header.").expect("a header"), value),
            }
        }
        assert!(!path.contains('{'), "nothing fills {path}");
        let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let body = to_bytes(body, LARGEST).await.map_err(|_| "REQUEST_TOO_LARGE")?;
        let patience = Duration::from_millis(integration["timeoutInMillis"].as_u64().expect("a time"));
        let request = http.request(parts.method, format!("{}{path}{query}", self.service));
        let request = request.headers(headers).body(body).timeout(patience);
        let own =
            |error: reqwest::Error| if error.is_timeout() { "INTEGRATION_TIMEOUT" } else { "INTEGRATION_FAILURE" };
        let answered = request.send().await.map_err(own)?;
        let (status, mut headers) = (answered.status(), answered.headers().clone());
        if let Some(challenge) = headers.remove(header::WWW_AUTHENTICATE) {
            headers.insert("x-amzn-remapped-www-authenticate", challenge);
        }
        headers.remove(header::TRANSFER_ENCODING);
        let mut response = Response::new(Body::from(answered.bytes().await.map_err(own)?));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }

    /// Hands a request to a function as an event; none where it fails.
    /// <https://docs.aws.amazon.com/apigateway/latest/developerguide/set-up-lambda-proxy-integrations.html>
    async fn invoke(
        &self,
        integration: &Value,
        id: &str,
        peer: std::net::IpAddr,
        parameters: &[(String, String)],
        parts: &Parts,
        body: &[u8],
    ) -> Option<Response> {
        let uri = integration["uri"].as_str().expect("a URI");
        let function = uri.split("/functions/").nth(1).and_then(|it| it.strip_suffix("/invocations")).expect("an ARN");
        let mut headers = BTreeMap::<&str, Vec<&str>>::new();
        for (name, value) in &parts.headers {
            headers.entry(name.as_str()).or_default().push(value.to_str().expect("a text"));
        }
        let seen = format!("{}, {peer}", headers.get("x-forwarded-for").map_or_else(String::new, |all| all.join(", ")));
        headers.insert("x-forwarded-for", vec![seen.trim_start_matches(", ")]);
        let mut query = BTreeMap::<String, Vec<String>>::new();
        for (name, value) in url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()) {
            query.entry(name.into_owned()).or_default().push(value.into_owned());
        }
        let (method, path) = (parts.method.as_str(), parts.uri.path());
        let event = json!({
            "resource": "/", "path": path, "httpMethod": method,
            "headers": headers.iter().map(|(name, all)| (*name, all.join(","))).collect::<BTreeMap<_, _>>(),
            "multiValueHeaders": headers, "multiValueQueryStringParameters": query,
            "queryStringParameters": query.iter().map(|(name, all)| (name, &all[0])).collect::<BTreeMap<_, _>>(),
            "pathParameters": parameters.iter().cloned().collect::<BTreeMap<_, _>>(),
            "requestContext": {
                "path": format!("/api{path}"), "stage": "api", "requestId": id, "httpMethod": method,
                "identity": { "sourceIp": peer.to_string() },
            },
            "body": (!body.is_empty()).then(|| STANDARD.encode(body)), "isBase64Encoded": !body.is_empty(),
        });
        let emulator = self.functions.as_ref().expect("an emulator that has the function");
        let answer = lambda(emulator, function, &event).await.ok()?;
        let text = answer["body"].as_str().unwrap_or_default();
        let body = if answer["isBase64Encoded"] == true { STANDARD.decode(text).ok()? } else { text.into() };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = StatusCode::from_u16(u16::try_from(answer["statusCode"].as_u64()?).ok()?).ok()?;
        for (name, all) in answer["multiValueHeaders"].as_object()? {
            for value in all.as_array()? {
                let name = name.parse::<HeaderName>().ok()?;
                response.headers_mut().append(name, value.as_str()?.parse().ok()?);
            }
        }
        Some(response)
    }

    /// The operation of a request, and its path parameters.
    fn route(&self, method: &str, path: &str) -> Option<(&Value, Vec<(String, String)>)> {
        let paths = self.document["paths"].as_object().expect("paths");
        let fitting = paths.iter().filter_map(|(template, item)| Some((fit(template, path)?, item)));
        // Literal segments take precedence over parameters, and these over greedy parameters.
        let (fit, item) = fitting.min_by_key(|(fit, _)| fit.rank.clone())?;
        let method = item.get(method.to_lowercase()).or_else(|| item.get("x-amazon-apigateway-any-method"))?;
        Some((method, fit.parameters))
    }

    fn own(&self, kind: Own, id: &str) -> Response {
        let own = &self.document["x-amazon-apigateway-gateway-responses"][kind];
        let template =
            own["responseTemplates"]["application/json"].as_str().unwrap_or_else(|| panic!("no answer for {kind}"));
        let mut response = Response::new(Body::from(template.replace("$context.requestId", id)));
        let status = own["statusCode"].as_u64().and_then(|status| u16::try_from(status).ok()).expect("a status");
        *response.status_mut() = StatusCode::from_u16(status).expect("a status");
        for (name, value) in own["responseParameters"].as_object().expect("headers") {
            let value = value.as_str().expect("a value").replace("context.requestId", &format!("'{id}'"));
            let value = value.strip_prefix('\'').and_then(|value| value.strip_suffix('\'')).expect("a constant");
            set(response.headers_mut(), name.strip_prefix("gatewayresponse.header.").expect("a header"), value);
        }
        response
    }
}

fn trace() -> HeaderValue {
    let id = Uuid::now_v7().simple().to_string();
    format!("Root=1-{}-{}", &id[..8], &id[8..]).parse().expect("a value")
}

struct Fit {
    rank: Vec<u8>,
    parameters: Vec<(String, String)>,
}

fn fit(template: &str, path: &str) -> Option<Fit> {
    let (mut rank, mut parameters) = (Vec::new(), Vec::new());
    let mut rest = path.strip_prefix('/')?.split('/').peekable();
    for part in template.strip_prefix('/')?.split('/') {
        let Some(name) = part.strip_prefix('{').and_then(|name| name.strip_suffix('}')) else {
            rank.push(0);
            rest.next().filter(|word| *word == part)?;
            continue;
        };
        let (word, value) = match name.strip_suffix('+') {
            Some(_) => (2, rest.by_ref().collect::<Vec<_>>().join("/")),
            None => (1, rest.next()?.to_owned()),
        };
        rank.push(word);
        parameters.push((name.trim_end_matches('+').to_owned(), Some(value).filter(|value| !value.is_empty())?));
    }
    rest.peek().is_none().then_some(Fit { rank, parameters })
}

fn set(headers: &mut HeaderMap, name: &str, value: &str) {
    let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
    headers.insert(name, HeaderValue::from_str(value).expect("a value"));
}
