//! Header checks of JPEG (ITU-T T.81): segments, scans and the end of the image. Entropy-coded data is skipped.

use super::{Limits, Rejection, check_size, read_array};
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
const EXIF_SIGNATURE: &[u8] = b"Exif\0\0";
const ICC_SIGNATURE: &[u8] = b"ICC_PROFILE\0";
/// Maximum size of an ICC profile. RGB profiles take a few hundred bytes, CMYK profiles up to a few megabytes.
const MAX_PROFILE_BYTES: usize = 4 << 20;

/// The parts of a JPEG that decoding needs.
#[derive(Clone, Debug)]
pub struct JpegLayout {
    pub width: u32,
    pub height: u32,
    /// Number of components: 1, 3 or 4.
    pub components: u8,
    /// Whether an Adobe APP14 segment is present; CMYK samples are then stored inverted.
    pub adobe: bool,
    /// Offset behind the EOI marker. Data that follows, e.g. a second image (MPF) or an archive, is ignored.
    pub end: usize,
    /// The TIFF structure of the first EXIF segment.
    pub exif: Option<Range<usize>>,
    /// The chunks of the ICC profile, in order.
    pub icc: Vec<Range<usize>>,
    /// Bytes of DCT coefficients that the decoder holds if the image has several scans; 0 otherwise.
    pub buffer_bytes: u64,
}

/// A component of the frame header (T.81, B.2.2).
#[derive(Clone, Copy)]
struct Component {
    id: u8,
    horizontal_sampling: u32,
    vertical_sampling: u32,
    /// Number of 8x8 blocks that contain image samples.
    blocks: u64,
    /// Whether a scan with the DC coefficients of this component was found.
    has_dc: bool,
}

/// The frame header, SOF0 to SOF2 (T.81, B.2.2).
struct FrameHeader {
    width: u32,
    height: u32,
    progressive: bool,
    components: Vec<Component>,
}

/// A marker segment.
struct Segment<'a> {
    marker: u8,
    /// From the 0xFF of the marker to the end of the payload.
    range: Range<usize>,
    payload: Range<usize>,
    /// The entropy-coded data that follows an SOS segment; empty for other markers.
    entropy_coded_data: &'a [u8],
}

/// Reads marker segments one after the other.
struct SegmentReader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> SegmentReader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        // Behind SOI.
        Self { bytes, offset: 2 }
    }

    /// Returns the next segment, or `None` at EOI with `offset` behind that marker.
    fn next(&mut self) -> Result<Option<Segment<'a>>, Rejection> {
        loop {
            let tail = self.bytes.get(self.offset..).ok_or(Rejection::Truncated)?;
            // Some cameras write padding between segments. Like libjpeg, skip to the next marker.
            let padding = memchr(0xFF, tail).ok_or(Rejection::Truncated)?;
            let start = self.offset + padding;
            let [_, marker] = read_array(self.bytes, start)?;
            match marker {
                0xFF => self.offset = start + 1,
                0x00 | 0x01 | 0xD0..=0xD7 => self.offset = start + 2,
                EOI => {
                    self.offset = start + 2;
                    return Ok(None);
                }
                SOI => return Err(Rejection::Corrupt),
                _ => return self.read_segment(marker, start).map(Some),
            }
        }
    }

    fn read_segment(&mut self, marker: u8, start: usize) -> Result<Segment<'a>, Rejection> {
        let length = usize::from(u16::from_be_bytes(read_array(self.bytes, start + 2)?));
        let end = start + 2 + length;
        if length < 2 {
            return Err(Rejection::Corrupt);
        }
        if end > self.bytes.len() {
            return Err(Rejection::Truncated);
        }
        self.offset = end;
        if marker == SOS {
            self.offset = find_scan_end(self.bytes, end)?;
        }
        Ok(Segment {
            marker,
            range: start..end,
            payload: start + 4..end,
            entropy_coded_data: &self.bytes[end..self.offset],
        })
    }
}

