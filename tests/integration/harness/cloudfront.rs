//! A fake CloudFront in front of the gateway and the bucket: it adds the key that the gateway requires and the
//! viewer's address, and serves renditions by signed URL.
//!
//! Not compared with the real one. Signed URLs follow
//! <https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/private-content-creating-signed-url-custom-policy.html>.

use std::{collections::BTreeMap, sync::Arc};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};
use axum::{
    Router,
    body::to_bytes,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use reqwest::Url;
use rustls::pki_types::{SubjectPublicKeyInfoDer, pem::PemObject};
use serde_json::Value;

use super::{aws::Bucket, instance_metadata::serve};

/// The address of the viewer.
pub const VIEWER: &str = "203.0.113.7";
/// A limit above the gateway's, in bytes.
const LARGEST: usize = 11 << 20;

/// The origins and keys of a distribution.
pub struct Distribution {
    /// The gateway, `http://HOST:PORT`.
    pub gateway: String,
    /// The API key of the gateway.
    pub key: String,
    /// The origin of `/renditions`.
    pub bucket: Bucket,
    /// The public address, `https://DOMAIN`.
    pub address: String,
    /// The keys whose signatures it accepts.
    pub keys: KeyGroup,
}

/// Public keys in PEM, by id.
#[derive(Debug, Clone)]
pub struct KeyGroup(pub BTreeMap<String, String>);

impl KeyGroup {
    /// Whether a URL has a valid signature and policy at a time.
    pub fn opens(&self, url: &Url, at: DateTime<Utc>) -> bool {
        let signed = Signed::read(url);
        signed.is_some_and(|signed| signed.covers(url) && at < signed.until && self.has_signed(&signed))
    }

    fn has_signed(&self, signed: &Signed) -> bool {
        let Some(pem) = self.0.get(&signed.key) else { return false };
        let key = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).expect("a public key in PEM");
        let kinds: [&'static dyn VerificationAlgorithm; 2] = [&RSA_PKCS1_2048_8192_SHA256, &ECDSA_P256_SHA256_ASN1];
        kinds
            .into_iter()
            .any(|kind| UnparsedPublicKey::new(kind, &key).verify(&signed.policy, &signed.signature).is_ok())
    }
}

/// The parameters of a signed URL.
pub struct Signed {
    pub key: String,
    pub until: DateTime<Utc>,
    resource: String,
    policy: Vec<u8>,
    signature: Vec<u8>,
}

impl Signed {
    /// Parses the query; `None` for an unsigned URL.
    pub fn read(url: &Url) -> Option<Self> {
        let query: BTreeMap<_, _> = url.query_pairs().into_owned().collect();
        let decoded =
            |name| STANDARD.decode(query.get(name)?.replace('-', "+").replace('_', "=").replace('~', "/")).ok();
        let (policy, signature) = (decoded("Policy")?, decoded("Signature")?);
        // CloudFront's default is SHA-1.
        query.get("Hash-Algorithm").filter(|hash| *hash == "SHA256")?;
        let told: Value = serde_json::from_slice(&policy).ok()?;
        let statement = &told["Statement"][0];
        Some(Self {
            key: query.get("Key-Pair-Id")?.clone(),
            until: DateTime::from_timestamp(statement["Condition"]["DateLessThan"]["AWS:EpochTime"].as_i64()?, 0)?,
            resource: statement["Resource"].as_str()?.to_owned(),
            policy,
            signature,
        })
    }

    /// The policies of the service have one wildcard, at the end.
    fn covers(&self, url: &Url) -> bool {
        let bare = url.as_str().split('?').next().expect("a beginning");
        self.resource.strip_suffix('*').map_or(bare == self.resource, |beginning| bare.starts_with(beginning))
    }
}

/// Starts to serve and returns the address.
pub async fn start(distribution: Distribution) -> String {
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().expect("a client");
    serve(Router::new().fallback(answer).with_state(Arc::new((distribution, http)))).await
}

async fn answer(
    State(front): State<Arc<(Distribution, reqwest::Client)>>,
    request: Request,
) -> Result<Response, StatusCode> {
    let (distribution, http) = &*front;
    let (mut parts, body) = request.into_parts();
    if parts.uri.path().starts_with("/renditions/") {
        return distribution.rendition(&parts.uri).await;
    }
    parts.headers.remove(header::HOST);
    parts.headers.insert("x-api-key", distribution.key.parse().expect("a key"));
    parts.headers.insert("x-forwarded-for", HeaderValue::from_static(VIEWER));
    let body = to_bytes(body, LARGEST).await.map_err(|_| StatusCode::PAYLOAD_TOO_LARGE)?;
    let asked = http.request(parts.method, format!("{}{}", distribution.gateway, parts.uri)).headers(parts.headers);
    let answered = asked.body(body).send().await.map_err(|_| StatusCode::BAD_GATEWAY)?;
    let (status, mut headers) = (answered.status(), answered.headers().clone());
    headers.remove(header::TRANSFER_ENCODING);
    let bytes = answered.bytes().await.map_err(|_| StatusCode::BAD_GATEWAY)?;
    Ok((status, headers, bytes).into_response())
}

impl Distribution {
    async fn rendition(&self, uri: &Uri) -> Result<Response, StatusCode> {
        let url: Url = format!("{}{uri}", self.address).parse().expect("a URL");
        if !self.keys.opens(&url, Utc::now()) {
            return Err(StatusCode::FORBIDDEN);
        }
        let object = self.bucket.client.get_object().bucket(&self.bucket.name).key(&uri.path()[1..]).send().await;
        let object = object.map_err(|_| StatusCode::FORBIDDEN)?;
        let headers = [("content-type", object.content_type().unwrap_or_default().to_owned())];
        Ok((headers, object.body.collect().await.expect("bytes").into_bytes()).into_response())
    }
}
