//! Decodes a WebP completely, composites it on white, then reduces it. Of an animation, decodes the first frame.

use super::{Decoded, MAX_ROW_REDUCTION, Samples, composite_row_on_white};
use crate::probe::webp::WebpLayout;
use crate::resample::{RowDownscaler, reduction_factor};
use crate::{Error, Limits, Rejection};
use image_webp::{DecodingError, WebPDecoder};
use std::io::{Cursor, ErrorKind};

pub fn decode(bytes: &[u8], layout: &WebpLayout, target: (u32, u32), limits: &Limits) -> Result<Decoded, Error> {
    let mut decoder = WebPDecoder::new(Cursor::new(&bytes[..layout.end])).map_err(to_rejection)?;
    decoder.set_memory_limit(usize::try_from(limits.max_buffer_bytes).unwrap_or(usize::MAX));
    if decoder.dimensions() != (layout.width, layout.height) {
        return Err(Rejection::Corrupt.into());
    }
    let icc_profile = decoder.icc_profile().unwrap_or(None);
    let size = decoder.output_buffer_size().ok_or(Rejection::TooCostly)?;
    let mut pixels = vec![0; size];
    if decoder.is_animated() { decoder.read_frame(&mut pixels).map(drop) } else { decoder.read_image(&mut pixels) }
        .map_err(to_rejection)?;
    let factor = reduction_factor((layout.width, layout.height), target, MAX_ROW_REDUCTION);
    let mut downscaler = RowDownscaler::new((layout.width, layout.height), 3, factor);
    let mut opaque_row = Vec::new();
    if decoder.has_alpha() {
        for row in pixels.chunks_exact(layout.width as usize * 4) {
            composite_row_on_white::<4>(row, &mut opaque_row);
            downscaler.push(&opaque_row);
        }
    } else {
        pixels.chunks_exact(layout.width as usize * 3).for_each(|row| downscaler.push(row));
    }
    Ok(Decoded { samples: Samples::Pixels(downscaler.finish()), icc_profile })
}

fn to_rejection(error: DecodingError) -> Rejection {
    match error {
        DecodingError::MemoryLimitExceeded => Rejection::TooCostly,
        DecodingError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => Rejection::Truncated,
        _ => Rejection::Corrupt,
    }
}
