//! The OpenAPI document as API Gateway imports it: which routes it knows, where they lead, who may come, and its own
//! errors as our problems. `deploy/stacks/gateway.yaml` includes it, and fills in what stands in `Ref`, `Fn::Sub` and
//! `Fn::If`.
//!
//! A client can't tell whether there is a gateway. So it answers nothing that the service would answer in another way:
//!
//! - It has no schemas and validates no bodies. The gateway has one status for all that is wrong with a request, the
//!   contract has 400, 415, and 422 with the field's name; and binary media types, without which it would damage
//!   pictures and compressed scripts, keep it from reading JSON.
//! - Other methods of a path go to the service too, which knows what is a 405 and what a browser's preflight. Paths that
//!   are not known are asked for as `/nowhere`.
//! - Objects are S3's and `CloudFront`'s behind a gateway: their routes are left out.

use serde_json::{Map, Value, json};

use crate::http::error::HttpError;

/// For how long the gateway waits for an answer, in milliseconds.
const PATIENCE: u64 = 29_000;
/// The largest body that the gateway takes, in bytes.
const LARGEST: u64 = 10 << 20;
/// A path that the service does not know. What else it knows beside the paths here can't be reached through it.
const NOWHERE: &str = "/nowhere";
/// The public paths that are not of the contract, and where they lead.
const PAGES: [(&str, &str); 6] = [
    ("/", "/"),
    ("/docs", "/docs"),
    ("/docs/{file+}", "/docs/{file}"),
    ("/join", "/join"),
    ("/openapi.json", "/openapi.json"),
    ("/{path+}", NOWHERE),
];
/// What guests read most, and the read model answers: with `ReadsByFunction` no instance has to.
const READS: [&str; 2] = ["/v1/albums/{album_id}", "/v1/albums/{album_id}/photos"];
const ANY: &str = "x-amazon-apigateway-any-method";

/// The document for API Gateway, in `OpenAPI` 3.0, the newest that its REST APIs import.
///
/// # Panics
/// Never: our document is JSON.
#[must_use]
pub fn document() -> Value {
    let api = serde_json::to_value(super::openapi()).expect("the document is JSON");
    let routes = api["paths"].as_object().into_iter().flatten();
    let routes = routes.filter_map(|(path, item)| Some((path.clone(), route(path, item.as_object()?)?)));
    let pages = PAGES.map(|(path, to)| (path.to_owned(), json!({ ANY: operation("ANY", path, to, &open()) })));
    let user_pool = json!({
        "type": "apiKey",
        "name": "Authorization",
        "in": "header",
        "x-amazon-apigateway-authtype": "cognito_user_pools",
        "x-amazon-apigateway-authorizer": { "type": "cognito_user_pools", "providerARNs": [{ "Ref": "UserPoolArn" }] },
    });
    json!({
        "openapi": "3.0.1",
        // The API's name, by which its metrics are told from those of others.
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

/// A path of the contract; none if it is one of objects.
fn route(path: &str, item: &Map<String, Value>) -> Option<Value> {
    let mut methods = Map::new();
    for (method, described) in item {
        if described["tags"][0] == "objects" {
            return None;
        }
        // An invite is none of the pool's tokens: where it opens too, only the service can tell.
        let security = if described["security"] == json!([{ "jwt": [] }]) { users() } else { open() };
        let mut operation = operation(&method.to_uppercase(), path, path, &security);
        operation["operationId"] = described["operationId"].clone();
        if method == "get" && READS.contains(&path) {
            let instances = operation["x-amazon-apigateway-integration"].take();
            operation["x-amazon-apigateway-integration"] =
                json!({ "Fn::If": ["ReadsByFunction", function(), instances] });
        }
        methods.insert(method.clone(), operation);
    }
    methods.insert(ANY.to_owned(), operation("ANY", path, path, &open()));
    Some(methods.into())
}

/// Everybody who comes by `CloudFront`, which adds the key.
fn open() -> Value {
    json!([{ "api_key": [] }])
}

/// Those who show a token of the users' pool, if there is one. Two entries: so the gateway writes it that both are needed.
fn users() -> Value {
    json!({ "Fn::If": ["HasUserPool", [{ "api_key": [] }, { "users": [] }], open()] })
}

/// A method that asks the service for `to`. All headers and the query are passed on; `X-Forwarded-For` gets one more entry,
/// who called the gateway.
fn operation(method: &str, path: &str, to: &str, security: &Value) -> Value {
    let names = path.split('{').skip(1).filter_map(|rest| rest.split(['+', '}']).next()).collect::<Vec<_>>();
    let mut passed: Map<String, Value> = names
        .iter()
        .filter(|name| to.contains(&format!("{{{name}}}")))
        .map(|name| (format!("integration.request.path.{name}"), format!("method.request.path.{name}").into()))
        .collect();
    passed.insert("integration.request.header.x-amzn-requestid".into(), "context.requestId".into());
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
            // By a name that the balancer's certificate has.
            "uri": { "Fn::Sub": format!("https://${{BalancerHost}}{to}") },
            "requestParameters": passed,
            "passthroughBehavior": "when_no_match",
            "timeoutInMillis": PATIENCE,
        },
    })
}

