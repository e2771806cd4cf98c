//! The structure of a GIF: its canvas, its first frame and its end.

use super::{Limits, Rejection, check_size, take};

/// An LZW code of 12 bits stands for at most 4,096 pixels.
const MAX_PIXELS_PER_BYTE: u64 = 2_800;

/// What decoding needs to know of a GIF.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Of the canvas.
    pub width: u32,
    /// Of the canvas.
    pub height: u32,
    /// Just behind the trailer.
    pub end: usize,
    /// Bytes that the decoder holds: the frame's colour numbers, and the canvas as RGB.
    pub held_bytes: u64,
}

/// Checks a GIF's blocks up to its trailer.
///
/// # Errors
/// Whatever makes it unfit, without decoding.
pub fn walk(bytes: &[u8], limits: &Limits) -> Result<Layout, Rejection> {
    let [w0, w1, h0, h1, packed] = take(bytes, 6)?;
    let (width, height) = (u16::from_le_bytes([w0, w1]).into(), u16::from_le_bytes([h0, h1]).into());
    let pixels = check_size(width, height, limits)?;
    let mut at = 13 + table_bytes(packed);
    let mut has_frame = false;
    loop {
        let [kind] = take(bytes, at)?;
        match kind {
            0x3B if has_frame => break,
            0x21 => at = blocks_end(bytes, at + 2)?,
            0x2C => {
                let head: [u8; 10] = take(bytes, at)?;
                let number = |at: usize| u32::from(u16::from_le_bytes([head[at], head[at + 1]]));
                let (left, top, across, down) = (number(1), number(3), number(5), number(7));
                let data = at + 11 + table_bytes(head[9]);
                at = blocks_end(bytes, data)?;
                if !has_frame {
                    check_frame((left + across, top + down), (width, height))?;
                    let frame_pixels = check_size(across, down, limits)?;
                    if (at - data) as u64 * MAX_PIXELS_PER_BYTE < frame_pixels {
                        return Err(Rejection::Truncated);
                    }
                    has_frame = true;
                }
            }
            _ => return Err(Rejection::Corrupt),
        }
    }
    Ok(Layout { width, height, end: at + 1, held_bytes: pixels * 5 })
}

/// Refuses a first frame that leaves the canvas.
fn check_frame(corner: (u32, u32), canvas: (u32, u32)) -> Result<(), Rejection> {
    if corner.0 > canvas.0 || corner.1 > canvas.1 { Err(Rejection::Corrupt) } else { Ok(()) }
}

/// Bytes of the colour table that a packed field announces.
fn table_bytes(packed: u8) -> usize {
    if packed & 0x80 == 0 { 0 } else { 3 << ((packed & 7) + 1) }
}

/// Where a chain of data blocks ends: behind the empty one.
fn blocks_end(bytes: &[u8], mut at: usize) -> Result<usize, Rejection> {
    loop {
        let [length] = take(bytes, at)?;
        at += 1 + usize::from(length);
        if length == 0 {
            return Ok(at);
        }
    }
}
