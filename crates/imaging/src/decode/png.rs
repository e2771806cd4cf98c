//! Decodes a PNG row by row, composites it on white and reduces it on the way.

use super::{Decoded, MAX_ROW_REDUCTION, Samples, composite_row_on_white};
use crate::probe::png::PngLayout;
use crate::resample::{RowDownscaler, reduction_factor};
use crate::{Error, Rejection};
use png::{BitDepth, ColorType, DecodingError, Limits, Transformations};
use std::io::{Cursor, ErrorKind};

/// Maximum bytes that the decoder allocates for chunks and rows, including a decompressed ICC profile.
const MAX_CHUNK_BYTES: usize = 16 << 20;

pub fn decode(bytes: &[u8], layout: &PngLayout, target: (u32, u32)) -> Result<Decoded, Error> {
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: MAX_CHUNK_BYTES });
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(!layout.icc_within_limit);
    decoder.set_transformations(Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(to_rejection)?;
    // An `sRGB` chunk takes precedence over an ICC profile.
    let info = reader.info();
    let icc_profile =
        if info.srgb.is_some() { None } else { info.icc_profile.as_ref().map(|profile| profile.to_vec()) };
    let (colour, depth) = reader.output_color_type();
    if depth != BitDepth::Eight || (info.width, info.height) != (layout.width, layout.height) {
        return Err(Rejection::Corrupt.into());
    }
    let channels = if matches!(colour, ColorType::Grayscale | ColorType::GrayscaleAlpha) { 1 } else { 3 };
    let factor = reduction_factor((layout.width, layout.height), target, MAX_ROW_REDUCTION);
    let downscaler = RowDownscaler::new((layout.width, layout.height), channels, factor);
    let mut rows = RowSink { colour, opaque_row: Vec::new(), downscaler };
    if info.interlaced {
        let size = reader.output_buffer_size().ok_or(Rejection::TooCostly)?;
        let mut pixels = vec![0; size];
        let row_bytes = reader.next_frame(&mut pixels).map_err(to_rejection)?.line_size;
        pixels.chunks_exact(row_bytes).for_each(|row| rows.push(row));
    } else {
        while let Some(row) = reader.next_row().map_err(to_rejection)? {
            rows.push(row.data());
        }
    }
    Ok(Decoded { samples: Samples::Pixels(rows.downscaler.finish()), icc_profile })
}

/// Receives decoded rows, composites them on white and passes them to the downscaler.
struct RowSink {
    colour: ColorType,
    opaque_row: Vec<u8>,
    downscaler: RowDownscaler,
}

impl RowSink {
    fn push(&mut self, row: &[u8]) {
        match self.colour {
            ColorType::GrayscaleAlpha => composite_row_on_white::<2>(row, &mut self.opaque_row),
            ColorType::Rgba => composite_row_on_white::<4>(row, &mut self.opaque_row),
            _ => return self.downscaler.push(row),
        }
        self.downscaler.push(&self.opaque_row);
    }
}

fn to_rejection(error: DecodingError) -> Rejection {
    match error {
        DecodingError::LimitsExceeded => Rejection::TooCostly,
        DecodingError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => Rejection::Truncated,
        _ => Rejection::Corrupt,
    }
}
