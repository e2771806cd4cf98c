//! Who signs in to the database: a password, a token of RDS IAM authentication, or a secret of Secrets Manager.
//!
//! A token or a secret is a *lease*: one for all new connections, renewed ahead of its end, and sooner when the server
//! refuses it. Sessions that are open do not need it any more.

mod cache;
mod iam;
mod secrets_manager;

use std::{fmt, sync::Arc};

use secrecy::SecretString;

pub use cache::LeaseState;
use cache::{Issuer, Lease};

use super::Result;
use crate::config::database::{self as config, Auth};

/// What a connection signs in with.
pub struct Credential {
    /// User.
    pub user: String,
    /// Password or token.
    pub secret: Option<SecretString>,
    /// Whether it is a token, which MySQL's protocol sends as it is.
    pub is_token: bool,
    /// Which one of a lease's it is, from 1.
    generation: u64,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("user", &self.user)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// Who signs in to one server.
pub struct Login {
    kind: Kind,
}

enum Kind {
    Fixed(Arc<Credential>),
    Leased(Box<Lease>),
}

impl Login {
    /// `pool` is the name of the pool in logs and metrics.
    pub(crate) fn new(config: &config::Login, pool: &'static str) -> Self {
        let issuer = match &config.auth {
            Auth::Password(secret) => {
                let (user, secret) = (config.user.clone(), secret.clone());
                let fixed = Credential { user, secret, is_token: false, generation: 0 };
                return Self { kind: Kind::Fixed(Arc::new(fixed)) };
            }
            Auth::Iam(iam) => Issuer::Iam(iam::Signer::new(iam.clone(), config.user.clone())),
            Auth::Secret(secret) => Issuer::Secret(secrets_manager::Reader::new(secret.clone(), config.user.clone())),
        };
        Self { kind: Kind::Leased(Box::new(Lease::new(issuer, pool))) }
    }

    /// What to sign in with now; waits for a fresh one when there is none that is good.
    ///
    /// # Errors
    /// [`super::Error::NoLogin`] when there is none to be had.
    pub async fn credential(&self) -> Result<Arc<Credential>> {
        match &self.kind {
            Kind::Fixed(credential) => Ok(credential.clone()),
            Kind::Leased(lease) => lease.current().await,
        }
    }

    /// A fresh one in place of one that the server has refused; none when there is no other.
    pub(crate) async fn after_refusal(&self, refused: &Credential) -> Option<Arc<Credential>> {
        match &self.kind {
            Kind::Fixed(_) => None,
            Kind::Leased(lease) => lease.after_refusal(refused.generation).await,
        }
    }

    /// Renews ahead of time, for ever.
    pub(crate) async fn keep(&self) -> ! {
        match &self.kind {
            Kind::Fixed(_) => std::future::pending().await,
            Kind::Leased(lease) => lease.keep().await,
        }
    }

    /// How the lease stands; none for a password.
    #[must_use]
    pub fn lease(&self) -> Option<LeaseState> {
        match &self.kind {
            Kind::Fixed(_) => None,
            Kind::Leased(lease) => Some(lease.state()),
        }
    }

    /// Whose credentials sign tokens, as STS knows them; none where no token is signed.
    ///
    /// # Errors
    /// There are no credentials, or STS did not answer: in words.
    pub async fn identity(&self) -> Option<Result<String, String>> {
        match &self.kind {
            Kind::Leased(lease) => lease.identity().await,
            Kind::Fixed(_) => None,
        }
    }
}
