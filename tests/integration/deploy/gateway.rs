//! The OpenAPI document for API Gateway, and the stacks `gateway` and `edge` in front of the service.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use axum::{Router, extract::Request};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::harness::{
    Answer, Client, TestServer,
    api_gateway::{BALANCER, FakeGateway},
    openapi, template, tools,
};

const API_ONLY: &str = "worker.enabled = false";
const ANY: &str = "x-amazon-apigateway-any-method";
const INTEGRATION: &str = "x-amazon-apigateway-integration";
const JSON: &str = "application/json";
const PAGES: [&str; 6] = ["/", "/docs", "/docs/{file+}", "/join", "/openapi.json", "/{path+}"];

/// The document after `CloudFormation`, with these true conditions.
fn document(holds: &[&str]) -> Value {
    let names = [
        ("Installation", "darkroom"),
        ("VpcLink", "link"),
        ("BalancerHost", BALANCER),
        ("ApiFunctionArn", "arn:aws:lambda:eu-west-1:123456789012:function:darkroom-api"),
        ("UserPoolArn", "arn:aws:cognito-idp:eu-west-1:123456789012:userpool/eu-west-1_a"),
        ("AWS::Partition", "aws"),
        ("AWS::Region", "eu-west-1"),
    ];
    let names = names.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    template::resolve(&template::decide(&darkroom::http::gateway::document(), holds), &names)
}

/// Each path with its methods.
fn routes(document: &Value) -> BTreeMap<&str, BTreeMap<&str, &Value>> {
    let paths = document["paths"].as_object().expect("paths").iter();
    paths
        .map(|(path, item)| (&**path, item.as_object().expect("methods").iter().map(|(m, o)| (&**m, o)).collect()))
        .collect()
}

#[test]
fn prints_valid_openapi_3_0() {
    let printed = Command::new(env!("CARGO_BIN_EXE_darkroom")).args(["openapi", "--gateway"]).output().unwrap();
    assert!(printed.status.success());
    assert_eq!(serde_json::from_slice::<Value>(&printed.stdout).unwrap(), darkroom::http::gateway::document());
    assert!(printed.stdout.len() < 200_000, "{} bytes", printed.stdout.len());
    let valid = |document: &Value| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gateway.json");
        // `{file+}` is a gateway extension: OpenAPI has no greedy parameters.
        std::fs::write(&file, document.to_string().replace("+}", "}")).unwrap();
        let judged = Command::new(tools::program("openapi-spec-validator")).arg(&file).output().unwrap();
        let said = [judged.stdout, judged.stderr].concat();
        judged.status.success().then_some(()).ok_or_else(|| String::from_utf8_lossy(&said).into_owned())
    };
    for holds in [&[][..], &["HasUserPool"], &["ReadsByFunction"], &["HasUserPool", "ReadsByFunction"]] {
        let document = document(holds);
        assert_eq!(document["openapi"], "3.0.1");
        valid(&document).unwrap_or_else(|said| panic!("{holds:?}: {said}"));
    }
    let mut broken = document(&[]);
    broken["paths"]["/v1/albums/{album_id}"]["get"]["parameters"] = json!([]);
    assert!(valid(&broken).is_err(), "a parameter that nothing declares is found");
}

