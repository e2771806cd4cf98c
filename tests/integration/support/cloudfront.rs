//! A front that does what CloudFront does before the gateway and the bucket: it adds the key that the gateway asks for and
//! whom it sees, and hands out renditions to who has a signed URL.
//!
//! Not compared with the real one. A URL is only held to its key's id: the service's own tests verify signatures.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router,
    body::to_bytes,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};

use super::{cloud::Bucket, imds::serve};

/// Who asks, as it sees them.
pub const VIEWER: &str = "203.0.113.7";
/// More than the gateway takes.
const LARGEST: usize = 11 << 20;

/// What a distribution knows of the origins behind it.
pub struct Distribution {
    /// Where the gateway is, `http://HOST:PORT`.
    pub gateway: String,
    /// The key that the gateway asks for.
    pub key: String,
    /// What is under `/renditions`.
    pub bucket: Bucket,
    /// The id of the key that signs URLs.
    pub signer: String,
}

/// Begins to serve; answers where.
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
        let query: BTreeMap<_, _> = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).collect();
        let signed = query.get("Signature").is_some_and(|it| !it.is_empty());
        if !signed || query.get("Key-Pair-Id").is_none_or(|id| **id != *self.signer) {
            return Err(StatusCode::FORBIDDEN);
        }
        let object = self.bucket.client.get_object().bucket(&self.bucket.name).key(&uri.path()[1..]).send().await;
        let object = object.map_err(|_| StatusCode::FORBIDDEN)?;
        let headers = [("content-type", object.content_type().unwrap_or_default().to_owned())];
        Ok((headers, object.body.collect().await.expect("bytes").into_bytes()).into_response())
    }
}
