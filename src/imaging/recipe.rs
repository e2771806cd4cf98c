//! What to make of a photo ([`Recipe`]) and what a photo may cost ([`Limits`]).

use super::MediaType;
use crate::domain::Filter;
use serde::{Deserialize, Serialize};

/// The most pixels (width times height) of a photo.
const MAX_PIXELS: u64 = 100_000_000;
/// The most scans of a JPEG. Cameras write 1, phones and web tools up to 11; each scan costs one more pass over
/// the picture, so a file of a few kilobytes with hundreds of them keeps a processor busy for many seconds.
const MAX_SCANS: u32 = 32;
/// The most bytes that one decoder may hold at once: a progressive JPEG of 100 megapixels (4:2:0) needs 300 MB.
const MAX_BUFFER_BYTES: u64 = 420_000_000;
/// The longest edge in pixels. libjpeg stops at 65,500.
const MAX_EDGE: u32 = 65_500;

/// What a photo may cost; checked on the header, before any pixel is decoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Width times height, in pixels.
    pub max_pixels: u64,
    /// Passes over the picture in a progressive JPEG.
    pub max_scans: u32,
    /// Bytes that a decoder may hold at once, where it can't work row by row.
    pub max_buffer_bytes: u64,
    /// Width and height, in pixels.
    pub max_edge: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_pixels: MAX_PIXELS, max_scans: MAX_SCANS, max_buffer_bytes: MAX_BUFFER_BYTES, max_edge: MAX_EDGE }
    }
}

/// One named rendition size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// The name that a rendition bears, e.g. `thumb`.
    pub name: String,
    /// The long edge in pixels; smaller photos keep their own.
    pub long_edge: u32,
}

/// A format that renditions are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputFormat {
    /// Baseline JPEG, 4:2:0.
    Jpeg,
    /// Lossy WebP. Costs some thirty times as much CPU time as JPEG.
    Webp,
}

impl OutputFormat {
    /// The media type of renditions in this format.
    #[must_use]
    pub const fn media_type(self) -> MediaType {
        match self {
            Self::Jpeg => MediaType::Jpeg,
            Self::Webp => MediaType::Webp,
        }
    }
}

/// What to make of a photo: every size in every format.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// What is done to the photo before; within the bounds that `domain::filter::check` tells.
    pub filters: Vec<Filter>,
    /// The sizes, in any order; at least one.
    pub sizes: Vec<Size>,
    /// The formats; at least one.
    pub formats: Vec<OutputFormat>,
    /// JPEG quality, 1 to 100.
    pub jpeg_quality: u8,
    /// WebP quality, 0 to 100.
    pub webp_quality: u8,
    /// WebP effort, 0 (fast) to 6 (small): 0 costs about a quarter of 4.
    pub webp_effort: u8,
}

impl Default for Recipe {
    fn default() -> Self {
        let size = |name: &str, long_edge| Size { name: name.to_owned(), long_edge };
        Self {
            filters: Vec::new(),
            sizes: vec![size("thumb", 320), size("small", 1024), size("large", 2048)],
            formats: vec![OutputFormat::Jpeg],
            jpeg_quality: 80,
            webp_quality: 78,
            webp_effort: 1,
        }
    }
}
