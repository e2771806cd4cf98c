//! Invites: revocable, expiring bearer tokens to one album.

use std::fmt;

use aws_lc_rs::{digest, rand};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::InviteId;

/// What the holder of an invite may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum InviteRole {
    /// See the album.
    View,
    /// See the album and add photos.
    Contribute,
    /// Add photos and see only those.
    Drop,
}

impl InviteRole {
    /// The word of the contract and of the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Contribute => "contribute",
            Self::Drop => "drop",
        }
    }

    /// The role of a stored word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::View, Self::Contribute, Self::Drop].into_iter().find(|role| role.as_str() == word)
    }
}

/// An invite as stored; the token is not in it.
#[derive(Debug, Clone)]
pub struct Invite {
    /// Its id.
    pub id: InviteId,
    /// What it allows.
    pub role: InviteRole,
    /// What the host calls it.
    pub label: Option<String>,
    /// When it ends.
    pub expires_at: Option<DateTime<Utc>>,
    /// How many photos may be added with it.
    pub max_photos: Option<u32>,
    /// How many photos were added with it; uploads that never came are given back.
    pub photos_used: u32,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// The secret that a guest holds: 256 random bits. Only its hash is stored.
pub struct InviteToken(String);

impl InviteToken {
    /// Tells an invite from a JWT, and lets secret scanners find a leaked one.
    pub const PREFIX: &str = "dki_";

    /// A new token from the operating system's random numbers.
    ///
    /// # Panics
    /// When the operating system has no random numbers; nothing can be done safely then.
    #[must_use]
    pub fn generate() -> Self {
        let mut bits = [0_u8; 32];
        rand::fill(&mut bits).expect("the operating system gives random numbers");
        Self(format!("{}{}", Self::PREFIX, URL_SAFE_NO_PAD.encode(bits)))
    }

    /// A token as presented by a client; anything with the prefix is worth a look-up.
    #[must_use]
    pub fn presented(text: &str) -> Option<Self> {
        text.starts_with(Self::PREFIX).then(|| Self(text.to_owned()))
    }

    /// SHA-256 of the token. It has 256 bits of entropy, so a slow password hash would add nothing.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, self.0.as_bytes()).as_ref());
        hash
    }

    /// The token itself, for the one answer that shows it.
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
        assert_eq!(InviteToken::presented(a.reveal()).unwrap().hash(), a.hash());
        assert!(InviteToken::presented("eyJhbGciOi").is_none());
    }

    #[test]
    fn roles_round_trip() {
        for role in [InviteRole::View, InviteRole::Contribute, InviteRole::Drop] {
            assert_eq!(InviteRole::parse(role.as_str()), Some(role));
        }
        assert_eq!(InviteRole::parse("host"), None);
    }
}
