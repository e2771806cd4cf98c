//! A photo, its states and its renditions.

use std::fmt;

use aws_lc_rs::digest;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{AlbumId, InviteId, PhotoId};

macro_rules! string_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:tt),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $word)] $variant),+ }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name in the API and the database.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            #[must_use]
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}
pub(crate) use string_enum;

string_enum!(
    /// The state of a photo.
    PhotoState {
        /// Declared; the original has not been uploaded yet.
        AwaitingUpload = "awaiting_upload",
        /// Uploaded; a worker creates its renditions.
        Processing = "processing",
        /// Its renditions exist.
        Ready = "ready",
        /// Not a usable picture; `reject_reason` says why.
        Rejected = "rejected",
        /// Never uploaded.
        Expired = "expired",
    }
);

string_enum!(
    /// Who sees a photo that is ready.
    Visibility {
        /// Everyone who sees the album.
        Visible = "visible",
        /// Host and uploader, until the host has reviewed it.
        PendingReview = "pending_review",
        /// Host and uploader.
        Hidden = "hidden",
    }
);

/// A SHA-256 digest, in JSON 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sha256(pub [u8; 32]);

impl Sha256 {
    /// Reads 64 hex digits of either case.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).ok()?;
            if pair.starts_with('+') {
                return None;
            }
            *byte = u8::from_str_radix(pair, 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// A key for deduplication among the photos of one invite, or of the host.
    #[must_use]
    pub fn among(&self, invite_id: Option<InviteId>) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&self.0);
        context.update(invite_id.map(InviteId::as_uuid).unwrap_or_default().as_bytes());
        let mut key = [0; 32];
        key.copy_from_slice(context.finish().as_ref());
        key
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Who added a photo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uploader {
    /// None for the host.
    pub invite_id: Option<InviteId>,
    /// The display name.
    pub name: Option<String>,
}

/// One derived picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rendition {
    /// `thumb`, `small` or `large`.
    pub name: String,
    /// `image/jpeg` or `image/webp`.
    pub content_type: String,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    pub bytes: u64,
}

impl Rendition {
    /// The last part of its key and URL, for example `thumb.jpg`.
    #[must_use]
    pub fn file_name(&self) -> String {
        let extension = if self.content_type == "image/webp" { "webp" } else { "jpg" };
        format!("{}.{extension}", self.name)
    }
}

/// A photo as stored.
#[derive(Debug, Clone)]
pub struct Photo {
    pub id: PhotoId,
    pub album_id: AlbumId,
    pub state: PhotoState,
    pub visibility: Visibility,
    pub uploader: Uploader,
    pub caption: Option<String>,
    /// The declared type.
    pub content_type: String,
    /// The declared size.
    pub bytes: u64,
    /// Declared, or computed from the upload.
    pub sha256: Option<Sha256>,
    /// Pixels, upright; set when ready.
    pub width: Option<u32>,
    /// Pixels, upright; set when ready.
    pub height: Option<u32>,
    /// From the camera, as UTC where the camera gives no offset.
    pub taken_at: Option<DateTime<Utc>>,
    /// Make and model.
    pub camera: Option<String>,
    /// A ThumbHash (<https://evanw.github.io/thumbhash/>), raw bytes.
    pub placeholder: Option<Vec<u8>>,
    pub renditions: Vec<Rendition>,
    /// Why it was rejected, for its uploader to read.
    pub reject_reason: Option<String>,
    /// Increases with each change; part of the entity tag.
    pub version: u32,
    pub created_at: DateTime<Utc>,
    pub ready_at: Option<DateTime<Utc>>,
}

impl Photo {
    /// Whether an upload has the declared size and, where both are known, digest.
    #[must_use]
    pub fn matches_upload(&self, bytes: u64, digest: Option<Sha256>) -> bool {
        let same = self.sha256.zip(digest).is_none_or(|(declared, found)| declared == found);
        bytes == self.bytes && same
    }

    /// Whether everyone who sees the album sees it.
    #[must_use]
    pub fn is_public(&self) -> bool {
        self.state == PhotoState::Ready && self.visibility == Visibility::Visible
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256_parses_hex_of_either_case() {
        let text = "0123456789ABCDEFabcdef0123456789".repeat(2);
        let digest = Sha256::from_hex(&text).unwrap();
        assert_eq!(digest.to_string(), text.to_lowercase());
        for wrong in ["", &text[1..], &text.replace('0', "g"), &text.replace("01", "+1"), &"é".repeat(32)] {
            assert_eq!(Sha256::from_hex(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn names_round_trip() {
        for state in ["awaiting_upload", "processing", "ready", "rejected", "expired"] {
            assert_eq!(PhotoState::parse(state).unwrap().as_str(), state);
            assert_eq!(serde_json::to_value(PhotoState::parse(state).unwrap()).unwrap(), state);
        }
        assert_eq!(Visibility::parse("secret"), None);
    }
}