/// Returns the offset of the first marker at or after `from` that is neither a stuffed zero byte nor `RSTn`
/// (T.81, B.1.1).
fn find_scan_end(bytes: &[u8], from: usize) -> Result<usize, Rejection> {
    let mut offset = from;
    loop {
        offset += memchr(0xFF, &bytes[offset..]).ok_or(Rejection::Truncated)?;
        match bytes.get(offset + 1) {
            None => return Err(Rejection::Truncated),
            Some(0x00 | 0xD0..=0xD7) => offset += 2,
            Some(0xFF) => offset += 1,
            Some(_) => return Ok(offset),
        }
    }
}

/// Checks the structure of a JPEG from SOI to EOI.
///
/// # Errors
/// The reason why the file is rejected.
pub fn parse_layout(bytes: &[u8], limits: &Limits) -> Result<JpegLayout, Rejection> {
    let mut segments = SegmentReader::new(bytes);
    let mut frame_header: Option<FrameHeader> = None;
    let (mut adobe, mut exif, mut icc_chunks, mut scans) = (false, None, Vec::new(), 0_u32);
    while let Some(segment) = segments.next()? {
        let payload = &bytes[segment.payload.clone()];
        match segment.marker {
            0xC0..=0xC2 if frame_header.is_none() => {
                frame_header = Some(read_frame_header(segment.marker, payload, limits)?);
            }
            0xC0..=0xC2 => return Err(Rejection::Corrupt),
            0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF => {
                return Err(Rejection::Unsupported("lossless, arithmetic or hierarchical JPEG".to_owned()));
            }
            SOS => {
                scans += 1;
                if scans > limits.max_scans {
                    return Err(Rejection::TooCostly);
                }
                check_scan(
                    frame_header.as_mut().ok_or(Rejection::Corrupt)?,
                    payload,
                    segment.entropy_coded_data.len(),
                )?;
            }
            APP1 if exif.is_none() && payload.starts_with(EXIF_SIGNATURE) => {
                exif = Some(segment.payload.start + EXIF_SIGNATURE.len()..segment.payload.end);
            }
            APP2 if payload.starts_with(ICC_SIGNATURE) => icc_chunks.push(segment.payload),
            APP14 => adobe |= payload.starts_with(b"Adobe") && payload.len() >= 12,
            _ => {}
        }
    }
    let frame_header = frame_header.ok_or(Rejection::Corrupt)?;
    if frame_header.components.iter().any(|component| !component.has_dc) {
        return Err(Rejection::Truncated);
    }
    let buffer_bytes = if scans > 1 || frame_header.progressive { coefficient_bytes(&frame_header) } else { 0 };
    Ok(JpegLayout {
        width: frame_header.width,
        height: frame_header.height,
        components: u8::try_from(frame_header.components.len()).unwrap_or(u8::MAX),
        adobe,
        end: segments.offset,
        exif,
        icc: order_icc_chunks(bytes, icc_chunks),
        buffer_bytes,
    })
}

fn read_frame_header(marker: u8, payload: &[u8], limits: &Limits) -> Result<FrameHeader, Rejection> {
    let [precision, h1, h0, w1, w0, count] = read_array(payload, 0).map_err(|_| Rejection::Corrupt)?;
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
        let [id, sampling, _] = read_array(payload, 6 + 3 * index).map_err(|_| Rejection::Corrupt)?;
        let (horizontal_sampling, vertical_sampling) = (u32::from(sampling >> 4), u32::from(sampling & 15));
        if !(1..=4).contains(&horizontal_sampling) || !(1..=4).contains(&vertical_sampling) {
            return Err(Rejection::Corrupt);
        }
        components.push(Component { id, horizontal_sampling, vertical_sampling, blocks: 0, has_dc: false });
    }
    let max_horizontal = components.iter().map(|component| component.horizontal_sampling).max().unwrap_or(1);
    let max_vertical = components.iter().map(|component| component.vertical_sampling).max().unwrap_or(1);
    for component in &mut components {
        let blocks_across = (width * component.horizontal_sampling).div_ceil(max_horizontal).div_ceil(8);
        let blocks_down = (height * component.vertical_sampling).div_ceil(max_vertical).div_ceil(8);
        component.blocks = u64::from(blocks_across) * u64::from(blocks_down);
    }
    Ok(FrameHeader { width, height, progressive: marker == 0xC2, components })
}

