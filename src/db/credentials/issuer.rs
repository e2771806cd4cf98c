//! What issues credentials.

use std::{fmt, time::SystemTime};

use futures_util::future::BoxFuture;
use secrecy::SecretString;

/// A user name and what it signs in with.
pub struct Credential {
    /// User.
    pub user: String,
    /// Password or token.
    pub secret: Option<SecretString>,
    /// Whether the secret is a token, which MySQL's protocol sends in clear.
    pub is_token: bool,
    /// The number of this credential in its cache, from 1.
    pub(super) generation: u64,
}

impl Credential {
    pub(super) fn password(user: String, secret: Option<SecretString>) -> Self {
        Self { user, secret, is_token: false, generation: 0 }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("user", &self.user)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// A credential as its issuer returns it.
pub(crate) struct IssuedCredential {
    pub(crate) user: String,
    pub(crate) secret: SecretString,
    pub(crate) is_token: bool,
    /// New connections may use it until then.
    pub(crate) valid_until: SystemTime,
    /// Where it comes from, for operators; contains no secret.
    pub(crate) origin: String,
}

/// Issues credentials that expire. Errors are texts for operators.
pub(crate) trait Issuer: Send + Sync {
    /// The method in logs and `/health`: `iam` or `secrets-manager`.
    fn kind(&self) -> &'static str;

    fn issue(&self) -> BoxFuture<'_, Result<IssuedCredential, String>>;

    /// The ARN of the AWS identity that signs, from STS; `None` where nothing is signed.
    fn identity(&self) -> BoxFuture<'_, Option<Result<String, String>>> {
        Box::pin(async { None })
    }
}
