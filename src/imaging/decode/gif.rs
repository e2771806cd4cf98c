//! GIF: the first frame on a white canvas.

use super::{Decoded, MOST_ROW_REDUCTION, Samples};
use crate::imaging::probe::gif::Layout;
use crate::imaging::scale::{RowShrinker, reduction};
use crate::imaging::{Failure, Rejection};
use gif::{ColorOutput, DecodeOptions, DecodingError, MemoryLimit};
use std::io::ErrorKind;
use std::num::NonZeroU64;

pub fn decode(bytes: &[u8], layout: &Layout, target: (u32, u32)) -> Result<Decoded, Failure> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.check_frame_consistency(true);
    if let Some(limit) = NonZeroU64::new(layout.held_bytes) {
        options.set_memory_limit(MemoryLimit::Bytes(limit));
    }
    let mut decoder = options.read_info(&bytes[..layout.end]).map_err(rejection)?;
    let frame = decoder.next_frame_info().map_err(rejection)?.ok_or(Rejection::Truncated)?;
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let (width, height) = (usize::from(frame.width), usize::from(frame.height));
    let transparent = frame.transparent;
    let mut numbers = vec![0; decoder.buffer_size()];
    decoder.read_into_buffer(&mut numbers).map_err(rejection)?;
    let palette = colours(decoder.palette().map_err(rejection)?, transparent);

    let factor = reduction((layout.width, layout.height), target, MOST_ROW_REDUCTION);
    let mut shrinker = RowShrinker::new((layout.width, layout.height), 3, factor);
    let mut row = vec![[255; 3]; layout.width as usize];
    for y in 0..layout.height as usize {
        row.fill([255; 3]);
        if (top..top + height).contains(&y) {
            let numbers = &numbers[(y - top) * width..][..width];
            row[left..left + width]
                .iter_mut()
                .zip(numbers)
                .for_each(|(pixel, &number)| *pixel = palette[usize::from(number)]);
        }
        shrinker.push(row.as_flattened());
    }
    Ok(Decoded { samples: Samples::Pixels(shrinker.finish()), profile: None })
}

/// All 256 colours: white where the palette has none or the number means transparent.
fn colours(palette: &[u8], transparent: Option<u8>) -> [[u8; 3]; 256] {
    let mut colours = [[255; 3]; 256];
    colours.iter_mut().zip(palette.as_chunks::<3>().0).for_each(|(colour, entry)| *colour = *entry);
    if let Some(number) = transparent {
        colours[usize::from(number)] = [255; 3];
    }
    colours
}

fn rejection(error: DecodingError) -> Rejection {
    match error {
        DecodingError::Io(error) if error.kind() == ErrorKind::UnexpectedEof => Rejection::Truncated,
        _ => Rejection::Corrupt,
    }
}
