//! Who signed in: JWTs (RFC 7519) checked against a key set (RFC 7517) from a URL or a file: cached, read again from time to time
//! and when a token names a key that is not known yet.

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

/// The least time between two readings, so that forged key ids don't make us hammer the issuer.
const LEAST_PAUSE: Duration = Duration::from_secs(5);
/// Longest time for reading a URL.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest key set that is read, in bytes.
const MAX_SET_BYTES: usize = 1 << 20;
/// The longest subject, as the database has it.
const MAX_SUBJECT_BYTES: usize = 255;

const BAD_TOKEN: Denied = Denied::Token("the token is not one of this service's issuer and audience, or is altered");
const EXPIRED: Denied = Denied::Token("the token has expired, or is not valid yet");

/// Why a token names nobody.
#[derive(Debug)]
pub enum Denied {
    /// The token is no good; the sentence is for its holder.
    Token(&'static str),
    /// No key set could be read yet, so nothing can be judged; this is why, for the log.
    NoKeys(String),
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    name: Option<String>,
}

struct Key {
    decoding: DecodingKey,
    /// What the key says that it is for; none when it does not say.
    algorithm: Option<Algorithm>,
}

/// What `/health` shows of the key set.
#[derive(Debug, Clone, Default)]
pub struct KeyState {
    /// Keys that are known.
    pub keys: usize,
    /// How long ago they were read.
    pub age: Option<Duration>,
    /// Why the last reading failed, if it did.
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
    /// Held while reading; holds when that was last tried.
    tried_at: Mutex<Option<Instant>>,
}

impl Verifier {
    /// A verifier that reads its keys when it first needs them, or when [`Verifier::refresh`] is called.
    #[must_use]
    pub fn new(config: &Identity) -> Self {
        let client = reqwest::Client::builder().timeout(FETCH_TIMEOUT).build().expect("a client without options");
        Self { config: config.clone(), client, keys: RwLock::default(), tried_at: Mutex::default() }
    }

    /// The user that a token names.
    ///
    /// # Errors
    /// [`Denied`] says why not.
    pub async fn verify(&self, token: &str) -> Result<User, Denied> {
        let header = decode_header(token).map_err(|_| BAD_TOKEN)?;
        if !self.config.algorithms.contains(&header.alg) {
            return Err(BAD_TOKEN);
        }
        if let Some(outcome) = self.decode(token, header.kid.as_ref(), header.alg) {
            return outcome;
        }
        self.refresh_once().await;
        if let Some(outcome) = self.decode(token, header.kid.as_ref(), header.alg) {
            return outcome;
        }
        match self.state() {
            KeyState { keys: 0, last_error: Some(error), .. } => Err(Denied::NoKeys(error)),
            _ => Err(BAD_TOKEN),
        }
    }

    /// None when the key is not known.
    fn decode(&self, token: &str, id: Option<&String>, algorithm: Algorithm) -> Option<Result<User, Denied>> {
        let keys = self.keys.read().expect("no holder of this lock panics");
        let key = match id {
            Some(_) => keys.by_id.get(&id.cloned())?,
            // Without an id the token can only mean the one key that there is.
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

    /// Reads the key set now. After a failure the old keys stay.
    pub async fn refresh(&self) {
        let mut tried_at = self.tried_at.lock().await;
        *tried_at = Some(Instant::now());
        self.read().await;
    }

    /// The same unless it has just been tried; many callers at once cause one reading.
    async fn refresh_once(&self) {
        let mut tried_at = self.tried_at.lock().await;
        if tried_at.is_none_or(|at| at.elapsed() >= LEAST_PAUSE) {
            *tried_at = Some(Instant::now());
            self.read().await;
        }
    }

    async fn read(&self) {
        let outcome = self.fetch().await.and_then(|json| parse(&json));
        let mut keys = self.keys.write().expect("no holder of this lock panics");
        match outcome {
            Ok(by_id) => *keys = Keys { by_id, read_at: Some(Instant::now()), last_error: None },
            Err(error) => {
                metrics::JWKS_FETCH_FAILURES.increment(1);
                let error = format!("{error:#}");
                tracing::warn!(error, "the issuer's keys can't be read; the known ones go on");
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
                    anyhow::ensure!(json.len() <= MAX_SET_BYTES, "the key set is larger than {MAX_SET_BYTES} bytes");
                }
                Ok(json)
            }
        }
    }

    /// For `/health`.
    #[must_use]
    pub fn state(&self) -> KeyState {
        let keys = self.keys.read().expect("no holder of this lock panics");
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
        // A set may hold keys for other purposes, and of kinds that we don't know.
        if jwk.common.public_key_use.as_ref().is_some_and(|purpose| *purpose != PublicKeyUse::Signature) {
            continue;
        }
        let Ok(decoding) = DecodingKey::from_jwk(&jwk) else { continue };
        let algorithm = jwk.common.key_algorithm.and_then(|algorithm| algorithm.to_string().parse().ok());
        keys.insert(jwk.common.key_id, Key { decoding, algorithm });
    }
    anyhow::ensure!(!keys.is_empty(), "the key set holds no key that can verify a signature");
    Ok(keys)
}
