//! The structure of a PNG: its header and its chunks.

use super::{Limits, Rejection, check_size, take};
use std::ops::Range;

/// Deflate can't expand by more than this.
const MAX_DEFLATE_RATIO: u64 = 1032;
/// Larger EXIF blocks and packed colour profiles are ignored.
const MAX_ANCILLARY_BYTES: usize = 1 << 20;

/// What decoding needs to know of a PNG.
#[derive(Clone, Debug)]
pub struct Layout {
    pub width: u32,
    pub height: u32,
    /// The TIFF structure of the `eXIf` chunk.
    pub exif: Option<Range<usize>>,
    /// The `iCCP` chunk is of a sensible size.
    pub profile_fits: bool,
    /// Bytes of the whole decoded picture when it is interlaced; else it comes row by row and this is 0.
    pub held_bytes: u64,
}

/// Checks a PNG's chunks up to its end; checksums are left to the decoder.
///
/// # Errors
/// Whatever makes it unfit, without inflating a single byte.
pub fn walk(bytes: &[u8], limits: &Limits) -> Result<Layout, Rejection> {
    let mut at = 8;
    let header: [u8; 25] = take(bytes, at)?;
    if header[..8] != *b"\0\0\0\x0DIHDR" {
        return Err(Rejection::Corrupt);
    }
    let width = u32::from_be_bytes(take(bytes, 16)?);
    let height = u32::from_be_bytes(take(bytes, 20)?);
    let [depth, colour, compression, filter, interlace] = take(bytes, 24)?;
    let pixels = check_size(width, height, limits)?;
    let samples = match (colour, depth) {
        (0, 1 | 2 | 4 | 8 | 16) | (3, 1 | 2 | 4 | 8) => 1,
        (4, 8 | 16) => 2,
        (2, 8 | 16) => 3,
        (6, 8 | 16) => 4,
        _ => return Err(Rejection::Corrupt),
    };
    if compression != 0 || filter != 0 || interlace > 1 {
        return Err(Rejection::Corrupt);
    }
    let (mut data, mut exif, mut profile_fits) = (0_u64, None, false);
    loop {
        let length = u32::from_be_bytes(take(bytes, at)?) as usize;
        let name: [u8; 4] = take(bytes, at + 4)?;
        let body = at + 8..(at + 8).saturating_add(length);
        if body.end.saturating_add(4) > bytes.len() {
            return Err(Rejection::Truncated);
        }
        at = body.end + 4;
        match &name {
            b"IEND" => break,
            b"IDAT" => data += length as u64,
            b"eXIf" if length <= MAX_ANCILLARY_BYTES => exif = Some(body),
            b"iCCP" => profile_fits = length <= MAX_ANCILLARY_BYTES,
            _ => {}
        }
    }
    if (data * MAX_DEFLATE_RATIO).saturating_mul(8) < pixels * samples * u64::from(depth) {
        return Err(Rejection::Truncated);
    }
    // The decoder hands out up to four bytes a pixel, and all of them at once where rows come in seven passes.
    let held_bytes = if interlace == 1 { pixels * 4 } else { 0 };
    Ok(Layout { width, height, exif, profile_fits, held_bytes })
}
