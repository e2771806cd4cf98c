//! The structure of a JPEG: its segments, its scans and where it ends.

use super::{Limits, Rejection, check_size, take};
use memchr::memchr;
use std::ops::Range;

const SOI: u8 = 0xD8;
const EOI: u8 = 0xD9;
const SOS: u8 = 0xDA;
const DHT: u8 = 0xC4;
const DQT: u8 = 0xDB;
const DRI: u8 = 0xDD;
const APP1: u8 = 0xE1;
const APP2: u8 = 0xE2;
const APP14: u8 = 0xEE;
const EXIF_HEAD: &[u8] = b"Exif\0\0";
const ICC_HEAD: &[u8] = b"ICC_PROFILE\0";
/// Colour profiles are a few hundred bytes, or a megabyte for printing presses.
const MAX_PROFILE_BYTES: usize = 4 << 20;

/// What decoding needs to know of a JPEG.
#[derive(Clone, Debug)]
pub struct Layout {
    pub width: u32,
    pub height: u32,
    /// 1, 3 or 4.
    pub components: u8,
    /// An Adobe segment is there: CMYK is then stored inverted.
    pub adobe: bool,
    /// Where the picture ends. What follows (a second picture of a phone, an archive) is not part of it.
    pub end: usize,
    /// The TIFF structure of the first EXIF segment.
    pub exif: Option<Range<usize>>,
    /// The parts of the colour profile, in order.
    pub icc: Vec<Range<usize>>,
    /// Bytes of coefficients that must be held when the picture comes in more than one scan; else 0.
    pub held_bytes: u64,
}

/// One component as the frame header describes it.
#[derive(Clone, Copy)]
struct Component {
    id: u8,
    horizontal: u32,
    vertical: u32,
    /// 8x8 blocks that carry pixels.
    blocks: u64,
    /// A scan with its DC coefficients was seen.
    has_dc: bool,
}

/// The frame header.
struct Frame {
    width: u32,
    height: u32,
    progressive: bool,
    components: Vec<Component>,
}

/// One marker with what belongs to it.
struct Segment<'a> {
    marker: u8,
    /// From the marker's 0xFF to the end of its payload.
    whole: Range<usize>,
    payload: Range<usize>,
    /// The coded data that follows a scan header.
    scan: &'a [u8],
}

/// Steps from marker to marker.
struct Segments<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Segments<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 2 }
    }

    /// The next segment, or `None` at the end of the picture, with `at` just behind it.
    fn next(&mut self) -> Result<Option<Segment<'a>>, Rejection> {
        loop {
            let rest = self.bytes.get(self.at..).ok_or(Rejection::Truncated)?;
            // Some cameras pad between segments; like libjpeg, look for the next marker.
            let skipped = memchr(0xFF, rest).ok_or(Rejection::Truncated)?;
            let start = self.at + skipped;
            let [_, marker] = take(self.bytes, start)?;
            match marker {
                0xFF => self.at = start + 1,
                0x00 | 0x01 | 0xD0..=0xD7 => self.at = start + 2,
                EOI => {
                    self.at = start + 2;
                    return Ok(None);
                }
                SOI => return Err(Rejection::Corrupt),
                _ => return self.segment(marker, start).map(Some),
            }
        }
    }

    fn segment(&mut self, marker: u8, start: usize) -> Result<Segment<'a>, Rejection> {
        let length = usize::from(u16::from_be_bytes(take(self.bytes, start + 2)?));
        let end = start + 2 + length;
        if length < 2 {
            return Err(Rejection::Corrupt);
        }
        if end > self.bytes.len() {
            return Err(Rejection::Truncated);
        }
        self.at = end;
        if marker == SOS {
            self.at = scan_end(self.bytes, end)?;
        }
        Ok(Segment { marker, whole: start..end, payload: start + 4..end, scan: &self.bytes[end..self.at] })
    }
}

/// Where coded data that begins at `from` ends: at the first marker that is neither a stuffed zero nor a restart.
fn scan_end(bytes: &[u8], from: usize) -> Result<usize, Rejection> {
    let mut at = from;
    loop {
        at += memchr(0xFF, &bytes[at..]).ok_or(Rejection::Truncated)?;
        match bytes.get(at + 1) {
            None => return Err(Rejection::Truncated),
            Some(0x00 | 0xD0..=0xD7) => at += 2,
            Some(0xFF) => at += 1,
            Some(_) => return Ok(at),
        }
    }
}

/// Checks a JPEG's structure from start to end of the picture.
///
/// # Errors
/// Whatever makes it unfit, without decoding a single coefficient.
pub fn walk(bytes: &[u8], limits: &Limits) -> Result<Layout, Rejection> {
    let mut segments = Segments::new(bytes);
    let mut frame: Option<Frame> = None;
    let (mut adobe, mut exif, mut icc, mut scans) = (false, None, Vec::new(), 0_u32);
    while let Some(segment) = segments.next()? {
        let payload = &bytes[segment.payload.clone()];
        match segment.marker {
            0xC0..=0xC2 if frame.is_none() => frame = Some(read_frame(segment.marker, payload, limits)?),
            0xC0..=0xC2 => return Err(Rejection::Corrupt),
            0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF => {
                return Err(Rejection::Unsupported("lossless, arithmetic or hierarchical JPEG".to_owned()));
            }
            SOS => {
                scans += 1;
                if scans > limits.max_scans {
                    return Err(Rejection::TooCostly);
                }
                check_scan(frame.as_mut().ok_or(Rejection::Corrupt)?, payload, segment.scan.len())?;
            }
            APP1 if exif.is_none() && payload.starts_with(EXIF_HEAD) => {
                exif = Some(segment.payload.start + EXIF_HEAD.len()..segment.payload.end);
            }
            APP2 if payload.starts_with(ICC_HEAD) => icc.push(segment.payload),
            APP14 => adobe |= payload.starts_with(b"Adobe") && payload.len() >= 12,
            _ => {}
        }
    }
    let frame = frame.ok_or(Rejection::Corrupt)?;
    if frame.components.iter().any(|component| !component.has_dc) {
        return Err(Rejection::Truncated);
    }
    let held_bytes = if scans > 1 || frame.progressive { coefficient_bytes(&frame) } else { 0 };
    Ok(Layout {
        width: frame.width,
        height: frame.height,
        components: u8::try_from(frame.components.len()).unwrap_or(u8::MAX),
        adobe,
        end: segments.at,
        exif,
        icc: order_profile(bytes, icc),
        held_bytes,
    })
}

