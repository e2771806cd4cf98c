//! Requests to services for which the program has no client, signed with Signature Version 4.

use std::{sync::LazyLock, time::SystemTime};

use aws_sdk_s3::config::Credentials;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4,
};

use crate::harness::iam::REGION;

/// Shared, because each client loads the TLS roots for 20 ms; without a pool, because connections end with the runtime
/// of their test.
static HTTP: LazyLock<reqwest::Client> =
    LazyLock::new(|| reqwest::Client::builder().pool_max_idle_per_host(0).build().expect("a client"));

/// Calls a service of the JSON protocol, such as `events` with the target `AWSEvents.PutRule`, or Lambda with the
/// target `POST /2015-03-31/functions`. Returns status and body.
pub async fn json(
    endpoint: &str,
    key: &Credentials,
    service: &str,
    target: &str,
    body: &serde_json::Value,
) -> (u16, String) {
    let (method, path) = target.split_once(' ').unwrap_or(("POST", "/"));
    let mut headers = vec![("content-type", "application/x-amz-json-1.1")];
    if path == "/" {
        headers.push(("x-amz-target", target));
    }
    send(endpoint, key, (service, REGION), method, path, &headers, body.to_string()).await
}

/// Calls a service of the query protocol, such as IAM. Returns the XML; panics at an error.
pub async fn query(endpoint: &str, key: &Credentials, service: &str, parameters: &[(&str, &str)]) -> String {
    let answer = try_query(endpoint, key, service, REGION, parameters).await;
    answer.unwrap_or_else(|refusal| panic!("{:?}: {refusal}", parameters.first()))
}

/// Like [`query`] in a region, with errors returned.
pub async fn try_query(
    endpoint: &str,
    key: &Credentials,
    service: &str,
    region: &str,
    parameters: &[(&str, &str)],
) -> Result<String, String> {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let (status, answer) = send(endpoint, key, (service, region), "POST", "/", &form, body).await;
    if status == 200 { Ok(answer) } else { Err(answer) }
}

async fn send(
    endpoint: &str,
    key: &Credentials,
    (service, region): (&str, &str),
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: String,
) -> (u16, String) {
    let url = format!("{endpoint}{path}");
    let identity = key.clone().into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(service)
        .time(SystemTime::now())
        .settings(SigningSettings::default())
        .build()
        .expect("all is given");
    let signable = SignableRequest::new(method, &url, headers.iter().copied(), SignableBody::Bytes(body.as_bytes()))
        .expect("a request");
    let (instructions, _) = sign(signable, &parameters.into()).expect("a signature").into_parts();
    let mut request = HTTP.request(method.parse().expect("a method"), &url);
    for (name, value) in headers.iter().copied().chain(instructions.headers()) {
        request = request.header(name, value);
    }
    let answer = request.body(body).send().await.expect("an answer");
    (answer.status().as_u16(), answer.text().await.expect("a text"))
}
