//! Header checks of WebP (RFC 9649): RIFF chunks and canvas.

use super::{Limits, Rejection, check_size, read_array};
use std::ops::Range;

/// The parts of a WebP that decoding needs.
#[derive(Clone, Debug)]
pub struct WebpLayout {
    /// Width of the canvas in pixels.
    pub width: u32,
    /// Height of the canvas in pixels.
    pub height: u32,
    /// Offset behind the RIFF container.
    pub end: usize,
    /// The TIFF structure of the `EXIF` chunk.
    pub exif: Option<Range<usize>>,
    /// Bytes that the decoder holds: planes or pixels of the frame, and the canvas as RGBA.
    pub buffer_bytes: u64,
}

/// Checks the chunks of a WebP up to the end of the RIFF container.
///
/// # Errors
/// The reason why the file is rejected.
pub fn parse_layout(bytes: &[u8], limits: &Limits) -> Result<WebpLayout, Rejection> {
    let end = (u32::from_le_bytes(read_array(bytes, 4)?) as usize).saturating_add(8);
    if end > bytes.len() {
        return Err(Rejection::Truncated);
    }
    let (mut canvas, mut frame_size, mut exif, mut is_animated) = (None, None, None, false);
    let mut offset = 12;
    while offset + 8 <= end {
        let name: [u8; 4] = read_array(bytes, offset)?;
        let length = u32::from_le_bytes(read_array(bytes, offset + 4)?) as usize;
        let body = offset + 8..(offset + 8).saturating_add(length);
        if body.end > end {
            return Err(Rejection::Truncated);
        }
        offset = body.end + (length & 1);
        match &name {
            b"VP8X" if canvas.is_none() && frame_size.is_none() => canvas = Some(read_vp8x_canvas(bytes, body.start)?),
            b"VP8 " | b"VP8L" if frame_size.is_none() => frame_size = Some(read_bitstream_size(name, &bytes[body])?),
            // An animation frame: position and size on the canvas, flags, then chunks.
            b"ANMF" if frame_size.is_none() => {
                is_animated = true;
                frame_size = Some(read_anmf_frame(bytes.get(body).ok_or(Rejection::Truncated)?, canvas)?);
            }
            b"EXIF" => {
                let header = if bytes[body.clone()].starts_with(b"Exif\0\0") { 6 } else { 0 };
                exif = Some(body.start + header..body.end);
            }
            _ => {}
        }
    }
    let frame_size = frame_size.ok_or(Rejection::Truncated)?;
    let (width, height) = canvas.unwrap_or(frame_size);
    // The canvas must match the bitstream; otherwise a small canvas could hide a large image.
    if !is_animated && frame_size != (width, height) {
        return Err(Rejection::Corrupt);
    }
    let pixels = check_size(width, height, limits)?;
    Ok(WebpLayout { width, height, end, exif, buffer_bytes: pixels * if is_animated { 10 } else { 6 } })
}

fn read_vp8x_canvas(bytes: &[u8], offset: usize) -> Result<(u32, u32), Rejection> {
    let [_, _, _, _, w0, w1, w2, h0, h1, h2] = read_array(bytes, offset)?;
    Ok((u32::from_le_bytes([w0, w1, w2, 0]) + 1, u32::from_le_bytes([h0, h1, h2, 0]) + 1))
}

/// Returns width and height from the header of a VP8 (RFC 6386, section 9.1) or VP8L bitstream.
fn read_bitstream_size(name: [u8; 4], body: &[u8]) -> Result<(u32, u32), Rejection> {
    if name == *b"VP8L" {
        let [signature, b0, b1, b2, b3] = read_array(body, 0)?;
        let bits = u32::from_le_bytes([b0, b1, b2, b3]);
        return if signature == 0x2F {
            Ok(((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1))
        } else {
            Err(Rejection::Corrupt)
        };
    }
    let [_, _, _, s0, s1, s2, w0, w1, h0, h1] = read_array(body, 0)?;
    if [s0, s1, s2] != [0x9D, 0x01, 0x2A] {
        return Err(Rejection::Corrupt);
    }
    Ok((u32::from(u16::from_le_bytes([w0, w1]) & 0x3FFF), u32::from(u16::from_le_bytes([h0, h1]) & 0x3FFF)))
}

/// Returns width and height of an animation frame. The frame must lie within the canvas, and its bitstream must have
/// the same size.
fn read_anmf_frame(body: &[u8], canvas: Option<(u32, u32)>) -> Result<(u32, u32), Rejection> {
    let (width, height) = canvas.ok_or(Rejection::Corrupt)?;
    let header: [u8; 16] = read_array(body, 0)?;
    let u24_at = |offset: usize| u32::from_le_bytes([header[offset], header[offset + 1], header[offset + 2], 0]);
    let (left, top, frame_width, frame_height) = (2 * u24_at(0), 2 * u24_at(3), u24_at(6) + 1, u24_at(9) + 1);
    if left + frame_width > width || top + frame_height > height {
        return Err(Rejection::Corrupt);
    }
    let mut offset = 16;
    loop {
        let name: [u8; 4] = read_array(body, offset)?;
        let length = u32::from_le_bytes(read_array(body, offset + 4)?) as usize;
        let chunk = body.get(offset + 8..(offset + 8).saturating_add(length)).ok_or(Rejection::Truncated)?;
        if matches!(&name, b"VP8 " | b"VP8L") {
            return if read_bitstream_size(name, chunk)? == (frame_width, frame_height) {
                Ok((frame_width, frame_height))
            } else {
                Err(Rejection::Corrupt)
            };
        }
        offset += 8 + length + (length & 1);
    }
}
