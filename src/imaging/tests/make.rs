//! Pictures made in code, and looking at results.

use crate::imaging::raster::{Raster, Yuv};
use crate::imaging::turbo::{Compressor, Decompressor};
use crate::imaging::{Developed, Failure, Limits, MediaType, Recipe, Rejection, develop};
use std::path::Path;

/// A file of `tests/fixtures`.
pub fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Develops with the defaults.
pub fn run(bytes: &[u8], media_type: MediaType) -> Result<Developed, Failure> {
    develop(bytes, media_type, &Recipe::default(), &Limits::default())
}

/// Develops what must be refused.
pub fn refused(bytes: &[u8], media_type: MediaType) -> Rejection {
    match run(bytes, media_type) {
        Err(Failure::Rejected(rejection)) => rejection,
        other => panic!("not rejected: {:?}", other.map(|developed| (developed.width, developed.height))),
    }
}

/// An RGB picture from a function of its coordinates.
pub fn paint(width: u32, height: u32, colour: impl Fn(u32, u32) -> [u8; 3]) -> Raster {
    let colour = &colour;
    let data = (0..height).flat_map(|y| (0..width).flat_map(move |x| colour(x, y))).collect();
    Raster::new(data, width, height, 3)
}

/// A number's lowest byte, for painting.
pub fn low(number: u32) -> u8 {
    number.to_le_bytes()[0]
}

/// A JPEG of quality 95, 4:2:0.
pub fn jpeg(picture: &Raster) -> Vec<u8> {
    let mut compressor = Compressor::new().expect("compressor");
    let planes = compressor.planes(picture).expect("planes");
    compressor.jpeg(&planes, 95).expect("jpeg")
}

/// A grey JPEG of one level.
pub fn grey_jpeg(width: u32, height: u32, level: u8) -> Vec<u8> {
    let luma = Raster::new(vec![level; (width * height) as usize], width, height, 1);
    Compressor::new().expect("compressor").jpeg(&Yuv { luma, chroma: None }, 95).expect("jpeg")
}

/// A JPEG with one more segment after its first marker.
pub fn with_segment(jpeg: &[u8], marker: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len() + 2).expect("a short payload").to_be_bytes();
    [&jpeg[..2], &[0xFF, marker], &length, payload, &jpeg[2..]].concat()
}

/// A JPEG with an EXIF orientation.
pub fn with_orientation(jpeg: &[u8], value: u8) -> Vec<u8> {
    let tiff =
        [b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".as_slice(), &[value, 0, 0, 0, 0, 0, 0]].concat();
    with_segment(jpeg, 0xE1, &tiff)
}

/// A JPEG with a colour profile.
pub fn with_profile(jpeg: &[u8], profile: &[u8]) -> Vec<u8> {
    with_segment(jpeg, 0xE2, &[b"ICC_PROFILE\0\x01\x01", profile].concat())
}

/// An 8- or 16-bit PNG in any colour type, from samples as stored.
pub fn png(width: u32, height: u32, colour: png::ColorType, depth: png::BitDepth, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, width, height);
    encoder.set_color(colour);
    encoder.set_depth(depth);
    encoder.write_header().and_then(|mut writer| writer.write_image_data(data)).expect("png");
    out
}

/// Decodes a rendition to RGB.
pub fn pixels(jpeg: &[u8]) -> Raster {
    let mut decompressor = Decompressor::new().expect("decompressor");
    let opened = decompressor.open(jpeg, &Limits::default()).expect("a sound header");
    opened.pixels(1).expect("a sound rendition")
}

/// The mean colour of the square of 9x9 pixels around a point given as parts of width and height.
pub fn colour_at(picture: &Raster, across: f64, down: f64) -> [i32; 3] {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of an edge")]
    let place = |part: f64, edge: u32| ((part * f64::from(edge)) as usize).clamp(4, edge as usize - 5);
    let (x, y) = (place(across, picture.width), place(down, picture.height));
    let mut sums = [0; 3];
    for row in y - 4..=y + 4 {
        for pixel in picture.data[(row * picture.width as usize + x - 4) * 3..][..27].chunks_exact(3) {
            sums.iter_mut().zip(pixel).for_each(|(sum, sample)| *sum += i32::from(*sample));
        }
    }
    sums.map(|sum| (sum + 40) / 81)
}

/// Asserts that two colours differ by no more than so much in each channel.
#[track_caller]
pub fn assert_near(real: [i32; 3], wanted: [i32; 3], tolerance: i32) {
    let near = real.iter().zip(wanted).all(|(a, b)| (a - b).abs() <= tolerance);
    assert!(near, "{real:?} is not within {tolerance} of {wanted:?}");
}
