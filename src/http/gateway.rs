//! The OpenAPI document that API Gateway imports: routes, integrations, authorizers, and the gateway's own errors as
//! problems. `deploy/stacks/gateway.yaml` includes it and resolves `Ref`, `Fn::Sub` and `Fn::If`.
//!
//! Clients see no difference to the service without a gateway:
//!
//! - There are no schemas and no body validation. The gateway has one status for invalid requests, where the contract
//!   has 400, 415, and 422 with the field's name. Binary media types, without which it would corrupt pictures and
//!   compressed scripts, keep it from reading JSON anyway.
//! - Other methods of a path go to the service, which answers 405 and CORS preflight requests. Unknown paths go to
//!   `/nowhere`.
//! - S3 and `CloudFront` serve objects behind a gateway, so the document has no routes of objects.

use serde_json::{Map, Value, json};

use crate::http::error::HttpError;

/// The longest integration timeout, in milliseconds.
const TIMEOUT_MS: u64 = 29_000;
/// The largest request body of API Gateway.
const MAX_BODY_BYTES: u64 = 10 << 20;
/// A path that the service answers with 404.
const UNKNOWN_PATH: &str = "/nowhere";
/// The public paths outside the contract, and the paths of the service for them.
const PAGES: [(&str, &str); 6] = [
    ("/", "/"),
    ("/docs", "/docs"),
    ("/docs/{file+}", "/docs/{file}"),
    ("/join", "/join"),
    ("/openapi.json", "/openapi.json"),
    ("/{path+}", UNKNOWN_PATH),
];
/// The reads of guests that the read model answers; with `ReadsByFunction` they go to the function `api`.
const GUEST_READS: [&str; 2] = ["/v1/albums/{album_id}", "/v1/albums/{album_id}/photos"];
const ANY_METHOD: &str = "x-amazon-apigateway-any-method";

/// The document, in `OpenAPI` 3.0, the newest version that REST APIs import.
#[must_use]
pub fn document() -> Value {
    let api = serde_json::to_value(super::openapi_document()).expect("the document is JSON");
    let routes = api["paths"].as_object().into_iter().flatten();
    let routes = routes.filter_map(|(path, item)| Some((path.clone(), route(path, item.as_object()?)?)));
    let page = |path, target| json!({ ANY_METHOD: operation("ANY", path, target, &api_key()) });
    let pages = PAGES.map(|(path, target)| (path.to_owned(), page(path, target)));
    let user_pool = json!({
        "type": "apiKey",
        "name": "Authorization",
        "in": "header",
        "x-amazon-apigateway-authtype": "cognito_user_pools",
        "x-amazon-apigateway-authorizer": { "type": "cognito_user_pools", "providerARNs": [{ "Ref": "UserPoolArn" }] },
    });
    json!({
        "openapi": "3.0.1",
        // The name is the dimension `ApiName` of the metrics.
        "info": { "title": { "Ref": "Installation" }, "version": api["info"]["version"] },
        "paths": routes.chain(pages).collect::<Map<_, _>>(),
        "components": { "securitySchemes": {
            "api_key": { "type": "apiKey", "name": "x-api-key", "in": "header" },
            "users": { "Fn::If": ["HasUserPool", user_pool, { "Ref": "AWS::NoValue" }] },
        } },
        "x-amazon-apigateway-api-key-source": "HEADER",
        "x-amazon-apigateway-binary-media-types": ["*/*"],
        "x-amazon-apigateway-gateway-responses": errors(),
    })
}

/// A path of the contract; none for paths of objects.
fn route(path: &str, item: &Map<String, Value>) -> Option<Value> {
    let mut methods = Map::new();
    for (method, described) in item {
        if described["tags"][0] == "objects" {
            return None;
        }
        // The user pool does not know invites; where they are accepted, only the service can authenticate.
        let security = if described["security"] == json!([{ "jwt": [] }]) { user_token() } else { api_key() };
        let mut operation = operation(&method.to_uppercase(), path, path, &security);
        operation["operationId"] = described["operationId"].clone();
        if method == "get" && GUEST_READS.contains(&path) {
            let instances = operation["x-amazon-apigateway-integration"].take();
            operation["x-amazon-apigateway-integration"] =
                json!({ "Fn::If": ["ReadsByFunction", function(), instances] });
        }
        methods.insert(method.clone(), operation);
    }
    methods.insert(ANY_METHOD.to_owned(), operation("ANY", path, path, &api_key()));
    Some(methods.into())
}

/// Requests through `CloudFront`, which adds the API key.
fn api_key() -> Value {
    json!([{ "api_key": [] }])
}

/// Requests with a token of the user pool, if there is one. API Gateway requires all schemes of the list.
fn user_token() -> Value {
    json!({ "Fn::If": ["HasUserPool", [{ "api_key": [] }, { "users": [] }], api_key()] })
}

