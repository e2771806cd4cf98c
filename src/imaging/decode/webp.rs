//! WebP: decoded whole by a decoder in safe Rust, laid on white, then reduced. Of an animation the first frame.

use super::{Decoded, MOST_ROW_REDUCTION, Samples, row_on_white};
use crate::imaging::probe::webp::Layout;
use crate::imaging::scale::{RowShrinker, reduction};
use crate::imaging::{Failure, Limits, Rejection};
use image_webp::{DecodingError, WebPDecoder};
use std::io::{Cursor, ErrorKind};

pub fn decode(bytes: &[u8], layout: &Layout, target: (u32, u32), limits: &Limits) -> Result<Decoded, Failure> {
    let mut decoder = WebPDecoder::new(Cursor::new(&bytes[..layout.end])).map_err(rejection)?;
    decoder.set_memory_limit(usize::try_from(limits.max_buffer_bytes).unwrap_or(usize::MAX));
    if decoder.dimensions() != (layout.width, layout.height) {
        return Err(Rejection::Corrupt.into());
    }
    let profile = decoder.icc_profile().unwrap_or(None);
    let size = decoder.output_buffer_size().ok_or(Rejection::TooCostly)?;
    let mut whole = vec![0; size];
    if decoder.is_animated() { decoder.read_frame(&mut whole).map(drop) } else { decoder.read_image(&mut whole) }
        .map_err(rejection)?;
    let factor = reduction((layout.width, layout.height), target, MOST_ROW_REDUCTION);
    let mut shrinker = RowShrinker::new((layout.width, layout.height), 3, factor);
    let mut white = Vec::new();
    if decoder.has_alpha() {
        for row in whole.chunks_exact(layout.width as usize * 4) {
            row_on_white::<4>(row, &mut white);
            shrinker.push(&white);
        }
    } else {
        whole.chunks_exact(layout.width as usize * 3).for_each(|row| shrinker.push(row));
    }
    Ok(Decoded { samples: Samples::Pixels(shrinker.finish()), profile })
}

fn rejection(error: DecodingError) -> Rejection {
    match error {
        DecodingError::MemoryLimitExceeded => Rejection::TooCostly,
        DecodingError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => Rejection::Truncated,
        _ => Rejection::Corrupt,
    }
}
