//! Header checks of PNG (W3C PNG, third edition): the IHDR chunk and the chunk sequence.

use super::{Limits, Rejection, check_size, read_array};
use std::ops::Range;

/// Maximum expansion of deflate (zlib documentation).
const MAX_DEFLATE_RATIO: u64 = 1032;
/// Larger `eXIf` and `iCCP` chunks are ignored.
const MAX_ANCILLARY_BYTES: usize = 1 << 20;

/// The parts of a PNG that decoding needs.
#[derive(Clone, Debug)]
pub struct PngLayout {
    pub width: u32,
    pub height: u32,
    /// The TIFF structure of the `eXIf` chunk.
    pub exif: Option<Range<usize>>,
    /// Whether an `iCCP` chunk of at most [`MAX_ANCILLARY_BYTES`] is present.
    pub icc_within_limit: bool,
    /// Bytes of the complete decoded image if it is interlaced; 0 otherwise, because it is decoded row by row.
    pub buffer_bytes: u64,
}

/// Checks the chunks of a PNG up to IEND without inflating any data. Checksums are left to the decoder.
///
/// # Errors
/// The reason why the file is rejected.
pub fn parse_layout(bytes: &[u8], limits: &Limits) -> Result<PngLayout, Rejection> {
    let mut offset = 8;
    let header: [u8; 25] = read_array(bytes, offset)?;
    if header[..8] != *b"\0\0\0\x0DIHDR" {
        return Err(Rejection::Corrupt);
    }
    let width = u32::from_be_bytes(read_array(bytes, 16)?);
    let height = u32::from_be_bytes(read_array(bytes, 20)?);
    let [depth, colour_type, compression, filter, interlace] = read_array(bytes, 24)?;
    let pixels = check_size(width, height, limits)?;
    let samples_per_pixel = match (colour_type, depth) {
        (0, 1 | 2 | 4 | 8 | 16) | (3, 1 | 2 | 4 | 8) => 1,
        (4, 8 | 16) => 2,
        (2, 8 | 16) => 3,
        (6, 8 | 16) => 4,
        _ => return Err(Rejection::Corrupt),
    };
    if compression != 0 || filter != 0 || interlace > 1 {
        return Err(Rejection::Corrupt);
    }
    let (mut idat_bytes, mut exif, mut icc_within_limit) = (0_u64, None, false);
    loop {
        let length = u32::from_be_bytes(read_array(bytes, offset)?) as usize;
        let name: [u8; 4] = read_array(bytes, offset + 4)?;
        let body = offset + 8..(offset + 8).saturating_add(length);
        if body.end.saturating_add(4) > bytes.len() {
            return Err(Rejection::Truncated);
        }
        offset = body.end + 4;
        match &name {
            b"IEND" => break,
            b"IDAT" => idat_bytes += length as u64,
            b"eXIf" if length <= MAX_ANCILLARY_BYTES => exif = Some(body),
            b"iCCP" => icc_within_limit = length <= MAX_ANCILLARY_BYTES,
            _ => {}
        }
    }
    if (idat_bytes * MAX_DEFLATE_RATIO).saturating_mul(8) < pixels * samples_per_pixel * u64::from(depth) {
        return Err(Rejection::Truncated);
    }
    // The decoder returns up to four bytes per pixel. Interlaced images are held completely, because their rows come
    // in seven passes.
    let buffer_bytes = if interlace == 1 { pixels * 4 } else { 0 };
    Ok(PngLayout { width, height, exif, icc_within_limit, buffer_bytes })
}
