//! Verifies JWTs (RFC 7519) with a key set (RFC 7517) from a URL or a file. The key set is cached, and read again at
//! intervals and when a token names an unknown key.

use std::{
    collections::HashMap,
    sync::RwLock,
    time::{Duration, Instant},
};

use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, decode, decode_header,
    jwk::{JwkSet, PublicKeyUse},
};
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::{
    config::{Identity, Jwks},
    domain::User,
    telemetry::metrics,
};

/// The minimum time between two reads for unknown keys, so that forged key ids do not flood the issuer.
const MIN_REFRESH_INTERVAL: Duration = Duration::from_secs(5);
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_KEY_SET_BYTES: usize = 1 << 20;
/// The length of the database column.
const MAX_SUBJECT_BYTES: usize = 255;

const BAD_TOKEN: Denied = Denied::Token("the token is invalid, or from another issuer or for another audience");
const EXPIRED: Denied = Denied::Token("the token has expired or is not valid yet");

/// Why a token was not accepted.
#[derive(Debug)]
pub enum Denied {
    /// The token is invalid; the text is for its bearer.
    Token(&'static str),
    /// No key set could be read yet; the text is for the log.
    NoKeys(String),
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    name: Option<String>,
}

struct Key {
    decoding: DecodingKey,
    /// None if the key set does not name one.
    algorithm: Option<Algorithm>,
}

/// The key set as `/health` reports it.
#[derive(Debug, Clone, Default)]
pub struct KeyState {
    pub keys: usize,
    /// The time since the last successful read.
    pub age: Option<Duration>,
    /// The error of the last read, if it failed.
    pub last_error: Option<String>,
}

#[derive(Default)]
struct Keys {
    by_id: HashMap<Option<String>, Key>,
    read_at: Option<Instant>,
    last_error: Option<String>,
}

/// Verifies JWTs.
pub struct Verifier {
    config: Identity,
    client: reqwest::Client,
    keys: RwLock<Keys>,
    /// The time of the last read attempt; locked during a read.
    tried_at: Mutex<Option<Instant>>,
}

impl Verifier {
    /// Reads its keys when it first needs them, or in [`Verifier::refresh`].
    #[must_use]
    pub fn new(config: &Identity) -> Self {
        let client = reqwest::Client::builder().timeout(FETCH_TIMEOUT).build().expect("a client without options");
        Self { config: config.clone(), client, keys: RwLock::default(), tried_at: Mutex::default() }
    }

    /// The user of a valid token.
    pub async fn verify(&self, token: &str) -> Result<User, Denied> {
        let header = decode_header(token).map_err(|_| BAD_TOKEN)?;
        if !self.config.algorithms.contains(&header.alg) {
            return Err(BAD_TOKEN);
        }
        if let Some(outcome) = self.decode(token, header.kid.as_ref(), header.alg) {
            return outcome;
        }
        self.refresh_if_due().await;
        if let Some(outcome) = self.decode(token, header.kid.as_ref(), header.alg) {
            return outcome;
        }
        match self.state() {
            KeyState { keys: 0, last_error: Some(error), .. } => Err(Denied::NoKeys(error)),
            _ => Err(BAD_TOKEN),
        }
    }

    /// None if the key is unknown.
    fn decode(&self, token: &str, id: Option<&String>, algorithm: Algorithm) -> Option<Result<User, Denied>> {
        let keys = self.keys.read().expect("holders of the lock do not panic");
        let key = match id {
            Some(_) => keys.by_id.get(&id.cloned())?,
            // A token without a key id is unambiguous only if there is one key.
            None if keys.by_id.len() == 1 => keys.by_id.values().next()?,
            None => return if keys.by_id.is_empty() { None } else { Some(Err(BAD_TOKEN)) },
        };
        if key.algorithm.is_some_and(|fixed| fixed != algorithm) {
            return Some(Err(BAD_TOKEN));
        }
        let mut rules = Validation::new(algorithm);
        rules.leeway = self.config.leeway.as_secs();
        rules.validate_nbf = true;
        rules.set_issuer(&[&self.config.issuer]);
        rules.set_audience(&[&self.config.audience]);
        rules.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        Some(match decode::<Claims>(token, &key.decoding, &rules) {
            Ok(data) => user(data.claims),
            Err(error) => {
                use jsonwebtoken::errors::ErrorKind::{ExpiredSignature, ImmatureSignature};
                Err(if matches!(error.kind(), ExpiredSignature | ImmatureSignature) { EXPIRED } else { BAD_TOKEN })
            }
        })
    }

