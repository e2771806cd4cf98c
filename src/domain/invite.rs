//! Invites: revocable, expiring bearer tokens for one album.

use std::fmt;

use aws_lc_rs::{digest, rand};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::InviteId;

/// What the bearer of an invite may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum InviteRole {
    /// View the album.
    View,
    /// View the album and add photos.
    Contribute,
    /// Add photos, and view only those.
    Drop,
}

impl InviteRole {
    /// The name in the API and the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Contribute => "contribute",
            Self::Drop => "drop",
        }
    }

    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::View, Self::Contribute, Self::Drop].into_iter().find(|role| role.as_str() == word)
    }
}

/// An invite, without its token.
#[derive(Debug, Clone)]
pub struct Invite {
    pub id: InviteId,
    pub role: InviteRole,
    /// The host's name for it.
    pub label: Option<String>,
    pub expires_at: Option<DateTime<Utc>>,
    /// How many photos may be added with it.
    pub max_photos: Option<u32>,
    /// How many photos were added with it, without those that were never uploaded.
    pub photos_used: u32,
    pub created_at: DateTime<Utc>,
}

/// The secret of an invite: 256 random bits. Only its hash is stored.
pub struct InviteToken(String);

impl InviteToken {
    /// Distinguishes invites from JWTs, and lets secret scanners find leaked ones.
    pub const PREFIX: &str = "dki_";

    /// A new token from the operating system's random number generator.
    #[must_use]
    pub fn generate() -> Self {
        let mut bits = [0_u8; 32];
        rand::fill(&mut bits).expect("the operating system has random numbers");
        Self(format!("{}{}", Self::PREFIX, URL_SAFE_NO_PAD.encode(bits)))
    }

    /// A token from a client; none without the prefix.
    #[must_use]
    pub fn from_client(text: &str) -> Option<Self> {
        text.starts_with(Self::PREFIX).then(|| Self(text.to_owned()))
    }

    /// The SHA-256 hash. With 256 bits of entropy a slow password hash would add no security.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, self.0.as_bytes()).as_ref());
        hash
    }

    /// The token, for the one response that contains it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for InviteToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InviteToken(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_random_and_hidden_in_debug() {
        let (a, b) = (InviteToken::generate(), InviteToken::generate());
        assert_ne!(a.reveal(), b.reveal());
        assert_ne!(a.hash(), b.hash());
        assert_eq!(URL_SAFE_NO_PAD.decode(&a.reveal()[4..]).unwrap().len(), 32);
        assert!(!format!("{a:?}").contains(&a.reveal()[4..]));
        assert_eq!(InviteToken::from_client(a.reveal()).unwrap().hash(), a.hash());
        assert!(InviteToken::from_client("eyJhbGciOi").is_none());
    }

    #[test]
    fn roles_round_trip() {
        for role in [InviteRole::View, InviteRole::Contribute, InviteRole::Drop] {
            assert_eq!(InviteRole::parse(role.as_str()), Some(role));
        }
        assert_eq!(InviteRole::parse("host"), None);
    }
}
