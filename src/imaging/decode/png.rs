//! PNG: row by row, laid on white, reduced on the way.

use super::{Decoded, MOST_ROW_REDUCTION, Samples, row_on_white};
use crate::imaging::probe::png::Layout;
use crate::imaging::scale::{RowShrinker, reduction};
use crate::imaging::{Failure, Rejection};
use png::{BitDepth, ColorType, DecodingError, Limits, Transformations};
use std::io::{Cursor, ErrorKind};

/// What the decoder may set aside for chunks and rows; an unpacked colour profile counts.
const CHUNK_BYTES: usize = 16 << 20;

pub fn decode(bytes: &[u8], layout: &Layout, target: (u32, u32)) -> Result<Decoded, Failure> {
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: CHUNK_BYTES });
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(!layout.profile_fits);
    decoder.set_transformations(Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(rejection)?;
    // A picture that says it is sRGB is, whatever profile it carries beside.
    let info = reader.info();
    let profile = if info.srgb.is_some() { None } else { info.icc_profile.as_ref().map(|profile| profile.to_vec()) };
    let (colour, depth) = reader.output_color_type();
    if depth != BitDepth::Eight || (info.width, info.height) != (layout.width, layout.height) {
        return Err(Rejection::Corrupt.into());
    }
    let channels = if matches!(colour, ColorType::Grayscale | ColorType::GrayscaleAlpha) { 1 } else { 3 };
    let factor = reduction((layout.width, layout.height), target, MOST_ROW_REDUCTION);
    let shrinker = RowShrinker::new((layout.width, layout.height), channels, factor);
    let mut sink = Sink { colour, white: Vec::new(), shrinker };
    if info.interlaced {
        let size = reader.output_buffer_size().ok_or(Rejection::TooCostly)?;
        let mut whole = vec![0; size];
        let line = reader.next_frame(&mut whole).map_err(rejection)?.line_size;
        whole.chunks_exact(line).for_each(|row| sink.push(row));
    } else {
        while let Some(row) = reader.next_row().map_err(rejection)? {
            sink.push(row.data());
        }
    }
    Ok(Decoded { samples: Samples::Pixels(sink.shrinker.finish()), profile })
}

/// Where rows go: without their opacity, into the shrinker.
struct Sink {
    colour: ColorType,
    white: Vec<u8>,
    shrinker: RowShrinker,
}

impl Sink {
    fn push(&mut self, row: &[u8]) {
        match self.colour {
            ColorType::GrayscaleAlpha => row_on_white::<2>(row, &mut self.white),
            ColorType::Rgba => row_on_white::<4>(row, &mut self.white),
            _ => return self.shrinker.push(row),
        }
        self.shrinker.push(&self.white);
    }
}

fn rejection(error: DecodingError) -> Rejection {
    match error {
        DecodingError::LimitsExceeded => Rejection::TooCostly,
        DecodingError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => Rejection::Truncated,
        _ => Rejection::Corrupt,
    }
}