#[test]
fn stack_provides_substitutions() {
    fn named(value: &Value, names: &mut BTreeSet<(&'static str, String)>) {
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        match value {
            Value::Array(items) => items.iter().for_each(|item| named(item, names)),
            Value::Object(fields) => fields.iter().for_each(|(name, value)| match name.as_str() {
                "Ref" => drop(names.insert(("Ref", text(value)))),
                "Fn::Sub" => {
                    let parts = text(value);
                    let parts = parts.split("${").skip(1).map(|part| part.split('}').next().unwrap().to_owned());
                    names.extend(parts.map(|name| ("Ref", name)));
                }
                "Fn::If" => {
                    names.insert(("Condition", text(&value[0])));
                    named(value, names);
                }
                other => {
                    assert!(!other.starts_with("Fn::"), "{other}");
                    named(value, names);
                }
            }),
            _ => {}
        }
    }
    let mut names = BTreeSet::new();
    named(&darkroom::http::gateway::document(), &mut names);
    let stack = template::read("gateway");
    for (kind, name) in &names {
        let known = match *kind {
            "Condition" => stack["Conditions"].get(name).is_some(),
            _ => {
                name.starts_with("AWS::")
                    || stack["Parameters"].get(name).is_some()
                    || stack["Resources"].get(name).is_some()
            }
        };
        assert!(known, "{kind} {name}");
    }
    assert!(names.contains(&("Condition", "HasUserPool".to_owned())) && names.len() > 7, "{names:?}");
    let location = &stack["Resources"]["Api"]["Properties"]["Body"]["Fn::Transform"]["Parameters"]["Location"];
    assert_eq!(location["Fn::Sub"], "s3://${Artifacts}/releases/${Release}/gateway.json");
}

#[test]
fn integrates_each_public_route() {
    let document = document(&[]);
    let routes = routes(&document);
    let public = openapi::document()["paths"].as_object().unwrap();
    let objects = ["/v1/uploads/", "/v1/originals/", "/v1/renditions/"];
    let wanted =
        public.keys().map(String::as_str).filter(|path| !objects.iter().any(|object| path.starts_with(object)));
    let wanted: BTreeSet<&str> = wanted.chain(PAGES).collect();
    assert_eq!(routes.keys().copied().collect::<BTreeSet<_>>(), wanted);
    assert!(wanted.len() + objects.len() < public.len() + PAGES.len(), "objects are among the public ones");
    for (path, methods) in &routes {
        let described = public.get(*path).and_then(Value::as_object);
        let described = described.into_iter().flatten().map(|(method, _)| method.as_str()).chain([ANY]).collect();
        assert_eq!(methods.keys().copied().collect::<BTreeSet<_>>(), described, "{path}");
        for (method, operation) in methods {
            let integration = &operation[INTEGRATION];
            let to = if *path == "/{path+}" { "/nowhere".to_owned() } else { path.replace("+}", "}") };
            assert_eq!(integration["uri"], format!("https://{BALANCER}{to}"));
            let verb = if *method == ANY { "ANY".to_owned() } else { method.to_uppercase() };
            assert_eq!((&integration["httpMethod"], &integration["timeoutInMillis"]), (&verb.into(), &29_000.into()));
        }
    }
}

#[test]
fn function_serves_guest_reads_only() {
    let document = document(&["ReadsByFunction"]);
    let by_function = |(path, methods): (&&str, &BTreeMap<&str, &Value>)| {
        let of = methods.iter().filter(|(_, operation)| operation[INTEGRATION]["type"] == "aws_proxy");
        of.map(|(method, _)| format!("{method} {path}")).collect::<Vec<_>>()
    };
    let by_function: Vec<String> = routes(&document).iter().flat_map(by_function).collect();
    assert_eq!(by_function, ["get /v1/albums/{album_id}", "get /v1/albums/{album_id}/photos"]);
    let integration = &document["paths"]["/v1/albums/{album_id}"]["get"][INTEGRATION];
    // The gateway invokes functions by POST only.
    assert_eq!(integration["httpMethod"], "POST");
    let uri = integration["uri"].as_str().unwrap();
    assert!(
        uri.ends_with("/functions/arn:aws:lambda:eu-west-1:123456789012:function:darkroom-api/invocations"),
        "{uri}"
    );
}

#[test]
fn only_gateway_may_invoke_function() {
    let all = template::STACKS.map(template::read);
    let resources = all.iter().flat_map(|template| template["Resources"].as_object().expect("resources").values());
    let permissions: Vec<_> = resources.filter(|it| it["Type"] == "AWS::Lambda::Permission").collect();
    let by = |principal: &str| permissions.iter().filter(|it| it["Properties"]["Principal"] == principal).collect();
    let by_gateways: Vec<_> = by("apigateway.amazonaws.com");
    let [permission] = by_gateways[..] else { panic!("{by_gateways:?}") };
    let this = "arn:${AWS::Partition}:execute-api:${AWS::Region}:${AWS::AccountId}:${Api}/*/*/*";
    assert_eq!(permission["Properties"]["SourceArn"]["Fn::Sub"], this);
}

#[test]
fn routes_require_key_and_user_pool() {
    let public = openapi::document();
    for holds in [&["HasUserPool"][..], &[]] {
        let document = document(holds);
        let mut of_users = 0;
        for (path, methods) in routes(&document) {
            for (method, operation) in methods {
                let users = public["paths"][path][method]["security"] == json!([{ "jwt": [] }]);
                of_users += usize::from(users);
                let wanted = if users && !holds.is_empty() {
                    json!([{ "api_key": [] }, { "users": [] }])
                } else {
                    json!([{ "api_key": [] }])
                };
                assert_eq!(operation["security"], wanted, "{method} {path}");
            }
        }
        assert_eq!(of_users, 7);
        let schemes = document["components"]["securitySchemes"].as_object().unwrap();
        assert_eq!(schemes.contains_key("users"), !holds.is_empty());
        assert_eq!(schemes["api_key"], json!({ "type": "apiKey", "name": "x-api-key", "in": "header" }));
    }
}

/// The document uses nothing that the gateway rejects on import or ignores.
#[test]
fn uses_only_supported_openapi() {
    let document = document(&["HasUserPool"]);
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let only = |value: &Value, allowed: &[&str]| {
        let more: Vec<_> = keys(value).into_iter().filter(|key| !allowed.contains(&&**key)).collect();
        assert!(more.is_empty(), "{more:?}");
    };
    only(
        &document,
        &[
            "openapi",
            "info",
            "paths",
            "components",
            "x-amazon-apigateway-api-key-source",
            "x-amazon-apigateway-binary-media-types",
            "x-amazon-apigateway-gateway-responses",
        ],
    );
    only(&document["components"], &["securitySchemes"]);
    let mut resources: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, methods) in routes(&document) {
        let mut parent = String::new();
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').filter(|part| !part.is_empty()).collect();
        for (at, part) in parts.iter().enumerate() {
            let variable = part.strip_prefix('{').and_then(|part| part.strip_suffix('}'));
            let name =
                variable.map_or(*part, |name| name.strip_suffix('+').filter(|_| at + 1 == parts.len()).unwrap_or(name));
            assert!(
                !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-:".contains(c)),
                "{path}"
            );
            resources.entry(parent.clone()).or_default().insert((*part).to_owned());
            parent = format!("{parent}/{part}");
        }
        for operation in methods.into_values() {
            only(operation, &["operationId", "parameters", "responses", "security", INTEGRATION]);
            for parameter in operation["parameters"].as_array().unwrap() {
                assert_eq!((&parameter["in"], &parameter["schema"]), (&"path".into(), &json!({ "type": "string" })));
            }
            for (status, response) in operation["responses"].as_object().unwrap() {
                assert_eq!((status.len(), keys(response).len()), (3, 1), "a status, without a model");
            }
        }
    }
    for (parent, children) in &resources {
        let variable = children.iter().filter(|child| child.starts_with('{')).count();
        assert!(variable < 2, "of variable parts there may be one below {parent}: {children:?}");
    }
    assert!(resources.values().map(BTreeSet::len).sum::<usize>() < 300);
}

