//! Rejection reasons, with messages for the guest who uploaded the file.

use super::media::{MediaType, UnsupportedFormat};
use serde::{Deserialize, Serialize};

/// The reason why a file is rejected. Uploading the same file again gives the same result. `Display` is a sentence
/// for the guest, without a full stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Rejection {
    /// The file has no bytes.
    #[error("this file is empty")]
    Empty,
    /// The file has no known signature.
    #[error("this file is not a photo")]
    Unknown,
    /// A recognised format that is not accepted.
    #[error("{}", unsupported_format_message(*.0))]
    UnsupportedFormat(UnsupportedFormat),
    /// An accepted format that differs from the declared media type.
    #[error("this file was announced as {} but is a {}", declared.label(), real.label())]
    TypeMismatch {
        /// The media type that the client declared.
        declared: MediaType,
        /// The media type detected from the bytes.
        real: MediaType,
    },
    /// Width times height exceeds [`Limits::max_pixels`](crate::Limits::max_pixels), or an edge exceeds
    /// [`Limits::max_edge`](crate::Limits::max_edge).
    #[error("this picture has too many pixels ({width} x {height})")]
    TooManyPixels {
        /// Width from the header, in pixels.
        width: u32,
        /// Height from the header, in pixels.
        height: u32,
    },
    /// Decoding needs more scans or more memory than [`Limits`](crate::Limits) allows.
    #[error("this picture is built in a way that is too costly to open; save it again as an ordinary JPEG")]
    TooCostly,
    /// The end of the file is missing, or it has too little data for its number of pixels.
    #[error("this picture is cut off; its upload or download may have been interrupted")]
    Truncated,
    /// The file violates its format or contains contradictory values.
    #[error("this picture is damaged and cannot be opened")]
    Corrupt,
    /// A valid file that uses an unsupported feature of its format.
    #[error("this kind of picture is not supported ({0}); save it again as an ordinary JPEG")]
    Unsupported(String),
}

impl Rejection {
    /// Returns a stable identifier for logs, metrics and clients.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Unknown => "not_a_photo",
            Self::UnsupportedFormat(UnsupportedFormat::Heic) => "heic_unsupported",
            Self::UnsupportedFormat(UnsupportedFormat::Avif) => "avif_unsupported",
            Self::UnsupportedFormat(_) => "type_unsupported",
            Self::TypeMismatch { .. } => "type_mismatch",
            Self::TooManyPixels { .. } => "too_many_pixels",
            Self::TooCostly => "too_costly",
            Self::Truncated => "truncated",
            Self::Corrupt => "corrupt",
            Self::Unsupported(_) => "encoding_unsupported",
        }
    }
}

/// Returns the message for an unsupported format. Only image formats can be converted, so only these suggest a JPEG.
fn unsupported_format_message(format: UnsupportedFormat) -> String {
    match format {
        UnsupportedFormat::Video => "this file is a video, not a photo".to_owned(),
        format if format.is_picture() => format!("{} pictures are not supported yet; send a JPEG", format.label()),
        format => format!("this file is a {}, not a photo", format.label()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_format() {
        assert_eq!(Rejection::UnsupportedFormat(UnsupportedFormat::Pdf).to_string(), "this file is a PDF, not a photo");
        assert_eq!(
            Rejection::UnsupportedFormat(UnsupportedFormat::Heic).to_string(),
            "HEIC pictures are not supported yet; send a JPEG"
        );
        assert_eq!(
            Rejection::UnsupportedFormat(UnsupportedFormat::Video).to_string(),
            "this file is a video, not a photo"
        );
    }

    #[test]
    fn round_trips_through_json() {
        let all = [
            Rejection::Empty,
            Rejection::UnsupportedFormat(UnsupportedFormat::Zip),
            Rejection::TooManyPixels { width: 1, height: 2 },
        ];
        for rejection in all {
            let json = serde_json::to_string(&rejection).expect("json");
            assert_eq!(serde_json::from_str::<Rejection>(&json).expect("json"), rejection);
        }
    }
}
