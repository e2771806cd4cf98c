//! The structure of a WebP: its RIFF chunks and canvas.

use super::{Limits, Rejection, check_size, take};
use std::ops::Range;

/// What decoding needs to know of a WebP.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Of the canvas.
    pub width: u32,
    /// Of the canvas.
    pub height: u32,
    /// Where the RIFF container ends.
    pub end: usize,
    /// The TIFF structure of the `EXIF` chunk.
    pub exif: Option<Range<usize>>,
    /// Bytes that the decoder holds: planes or pixels of the frame, and the canvas as RGBA.
    pub held_bytes: u64,
}

/// Checks a WebP's chunks up to its end.
///
/// # Errors
/// Whatever makes it unfit, without decoding.
pub fn walk(bytes: &[u8], limits: &Limits) -> Result<Layout, Rejection> {
    let end = (u32::from_le_bytes(take(bytes, 4)?) as usize).saturating_add(8);
    if end > bytes.len() {
        return Err(Rejection::Truncated);
    }
    let (mut canvas, mut picture, mut exif, mut animated) = (None, None, None, false);
    let mut at = 12;
    while at + 8 <= end {
        let name: [u8; 4] = take(bytes, at)?;
        let length = u32::from_le_bytes(take(bytes, at + 4)?) as usize;
        let body = at + 8..(at + 8).saturating_add(length);
        if body.end > end {
            return Err(Rejection::Truncated);
        }
        at = body.end + (length & 1);
        match &name {
            b"VP8X" if canvas.is_none() && picture.is_none() => canvas = Some(read_canvas(bytes, body.start)?),
            b"VP8 " | b"VP8L" if picture.is_none() => picture = Some(read_picture(name, &bytes[body])?),
            // A frame of an animation: its place and size on the canvas, flags, then chunks of its own.
            b"ANMF" if picture.is_none() => {
                animated = true;
                picture = Some(read_animation_frame(bytes.get(body).ok_or(Rejection::Truncated)?, canvas)?);
            }
            b"EXIF" => {
                let head = if bytes[body.clone()].starts_with(b"Exif\0\0") { 6 } else { 0 };
                exif = Some(body.start + head..body.end);
            }
            _ => {}
        }
    }
    let picture = picture.ok_or(Rejection::Truncated)?;
    let (width, height) = canvas.unwrap_or(picture);
    // A header that promises a small canvas must not bring a large picture.
    if !animated && picture != (width, height) {
        return Err(Rejection::Corrupt);
    }
    let pixels = check_size(width, height, limits)?;
    Ok(Layout { width, height, end, exif, held_bytes: pixels * if animated { 10 } else { 6 } })
}

fn read_canvas(bytes: &[u8], at: usize) -> Result<(u32, u32), Rejection> {
    let [_, _, _, _, w0, w1, w2, h0, h1, h2] = take(bytes, at)?;
    Ok((u32::from_le_bytes([w0, w1, w2, 0]) + 1, u32::from_le_bytes([h0, h1, h2, 0]) + 1))
}

/// The size in a frame's own bitstream.
fn read_picture(name: [u8; 4], body: &[u8]) -> Result<(u32, u32), Rejection> {
    if name == *b"VP8L" {
        let [signature, b0, b1, b2, b3] = take(body, 0)?;
        let bits = u32::from_le_bytes([b0, b1, b2, b3]);
        return if signature == 0x2F {
            Ok(((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1))
        } else {
            Err(Rejection::Corrupt)
        };
    }
    let [_, _, _, s0, s1, s2, w0, w1, h0, h1] = take(body, 0)?;
    if [s0, s1, s2] != [0x9D, 0x01, 0x2A] {
        return Err(Rejection::Corrupt);
    }
    Ok((u32::from(u16::from_le_bytes([w0, w1]) & 0x3FFF), u32::from(u16::from_le_bytes([h0, h1]) & 0x3FFF)))
}

/// The size of an animation's frame; it must lie on the canvas, and its bitstream must agree.
fn read_animation_frame(body: &[u8], canvas: Option<(u32, u32)>) -> Result<(u32, u32), Rejection> {
    let (width, height) = canvas.ok_or(Rejection::Corrupt)?;
    let head: [u8; 16] = take(body, 0)?;
    let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], 0]);
    let (left, top, across, down) = (2 * number(0), 2 * number(3), number(6) + 1, number(9) + 1);
    if left + across > width || top + down > height {
        return Err(Rejection::Corrupt);
    }
    let mut at = 16;
    loop {
        let name: [u8; 4] = take(body, at)?;
        let length = u32::from_le_bytes(take(body, at + 4)?) as usize;
        let chunk = body.get(at + 8..(at + 8).saturating_add(length)).ok_or(Rejection::Truncated)?;
        if matches!(&name, b"VP8 " | b"VP8L") {
            return if read_picture(name, chunk)? == (across, down) {
                Ok((across, down))
            } else {
                Err(Rejection::Corrupt)
            };
        }
        at += 8 + length + (length & 1);
    }
}
