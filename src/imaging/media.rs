//! What a file says it is (the declared media type) and what its first bytes say it is.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The picture formats that are accepted.
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
    /// The type as HTTP writes it, e.g. `image/jpeg`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::Webp => "image/webp",
            Self::Gif => "image/gif",
        }
    }

    /// The format's name as people say it, e.g. `JPEG`.
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

    /// Reads a `Content-Type` value: case and parameters don't matter.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let essence = text.split(';').next().unwrap_or_default().trim();
        [Self::Jpeg, Self::Png, Self::Webp, Self::Gif]
            .into_iter()
            .find(|media| essence.eq_ignore_ascii_case(media.as_str()))
            // `image/jpg` is no registered type, but phones and browsers send it.
            .or_else(|| essence.eq_ignore_ascii_case("image/jpg").then_some(Self::Jpeg))
            .ok_or(UnknownMediaType)
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the first bytes of a file say that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sniffed {
    /// A format that is accepted.
    Picture(MediaType),
    /// A format that is known, and refused by name.
    Foreign(Foreign),
    /// Nothing known.
    Unknown,
}

/// Formats that are recognised only to be refused by their name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the formats' own")]
pub enum Foreign {
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

impl Foreign {
    /// The format's name as people say it.
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

    /// Whether it is at least a picture, so that another format would help.
    #[must_use]
    pub const fn is_picture(self) -> bool {
        !matches!(self, Self::Pdf | Self::Video | Self::Zip)
    }
}

/// Tells a file's real type by its first bytes (64 are enough); never by a name.
#[must_use]
pub fn sniff(head: &[u8]) -> Sniffed {
    let foreign = match head {
        [0xFF, 0xD8, 0xFF, ..] => return Sniffed::Picture(MediaType::Jpeg),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => return Sniffed::Picture(MediaType::Png),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => return Sniffed::Picture(MediaType::Gif),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => return Sniffed::Picture(MediaType::Webp),
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => return iso_media(head),
        [0xFF, 0x0A, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] => Foreign::JpegXl,
        [0, 0, 0, 12, b'j', b'P', b' ', b' ', ..] | [0xFF, 0x4F, 0xFF, 0x51, ..] => Foreign::Jpeg2000,
        [b'I', b'I', b'*' | b'+', 0, ..] | [b'M', b'M', 0, b'*' | b'+', ..] => Foreign::Tiff,
        [b'B', b'M', _, _, _, _, 0, 0, 0, 0, ..] => Foreign::Bmp,
        [b'%', b'P', b'D', b'F', b'-', ..] => Foreign::Pdf,
        [b'P', b'K', 3, 4, ..] => Foreign::Zip,
        [0x1A, 0x45, 0xDF, 0xA3, ..] | [b'R', b'I', b'F', b'F', _, _, _, _, b'A', b'V', b'I', b' ', ..] => {
            Foreign::Video
        }
        _ if head.trim_ascii_start().starts_with(b"<svg") => Foreign::Svg,
        _ => return Sniffed::Unknown,
    };
    Sniffed::Foreign(foreign)
}

/// Tells HEIC, AVIF and video apart: all three are boxes that open with `ftyp` and a list of brands.
fn iso_media(head: &[u8]) -> Sniffed {
    let boxed = usize::try_from(u32::from_be_bytes([head[0], head[1], head[2], head[3]])).unwrap_or(usize::MAX);
    let brands = head.get(8..boxed.min(head.len())).unwrap_or_default();
    let names = |wanted: &[&[u8; 4]]| brands.chunks_exact(4).any(|brand| wanted.iter().any(|name| brand == *name));
    Sniffed::Foreign(if names(&[b"avif", b"avis"]) {
        Foreign::Avif
    } else if names(&[b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"]) {
        Foreign::Heic
    } else {
        Foreign::Video
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_content_types_as_clients_write_them() {
        assert_eq!("IMAGE/JPEG; charset=binary".parse(), Ok(MediaType::Jpeg));
        assert_eq!("image/jpg".parse(), Ok(MediaType::Jpeg));
        assert_eq!(" image/webp ".parse(), Ok(MediaType::Webp));
        assert_eq!("image/heic".parse::<MediaType>(), Err(UnknownMediaType));
        assert_eq!("".parse::<MediaType>(), Err(UnknownMediaType));
    }

    #[test]
    fn names_what_it_refuses() {
        assert_eq!(sniff(b"%PDF-1.7"), Sniffed::Foreign(Foreign::Pdf));
        assert_eq!(sniff(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"), Sniffed::Foreign(Foreign::Heic));
        assert_eq!(sniff(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf"), Sniffed::Foreign(Foreign::Avif));
        assert_eq!(sniff(b"\0\0\0\x14ftypqt  \0\0\0\0qt  "), Sniffed::Foreign(Foreign::Video));
        assert_eq!(sniff(b"\0\0\0\0ftyp"), Sniffed::Foreign(Foreign::Video));
        assert_eq!(sniff(b"hello"), Sniffed::Unknown);
        assert_eq!(sniff(b""), Sniffed::Unknown);
    }
}
