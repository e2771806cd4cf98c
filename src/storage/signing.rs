//! Signed URLs: `METHOD path?query&expires=SECONDS&signature=S`, where S is the HMAC-SHA256 (RFC 2104) of everything
//! before it, in URL-safe base64.

use aws_lc_rs::{constant_time::verify_slices_are_equal, hmac, rand::SystemRandom};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};

/// Why a signed URL is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("the signature does not match the URL")]
    InvalidSignature,
    #[error("the URL has expired")]
    Expired,
}

/// A verified URL.
#[derive(Debug, Clone, Copy)]
pub struct SignedUrl {
    pub expires_at: DateTime<Utc>,
}

/// Signing keys: the first signs, all verify.
pub struct Signer {
    keys: Vec<hmac::Key>,
}

impl Signer {
    /// Signs with the first secret. Without secrets, which processes without clients may have, the key is random, so that
    /// no other process accepts its signatures.
    pub fn new(secrets: &[SecretString]) -> Self {
        if secrets.is_empty() {
            let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).expect("random numbers");
            return Self { keys: vec![key] };
        }
        let key = |secret: &SecretString| hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes());
        Self { keys: secrets.iter().map(key).collect() }
    }

    /// Appends expiry and signature to a path that contains a `?`.
    pub fn sign(&self, method: &str, path_and_query: &str, expires_at: DateTime<Utc>) -> String {
        let separator = if path_and_query.ends_with('?') { "" } else { "&" };
        let text = format!("{path_and_query}{separator}expires={}", expires_at.timestamp());
        let signature = URL_SAFE_NO_PAD.encode(mac(&self.keys[0], method, text.as_bytes()));
        format!("{text}&signature={signature}")
    }

    /// Verifies a request's method, path and query.
    pub fn verify(&self, method: &str, path_and_query: &str, now: DateTime<Utc>) -> Result<SignedUrl, UrlError> {
        let (text, signature) = path_and_query.rsplit_once("&signature=").ok_or(UrlError::InvalidSignature)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| UrlError::InvalidSignature)?;
        let matches = |key| verify_slices_are_equal(mac(key, method, text.as_bytes()).as_ref(), &signature).is_ok();
        if !self.keys.iter().any(matches) {
            return Err(UrlError::InvalidSignature);
        }
        let seconds =
            text.rsplit_once("expires=").and_then(|(_, n)| n.parse().ok()).ok_or(UrlError::InvalidSignature)?;
        let expires_at = DateTime::from_timestamp(seconds, 0).ok_or(UrlError::InvalidSignature)?;
        if expires_at <= now { Err(UrlError::Expired) } else { Ok(SignedUrl { expires_at }) }
    }

    /// A short authentication tag, for cursors.
    pub fn tag(&self, context: &str, bytes: &[u8]) -> [u8; 8] {
        *mac(&self.keys[0], context, bytes).as_ref().first_chunk().expect("32 bytes")
    }

    /// An encryption key for each secret, derived from the secret and `context`. The first encrypts, all decrypt.
    pub fn derive(&self, context: &[u8]) -> impl Iterator<Item = [u8; 32]> {
        self.keys.iter().map(move |key| {
            let mut derived = [0; 32];
            derived.copy_from_slice(mac(key, "seal", context).as_ref());
            derived
        })
    }
}

/// Purposes differ in their first word, so that a signature for one is invalid for another.
fn mac(key: &hmac::Key, purpose: &str, text: &[u8]) -> hmac::Tag {
    let mut mac = hmac::Context::with_key(key);
    mac.update(purpose.as_bytes());
    mac.update(b" ");
    mac.update(text);
    mac.sign()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(secrets: &[&str]) -> Signer {
        Signer::new(&secrets.iter().map(|s| SecretString::from(*s)).collect::<Vec<_>>())
    }

    #[test]
    fn random_keys_differ() {
        let (one, other) = (Signer::new(&[]), Signer::new(&[]));
        let url = one.sign("GET", "/x?", DateTime::from_timestamp(2_000_000_000, 0).unwrap());
        let now = DateTime::from_timestamp(1_900_000_000, 0).unwrap();
        assert!(one.verify("GET", &url, now).is_ok());
        assert_eq!(other.verify("GET", &url, now).unwrap_err(), UrlError::InvalidSignature);
    }

    #[test]
    fn rejects_any_altered_byte() {
        let signer = signer(&["a secret of some length, for tests"]);
        let (now, later) = (Utc::now(), Utc::now() + chrono::TimeDelta::minutes(1));
        let url = signer.sign("PUT", "/v1/uploads/1?bytes=5", later);
        assert!(signer.verify("PUT", &url, now).is_ok());
        assert_eq!(signer.verify("GET", &url, now).unwrap_err(), UrlError::InvalidSignature);
        assert_eq!(signer.verify("PUT", &url, later).unwrap_err(), UrlError::Expired);
        for at in 0..url.len() {
            let mut bytes = url.clone().into_bytes();
            bytes[at] ^= 1;
            let Ok(altered) = String::from_utf8(bytes) else { continue };
            assert!(signer.verify("PUT", &altered, now).is_err(), "{altered}");
        }
        assert!(signer.verify("PUT", &format!("{url}&x=1"), now).is_err());
        assert!(signer.verify("PUT", "/v1/uploads/1", now).is_err());
    }

    #[test]
    fn older_keys_verify() {
        let later = Utc::now() + chrono::TimeDelta::minutes(1);
        let url = signer(&["old"]).sign("GET", "/x?", later);
        assert!(signer(&["new", "old"]).verify("GET", &url, Utc::now()).is_ok());
        assert!(signer(&["new"]).verify("GET", &url, Utc::now()).is_err());
    }
}