/// Rejects a scan that is too short for its blocks. A block takes at least one bit for DC, and one more for the end
/// of block if the scan contains AC coefficients as well. Without this check a file of 1.4 kB could claim 100
/// megapixels.
fn check_scan(frame_header: &mut FrameHeader, payload: &[u8], bytes: usize) -> Result<(), Rejection> {
    let [count] = read_array(payload, 0).map_err(|_| Rejection::Corrupt)?;
    let count = usize::from(count);
    let [first, _, approximation] = read_array(payload, 1 + 2 * count).map_err(|_| Rejection::Corrupt)?;
    let is_first_dc = !frame_header.progressive || (first == 0 && approximation >> 4 == 0);
    if !is_first_dc {
        return Ok(());
    }
    let mut blocks = 0;
    for index in 0..count {
        let component = frame_header.components.iter_mut().find(|component| component.id == payload[1 + 2 * index]);
        let component = component.ok_or(Rejection::Corrupt)?;
        component.has_dc = true;
        blocks += component.blocks;
    }
    let bits_per_block = if frame_header.progressive { 1 } else { 2 };
    if blocks * bits_per_block > 8 * bytes as u64 {
        return Err(Rejection::Truncated);
    }
    Ok(())
}

/// Returns the bytes of all coefficients: 64 of two bytes per block, plus 1/32 for padding to whole MCUs.
fn coefficient_bytes(frame_header: &FrameHeader) -> u64 {
    frame_header.components.iter().map(|component| component.blocks * 128 * 33 / 32).sum()
}

/// Returns the ICC chunks without their headers, sorted by sequence number (ICC.1, annex B). Returns none if the
/// profile exceeds [`MAX_PROFILE_BYTES`].
fn order_icc_chunks(bytes: &[u8], mut chunks: Vec<Range<usize>>) -> Vec<Range<usize>> {
    let header_length = ICC_SIGNATURE.len() + 2;
    chunks.retain(|chunk| chunk.len() > header_length);
    if chunks.iter().map(Range::len).sum::<usize>() > MAX_PROFILE_BYTES {
        return Vec::new();
    }
    chunks.sort_by_key(|chunk| bytes[chunk.start + ICC_SIGNATURE.len()]);
    chunks.into_iter().map(|chunk| chunk.start + header_length..chunk.end).collect()
}

/// Returns the image reduced to what decoding requires: no application segments except a valid Adobe APP14, no
/// comments, no padding. libjpeg reports only its first warning; without these segments a warning about headers
/// cannot hide one about image data.
///
/// # Errors
/// As [`parse_layout`] on the same bytes.
pub fn strip_metadata(bytes: &[u8]) -> Result<Vec<u8>, Rejection> {
    let mut out = Vec::with_capacity(bytes.len());
    out.extend([0xFF, SOI]);
    let mut segments = SegmentReader::new(bytes);
    while let Some(segment) = segments.next()? {
        let payload = &bytes[segment.payload.clone()];
        let keep = match segment.marker {
            0xC0..=0xC2 | DHT | DQT | DRI | SOS => true,
            APP14 => payload.starts_with(b"Adobe") && payload.get(11).is_some_and(|transform| *transform <= 2),
            _ => false,
        };
        if keep {
            out.extend_from_slice(&bytes[segment.range]);
            out.extend_from_slice(segment.entropy_coded_data);
        }
    }
    out.extend([0xFF, EOI]);
    Ok(out)
}
