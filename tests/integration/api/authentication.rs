//! Authentication: JWTs of the configured issuer, checked against a key set that is reread when its keys change.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::Utc;
use darkroom::dev::identity::{AUDIENCE, ISSUER, Identity};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::harness::{TestServer, client::id, eventually};

const API_ONLY: &str = "worker.enabled = false";

/// A signing key pair, with its public key as a JWK.
struct Issuer {
    key: EncodingKey,
    jwk: Value,
}

impl Issuer {
    /// The key of a development identity's folder.
    fn of(folder: &Path) -> Self {
        let key = EncodingKey::from_ec_der(&std::fs::read(folder.join("key.p8")).unwrap());
        let jwks: Value = serde_json::from_slice(&std::fs::read(folder.join("jwks.json")).unwrap()).unwrap();
        Self { key, jwk: jwks["keys"][0].clone() }
    }

    /// A new key with a key id.
    fn new(kid: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Identity::open(folder.path()).unwrap();
        let mut issuer = Self::of(folder.path());
        issuer.jwk["kid"] = kid.into();
        issuer
    }

    fn jwks(&self) -> Value {
        json!({ "keys": [self.jwk] })
    }

    /// A token with changed claims; null removes one.
    fn token(&self, changes: &Value) -> String {
        let header = Header { kid: self.jwk["kid"].as_str().map(str::to_owned), ..Header::new(Algorithm::ES256) };
        encode(&header, &claims(changes), &self.key).unwrap()
    }
}

fn claims(changes: &Value) -> Value {
    let now = Utc::now().timestamp();
    let mut claims =
        json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "name": "Alice", "iat": now, "exp": now + 600 });
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

/// A hand-made token.
fn forged(header: &Value, signature: &[u8]) -> String {
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    format!("{}.{}.{}", part(header), part(&claims(&json!({}))), URL_SAFE_NO_PAD.encode(signature))
}

#[tokio::test]
async fn validates_claims() {
    let server = TestServer::start_with(API_ONLY).await;
    let issuer = Issuer::of(&server.folder().join("identity"));
    let now = Utc::now().timestamp();
    for (status, changes) in [
        (200, json!({})),
        (200, json!({ "name": null, "iat": null })),
        (200, json!({ "aud": ["another", AUDIENCE] })),
        (200, json!({ "nbf": now - 5 })),
        (200, json!({ "sub": "x".repeat(255) })),
        // Within the clock skew.
        (200, json!({ "exp": now - 5 })),
        (200, json!({ "nbf": now + 5 })),
        (401, json!({ "exp": now - 3600 })),
        (401, json!({ "exp": null })),
        (401, json!({ "exp": "tomorrow" })),
        (401, json!({ "exp": -1 })),
        (401, json!({ "nbf": now + 3600 })),
        (401, json!({ "iss": "another" })),
        (401, json!({ "iss": format!("{ISSUER}/") })),
        (401, json!({ "iss": null })),
        (401, json!({ "aud": "another" })),
        (401, json!({ "aud": [] })),
        (401, json!({ "aud": null })),
        (401, json!({ "sub": "" })),
        (401, json!({ "sub": "x".repeat(300) })),
        (401, json!({ "sub": "é".repeat(128) })),
        (401, json!({ "sub": null })),
        (401, json!({ "sub": 5 })),
    ] {
        let answer = server.bearer(&issuer.token(&changes)).get("/v1/albums").await;
        assert_eq!(answer.status, status, "{changes}");
        assert_eq!(answer.header("www-authenticate").starts_with("Bearer "), status == 401);
    }
}

