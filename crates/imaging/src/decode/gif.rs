//! Decodes the first frame of a GIF on a white canvas.

use super::{Decoded, MAX_ROW_REDUCTION, Samples};
use crate::probe::gif::GifLayout;
use crate::resample::{RowDownscaler, reduction_factor};
use crate::{Error, Rejection};
use gif::{ColorOutput, DecodeOptions, DecodingError, MemoryLimit};
use std::io::ErrorKind;
use std::num::NonZeroU64;

pub fn decode(bytes: &[u8], layout: &GifLayout, target: (u32, u32)) -> Result<Decoded, Error> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.check_frame_consistency(true);
    if let Some(limit) = NonZeroU64::new(layout.buffer_bytes) {
        options.set_memory_limit(MemoryLimit::Bytes(limit));
    }
    let mut decoder = options.read_info(&bytes[..layout.end]).map_err(to_rejection)?;
    let frame = decoder.next_frame_info().map_err(to_rejection)?.ok_or(Rejection::Truncated)?;
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let (width, height) = (usize::from(frame.width), usize::from(frame.height));
    let transparent = frame.transparent;
    let mut indices = vec![0; decoder.buffer_size()];
    decoder.read_into_buffer(&mut indices).map_err(to_rejection)?;
    let palette = full_palette(decoder.palette().map_err(to_rejection)?, transparent);

    let factor = reduction_factor((layout.width, layout.height), target, MAX_ROW_REDUCTION);
    let mut downscaler = RowDownscaler::new((layout.width, layout.height), 3, factor);
    let mut row = vec![[255; 3]; layout.width as usize];
    for y in 0..layout.height as usize {
        row.fill([255; 3]);
        if (top..top + height).contains(&y) {
            let indices = &indices[(y - top) * width..][..width];
            row[left..left + width]
                .iter_mut()
                .zip(indices)
                .for_each(|(pixel, &index)| *pixel = palette[usize::from(index)]);
        }
        downscaler.push(row.as_flattened());
    }
    Ok(Decoded { samples: Samples::Pixels(downscaler.finish()), icc_profile: None })
}

/// Returns a palette of 256 colours, white for missing entries and for the transparent index.
fn full_palette(palette: &[u8], transparent: Option<u8>) -> [[u8; 3]; 256] {
    let mut colours = [[255; 3]; 256];
    colours.iter_mut().zip(palette.as_chunks::<3>().0).for_each(|(colour, entry)| *colour = *entry);
    if let Some(index) = transparent {
        colours[usize::from(index)] = [255; 3];
    }
    colours
}

fn to_rejection(error: DecodingError) -> Rejection {
    match error {
        DecodingError::Io(error) if error.kind() == ErrorKind::UnexpectedEof => Rejection::Truncated,
        _ => Rejection::Corrupt,
    }
}
