//! Header checks: media type, structure, size and decoding cost of a file, before anything is decoded.
//!
//! The parsers read headers and skip from segment to segment. They allocate nothing in proportion to sizes that a
//! header claims. A file that passes has an end marker and at least as many bits as its pixels need.

pub(super) mod gif;
pub(super) mod jpeg;
pub(super) mod png;
pub(super) mod webp;

use super::{Limits, MediaType, Rejection, Sniffed, sniff};

/// The result of the header checks of one photo.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Probe {
    /// The detected media type; equal to the declared one.
    pub media_type: MediaType,
    /// Width in pixels as stored, before the EXIF orientation.
    pub width: u32,
    /// Height in pixels as stored, before the EXIF orientation.
    pub height: u32,
    /// Width times height.
    pub pixels: u64,
    /// Admission weight in pixels: `pixels`, or the bytes that the decoder holds at once where that number is larger
    /// (progressive JPEG, interlaced PNG, WebP, GIF).
    pub weight: u64,
}

/// Positions of the parts of a file that decoding needs.
pub(super) enum Layout {
    Jpeg(jpeg::JpegLayout),
    Png(png::PngLayout),
    Webp(webp::WebpLayout),
    Gif(gif::GifLayout),
}

impl Layout {
    /// Returns the TIFF structure that contains the EXIF metadata (EXIF 2.32).
    pub(super) fn exif<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let range = match self {
            Self::Jpeg(layout) => layout.exif.clone(),
            Self::Png(layout) => layout.exif.clone(),
            Self::Webp(layout) => layout.exif.clone(),
            Self::Gif(_) => None,
        };
        bytes.get(range?)
    }
}

/// Checks the first bytes of a file (at least 32) against the declared media type, and returns the detected type.
///
/// # Errors
/// [`Rejection::Empty`], [`Rejection::Unknown`], [`Rejection::UnsupportedFormat`] or [`Rejection::TypeMismatch`].
pub fn recognise(head: &[u8], declared: MediaType) -> Result<MediaType, Rejection> {
    if head.is_empty() {
        return Err(Rejection::Empty);
    }
    match sniff(head) {
        Sniffed::Picture(detected) if detected == declared => Ok(detected),
        Sniffed::Picture(detected) => Err(Rejection::TypeMismatch { declared, real: detected }),
        Sniffed::Unsupported(format) => Err(Rejection::UnsupportedFormat(format)),
        Sniffed::Unknown => Err(Rejection::Unknown),
    }
}

/// Checks the structure of a complete file without decoding it. Takes well below 100 ms and allocates no pixel buffers.
///
/// # Errors
/// The reason why the file is rejected.
pub fn probe(bytes: &[u8], declared: MediaType, limits: &Limits) -> Result<Probe, Rejection> {
    probe_with_layout(bytes, declared, limits).map(|(probe, _)| probe)
}

/// Returns the result of [`probe`] together with the layout of the file.
pub(super) fn probe_with_layout(
    bytes: &[u8],
    declared: MediaType,
    limits: &Limits,
) -> Result<(Probe, Layout), Rejection> {
    let detected = recognise(bytes, declared)?;
    let (width, height, buffer_bytes, layout) = match detected {
        MediaType::Jpeg => {
            let layout = jpeg::parse_layout(bytes, limits)?;
            (layout.width, layout.height, layout.buffer_bytes, Layout::Jpeg(layout))
        }
        MediaType::Png => {
            let layout = png::parse_layout(bytes, limits)?;
            (layout.width, layout.height, layout.buffer_bytes, Layout::Png(layout))
        }
        MediaType::Webp => {
            let layout = webp::parse_layout(bytes, limits)?;
            (layout.width, layout.height, layout.buffer_bytes, Layout::Webp(layout))
        }
        MediaType::Gif => {
            let layout = gif::parse_layout(bytes, limits)?;
            (layout.width, layout.height, layout.buffer_bytes, Layout::Gif(layout))
        }
    };
    if buffer_bytes > limits.max_buffer_bytes {
        return Err(Rejection::TooCostly);
    }
    let pixels = u64::from(width) * u64::from(height);
    Ok((Probe { media_type: detected, width, height, pixels, weight: pixels.max(buffer_bytes) }, layout))
}

/// Rejects an image without pixels or with more than `limits` allows, and returns width times height.
fn check_size(width: u32, height: u32, limits: &Limits) -> Result<u64, Rejection> {
    if width == 0 || height == 0 {
        return Err(Rejection::Corrupt);
    }
    let pixels = u64::from(width) * u64::from(height);
    if pixels > limits.max_pixels || width.max(height) > limits.max_edge {
        return Err(Rejection::TooManyPixels { width, height });
    }
    Ok(pixels)
}

/// Returns `bytes[offset..offset + N]`, or [`Rejection::Truncated`] if the file ends earlier.
fn read_array<const N: usize>(bytes: &[u8], offset: usize) -> Result<[u8; N], Rejection> {
    bytes.get(offset..).and_then(|tail| tail.first_chunk::<N>()).copied().ok_or(Rejection::Truncated)
}