/// The function `api` in place of an instance.
fn function() -> Value {
    const INVOCATIONS: &str = "arn:${AWS::Partition}:apigateway:${AWS::Region}:lambda:path/2015-03-31/functions/${ApiFunctionArn}/invocations";
    json!({
        "type": "aws_proxy",
        "httpMethod": "POST",
        "uri": { "Fn::Sub": INVOCATIONS },
        "passthroughBehavior": "when_no_match",
        "timeoutInMillis": PATIENCE,
    })
}

/// What the gateway answers itself, as the service would.
/// <https://docs.aws.amazon.com/apigateway/latest/developerguide/supported-gateway-response-types.html>
fn errors() -> Map<String, Value> {
    use HttpError::{BadRequest, Forbidden, Internal, NotFound, TooLarge, TooMany, Unauthorized, Unavailable};
    let token = || Unauthorized("send `Authorization: Bearer` with a token that is valid");
    let unreadable = || BadRequest("the request can't be read".into());
    let stranger = || Forbidden("come by the public address");
    let broken = || Internal(anyhow::anyhow!("the gateway"));
    let silent = || Unavailable("the service does not answer right now", anyhow::anyhow!("the gateway"));
    let often = || TooMany(std::time::Duration::ZERO);
    [
        ("ACCESS_DENIED", token()),
        ("API_CONFIGURATION_ERROR", broken()),
        ("AUTHORIZER_CONFIGURATION_ERROR", broken()),
        ("AUTHORIZER_FAILURE", silent()),
        ("BAD_REQUEST_BODY", unreadable()),
        ("BAD_REQUEST_PARAMETERS", unreadable()),
        ("DEFAULT_4XX", unreadable()),
        ("DEFAULT_5XX", broken()),
        ("EXPIRED_TOKEN", token()),
        ("INTEGRATION_FAILURE", silent()),
        ("INTEGRATION_TIMEOUT", silent()),
        ("INVALID_API_KEY", stranger()),
        // A method is asked for that nobody has, with and without a token.
        ("INVALID_SIGNATURE", NotFound),
        ("MISSING_AUTHENTICATION_TOKEN", NotFound),
        ("QUOTA_EXCEEDED", often()),
        ("REQUEST_TOO_LARGE", TooLarge(LARGEST)),
        ("RESOURCE_NOT_FOUND", NotFound),
        ("THROTTLED", often()),
        ("UNAUTHORIZED", token()),
        ("UNSUPPORTED_MEDIA_TYPE", HttpError::UnsupportedMediaType("send the body as application/json".into())),
        ("WAF_FILTERED", stranger()),
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
    // The template for all that a client may accept: the gateway takes this one where no other fits.
    json!({ "statusCode": problem.status, "responseParameters": headers, "responseTemplates": { "application/json": body } })
}
