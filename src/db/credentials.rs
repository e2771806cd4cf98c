//! The credentials that connections sign in with: a password, a token of RDS IAM authentication, or a secret of
//! AWS Secrets Manager.
//!
//! Tokens and secrets are cached: all new connections use the same one until it is renewed, ahead of its end, or sooner
//! when the server refuses it. Open connections do not need it any more.

mod cache;
mod iam;
mod issuer;
mod secrets_manager;

use std::sync::Arc;

pub use cache::CredentialStatus;
pub use issuer::Credential;

use super::error::Result;
use crate::config::database::{Auth, Login};
use cache::CredentialCache;
use issuer::Issuer;

/// Where the connections of one pool get their credentials.
pub enum CredentialSource {
    /// A password of the configuration.
    Fixed(Arc<Credential>),
    /// Tokens or secrets of AWS.
    Cached(Box<CredentialCache>),
}

impl CredentialSource {
    /// `pool` is the name of the pool in logs and metrics.
    pub(crate) fn new(login: &Login, pool: &'static str) -> Self {
        let user = login.user.clone();
        let issuer: Box<dyn Issuer> = match &login.auth {
            Auth::Password(password) => return Self::Fixed(Arc::new(Credential::password(user, password.clone()))),
            Auth::Iam(iam) => Box::new(iam::TokenSigner::new(iam.clone(), user)),
            Auth::Secret(secret) => Box::new(secrets_manager::SecretReader::new(secret.clone(), user)),
        };
        Self::Cached(Box::new(CredentialCache::new(issuer, pool)))
    }

    /// The current credential; waits for a new one when none is valid. Fails with [`super::Error::NoCredentials`].
    pub async fn current(&self) -> Result<Arc<Credential>> {
        match self {
            Self::Fixed(credential) => Ok(credential.clone()),
            Self::Cached(cache) => cache.current().await,
        }
    }

    /// A new credential in place of one that the server has refused; `None` when there is no other.
    pub(crate) async fn renew_refused(&self, refused: &Credential) -> Option<Arc<Credential>> {
        match self {
            Self::Fixed(_) => None,
            Self::Cached(cache) => cache.renew_refused(refused).await,
        }
    }

    /// Renews credentials ahead of their end, forever.
    pub(crate) async fn keep_renewed(&self) -> ! {
        match self {
            Self::Fixed(_) => std::future::pending().await,
            Self::Cached(cache) => cache.keep_renewed().await,
        }
    }

    /// The state of the cache; `None` for a password.
    #[must_use]
    pub fn status(&self) -> Option<CredentialStatus> {
        match self {
            Self::Fixed(_) => None,
            Self::Cached(cache) => Some(cache.status()),
        }
    }

    /// The ARN of the AWS identity that signs tokens, from STS; `None` where no token is signed.
    pub async fn identity(&self) -> Option<Result<String, String>> {
        match self {
            Self::Fixed(_) => None,
            Self::Cached(cache) => cache.identity().await,
        }
    }
}