fn read_frame(marker: u8, payload: &[u8], limits: &Limits) -> Result<Frame, Rejection> {
    let [precision, h1, h0, w1, w0, count] = take(payload, 0).map_err(|_| Rejection::Corrupt)?;
    let (width, height) = (u16::from_be_bytes([w1, w0]).into(), u16::from_be_bytes([h1, h0]).into());
    if precision != 8 {
        return Err(Rejection::Unsupported(format!("{precision} bit JPEG")));
    }
    check_size(width, height, limits)?;
    if !matches!(count, 1 | 3 | 4) {
        return Err(Rejection::Unsupported(format!("JPEG of {count} components")));
    }
    let mut components = Vec::with_capacity(count.into());
    for index in 0..usize::from(count) {
        let [id, sampling, _] = take(payload, 6 + 3 * index).map_err(|_| Rejection::Corrupt)?;
        let (horizontal, vertical) = (u32::from(sampling >> 4), u32::from(sampling & 15));
        if !(1..=4).contains(&horizontal) || !(1..=4).contains(&vertical) {
            return Err(Rejection::Corrupt);
        }
        components.push(Component { id, horizontal, vertical, blocks: 0, has_dc: false });
    }
    let widest = components.iter().map(|c| c.horizontal).max().unwrap_or(1);
    let tallest = components.iter().map(|c| c.vertical).max().unwrap_or(1);
    for component in &mut components {
        let across = (width * component.horizontal).div_ceil(widest).div_ceil(8);
        let down = (height * component.vertical).div_ceil(tallest).div_ceil(8);
        component.blocks = u64::from(across) * u64::from(down);
    }
    Ok(Frame { width, height, progressive: marker == 0xC2, components })
}

/// Refuses a scan that is too short for its blocks. Every block costs at least one bit of DC, and one more to end its AC
/// coefficients where these come in the same scan: so 1.4 kB can't pretend to be 100 megapixels.
fn check_scan(frame: &mut Frame, payload: &[u8], bytes: usize) -> Result<(), Rejection> {
    let [count] = take(payload, 0).map_err(|_| Rejection::Corrupt)?;
    let count = usize::from(count);
    let [first, _, approximation] = take(payload, 1 + 2 * count).map_err(|_| Rejection::Corrupt)?;
    let is_first_dc = !frame.progressive || (first == 0 && approximation >> 4 == 0);
    if !is_first_dc {
        return Ok(());
    }
    let mut blocks = 0;
    for index in 0..count {
        let component = frame.components.iter_mut().find(|component| component.id == payload[1 + 2 * index]);
        let component = component.ok_or(Rejection::Corrupt)?;
        component.has_dc = true;
        blocks += component.blocks;
    }
    let bits_per_block = if frame.progressive { 1 } else { 2 };
    if blocks * bits_per_block > 8 * bytes as u64 {
        return Err(Rejection::Truncated);
    }
    Ok(())
}

/// Memory for all coefficients: 64 of two bytes per block, with some for the padding at the edges.
fn coefficient_bytes(frame: &Frame) -> u64 {
    frame.components.iter().map(|component| component.blocks * 128 * 33 / 32).sum()
}

/// The profile's parts without their heads, sorted by their number; none if it is too large to be one.
fn order_profile(bytes: &[u8], mut parts: Vec<Range<usize>>) -> Vec<Range<usize>> {
    let head = ICC_HEAD.len() + 2;
    parts.retain(|part| part.len() > head);
    if parts.iter().map(Range::len).sum::<usize>() > MAX_PROFILE_BYTES {
        return Vec::new();
    }
    parts.sort_by_key(|part| bytes[part.start + ICC_HEAD.len()]);
    parts.into_iter().map(|part| part.start + head..part.end).collect()
}

/// The same picture with only what a decoder must have: no application data but a sound Adobe segment, no comments, no
/// padding. Used when libjpeg warned of something in the headers, so that a second warning can't hide behind the first.
///
/// # Errors
/// As [`walk`], on the same bytes.
pub fn stripped(bytes: &[u8]) -> Result<Vec<u8>, Rejection> {
    let mut out = Vec::with_capacity(bytes.len());
    out.extend([0xFF, SOI]);
    let mut segments = Segments::new(bytes);
    while let Some(segment) = segments.next()? {
        let payload = &bytes[segment.payload.clone()];
        let keep = match segment.marker {
            0xC0..=0xC2 | DHT | DQT | DRI | SOS => true,
            APP14 => payload.starts_with(b"Adobe") && payload.get(11).is_some_and(|transform| *transform <= 2),
            _ => false,
        };
        if keep {
            out.extend_from_slice(&bytes[segment.whole]);
            out.extend_from_slice(segment.scan);
        }
    }
    out.extend([0xFF, EOI]);
    Ok(out)
}
