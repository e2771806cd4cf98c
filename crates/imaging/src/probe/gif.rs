//! Header checks of GIF (GIF89a): logical screen, first frame and trailer.

use super::{Limits, Rejection, check_size, read_array};

/// Upper bound of pixels per byte of image data: a 12-bit LZW code stands for at most 4,096 pixels, which is 2,731
/// per byte.
const MAX_PIXELS_PER_BYTE: u64 = 2_800;

/// The parts of a GIF that decoding needs.
#[derive(Clone, Debug)]
pub struct GifLayout {
    /// Width of the logical screen in pixels.
    pub width: u32,
    /// Height of the logical screen in pixels.
    pub height: u32,
    /// Offset behind the trailer.
    pub end: usize,
    /// Bytes that the decoder holds: the palette indices of the frame and the canvas as RGB.
    pub buffer_bytes: u64,
}

/// Checks the blocks of a GIF up to its trailer.
///
/// # Errors
/// The reason why the file is rejected.
pub fn parse_layout(bytes: &[u8], limits: &Limits) -> Result<GifLayout, Rejection> {
    let [w0, w1, h0, h1, packed] = read_array(bytes, 6)?;
    let (width, height) = (u16::from_le_bytes([w0, w1]).into(), u16::from_le_bytes([h0, h1]).into());
    let pixels = check_size(width, height, limits)?;
    let mut offset = 13 + colour_table_bytes(packed);
    let mut has_frame = false;
    loop {
        let [block_type] = read_array(bytes, offset)?;
        match block_type {
            0x3B if has_frame => break,
            0x21 => offset = skip_sub_blocks(bytes, offset + 2)?,
            0x2C => {
                let descriptor: [u8; 10] = read_array(bytes, offset)?;
                let u16_at =
                    |offset: usize| u32::from(u16::from_le_bytes([descriptor[offset], descriptor[offset + 1]]));
                let (left, top, frame_width, frame_height) = (u16_at(1), u16_at(3), u16_at(5), u16_at(7));
                let data_start = offset + 11 + colour_table_bytes(descriptor[9]);
                offset = skip_sub_blocks(bytes, data_start)?;
                if !has_frame {
                    check_first_frame((left + frame_width, top + frame_height), (width, height))?;
                    let frame_pixels = check_size(frame_width, frame_height, limits)?;
                    if (offset - data_start) as u64 * MAX_PIXELS_PER_BYTE < frame_pixels {
                        return Err(Rejection::Truncated);
                    }
                    has_frame = true;
                }
            }
            _ => return Err(Rejection::Corrupt),
        }
    }
    Ok(GifLayout { width, height, end: offset + 1, buffer_bytes: pixels * 5 })
}

/// Rejects a first frame that extends beyond the canvas.
fn check_first_frame(bottom_right: (u32, u32), canvas: (u32, u32)) -> Result<(), Rejection> {
    if bottom_right.0 > canvas.0 || bottom_right.1 > canvas.1 { Err(Rejection::Corrupt) } else { Ok(()) }
}

/// Returns the bytes of the colour table that a packed field declares.
fn colour_table_bytes(packed: u8) -> usize {
    if packed & 0x80 == 0 { 0 } else { 3 << ((packed & 7) + 1) }
}

/// Returns the offset behind a sequence of data sub-blocks, which ends with an empty one.
fn skip_sub_blocks(bytes: &[u8], mut offset: usize) -> Result<usize, Rejection> {
    loop {
        let [length] = read_array(bytes, offset)?;
        offset += 1 + usize::from(length);
        if length == 0 {
            return Ok(offset);
        }
    }
}