#[test]
fn gateway_errors_are_problem_documents() {
    let document = document(&[]);
    let errors = document["x-amazon-apigateway-gateway-responses"].as_object().unwrap();
    // https://docs.aws.amazon.com/apigateway/latest/developerguide/supported-gateway-response-types.html
    let all = "ACCESS_DENIED API_CONFIGURATION_ERROR AUTHORIZER_CONFIGURATION_ERROR AUTHORIZER_FAILURE BAD_REQUEST_BODY \
               BAD_REQUEST_PARAMETERS DEFAULT_4XX DEFAULT_5XX EXPIRED_TOKEN INTEGRATION_FAILURE INTEGRATION_TIMEOUT \
               INVALID_API_KEY INVALID_SIGNATURE MISSING_AUTHENTICATION_TOKEN QUOTA_EXCEEDED REQUEST_TOO_LARGE \
               RESOURCE_NOT_FOUND THROTTLED UNAUTHORIZED UNSUPPORTED_MEDIA_TYPE WAF_FILTERED";
    assert_eq!(errors.keys().map(String::as_str).collect::<Vec<_>>(), all.split_whitespace().collect::<Vec<_>>());
    for (kind, error) in errors {
        let headers = &error["responseParameters"];
        let header = |name: &str| headers[format!("gatewayresponse.header.{name}")].as_str();
        assert_eq!(header("Content-Type"), Some("'application/problem+json'"), "{kind}");
        assert_eq!(header("x-request-id"), Some("context.requestId"), "{kind}");
        let status = error["statusCode"].as_u64().unwrap();
        assert_eq!(header("Retry-After").is_some(), [429, 503].contains(&status), "{kind}");
        assert_eq!(header("WWW-Authenticate").is_some(), status == 401, "{kind}");
        let body = error["responseTemplates"]["application/json"].as_str().unwrap();
        let problem: Value = serde_json::from_str(body).unwrap();
        assert_eq!(
            (&problem["status"], &problem["request_id"]),
            (&status.into(), &"$context.requestId".into()),
            "{kind}"
        );
        // The gateway treats other `$` and `#` as variables and directives.
        assert_eq!((body.matches('$').count(), body.matches('#').count()), (1, 0), "{body}");
    }
    for (kind, status) in [
        ("THROTTLED", 429),
        ("UNAUTHORIZED", 401),
        ("EXPIRED_TOKEN", 401),
        ("INTEGRATION_TIMEOUT", 503),
        ("RESOURCE_NOT_FOUND", 404),
    ] {
        assert_eq!(errors[kind]["statusCode"], status, "{kind}");
    }
}

