//! Signed URLs of CloudFront with a custom policy, see
//! <https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/private-content-creating-signed-url-custom-policy.html>.
//!
//! One policy opens all renditions of one photo, so one signature does for all its URLs. Signatures are the same on every
//! instance and each time (RSA PKCS #1 v1.5, and ECDSA after RFC 6979), so that the URLs are.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use anyhow::Context;
use aws_lc_rs::{rand::SystemRandom, rsa, signature::RSA_PKCS1_SHA256};
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use p256::{
    SecretKey,
    ecdsa::{Signature, SigningKey, signature::Signer as _},
    pkcs8::DecodePrivateKey,
};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
use secrecy::ExposeSecret;

use crate::config;

/// How many signatures are kept: an RSA one takes the better part of a millisecond.
const KEPT: usize = 20_000;

/// Signs for one distribution.
pub(crate) struct CloudFront {
    /// The distribution's address, without a `/` at its end.
    base: String,
    key_id: String,
    key: Key,
    kept: Mutex<HashMap<(String, i64), String>>,
}

enum Key {
    Rsa(rsa::KeyPair),
    Ecdsa(SigningKey),
}

impl CloudFront {
    /// Reads the private key.
    ///
    /// # Errors
    /// It is no RSA key of 2048 bits and no ECDSA key on P-256, in PEM: CloudFront takes no others.
    pub fn new(config: &config::CloudFront) -> anyhow::Result<Self> {
        Ok(Self {
            base: config.url.as_str().trim_end_matches('/').to_owned(),
            key_id: config.key_id.clone(),
            key: Key::read(config.key.expose_secret()).context("storage.cloudfront_key")?,
            kept: Mutex::default(),
        })
    }

    /// The URL of `folder/name`, good until then; all of the folder has the same signature.
    pub fn sign(&self, folder: &str, name: &str, until: DateTime<Utc>) -> String {
        let at = (folder.to_owned(), until.timestamp());
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(&at).cloned();
        let query = kept.unwrap_or_else(|| {
            let query = self.query(folder, until);
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() >= KEPT {
                kept.clear();
            }
            kept.insert(at, query.clone());
            query
        });
        format!("{}/{folder}/{name}?{query}", self.base)
    }

    fn query(&self, folder: &str, until: DateTime<Utc>) -> String {
        let resource = format!("{}/{folder}/*", self.base);
        // By hand, because what is signed must not have a space in it.
        let policy = format!(
            r#"{{"Statement":[{{"Resource":"{resource}","Condition":{{"DateLessThan":{{"AWS:EpochTime":{}}}}}}}]}}"#,
            until.timestamp()
        );
        let signature = self.key.sign(policy.as_bytes());
        // Without the last parameter CloudFront takes the hash for SHA-1.
        format!(
            "Policy={}&Signature={}&Key-Pair-Id={}&Hash-Algorithm=SHA256",
            url_safe(policy.as_bytes()),
            url_safe(&signature),
            self.key_id
        )
    }
}

impl Key {
    fn read(pem: &str) -> anyhow::Result<Self> {
        const WRONG: &str = "must be a private key in PEM: RSA of 2048 bits, or ECDSA on P-256";
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).ok().context(WRONG)?;
        let ecdsa = match &key {
            PrivateKeyDer::Sec1(der) => SecretKey::from_sec1_der(der.secret_sec1_der()).ok(),
            PrivateKeyDer::Pkcs8(der) => SecretKey::from_pkcs8_der(der.secret_pkcs8_der()).ok(),
            _ => None,
        };
        if let Some(key) = ecdsa {
            return Ok(Self::Ecdsa(key.into()));
        }
        let rsa = match &key {
            PrivateKeyDer::Pkcs1(der) => rsa::KeyPair::from_der(der.secret_pkcs1_der()).ok(),
            PrivateKeyDer::Pkcs8(der) => rsa::KeyPair::from_pkcs8(der.secret_pkcs8_der()).ok(),
            _ => None,
        };
        let rsa = rsa.filter(|key| key.public_modulus_len() == 256).context(WRONG)?;
        Ok(Self::Rsa(rsa))
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
                    .expect("the key is whole and the signature has its length");
                signature
            }
            Self::Ecdsa(key) => {
                let signature: Signature = key.sign(message);
                signature.to_der().as_bytes().to_vec()
            }
        }
    }
}

/// Base64 in CloudFront's own alphabet for URLs.
fn url_safe(bytes: &[u8]) -> String {
    STANDARD.encode(bytes).replace('+', "-").replace('=', "_").replace('/', "~")
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_ASN1, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
    };

    use super::*;

    fn signer(key: &rcgen::KeyPair) -> CloudFront {
        CloudFront::new(&config::CloudFront {
            url: "https://d111111abcdef8.cloudfront.net/".parse().unwrap(),
            key_id: "K2JCJMDEHXQW5F".to_owned(),
            key: key.serialize_pem().into(),
        })
        .unwrap()
    }

    fn decoded(text: &str) -> Vec<u8> {
        STANDARD.decode(text.replace('-', "+").replace('_', "=").replace('~', "/")).unwrap()
    }

    #[test]
    fn one_signature_covers_all_renditions() {
        let until = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let algorithms: [(&rcgen::SignatureAlgorithm, &'static dyn VerificationAlgorithm); 2] = [
            (&rcgen::PKCS_RSA_SHA256, &RSA_PKCS1_2048_8192_SHA256),
            (&rcgen::PKCS_ECDSA_P256_SHA256, &ECDSA_P256_SHA256_ASN1),
        ];
        for (kind, verification) in algorithms {
            let key = rcgen::KeyPair::generate_for(kind).unwrap();
            let (one, other) = (signer(&key), signer(&key));
            let url: url::Url = one.sign("renditions/ab/PHOTO", "thumb.jpg", until).parse().unwrap();
            // Another instance gives the very same, and so does a second call.
            assert_eq!(url.as_str(), other.sign("renditions/ab/PHOTO", "thumb.jpg", until));
            assert_eq!(url.as_str(), one.sign("renditions/ab/PHOTO", "thumb.jpg", until));
            assert_eq!(url.path(), "/renditions/ab/PHOTO/thumb.jpg");
            let of = |name| url.query_pairs().find(|(key, _)| key == name).unwrap().1.into_owned();
            let policy = decoded(&of("Policy"));
            assert_eq!(
                std::str::from_utf8(&policy).unwrap(),
                r#"{"Statement":[{"Resource":"https://d111111abcdef8.cloudfront.net/renditions/ab/PHOTO/*","Condition":{"DateLessThan":{"AWS:EpochTime":1800000000}}}]}"#
            );
            let public = UnparsedPublicKey::new(verification, key.public_key_raw());
            public.verify(&policy, &decoded(&of("Signature"))).unwrap();
            assert_eq!(of("Key-Pair-Id"), "K2JCJMDEHXQW5F");
            assert_eq!(of("Hash-Algorithm"), "SHA256");
        }
    }

    #[test]
    fn other_keys_are_refused() {
        let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem();
        for pem in ["", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", &p384] {
            assert!(Key::read(pem).is_err(), "{pem}");
        }
    }
}
