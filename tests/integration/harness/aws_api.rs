//! Fake endpoints for two AWS calls around the database: `GetSecretValue` of Secrets Manager and `GetCallerIdentity`
//! of STS. They check the access key of a request, not its signature.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::{Value, json};

use super::{
    iam::{Key, REGION},
    instance_metadata::{ROLE, serve},
};

const ACCOUNT: &str = "123456789012";

pub struct AwsApi {
    url: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    keys: Mutex<Vec<String>>,
    /// Name, version and text.
    secrets: Mutex<BTreeMap<String, (usize, String)>>,
    calls: Mutex<Vec<String>>,
}

impl AwsApi {
    /// Without keys and secrets.
    pub async fn start() -> Self {
        let shared = Arc::<Shared>::default();
        let router = Router::new().route("/", post(call)).with_state(Arc::clone(&shared));
        Self { url: serve(router).await, shared }
    }

    /// Accepts requests that this key has signed.
    pub fn allow(&self, key: &Key) {
        self.shared.keys.lock().unwrap().push(key.id.clone());
    }

    /// Creates a secret, or its next version, as a rotation does.
    pub fn put_secret(&self, name: &str, text: &str) {
        let mut secrets = self.shared.secrets.lock().unwrap();
        let (version, current) = secrets.entry(name.to_owned()).or_default();
        *version += 1;
        text.clone_into(current);
    }

    /// The names of all calls in order, refused ones included.
    pub fn calls(&self) -> Vec<String> {
        self.shared.calls.lock().unwrap().clone()
    }

    /// The environment variables that point the AWS SDKs to both services.
    pub fn environment(&self) -> Vec<(String, String)> {
        ["SECRETS_MANAGER", "STS"].map(|service| (format!("AWS_ENDPOINT_URL_{service}"), self.url.clone())).into()
    }
}

async fn call(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let signer = header("authorization").strip_prefix("AWS4-HMAC-SHA256 Credential=").and_then(|rest| {
        let (id, scope) = rest.split_once('/')?;
        let known = scope.contains(&format!("/{REGION}/")) && shared.keys.lock().unwrap().iter().any(|key| key == id);
        known.then(|| id.to_owned())
    });
    let (name, answer) = match header("x-amz-target").strip_prefix("secretsmanager.") {
        Some(name) => (name.to_owned(), secrets_manager(&shared, signer.is_some(), name, &body)),
        None => sts(signer.as_deref(), &body),
    };
    shared.calls.lock().unwrap().push(name);
    answer
}

/// Protocol: JSON 1.1.
fn secrets_manager(shared: &Shared, signed: bool, name: &str, body: &[u8]) -> Response {
    let refuse = |kind: &str| (StatusCode::BAD_REQUEST, json!({ "__type": kind, "Message": "refused by a stand-in" }));
    let asked: Value = serde_json::from_slice(body).unwrap_or_default();
    let secrets = shared.secrets.lock().unwrap();
    let secret = asked["SecretId"].as_str().and_then(|id| secrets.get_key_value(id));
    let (status, answer) = match (signed, name, secret) {
        (false, ..) => refuse("UnrecognizedClientException"),
        (true, "GetSecretValue", Some((id, (version, text)))) => {
            let answer = json!({
                "ARN": format!("arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:{id}-AbCdEf"),
                "Name": id,
                "VersionId": format!("00000000-0000-4000-8000-{version:012}"),
                "VersionStages": ["AWSCURRENT"],
                "SecretString": text,
                "CreatedDate": 1_700_000_000,
            });
            (StatusCode::OK, answer)
        }
        (true, "GetSecretValue", None) => refuse("ResourceNotFoundException"),
        (true, ..) => refuse("UnknownOperationException"),
    };
    (status, [(CONTENT_TYPE, "application/x-amz-json-1.1")], answer.to_string()).into_response()
}

/// Query protocol: a form in, XML out.
fn sts(signer: Option<&str>, body: &[u8]) -> (String, Response) {
    let form: BTreeMap<String, String> = url::form_urlencoded::parse(body).into_owned().collect();
    let action = form.get("Action").cloned().unwrap_or_default();
    let (status, answer) = match (signer, action.as_str()) {
        (Some(id), "GetCallerIdentity") => {
            let answer = format!(
                "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
                 <GetCallerIdentityResult><Arn>arn:aws:sts::{ACCOUNT}:assumed-role/{ROLE}/test</Arn>\
                 <UserId>{id}:test</UserId><Account>{ACCOUNT}</Account></GetCallerIdentityResult>\
                 <ResponseMetadata><RequestId>test</RequestId></ResponseMetadata></GetCallerIdentityResponse>"
            );
            (StatusCode::OK, answer)
        }
        (signer, _) => {
            let code = if signer.is_none() { "InvalidClientTokenId" } else { "InvalidAction" };
            let answer = format!(
                "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>refused by a stand-in</Message>\
                 </Error><RequestId>test</RequestId></ErrorResponse>"
            );
            (StatusCode::FORBIDDEN, answer)
        }
    };
    (action, (status, [(CONTENT_TYPE, "text/xml")], answer).into_response())
}