/// A request, and the parts of its response that clients use.
struct Asked {
    answer: Answer,
    told: (StatusCode, Value, Vec<String>),
}

async fn ask(client: &Client, method: &str, path: &str, body: Option<(&str, &str)>) -> Asked {
    let mut request =
        client.request(method.parse::<Method>().unwrap(), path).header("origin", "https://photos.example");
    if method == "OPTIONS" {
        request = request
            .header("access-control-request-method", "PATCH")
            .header("access-control-request-headers", "authorization");
    }
    if let Some((kind, body)) = body {
        request = request.header("content-type", kind).body(body.to_owned());
    }
    let answer = client.send(request).await;
    let mut problem = answer.json();
    if let Some(problem) = problem.as_object_mut() {
        problem.remove("request_id");
    }
    let headers = [
        "content-type",
        "location",
        "allow",
        "access-control-allow-origin",
        "access-control-allow-methods",
        "cache-control",
    ];
    let headers = headers.iter().map(|name| answer.header(name).to_owned()).collect();
    Asked { told: (answer.status, problem, headers), answer }
}

#[tokio::test]
async fn gateway_is_transparent_to_clients() {
    let server = TestServer::start_with("worker.enabled = false\nhttp.cors_origins = ['https://photos.example']").await;
    let front = FakeGateway::start(document(&["HasUserPool"]), &server.url).await;
    let token = server.identity.token("alice").unwrap();
    let (host, through) = (server.user("alice"), front.client(Some(token)));
    let album = through.album("A party").await;
    let view = through.invite(&album, &json!({ "role": "view" })).await;
    let (anybody, any_through) = (server.anybody(), front.client(None));
    let (guest, guest_through) = (server.bearer(&view), front.client(Some(view.clone())));
    let (of_album, photos) = (format!("/v1/albums/{album}"), format!("/v1/albums/{album}/photos"));
    let unknown = format!("/v1/albums/{}", uuid::Uuid::now_v7());
    for (method, path, body) in [
        ("GET", "/", None),
        ("GET", "/docs", None),
        ("GET", "/docs/index.html", None),
        ("GET", "/docs/swagger-ui.css", None),
        ("GET", "/docs/none.css", None),
        ("GET", "/join", None),
        ("GET", "/openapi.json", None),
        ("GET", "/health/live", None),
        ("GET", "/health/ready", None),
        ("POST", "/join", None),
        ("GET", "/v1/albums?limit=1", None),
        ("GET", &of_album, None),
        ("GET", &photos, None),
        ("GET", &format!("{photos}?state=ready&order=asc"), None),
        ("GET", &format!("{of_album}/events?after=0"), None),
        ("GET", &unknown, None),
        ("GET", "/v1/albums/none", None),
        // Invalid requests.
        ("POST", "/v1/albums", Some((JSON, "{"))),
        ("POST", "/v1/albums", Some((JSON, "[]"))),
        ("POST", "/v1/albums", Some(("text/plain", "{}"))),
        ("POST", "/v1/albums", Some((JSON, r#"{"title": "", "colour": 1}"#))),
        ("POST", "/v1/albums", None),
        ("PATCH", &of_album, Some((JSON, r#"{"title": 1}"#))),
        ("GET", "/v1/albums?limit=0&cursor=x", None),
        // Unknown methods and paths.
        ("PUT", "/v1/albums", Some((JSON, "{}"))),
        ("DELETE", &photos, None),
        ("OPTIONS", &photos, None),
        ("OPTIONS", "/v1/albums", None),
        ("GET", "/nowhere/at/all", None),
        ("GET", "/v1", None),
        ("GET", "/v1/albums/", None),
        ("GET", "/metrics", None),
    ] {
        let direct = ask(&host, method, path, body).await;
        let front = ask(&through, method, path, body).await;
        assert_eq!(front.told, direct.told, "{method} {path}");
        if !matches!(path, "/health/live" | "/health/ready") && direct.answer.status == 200 {
            assert_eq!(front.answer.bytes, direct.answer.bytes, "{method} {path}");
        }
        let direct = ask(&anybody, method, path, body).await;
        let front = ask(&any_through, method, path, body).await;
        assert_eq!(front.told.0, direct.told.0, "{method} {path} without identity");
        assert_eq!(front.told.1["type"], direct.told.1["type"], "{method} {path} without identity");
    }
    let head = through.request(Method::HEAD, &of_album).send().await.unwrap();
    assert_eq!(head.status(), 200, "as GET, without a body");
    for path in [&of_album, &photos, &unknown] {
        assert_eq!(
            ask(&guest_through, "GET", path, None).await.told,
            ask(&guest, "GET", path, None).await.told,
            "{path}"
        );
    }
    // One difference: the user pool does not accept invites, where the service would answer with another status.
    for (method, path, body) in [("POST", "/v1/albums", Some((JSON, r#"{"title": "x"}"#))), ("DELETE", &of_album, None)]
    {
        let statuses = [&guest, &guest_through].map(|client| ask(client, method, path, body));
        let [direct, front] = statuses;
        assert_eq!((direct.await.told.0.as_u16(), front.await.told.0.as_u16()), (403, 401), "{method} {path}");
    }
}

#[tokio::test]
async fn gateway_does_not_route_objects() {
    let server = TestServer::start_with(API_ONLY).await;
    let front = FakeGateway::start(document(&[]), &server.url).await;
    let id = uuid::Uuid::now_v7();
    for (method, path) in [
        ("PUT", format!("/v1/uploads/{id}")),
        ("GET", format!("/v1/originals/{id}")),
        ("GET", format!("/v1/renditions/{id}/thumb")),
        ("GET", format!("/v1/renditions/{id}/{id}/thumb")),
    ] {
        let direct =
            reqwest::Client::new().request(method.parse().unwrap(), format!("{}{path}", server.url)).send().await;
        assert_eq!(direct.unwrap().status(), 401, "{path}");
        let request = front.client(None).request(method.parse().unwrap(), &path);
        let answered = request.send().await.unwrap();
        assert_eq!(answered.status(), 404, "{path}");
        assert_eq!(answered.json::<Value>().await.unwrap()["type"], "urn:darkroom:problem:not-found");
    }
}

/// A server in place of the service that returns the request.
async fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(async |request: Request| {
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let names = ["x-forwarded-for", "x-amzn-requestid", "authorization", "idempotency-key", "if-match"];
        let headers: BTreeMap<&str, Option<String>> = names.into_iter().map(|name| (name, header(name))).collect();
        json!({ "asked": request.uri().to_string(), "method": request.method().as_str(), "headers": headers })
            .to_string()
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

#[tokio::test]
async fn forwards_path_query_and_headers() {
    let document = document(&[]);
    let front = FakeGateway::start(document.clone(), &echo().await).await;
    let client = front.client(Some("a.b.c".to_owned()));
    for (path, methods) in routes(&document) {
        let asked: Vec<&str> =
            path.split('/').map(|part| if part.starts_with('{') { "one-of-them" } else { part }).collect();
        let asked = asked.join("/");
        for method in methods.keys().map(|method| if *method == ANY { "OPTIONS" } else { method }) {
            let request =
                client.request(method.to_uppercase().parse().unwrap(), &format!("{asked}?limit=3&cursor=a%2Bb"));
            let request = request.header("x-forwarded-for", "6.6.6.6, 203.0.113.9");
            let request = request.header("idempotency-key", "a key").header("if-match", "\"3\"");
            let said: Value = request.send().await.unwrap().json().await.unwrap();
            let to = if path == "/{path+}" { "/nowhere" } else { &asked };
            assert_eq!(
                (&said["asked"], &said["method"]),
                (&format!("{to}?limit=3&cursor=a%2Bb").into(), &method.to_uppercase().into())
            );
            let headers = &said["headers"];
            // CloudFront appends the second to last address, the gateway the last one: http.trusted_hops = 2.
            assert_eq!(headers["x-forwarded-for"], "6.6.6.6, 203.0.113.9, 127.0.0.1");
            assert!(headers["x-amzn-requestid"].as_str().unwrap().parse::<uuid::Uuid>().is_ok(), "{headers}");
            assert_eq!(
                [&headers["authorization"], &headers["idempotency-key"], &headers["if-match"]],
                ["Bearer a.b.c", "a key", "\"3\""]
            );
        }
    }
}

#[tokio::test]
async fn gateway_rejects_bad_key_and_large_body() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    let front = FakeGateway::start(document(&["HasUserPool"]), &gone).await;
    // The client checks each response against the document.
    let stranger = Client::new(&front.url, None);
    assert_eq!(stranger.get("/v1/albums").await.status, 401, "a token is asked for first");
    assert_eq!(stranger.get("/openapi.json").await.status, 403);
    let silent = front.client(None).get("/openapi.json").await;
    assert_eq!((silent.status.as_u16(), silent.header("retry-after")), (503, "2"));
    let client = front.client(Some("a.b.c".to_owned()));
    let large = client.request(Method::POST, "/v1/albums").body(vec![b' '; (10 << 20) + 1]);
    assert_eq!(client.send(large).await.status, 413);
    let unsigned = front.client(None).get("/v1/albums").await;
    assert!(unsigned.status == 401 && unsigned.header("www-authenticate").starts_with("Bearer "));
}

#[test]
fn logs_hold_no_token_or_signature() {
    let stage = &template::read("gateway")["Resources"]["Stage"]["Properties"];
    let format = stage["AccessLogSetting"]["Format"].as_str().unwrap();
    serde_json::from_str::<BTreeMap<String, String>>(format).expect("a line of JSON");
    for word in ["requestOverride", "authorizer", "apiKey", "$context.path", "header", "query"] {
        assert!(!format.contains(word), "{word}");
    }
    assert_eq!(stage["MethodSettings"][0]["DataTraceEnabled"], false);
    let edge = &template::read("edge")["Resources"];
    let fields = edge["AccessLogDelivery"]["Properties"]["RecordFields"].as_array().unwrap();
    for field in ["cs-uri-query", "cs(Cookie)", "cs(Referer)"] {
        assert!(!fields.contains(&field.into()), "{field}");
    }
    let redacted = &edge["WebAclLogging"]["Properties"]["RedactedFields"];
    assert_eq!(
        *redacted,
        json!([{ "SingleHeader": { "Name": "authorization" } }, { "SingleHeader": { "Name": "cookie" } }, { "QueryString": {} }])
    );
}

#[test]
fn edge_caches_only_marked_responses() {
    let edge = template::read("edge");
    let distribution = &edge["Resources"]["Distribution"]["Properties"]["DistributionConfig"];
    // AWS's CachingDisabled, and AllViewerExceptHostHeader.
    let (disabled, but_host) = ("4135ea2d-6df8-44a3-9df3-4b5a84be39ad", "b689b0a8-53d0-40ab-baf2-68738e2966ac");
    let all = &distribution["DefaultCacheBehavior"];
    assert_eq!((&all["CachePolicyId"], &all["OriginRequestPolicyId"]), (&disabled.into(), &but_host.into()));
    let behaviours = distribution["CacheBehaviors"].as_array().unwrap();
    let behaviour =
        |path: &str| behaviours.iter().find(|behaviour| behaviour["PathPattern"] == path).expect("a behaviour");
    for path in ["/docs/*", "/openapi.json"] {
        assert_eq!(
            (&behaviour(path)["CachePolicyId"]["Ref"], &behaviour(path)["OriginRequestPolicyId"]),
            (&"PageCache".into(), &but_host.into())
        );
    }
    let pages = &edge["Resources"]["PageCache"]["Properties"]["CachePolicyConfig"];
    assert_eq!((&pages["MinTTL"], &pages["DefaultTTL"]), (&0.into(), &0.into()));
    let keyed = &pages["ParametersInCacheKeyAndForwardedToOrigin"]["HeadersConfig"]["Headers"];
    assert_eq!(*keyed, json!(["Origin"]), "the gateway knows no host but its own");
    let renditions = behaviour("/renditions/*");
    assert_eq!(
        (&renditions["TargetOriginId"], &renditions["TrustedKeyGroups"]),
        (&"renditions".into(), &json!([{ "Ref": "CloudFrontKeyGroup" }]))
    );
    let of_s3: Vec<_> = behaviours.iter().filter(|behaviour| behaviour["TargetOriginId"] == "renditions").collect();
    assert_eq!(of_s3, [renditions], "nothing else leads to the bucket");
    let api = &distribution["Origins"][0];
    assert_eq!(api["OriginCustomHeaders"], json!([{ "HeaderName": "x-api-key", "HeaderValue": { "Ref": "ApiKey" } }]));
    assert_eq!(edge["Parameters"]["ApiKey"]["NoEcho"], true);
    let headers = &edge["Resources"]["Headers"]["Properties"]["ResponseHeadersPolicyConfig"]["SecurityHeadersConfig"];
    assert!(
        headers.as_object().unwrap().values().all(|header| header["Override"] == false),
        "the service's own stand: {headers}"
    );
}

#[test]
fn web_acl_rules_count_by_default() {
    let acl = &template::read("edge")["Resources"]["WebAcl"]["Properties"];
    let bodies = acl["CustomResponseBodies"].as_object().unwrap();
    let with = |mode: &[&str]| {
        let holds = [mode, &["FindsAnonymous", "LimitsCountries"]].concat();
        template::decide(&acl["Rules"], &holds).as_array().unwrap().clone()
    };
    let action =
        |rule: &Value| if rule["Action"].is_null() { rule["OverrideAction"].clone() } else { rule["Action"].clone() };
    let (counting, blocking) = (with(&["Counts"]), with(&[]));
    assert!(counting.len() > 10 && counting.iter().all(|rule| action(rule) == json!({ "Count": {} })), "{counting:?}");
    let priorities: BTreeSet<_> = blocking.iter().map(|rule| rule["Priority"].as_u64()).collect();
    assert_eq!(priorities.len(), blocking.len());
    for rule in &blocking {
        let group = &rule["Statement"]["ManagedRuleGroupStatement"];
        if group.is_object() {
            assert_eq!(action(rule), json!({ "None": {} }), "the group's own actions");
            // Captions are free text, so rules for SQL, scripts or addresses in bodies never block.
            let rules = group["RuleActionOverrides"].as_array().into_iter().flatten();
            let counted: Vec<_> = rules.map(|it| it["Name"].as_str().unwrap()).collect();
            let expected: &[&str] = match group["Name"].as_str().unwrap() {
                "AWSManagedRulesCommonRuleSet" => {
                    &["SizeRestrictions_BODY", "CrossSiteScripting_BODY", "GenericRFI_BODY"]
                }
                "AWSManagedRulesSQLiRuleSet" => &["SQLi_BODY", "SQLiExtendedPatterns_BODY"],
                _ => &[],
            };
            assert_eq!(counted, expected, "{rule}");
            continue;
        }
        let response = &action(rule)["Block"]["CustomResponse"];
        let body = bodies[response["CustomResponseBodyKey"].as_str().unwrap()]["Content"].as_str().unwrap();
        let problem: Value = serde_json::from_str(body).unwrap();
        assert_eq!(problem["status"], response["ResponseCode"], "{rule}");
        let fields: BTreeSet<_> = problem.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, BTreeSet::from(["type", "title", "status", "detail", "request_id"]));
        assert_eq!(response["ResponseHeaders"][0]["Name"] == "Retry-After", problem["status"] == 429, "{rule}");
    }
}
