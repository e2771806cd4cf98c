//! From bytes whose structure was checked to samples at least as large as the largest rendition, and no larger than helps.

mod gif;
mod jpeg;
mod png;
mod webp;

use super::probe::Layout;
use super::raster::{Raster, Yuv};
use super::turbo::Decompressor;
use super::{Failure, Limits};

/// Samples as the file's format gives them.
pub(super) enum Samples {
    /// Brightness and colour planes, as a JPEG stores them.
    Planes(Yuv),
    /// Grey (1 channel), RGB (3), or CMYK as ink (4).
    Pixels(Raster),
}

/// A decoded picture, as stored: not yet upright, in its own colours.
pub(super) struct Decoded {
    pub samples: Samples,
    pub profile: Option<Vec<u8>>,
}

/// Decodes a picture that passed the probe, reduced while decoding as far as `target` allows.
pub(super) fn decode(
    bytes: &[u8],
    layout: &Layout,
    target: (u32, u32),
    limits: &Limits,
    jpeg: &mut Decompressor,
) -> Result<Decoded, Failure> {
    match layout {
        Layout::Jpeg(layout) => jpeg::decode(bytes, layout, target, limits, jpeg),
        Layout::Png(layout) => png::decode(bytes, layout, target),
        Layout::Webp(layout) => webp::decode(bytes, layout, target, limits),
        Layout::Gif(layout) => gif::decode(bytes, layout, target),
    }
}

/// The most that a picture is reduced row by row before the real resampling.
const MOST_ROW_REDUCTION: u32 = 64;

/// Lays a sample with opacity on white.
fn on_white(sample: u8, alpha: u8) -> u8 {
    let mixed = u32::from(sample) * u32::from(alpha) + 255 * u32::from(255 - alpha);
    u8::try_from((mixed + 127) / 255).unwrap_or(u8::MAX)
}

/// Lays a row of RGBA (or grey with alpha: `N` is 4 or 2) on white, dropping the opacity.
fn row_on_white<const N: usize>(row: &[u8], out: &mut Vec<u8>) {
    out.clear();
    for pixel in row.as_chunks::<N>().0 {
        let alpha = pixel[N - 1];
        out.extend(pixel[..N - 1].iter().map(|&sample| on_white(sample, alpha)));
    }
}
