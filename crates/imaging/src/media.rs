//! Media types: parsing the declared `Content-Type` and detecting the real format from the first bytes of a file.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The accepted image formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MediaType {
    /// `image/jpeg`
    #[serde(rename = "image/jpeg")]
    Jpeg,
    /// `image/png`
    #[serde(rename = "image/png")]
    Png,
    /// `image/webp`
    #[serde(rename = "image/webp")]
    Webp,
    /// `image/gif`
    #[serde(rename = "image/gif")]
    Gif,
}

/// A media type that is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("photos are accepted as image/jpeg, image/png, image/webp or image/gif")]
pub struct UnknownMediaType;

impl MediaType {
    /// Returns the media type, e.g. `image/jpeg`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::Webp => "image/webp",
            Self::Gif => "image/gif",
        }
    }

    /// Returns the common name of the format, e.g. `JPEG`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::Webp => "WebP",
            Self::Gif => "GIF",
        }
    }
}

impl FromStr for MediaType {
    type Err = UnknownMediaType;

    /// Parses a `Content-Type` value (RFC 9110, section 8.3). Case and parameters are ignored.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let essence = text.split(';').next().unwrap_or_default().trim();
        [Self::Jpeg, Self::Png, Self::Webp, Self::Gif]
            .into_iter()
            .find(|media_type| essence.eq_ignore_ascii_case(media_type.as_str()))
            // `image/jpg` is not registered with IANA, but phones and browsers send it.
            .or_else(|| essence.eq_ignore_ascii_case("image/jpg").then_some(Self::Jpeg))
            .ok_or(UnknownMediaType)
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The format detected from the first bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sniffed {
    /// An accepted format.
    Picture(MediaType),
    /// A recognised format that is not accepted.
    Unsupported(UnsupportedFormat),
    /// No known signature.
    Unknown,
}

/// Formats that are recognised only to name them in the rejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnsupportedFormat {
    Heic,
    Avif,
    JpegXl,
    Jpeg2000,
    Tiff,
    Bmp,
    Svg,
    Pdf,
    Video,
    Zip,
}

impl UnsupportedFormat {
    /// Returns the common name of the format.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Heic => "HEIC",
            Self::Avif => "AVIF",
            Self::JpegXl => "JPEG XL",
            Self::Jpeg2000 => "JPEG 2000",
            Self::Tiff => "TIFF or raw",
            Self::Bmp => "BMP",
            Self::Svg => "SVG",
            Self::Pdf => "PDF",
            Self::Video => "video",
            Self::Zip => "ZIP",
        }
    }

    /// Returns whether the format is an image format, so that a conversion to JPEG is possible.
    #[must_use]
    pub const fn is_picture(self) -> bool {
        !matches!(self, Self::Pdf | Self::Video | Self::Zip)
    }
}

/// Detects the format of a file from its first bytes; 64 bytes are enough.
#[must_use]
pub fn sniff(head: &[u8]) -> Sniffed {
    let format = match head {
        [0xFF, 0xD8, 0xFF, ..] => return Sniffed::Picture(MediaType::Jpeg),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => return Sniffed::Picture(MediaType::Png),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => return Sniffed::Picture(MediaType::Gif),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => return Sniffed::Picture(MediaType::Webp),
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => return sniff_iso_bmff(head),
        [0xFF, 0x0A, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] => UnsupportedFormat::JpegXl,
        [0, 0, 0, 12, b'j', b'P', b' ', b' ', ..] | [0xFF, 0x4F, 0xFF, 0x51, ..] => UnsupportedFormat::Jpeg2000,
        [b'I', b'I', b'*' | b'+', 0, ..] | [b'M', b'M', 0, b'*' | b'+', ..] => UnsupportedFormat::Tiff,
        [b'B', b'M', _, _, _, _, 0, 0, 0, 0, ..] => UnsupportedFormat::Bmp,
        [b'%', b'P', b'D', b'F', b'-', ..] => UnsupportedFormat::Pdf,
        [b'P', b'K', 3, 4, ..] => UnsupportedFormat::Zip,
        [0x1A, 0x45, 0xDF, 0xA3, ..] | [b'R', b'I', b'F', b'F', _, _, _, _, b'A', b'V', b'I', b' ', ..] => {
            UnsupportedFormat::Video
        }
        _ if head.trim_ascii_start().starts_with(b"<svg") => UnsupportedFormat::Svg,
        _ => return Sniffed::Unknown,
    };
    Sniffed::Unsupported(format)
}

/// Distinguishes HEIC, AVIF and video by the brands in the `ftyp` box (ISO/IEC 14496-12, section 4.3).
fn sniff_iso_bmff(head: &[u8]) -> Sniffed {
    let box_size = usize::try_from(u32::from_be_bytes([head[0], head[1], head[2], head[3]])).unwrap_or(usize::MAX);
    let brands = head.get(8..box_size.min(head.len())).unwrap_or_default();
    let has_brand = |wanted: &[&[u8; 4]]| brands.chunks_exact(4).any(|brand| wanted.iter().any(|name| brand == *name));
    Sniffed::Unsupported(if has_brand(&[b"avif", b"avis"]) {
        UnsupportedFormat::Avif
    } else if has_brand(&[b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"]) {
        UnsupportedFormat::Heic
    } else {
        UnsupportedFormat::Video
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_content_types() {
        assert_eq!("IMAGE/JPEG; charset=binary".parse(), Ok(MediaType::Jpeg));
        assert_eq!("image/jpg".parse(), Ok(MediaType::Jpeg));
        assert_eq!(" image/webp ".parse(), Ok(MediaType::Webp));
        assert_eq!("image/heic".parse::<MediaType>(), Err(UnknownMediaType));
        assert_eq!("".parse::<MediaType>(), Err(UnknownMediaType));
    }

    #[test]
    fn sniffs_unsupported_formats() {
        assert_eq!(sniff(b"%PDF-1.7"), Sniffed::Unsupported(UnsupportedFormat::Pdf));
        assert_eq!(sniff(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"), Sniffed::Unsupported(UnsupportedFormat::Heic));
        assert_eq!(sniff(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf"), Sniffed::Unsupported(UnsupportedFormat::Avif));
        assert_eq!(sniff(b"\0\0\0\x14ftypqt  \0\0\0\0qt  "), Sniffed::Unsupported(UnsupportedFormat::Video));
        assert_eq!(sniff(b"\0\0\0\0ftyp"), Sniffed::Unsupported(UnsupportedFormat::Video));
        assert_eq!(sniff(b"hello"), Sniffed::Unknown);
        assert_eq!(sniff(b""), Sniffed::Unknown);
    }
}