    /// Reads the key set now. If that fails, the known keys remain.
    pub async fn refresh(&self) {
        let mut tried_at = self.tried_at.lock().await;
        *tried_at = Some(Instant::now());
        self.read().await;
    }

    /// Reads the key set unless that was just tried; concurrent callers share one read.
    async fn refresh_if_due(&self) {
        let mut tried_at = self.tried_at.lock().await;
        if tried_at.is_none_or(|at| at.elapsed() >= MIN_REFRESH_INTERVAL) {
            *tried_at = Some(Instant::now());
            self.read().await;
        }
    }

    async fn read(&self) {
        let outcome = self.fetch().await.and_then(|json| parse(&json));
        let mut keys = self.keys.write().expect("holders of the lock do not panic");
        match outcome {
            Ok(by_id) => *keys = Keys { by_id, read_at: Some(Instant::now()), last_error: None },
            Err(error) => {
                metrics::JWKS_FETCH_FAILURES.increment(1);
                let error = format!("{error:#}");
                tracing::warn!(error, "cannot read the issuer's keys; the known ones remain in use");
                keys.last_error = Some(error);
            }
        }
    }

    async fn fetch(&self) -> anyhow::Result<Vec<u8>> {
        match &self.config.jwks {
            Jwks::File(path) => {
                tokio::fs::read(path).await.map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))
            }
            Jwks::Document(json) => Ok(json.clone().into_bytes()),
            Jwks::Url(url) => {
                let mut response = self.client.get(url.clone()).send().await?.error_for_status()?;
                let mut json = Vec::new();
                while let Some(chunk) = response.chunk().await? {
                    json.extend_from_slice(&chunk);
                    let is_small = json.len() <= MAX_KEY_SET_BYTES;
                    anyhow::ensure!(is_small, "the key set is larger than {MAX_KEY_SET_BYTES} bytes");
                }
                Ok(json)
            }
        }
    }

    #[must_use]
    pub fn state(&self) -> KeyState {
        let keys = self.keys.read().expect("holders of the lock do not panic");
        KeyState {
            keys: keys.by_id.len(),
            age: keys.read_at.map(|at| at.elapsed()),
            last_error: keys.last_error.clone(),
        }
    }
}

fn user(claims: Claims) -> Result<User, Denied> {
    if claims.sub.is_empty() || claims.sub.len() > MAX_SUBJECT_BYTES {
        return Err(BAD_TOKEN);
    }
    Ok(User { subject: claims.sub, name: claims.name })
}

fn parse(json: &[u8]) -> anyhow::Result<HashMap<Option<String>, Key>> {
    let set: JwkSet = serde_json::from_slice(json)?;
    let mut keys = HashMap::new();
    for jwk in set.keys {
        // A key set may contain keys for other purposes and of unsupported types.
        if jwk.common.public_key_use.as_ref().is_some_and(|purpose| *purpose != PublicKeyUse::Signature) {
            continue;
        }
        let Ok(decoding) = DecodingKey::from_jwk(&jwk) else { continue };
        let algorithm = jwk.common.key_algorithm.and_then(|algorithm| algorithm.to_string().parse().ok());
        keys.insert(jwk.common.key_id, Key { decoding, algorithm });
    }
    anyhow::ensure!(!keys.is_empty(), "the key set has no key for verifying signatures");
    Ok(keys)
}