#[tokio::test]
async fn challenges_invalid_tokens() {
    let server = TestServer::start_with(API_ONLY).await;
    let issuer = Issuer::of(&server.folder().join("identity"));
    let good = issuer.token(&json!({}));
    let (head, rest) = good.split_once('.').unwrap();
    let (body, signature) = rest.split_once('.').unwrap();
    let es256 = json!({ "alg": "ES256", "kid": "dev", "typ": "JWT" });
    let with = |name: &str, value: Value| {
        let mut header = es256.clone();
        header[name] = value;
        URL_SAFE_NO_PAD.encode(header.to_string())
    };
    let public = URL_SAFE_NO_PAD.decode(issuer.jwk["x"].as_str().unwrap()).unwrap();
    let secrets = [public, issuer.jwk.to_string().into_bytes(), issuer.jwks().to_string().into_bytes(), Vec::new()];
    let hmac = |secret: &Vec<u8>| {
        let header = Header { kid: Some("dev".into()), ..Header::new(Algorithm::HS256) };
        encode(&header, &claims(&json!({})), &EncodingKey::from_secret(secret)).unwrap()
    };
    let mut tokens: Vec<String> = secrets.iter().map(hmac).collect();
    tokens.extend([
        String::new(),
        "garbage".into(),
        "a.b.c".into(),
        "..".into(),
        "\u{7f}".replace('\u{7f}', "~~~"),
        "x".repeat(20_000),
        // Spellings of the algorithm `none`.
        forged(&json!({ "alg": "none", "kid": "dev" }), b""),
        forged(&json!({ "alg": "None", "kid": "dev" }), b""),
        forged(&json!({ "kid": "dev" }), b""),
        forged(&es256, b""),
        forged(&es256, &[0; 64]),
        // A valid signature with another header or payload, or no signature.
        format!("{}.{rest}", with("alg", "RS256".into())),
        format!("{}.{rest}", with("alg", "ES384".into())),
        format!("{}.{rest}", with("kid", "unknown".into())),
        format!("{}.{rest}", with("kid", "../../etc/passwd".into())),
        format!("{head}.{}.{signature}", URL_SAFE_NO_PAD.encode(claims(&json!({ "sub": "bob" })).to_string())),
        format!("{head}.{body}."),
        format!("{head}.{body}"),
        format!("{good}.{signature}"),
        format!("{good}="),
        // Another key: with the same id, with its own id, and embedded in the header.
        Issuer::new("dev").token(&json!({})),
        Issuer::new("other").token(&json!({})),
        {
            let other = Issuer::new("dev");
            let jwk = serde_json::from_value(other.jwk.clone()).unwrap();
            let header = Header { kid: Some("dev".into()), jwk: Some(jwk), ..Header::new(Algorithm::ES256) };
            encode(&header, &claims(&json!({})), &other.key).unwrap()
        },
    ]);
    let refused = async |value: &str| {
        let anybody = server.anybody();
        let answer =
            anybody.send(anybody.request(reqwest::Method::GET, "/v1/albums").header("authorization", value)).await;
        assert_eq!(answer.status, 401, "{value}");
        assert!(answer.header("www-authenticate").starts_with("Bearer "), "{value}");
    };
    for token in &tokens {
        refused(&format!("Bearer {token}")).await;
    }
    for value in [
        &*good,
        "",
        "Bearer",
        "Bearer ",
        &format!("Basic {good}"),
        &format!("Token {good}"),
        &format!("Bearer{good}"),
        "Bearer é",
    ] {
        refused(value).await;
    }
    assert_eq!(server.anybody().get("/v1/albums").await.status, 401);
    // A token in the query is ignored.
    assert_eq!(server.anybody().get(&format!("/v1/albums?access_token={good}")).await.status, 401);
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let anybody = server.anybody();
        let request =
            anybody.request(reqwest::Method::GET, "/v1/albums").header("authorization", format!("{scheme} {good}"));
        anybody.send(request).await.expect(200);
    }
}

#[tokio::test]
async fn compares_subjects_byte_for_byte() {
    let server = TestServer::start_with(API_ONLY).await;
    let issuer = Issuer::of(&server.folder().join("identity"));
    let names = ["alice", "alice ", "Alice", " alice", "alice\u{0}", "alicé", "alice\u{301}", "\u{30a2}", "\u{30a2} "];
    let users: Vec<_> = names.iter().map(|name| server.bearer(&issuer.token(&json!({ "sub": name })))).collect();
    for user in &users {
        user.album("One for each").await;
    }
    for (user, name) in users.iter().zip(names) {
        let albums = user.all("/v1/albums").await;
        assert_eq!(albums.len(), 1, "{name:?}");
        for other in users.iter().filter(|other| !std::ptr::eq(*other, user)) {
            other.get(&format!("/v1/albums/{}", id(&albums[0]))).await.expect(404);
        }
    }
}

#[tokio::test]
async fn rejects_invite_as_user_token() {
    let server = TestServer::start_with(API_ONLY).await;
    let host = server.user("alice");
    let album = host.album("One").await;
    let guest = server.bearer(&host.invite(&album, &json!({ "role": "contribute" })).await);
    guest.get("/v1/albums").await.expect(403);
    guest.post("/v1/albums", &json!({ "title": "Two" })).await.expect(403);
    guest.get(&format!("/v1/albums/{album}")).await.expect(200);
}

#[tokio::test]
async fn rereads_key_set_file_for_new_key() {
    let server = TestServer::start_with(API_ONLY).await;
    let folder = server.folder().join("identity");
    let (old, new) = (Issuer::of(&folder), Issuer::new("2027"));
    let (old_token, new_token) = (server.bearer(&old.token(&json!({}))), server.bearer(&new.token(&json!({}))));
    let album = old_token.album("Before").await;
    new_token.get("/v1/albums").await.expect(401);
    // A temporarily invalid file leaves the known keys in use.
    std::fs::write(folder.join("jwks.json"), "{").unwrap();
    old_token.get("/v1/albums").await.expect(200);
    std::fs::write(folder.join("jwks.json"), new.jwks().to_string()).unwrap();
    eventually("rotated", async || (new_token.get("/v1/albums").await.status == 200).then_some(())).await;
    old_token.get("/v1/albums").await.expect(401);
    new_token.get(&format!("/v1/albums/{album}")).await.expect(200);
}

