//! Input parameters: the renditions to produce ([`Recipe`]) and the resource limits of a photo ([`Limits`]).

use super::MediaType;
use crate::Filter;
use serde::{Deserialize, Serialize};

/// Maximum number of pixels (width times height) of a photo.
const MAX_PIXELS: u64 = 100_000_000;
/// Maximum number of scans of a JPEG. Cameras write 1, phones and web tools up to 11. Every scan is one more pass
/// over the image, so a file of a few kilobytes with hundreds of scans takes many CPU seconds.
const MAX_SCANS: u32 = 32;
/// Maximum bytes that a decoder may hold at once. A progressive 4:2:0 JPEG of 100 megapixels needs 300 MB.
const MAX_BUFFER_BYTES: u64 = 420_000_000;
/// Maximum width and height in pixels; equal to `JPEG_MAX_DIMENSION` of libjpeg.
const MAX_EDGE: u32 = 65_500;

/// Resource limits of one photo, checked against the header before any pixel is decoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Maximum width times height, in pixels.
    pub max_pixels: u64,
    /// Maximum number of scans of a JPEG.
    pub max_scans: u32,
    /// Maximum bytes that a decoder may hold at once, where it cannot work row by row.
    pub max_buffer_bytes: u64,
    /// Maximum width and maximum height, in pixels.
    pub max_edge: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_pixels: MAX_PIXELS, max_scans: MAX_SCANS, max_buffer_bytes: MAX_BUFFER_BYTES, max_edge: MAX_EDGE }
    }
}

/// A named rendition size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// The name of the renditions of this size, e.g. `thumb`.
    pub name: String,
    /// Maximum long edge in pixels. Smaller photos are not enlarged.
    pub long_edge: u32,
}

/// Output format of renditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputFormat {
    /// Baseline JPEG, 4:2:0.
    Jpeg,
    /// Lossy WebP. Takes about thirty times the CPU time of JPEG.
    Webp,
}

impl OutputFormat {
    /// Returns the media type of renditions in this format.
    #[must_use]
    pub const fn media_type(self) -> MediaType {
        match self {
            Self::Jpeg => MediaType::Jpeg,
            Self::Webp => MediaType::Webp,
        }
    }
}

/// The renditions to produce: every size in every format.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// Filters applied before resampling to the sizes; valid according to
    /// [`validate_filters`](crate::validate_filters).
    pub filters: Vec<Filter>,
    /// Rendition sizes in any order; at least one.
    pub sizes: Vec<Size>,
    /// Output formats; at least one.
    pub formats: Vec<OutputFormat>,
    /// JPEG quality, 1 to 100.
    pub jpeg_quality: u8,
    /// WebP quality, 0 to 100.
    pub webp_quality: u8,
    /// WebP effort (`method` of libwebp), 0 (fastest) to 6 (smallest). 0 takes about a quarter of the time of 4.
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