/// A method whose requests go to `target` of the service, with all headers and the query. The gateway appends the
/// client's address to `X-Forwarded-For`.
fn operation(method: &str, path: &str, target: &str, security: &Value) -> Value {
    let names = path.split('{').skip(1).filter_map(|rest| rest.split(['+', '}']).next()).collect::<Vec<_>>();
    let mut request_parameters: Map<String, Value> = names
        .iter()
        .filter(|name| target.contains(&format!("{{{name}}}")))
        .map(|name| (format!("integration.request.path.{name}"), format!("method.request.path.{name}").into()))
        .collect();
    request_parameters.insert("integration.request.header.x-amzn-requestid".into(), "context.requestId".into());
    let parameters = names
        .iter()
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }));
    json!({
        "parameters": parameters.collect::<Vec<_>>(),
        "responses": { "200": { "description": "As the service answers" } },
        "security": security,
        "x-amazon-apigateway-integration": {
            "type": "http_proxy",
            "connectionType": "VPC_LINK",
            "connectionId": { "Ref": "VpcLink" },
            "httpMethod": method,
            // A name on the load balancer's certificate.
            "uri": { "Fn::Sub": format!("https://${{BalancerHost}}{target}") },
            "requestParameters": request_parameters,
            "passthroughBehavior": "when_no_match",
            "timeoutInMillis": TIMEOUT_MS,
        },
    })
}

/// The integration of the function `api`.
fn function() -> Value {
    const INVOCATIONS: &str = "arn:${AWS::Partition}:apigateway:${AWS::Region}:lambda:\
        path/2015-03-31/functions/${ApiFunctionArn}/invocations";
    json!({
        "type": "aws_proxy",
        "httpMethod": "POST",
        "uri": { "Fn::Sub": INVOCATIONS },
        "passthroughBehavior": "when_no_match",
        "timeoutInMillis": TIMEOUT_MS,
    })
}

/// The gateway's own errors, as the service would answer.
/// <https://docs.aws.amazon.com/apigateway/latest/developerguide/supported-gateway-response-types.html>
fn errors() -> Map<String, Value> {
    use HttpError::{BadRequest, Forbidden, Internal, NotFound, TooLarge, TooMany, Unauthorized, Unavailable};
    let unauthorized = || Unauthorized("send `Authorization: Bearer` with a valid token");
    let malformed = || BadRequest("malformed request".into());
    let blocked = || Forbidden("use the public address of the service");
    let internal = || Internal(anyhow::anyhow!("the gateway"));
    let unavailable = || Unavailable("the service is unavailable", anyhow::anyhow!("the gateway"));
    let rate_limited = || TooMany(std::time::Duration::ZERO);
    [
        ("ACCESS_DENIED", unauthorized()),
        ("API_CONFIGURATION_ERROR", internal()),
        ("AUTHORIZER_CONFIGURATION_ERROR", internal()),
        ("AUTHORIZER_FAILURE", unavailable()),
        ("BAD_REQUEST_BODY", malformed()),
        ("BAD_REQUEST_PARAMETERS", malformed()),
        ("DEFAULT_4XX", malformed()),
        ("DEFAULT_5XX", internal()),
        ("EXPIRED_TOKEN", unauthorized()),
        ("INTEGRATION_FAILURE", unavailable()),
        ("INTEGRATION_TIMEOUT", unavailable()),
        ("INVALID_API_KEY", blocked()),
        // The answers to an unknown path, with and without a token.
        ("INVALID_SIGNATURE", NotFound),
        ("MISSING_AUTHENTICATION_TOKEN", NotFound),
        ("QUOTA_EXCEEDED", rate_limited()),
        ("REQUEST_TOO_LARGE", TooLarge(MAX_BODY_BYTES)),
        ("RESOURCE_NOT_FOUND", NotFound),
        ("THROTTLED", rate_limited()),
        ("UNAUTHORIZED", unauthorized()),
        ("UNSUPPORTED_MEDIA_TYPE", HttpError::UnsupportedMediaType("send the body as application/json".into())),
        ("WAF_FILTERED", blocked()),
    ]
    .into_iter()
    .map(|(kind, error)| (kind.to_owned(), response(&error)))
    .collect()
}

fn response(error: &HttpError) -> Value {
    let mut problem = error.problem();
    "$context.requestId".clone_into(&mut problem.request_id);
    let body = serde_json::to_string(&problem).expect("a problem is JSON");
    let mut headers = Map::new();
    let mut header = |name: &str, value: &str| headers.insert(format!("gatewayresponse.header.{name}"), value.into());
    header("Content-Type", "'application/problem+json'");
    header("x-request-id", "context.requestId");
    match problem.status {
        401 => header("WWW-Authenticate", &format!("'{}'", crate::http::error::CHALLENGE)),
        429 | 503 => header("Retry-After", "'2'"),
        _ => None,
    };
    // The gateway uses this template whatever the client accepts.
    let templates = json!({ "application/json": body });
    json!({ "statusCode": problem.status, "responseParameters": headers, "responseTemplates": templates })
}
