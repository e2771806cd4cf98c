//! Generated images, fixtures and inspection of results.

use crate::raster::{Raster, Yuv};
use crate::turbo::{Compressor, Decompressor};
use crate::{Error, Limits, MediaType, Recipe, Rejection, Rendered, render};
use std::path::Path;

/// Reads a file of `tests/fixtures`.
pub fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Renders with default recipe and limits.
pub fn render_default(bytes: &[u8], media_type: MediaType) -> Result<Rendered, Error> {
    render(bytes, media_type, &Recipe::default(), &Limits::default())
}

/// Returns the rejection of a file; panics if the file is rendered.
pub fn rejection_of(bytes: &[u8], media_type: MediaType) -> Rejection {
    match render_default(bytes, media_type) {
        Err(Error::Rejected(rejection)) => rejection,
        other => panic!("not rejected: {:?}", other.map(|rendered| (rendered.width, rendered.height))),
    }
}

/// Creates an RGB image from a function of the coordinates.
pub fn rgb_image(width: u32, height: u32, colour: impl Fn(u32, u32) -> [u8; 3]) -> Raster {
    let colour = &colour;
    let data = (0..height).flat_map(|y| (0..width).flat_map(move |x| colour(x, y))).collect();
    Raster::new(data, width, height, 3)
}

/// Returns the lowest byte of a number.
pub fn low_byte(number: u32) -> u8 {
    number.to_le_bytes()[0]
}

/// Encodes a JPEG of quality 95, 4:2:0.
pub fn encode_jpeg(image: &Raster) -> Vec<u8> {
    let mut compressor = Compressor::new().expect("compressor");
    let planes = compressor.convert_to_planes(image).expect("planes");
    compressor.encode_jpeg(&planes, 95).expect("jpeg")
}

/// Encodes a grey JPEG of one level.
pub fn grey_jpeg(width: u32, height: u32, level: u8) -> Vec<u8> {
    let luma = Raster::new(vec![level; (width * height) as usize], width, height, 1);
    Compressor::new().expect("compressor").encode_jpeg(&Yuv { luma, chroma: None }, 95).expect("jpeg")
}

/// Inserts a marker segment behind SOI.
pub fn with_segment(jpeg: &[u8], marker: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len() + 2).expect("the payload fits into one segment").to_be_bytes();
    [&jpeg[..2], &[0xFF, marker], &length, payload, &jpeg[2..]].concat()
}

/// Inserts an EXIF segment with an orientation.
pub fn with_orientation(jpeg: &[u8], value: u8) -> Vec<u8> {
    let tiff =
        [b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".as_slice(), &[value, 0, 0, 0, 0, 0, 0]].concat();
    with_segment(jpeg, 0xE1, &tiff)
}

/// Inserts an ICC profile.
pub fn with_profile(jpeg: &[u8], profile: &[u8]) -> Vec<u8> {
    with_segment(jpeg, 0xE2, &[b"ICC_PROFILE\0\x01\x01", profile].concat())
}

/// Encodes a PNG of any colour type and depth from samples as stored.
pub fn encode_png(width: u32, height: u32, colour: png::ColorType, depth: png::BitDepth, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, width, height);
    encoder.set_color(colour);
    encoder.set_depth(depth);
    encoder.write_header().and_then(|mut writer| writer.write_image_data(data)).expect("png");
    out
}

/// Decodes a JPEG rendition to RGB.
pub fn decode_rgb(jpeg: &[u8]) -> Raster {
    let mut decompressor = Decompressor::new().expect("decompressor");
    let reader = decompressor.open(jpeg, &Limits::default()).expect("a valid header");
    reader.decode_pixels(1).expect("a valid rendition")
}

/// Returns the mean colour of the 9x9 pixels around a point, given as fractions of width and height.
pub fn mean_colour_at(image: &Raster, x_fraction: f64, y_fraction: f64) -> [i32; 3] {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a fraction of an edge")]
    let position = |fraction: f64, edge: u32| ((fraction * f64::from(edge)) as usize).clamp(4, edge as usize - 5);
    let (x, y) = (position(x_fraction, image.width), position(y_fraction, image.height));
    let mut sums = [0; 3];
    for row in y - 4..=y + 4 {
        for pixel in image.data[(row * image.width as usize + x - 4) * 3..][..27].chunks_exact(3) {
            sums.iter_mut().zip(pixel).for_each(|(sum, sample)| *sum += i32::from(*sample));
        }
    }
    sums.map(|sum| (sum + 40) / 81)
}

/// Asserts that two colours differ by at most `tolerance` per channel.
#[track_caller]
pub fn assert_near(actual: [i32; 3], expected: [i32; 3], tolerance: i32) {
    let is_near = actual.iter().zip(expected).all(|(a, b)| (a - b).abs() <= tolerance);
    assert!(is_near, "{actual:?} is not within {tolerance} of {expected:?}");
}
