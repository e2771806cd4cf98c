//! Signed URLs: `METHOD path?query&expires=SECONDS&signature=S`, where S is HMAC-SHA256 (RFC 2104) over all
//! before it, in URL-safe base64. Whatever is altered, the signature no longer fits.

use aws_lc_rs::{constant_time::verify_slices_are_equal, hmac, rand::SystemRandom};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};

/// Why a URL does not open anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Not ours, or altered.
    #[error("the signature does not fit the URL")]
    Forged,
    /// Ours, but its time is over.
    #[error("the URL has expired")]
    Expired,
}

/// A URL whose signature was found good.
#[derive(Debug, Clone, Copy)]
pub struct SignedUrl {
    /// Until when it is good.
    pub expires_at: DateTime<Utc>,
}

/// The keys: the first signs, all verify.
pub struct Signer {
    keys: Vec<hmac::Key>,
}

impl Signer {
    /// Signs with the first of the secrets. Without any, which the configuration allows to who answers no client, it is a key that
    /// nobody else has: what it signs opens nothing.
    ///
    /// # Panics
    /// When the system has no randomness.
    #[must_use]
    pub fn new(secrets: &[SecretString]) -> Self {
        if secrets.is_empty() {
            let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).expect("randomness");
            return Self { keys: vec![key] };
        }
        let key = |secret: &SecretString| hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret().as_bytes());
        Self { keys: secrets.iter().map(key).collect() }
    }

    /// Adds expiry and signature to a path that has a `?`.
    #[must_use]
    pub fn sign(&self, method: &str, path_and_query: &str, expires_at: DateTime<Utc>) -> String {
        let joint = if path_and_query.ends_with('?') { "" } else { "&" };
        let text = format!("{path_and_query}{joint}expires={}", expires_at.timestamp());
        let signature = URL_SAFE_NO_PAD.encode(mac(&self.keys[0], method, text.as_bytes()));
        format!("{text}&signature={signature}")
    }

    /// Verifies a request's method, path and query.
    ///
    /// # Errors
    /// Says whether it is forged or expired.
    pub fn verify(&self, method: &str, path_and_query: &str, now: DateTime<Utc>) -> Result<SignedUrl, UrlError> {
        let (text, signature) = path_and_query.rsplit_once("&signature=").ok_or(UrlError::Forged)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| UrlError::Forged)?;
        let fits = |key| verify_slices_are_equal(mac(key, method, text.as_bytes()).as_ref(), &signature).is_ok();
        if !self.keys.iter().any(fits) {
            return Err(UrlError::Forged);
        }
        let seconds = text.rsplit_once("expires=").and_then(|(_, n)| n.parse().ok()).ok_or(UrlError::Forged)?;
        let expires_at = DateTime::from_timestamp(seconds, 0).ok_or(UrlError::Forged)?;
        if expires_at <= now { Err(UrlError::Expired) } else { Ok(SignedUrl { expires_at }) }
    }

    /// A short tag that tells whether a cursor is ours.
    #[must_use]
    pub fn tag(&self, context: &str, bytes: &[u8]) -> [u8; 8] {
        *mac(&self.keys[0], context, bytes).as_ref().first_chunk().expect("32 bytes")
    }

    /// Keys for sealing, one for each secret, that only the secret and `context` together give. The first seals, all
    /// open.
    pub fn derive(&self, context: &[u8]) -> impl Iterator<Item = [u8; 32]> {
        self.keys.iter().map(move |key| {
            let mut derived = [0; 32];
            derived.copy_from_slice(mac(key, "seal", context).as_ref());
            derived
        })
    }
}

/// No two purposes share their first word, so a signature of one is of no use to another.
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
    fn random_secret_rejects_other_signatures() {
        let (one, other) = (Signer::new(&[]), Signer::new(&[]));
        let url = one.sign("GET", "/x?", DateTime::from_timestamp(2_000_000_000, 0).unwrap());
        let now = DateTime::from_timestamp(1_900_000_000, 0).unwrap();
        assert!(one.verify("GET", &url, now).is_ok());
        assert_eq!(other.verify("GET", &url, now).unwrap_err(), UrlError::Forged);
    }

    #[test]
    fn any_altered_byte_is_noticed() {
        let signer = signer(&["a secret of some length, for tests"]);
        let (now, later) = (Utc::now(), Utc::now() + chrono::TimeDelta::minutes(1));
        let url = signer.sign("PUT", "/v1/uploads/1?bytes=5", later);
        assert!(signer.verify("PUT", &url, now).is_ok());
        assert_eq!(signer.verify("GET", &url, now).unwrap_err(), UrlError::Forged);
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
    fn an_older_key_still_verifies() {
        let later = Utc::now() + chrono::TimeDelta::minutes(1);
        let url = signer(&["old"]).sign("GET", "/x?", later);
        assert!(signer(&["new", "old"]).verify("GET", &url, Utc::now()).is_ok());
        assert!(signer(&["new"]).verify("GET", &url, Utc::now()).is_err());
    }
}
