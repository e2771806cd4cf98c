//! The look at a file before anything of it is decoded: type, structure, size, and what decoding would cost.
//!
//! Every check reads headers and hops from segment to segment; nothing is allocated in proportion to what a header claims.
//! A file that passes is complete in structure: its end is there, and it has at least as many bits as its pixels need.

pub(super) mod gif;
pub(super) mod jpeg;
pub(super) mod png;
pub(super) mod webp;

use super::{Limits, MediaType, Rejection, Sniffed, sniff};

/// What is known of a photo before it is decoded.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Probe {
    /// The real type, equal to the declared one.
    pub media_type: MediaType,
    /// As stored, before the EXIF orientation; pixels.
    pub width: u32,
    /// As stored, before the EXIF orientation; pixels.
    pub height: u32,
    /// Width times height.
    pub pixels: u64,
    /// What to count a photo as when decodes are admitted: its pixels, or the bytes that its decoder must hold at once
    /// where that is more (progressive JPEGs, interlaced PNG, WebP, GIF).
    pub weight: u64,
}

/// Where the parts of a file are that decoding needs.
pub(super) enum Layout {
    Jpeg(jpeg::Layout),
    Png(png::Layout),
    Webp(webp::Layout),
    Gif(gif::Layout),
}

impl Layout {
    /// The TIFF structure that EXIF is kept in.
    pub(super) fn exif<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let range = match self {
            Self::Jpeg(it) => it.exif.clone(),
            Self::Png(it) => it.exif.clone(),
            Self::Webp(it) => it.exif.clone(),
            Self::Gif(_) => None,
        };
        bytes.get(range?)
    }
}

/// Looks at the first bytes of a file, some 32 of them at the least: is it what it was declared as?
///
/// # Errors
/// The reason why the file is not taken, whatever follows.
pub fn recognise(head: &[u8], declared: MediaType) -> Result<MediaType, Rejection> {
    if head.is_empty() {
        return Err(Rejection::Empty);
    }
    match sniff(head) {
        Sniffed::Picture(real) if real == declared => Ok(real),
        Sniffed::Picture(real) => Err(Rejection::TypeMismatch { declared, real }),
        Sniffed::Foreign(kind) => Err(Rejection::Foreign(kind)),
        Sniffed::Unknown => Err(Rejection::Unknown),
    }
}

/// Looks at a whole file's structure without decoding it; takes well under 100 ms and next to no memory for any input.
///
/// # Errors
/// The reason why the file is not taken.
pub fn probe(bytes: &[u8], declared: MediaType, limits: &Limits) -> Result<Probe, Rejection> {
    survey(bytes, declared, limits).map(|(probe, _)| probe)
}

/// [`probe`], with the layout that it found.
pub(super) fn survey(bytes: &[u8], declared: MediaType, limits: &Limits) -> Result<(Probe, Layout), Rejection> {
    let real = recognise(bytes, declared)?;
    let (width, height, held, layout) = match real {
        MediaType::Jpeg => {
            let it = jpeg::walk(bytes, limits)?;
            (it.width, it.height, it.held_bytes, Layout::Jpeg(it))
        }
        MediaType::Png => {
            let it = png::walk(bytes, limits)?;
            (it.width, it.height, it.held_bytes, Layout::Png(it))
        }
        MediaType::Webp => {
            let it = webp::walk(bytes, limits)?;
            (it.width, it.height, it.held_bytes, Layout::Webp(it))
        }
        MediaType::Gif => {
            let it = gif::walk(bytes, limits)?;
            (it.width, it.height, it.held_bytes, Layout::Gif(it))
        }
    };
    if held > limits.max_buffer_bytes {
        return Err(Rejection::TooCostly);
    }
    let pixels = u64::from(width) * u64::from(height);
    Ok((Probe { media_type: real, width, height, pixels, weight: pixels.max(held) }, layout))
}

/// Refuses a picture without pixels or with too many.
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

/// `bytes[at..at + N]`, or the rejection of a file that ends too early.
fn take<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Rejection> {
    bytes.get(at..).and_then(|rest| rest.first_chunk::<N>()).copied().ok_or(Rejection::Truncated)
}
