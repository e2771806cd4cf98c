//! Why a file is not taken as a photo, in words for the guest who sent it.

use super::media::{Foreign, MediaType};
use serde::{Deserialize, Serialize};

/// The file's own fault: sending it again changes nothing. `Display` is a sentence for the guest, without a full stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Rejection {
    /// No bytes at all.
    #[error("this file is empty")]
    Empty,
    /// Nothing that is known.
    #[error("this file is not a photo")]
    Unknown,
    /// A format that is known and not accepted.
    #[error("{}", foreign_sentence(*.0))]
    Foreign(Foreign),
    /// One accepted format under the name of another.
    #[error("this file was announced as {} but is a {}", declared.label(), real.label())]
    TypeMismatch {
        /// What the client said.
        declared: MediaType,
        /// What the bytes say.
        real: MediaType,
    },
    /// Width times height, or one edge, is beyond the limit.
    #[error("this picture has too many pixels ({width} x {height})")]
    TooManyPixels {
        /// As the header says.
        width: u32,
        /// As the header says.
        height: u32,
    },
    /// It would need more passes or memory to decode than a photo ever does.
    #[error("this picture is built in a way that is too costly to open; save it again as an ordinary JPEG")]
    TooCostly,
    /// The end is missing, or there is too little data for so many pixels.
    #[error("this picture is cut off; its upload or download may have been interrupted")]
    Truncated,
    /// It contradicts itself or its format.
    #[error("this picture is damaged and cannot be opened")]
    Corrupt,
    /// Valid, but of a rare kind that is not supported.
    #[error("this kind of picture is not supported ({0}); save it again as an ordinary JPEG")]
    Unsupported(String),
}

impl Rejection {
    /// A stable name for logs, metrics and clients.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Unknown => "not_a_photo",
            Self::Foreign(Foreign::Heic) => "heic_unsupported",
            Self::Foreign(Foreign::Avif) => "avif_unsupported",
            Self::Foreign(_) => "type_unsupported",
            Self::TypeMismatch { .. } => "type_mismatch",
            Self::TooManyPixels { .. } => "too_many_pixels",
            Self::TooCostly => "too_costly",
            Self::Truncated => "truncated",
            Self::Corrupt => "corrupt",
            Self::Unsupported(_) => "encoding_unsupported",
        }
    }
}

/// The sentence for a file that is something else: pictures can be converted, other things can't.
fn foreign_sentence(kind: Foreign) -> String {
    match kind {
        Foreign::Video => "this file is a video, not a photo".to_owned(),
        kind if kind.is_picture() => format!("{} pictures are not supported yet; send a JPEG", kind.label()),
        kind => format!("this file is a {}, not a photo", kind.label()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speaks_to_the_guest() {
        assert_eq!(Rejection::Foreign(Foreign::Pdf).to_string(), "this file is a PDF, not a photo");
        assert_eq!(Rejection::Foreign(Foreign::Heic).to_string(), "HEIC pictures are not supported yet; send a JPEG");
        assert_eq!(Rejection::Foreign(Foreign::Video).to_string(), "this file is a video, not a photo");
    }

    #[test]
    fn survives_json() {
        let all =
            [Rejection::Empty, Rejection::Foreign(Foreign::Zip), Rejection::TooManyPixels { width: 1, height: 2 }];
        for rejection in all {
            let json = serde_json::to_string(&rejection).expect("json");
            assert_eq!(serde_json::from_str::<Rejection>(&json).expect("json"), rejection);
        }
    }
}