#[tokio::test]
async fn accepts_inline_key_set() {
    let (ours, other) = (Issuer::new("ours"), Issuer::new("other"));
    let server = TestServer::start_with(&format!("{API_ONLY}\nidentity.jwks = '{}'", ours.jwks())).await;
    server.bearer(&ours.token(&json!({}))).get("/v1/albums").await.expect(200);
    server.bearer(&other.token(&json!({}))).get("/v1/albums").await.expect(401);
}

/// An issuer's web server: its response, and the number of requests.
#[derive(Clone)]
struct Published {
    answer: Arc<Mutex<(StatusCode, String)>>,
    asked: Arc<AtomicU32>,
    url: String,
}

impl Published {
    async fn start(status: StatusCode, body: &Value) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let this = Self { answer: Arc::new(Mutex::new((status, body.to_string()))), asked: Arc::default(), url };
        let answer = async |State(this): State<Self>| {
            this.asked.fetch_add(1, Ordering::Relaxed);
            this.answer.lock().unwrap().clone()
        };
        let router = Router::new().route("/keys", get(answer)).with_state(this.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        this
    }

    fn set(&self, status: StatusCode, body: &Value) {
        *self.answer.lock().unwrap() = (status, body.to_string());
    }

    fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }

    fn settings(&self) -> String {
        format!("{API_ONLY}\nidentity.jwks = '{}'", self.url)
    }
}

#[tokio::test]
async fn caches_key_set_from_url() {
    let (first, second) = (Issuer::new("first"), Issuer::new("second"));
    let issuer = Published::start(StatusCode::OK, &first.jwks()).await;
    let server = TestServer::start_with(&issuer.settings()).await;
    let (old, new) = (server.bearer(&first.token(&json!({}))), server.bearer(&second.token(&json!({}))));
    old.get("/v1/albums").await.expect(200);
    let asked = issuer.asked();
    for _ in 0..20 {
        old.get("/v1/albums").await.expect(200);
    }
    // The initial read may follow that of the first request.
    assert!(issuer.asked() <= asked + 1, "asked {} times", issuer.asked());

    // Unknown key ids do not cause a request to the issuer each.
    let (asked, begun) = (issuer.asked(), Instant::now());
    for number in 0..30 {
        server
            .bearer(
                &Issuer { key: first.key.clone(), jwk: json!({ "kid": format!("forged-{number}") }) }.token(&json!({})),
            )
            .get("/v1/albums")
            .await
            .expect(401);
    }
    let most = 1 + begun.elapsed().as_secs() / 5;
    assert!(u64::from(issuer.asked() - asked) <= most, "asked {} times", issuer.asked() - asked);

    // Both keys for a while, then only the new one, as issuers rotate them.
    issuer.set(StatusCode::OK, &json!({ "keys": [first.jwk, second.jwk] }));
    eventually("rotated", async || (new.get("/v1/albums").await.status == 200).then_some(())).await;
    old.get("/v1/albums").await.expect(200);

    for (status, body) in [
        (StatusCode::INTERNAL_SERVER_ERROR, Value::Null),
        (StatusCode::OK, json!({ "keys": [] })),
        (StatusCode::OK, json!("no key set")),
        (StatusCode::OK, json!({ "keys": ["x".repeat(2 << 20)] })),
    ] {
        issuer.set(status, &body);
        server.app.verifier.refresh().await;
        assert!(server.app.verifier.state().last_error.is_some(), "{status}");
        old.get("/v1/albums").await.expect(200);
        new.get("/v1/albums").await.expect(200);
    }
    issuer.set(StatusCode::OK, &second.jwks());
    server.app.verifier.refresh().await;
    old.get("/v1/albums").await.expect(401);
    new.get("/v1/albums").await.expect(200);
}

#[tokio::test]
async fn missing_key_set_answers_503() {
    let issuer = Issuer::new("late");
    let published = Published::start(StatusCode::SERVICE_UNAVAILABLE, &Value::Null).await;
    let server = TestServer::start_with(&published.settings()).await;
    let user = server.bearer(&issuer.token(&json!({})));
    let answer = user.get("/v1/albums").await;
    assert!(!answer.header("retry-after").is_empty());
    let problem = answer.expect(503);
    assert!(!problem.to_string().contains(&published.url), "{problem}");
    // Checks that need no key still apply.
    server.bearer("garbage").get("/v1/albums").await.expect(401);
    server.anybody().get("/health/live").await.expect(200);
    published.set(StatusCode::OK, &issuer.jwks());
    eventually("recovered", async || (user.get("/v1/albums").await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn ignores_unusable_keys() {
    let (signing, sealing) = (Issuer::new("sig"), Issuer::new("enc"));
    let mut enc = sealing.jwk.clone();
    enc["use"] = "enc".into();
    let unknown = json!({ "kty": "XYZ", "kid": "future", "alg": "NEW" });
    let set = json!({ "keys": [unknown, enc, signing.jwk], "comment": "more than keys" });
    let published = Published::start(StatusCode::OK, &set).await;
    let server = TestServer::start_with(&published.settings()).await;
    server.bearer(&signing.token(&json!({}))).get("/v1/albums").await.expect(200);
    server.bearer(&sealing.token(&json!({}))).get("/v1/albums").await.expect(401);
}
