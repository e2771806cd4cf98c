//! The development identity: a local token issuer whose key is in a folder. Any reader of the folder can sign tokens.

use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use aws_lc_rs::{
    rand::{self, SystemRandom},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;

/// The `iss` claim.
pub const ISSUER: &str = "darkroom-dev";
/// The `aud` claim.
pub const AUDIENCE: &str = "darkroom";
const KEY_ID: &str = "dev";
/// How long a development token is good for, in days.
const TOKEN_DAYS: i64 = 30;

/// Key, key set and the secret that signs URLs.
pub struct Identity {
    folder: PathBuf,
    key: EncodingKey,
    signing_secret: String,
}

impl Identity {
    /// Opens the identity in a folder, or makes one there.
    ///
    /// # Errors
    /// The folder can't be read or written; the error names it.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        let explain = || format!("the development identity in {}", folder.display());
        fs::create_dir_all(folder).with_context(explain)?;
        if !folder.join("jwks.json").exists() {
            make(folder).with_context(explain)?;
        }
        Self::read(folder).with_context(explain)
    }

    /// Opens the identity that a running or earlier `darkroom dev` made.
    ///
    /// # Errors
    /// There is none.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let missing = || {
            format!("{} holds no development identity; start `darkroom dev` with that folder first", folder.display())
        };
        let key = EncodingKey::from_ec_der(&fs::read(folder.join("key.p8")).with_context(missing)?);
        let signing_secret = fs::read_to_string(folder.join("signing-secret")).with_context(missing)?;
        Ok(Self { folder: folder.to_owned(), key, signing_secret })
    }

    /// Where the key set is.
    #[must_use]
    pub fn jwks_path(&self) -> PathBuf {
        self.folder.join("jwks.json")
    }

    /// The secret that signs URLs.
    #[must_use]
    pub fn signing_secret(&self) -> &str {
        &self.signing_secret
    }

    /// A JWT that this folder's server accepts.
    ///
    /// # Errors
    /// The key is broken.
    pub fn token(&self, subject: &str) -> anyhow::Result<String> {
        let now = chrono::Utc::now().timestamp();
        let claims = json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": subject, "name": subject, "iat": now, "exp": now + TOKEN_DAYS * 86_400 });
        let header = Header { kid: Some(KEY_ID.to_owned()), ..Header::new(Algorithm::ES256) };
        Ok(encode(&header, &claims, &self.key)?)
    }
}

/// The key set is written last: where it is, the rest is too.
fn make(folder: &Path) -> anyhow::Result<()> {
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())?;
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref())?;
    // 0x04, then x and y of 32 bytes each (SEC 1, 2.3.3).
    let point = pair.public_key().as_ref();
    let coordinate = |range| URL_SAFE_NO_PAD.encode(&point[range]);
    let jwks = json!({ "keys": [{
        "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": KEY_ID, "x": coordinate(1..33), "y": coordinate(33..65),
    }] });
    let mut secret = [0; 32];
    rand::fill(&mut secret)?;
    write_private(&folder.join("key.p8"), document.as_ref())?;
    write_private(&folder.join("signing-secret"), URL_SAFE_NO_PAD.encode(secret).as_bytes())?;
    write_private(&folder.join("jwks.json"), jwks.to_string().as_bytes())
}

/// Writes a file that only its owner can read; it appears whole or not at all.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let partial = path.with_extension("partial");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(fs::rename(partial, path)?)
}
