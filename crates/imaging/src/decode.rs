//! Decoding of images that passed the header checks, at the smallest reduced resolution that covers the target.

mod gif;
mod jpeg;
mod png;
mod webp;

use super::probe::Layout;
use super::raster::{Raster, Yuv};
use super::turbo::Decompressor;
use super::{Error, Limits};

/// Decoded samples in the form that the format provides.
pub(super) enum Samples {
    /// Luma and chroma planes of a JPEG.
    Planes(Yuv),
    /// Grey (1 channel), RGB (3 channels) or CMYK as ink amounts (4 channels).
    Pixels(Raster),
}

/// A decoded image as stored: orientation not applied, in its own colour space.
pub(super) struct Decoded {
    pub samples: Samples,
    pub icc_profile: Option<Vec<u8>>,
}

/// Decodes an image that passed [`probe()`](crate::probe()), reduced as far as `target` (pixels, as stored) allows.
pub(super) fn decode(
    bytes: &[u8],
    layout: &Layout,
    target: (u32, u32),
    limits: &Limits,
    jpeg: &mut Decompressor,
) -> Result<Decoded, Error> {
    match layout {
        Layout::Jpeg(layout) => jpeg::decode(bytes, layout, target, limits, jpeg),
        Layout::Png(layout) => png::decode(bytes, layout, target),
        Layout::Webp(layout) => webp::decode(bytes, layout, target, limits),
        Layout::Gif(layout) => gif::decode(bytes, layout, target),
    }
}

/// Maximum factor of the row-by-row reduction before resampling.
const MAX_ROW_REDUCTION: u32 = 64;

/// Composites a sample with straight alpha on white.
fn composite_on_white(sample: u8, alpha: u8) -> u8 {
    let blended = u32::from(sample) * u32::from(alpha) + 255 * u32::from(255 - alpha);
    u8::try_from((blended + 127) / 255).unwrap_or(u8::MAX)
}

/// Composites a row of RGBA (`N` = 4) or grey with alpha (`N` = 2) on white; the result has no alpha channel.
fn composite_row_on_white<const N: usize>(row: &[u8], out: &mut Vec<u8>) {
    out.clear();
    for pixel in row.as_chunks::<N>().0 {
        let alpha = pixel[N - 1];
        out.extend(pixel[..N - 1].iter().map(|&sample| composite_on_white(sample, alpha)));
    }
}
