//! Signed URLs of CloudFront with a custom policy, see
//! <https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/private-content-creating-signed-url-custom-policy.html>.
//!
//! One policy covers all renditions of a photo, so all its URLs share a signature. Signatures are deterministic (RSA
//! PKCS #1 v1.5, and ECDSA as in RFC 6979), so that all instances return the same URLs.

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

/// Maximum number of cached signatures; an RSA signature takes nearly a millisecond.
const MAX_CACHED: usize = 20_000;

/// Signs URLs of one distribution.
pub(crate) struct CloudFront {
    /// The distribution's URL, without a trailing `/`.
    base: String,
    key_id: String,
    key: Key,
    /// Signed queries by folder and expiry.
    cache: Mutex<HashMap<(String, i64), String>>,
}

enum Key {
    Rsa(rsa::KeyPair),
    Ecdsa(SigningKey),
}

impl CloudFront {
    /// Reads the private key. CloudFront supports RSA keys of 2048 bits and ECDSA keys on P-256.
    pub fn new(config: &config::CloudFront) -> anyhow::Result<Self> {
        Ok(Self {
            base: config.url.as_str().trim_end_matches('/').to_owned(),
            key_id: config.key_id.clone(),
            key: Key::read(config.key.expose_secret()).context("storage.cloudfront_key")?,
            cache: Mutex::default(),
        })
    }

    /// The URL of `folder/name`, valid until `until`.
    pub fn sign(&self, folder: &str, name: &str, until: DateTime<Utc>) -> String {
        let cache_key = (folder.to_owned(), until.timestamp());
        let cached = self.cache.lock().unwrap_or_else(PoisonError::into_inner).get(&cache_key).cloned();
        let query = cached.unwrap_or_else(|| {
            let query = self.query(folder, until);
            let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            if cache.len() >= MAX_CACHED {
                cache.clear();
            }
            cache.insert(cache_key, query.clone());
            query
        });
        format!("{}/{folder}/{name}?{query}", self.base)
    }

    fn query(&self, folder: &str, until: DateTime<Utc>) -> String {
        let resource = format!("{}/{folder}/*", self.base);
        // Not by serde_json: the policy must not contain a space.
        let policy = format!(
            r#"{{"Statement":[{{"Resource":"{resource}","Condition":{{"DateLessThan":{{"AWS:EpochTime":{}}}}}}}]}}"#,
            until.timestamp()
        );
        let signature = self.key.sign(policy.as_bytes());
        // Without `Hash-Algorithm`, CloudFront assumes SHA-1.
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
        const INVALID: &str = "must be a private key in PEM: RSA of 2048 bits, or ECDSA on P-256";
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).ok().context(INVALID)?;
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
        let rsa = rsa.filter(|key| key.public_modulus_len() == 256).context(INVALID)?;
        Ok(Self::Rsa(rsa))
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
                    .expect("a valid key and a buffer of the signature's length");
                signature
            }
            Self::Ecdsa(key) => {
                let signature: Signature = key.sign(message);
                signature.to_der().as_bytes().to_vec()
            }
        }
    }
}

/// Base64 in CloudFront's alphabet for URLs.
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
    fn renditions_of_a_photo_share_a_signature() {
        let until = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let algorithms: [(&rcgen::SignatureAlgorithm, &'static dyn VerificationAlgorithm); 2] = [
            (&rcgen::PKCS_RSA_SHA256, &RSA_PKCS1_2048_8192_SHA256),
            (&rcgen::PKCS_ECDSA_P256_SHA256, &ECDSA_P256_SHA256_ASN1),
        ];
        for (kind, verification) in algorithms {
            let key = rcgen::KeyPair::generate_for(kind).unwrap();
            let (one, other) = (signer(&key), signer(&key));
            let url: url::Url = one.sign("renditions/ab/PHOTO", "thumb.jpg", until).parse().unwrap();
            // Another instance and a second call return the same URL.
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
    fn rejects_other_keys() {
        let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem();
        for pem in ["", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", &p384] {
            assert!(Key::read(pem).is_err(), "{pem}");
        }
    }
}
