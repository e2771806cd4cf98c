//! Rarer kinds of files: unusual colour resolutions, YCCK, interlaced PNG, and orientation outside JPEG.

use super::make::*;
use crate::imaging::MediaType::{self, Jpeg, Png, Webp};
use crate::imaging::raster::Raster;

/// EXIF that says: turn this clockwise by a quarter.
const QUARTER_TURN: &[u8] = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";

fn large(bytes: &[u8], media_type: MediaType) -> Raster {
    let developed = run(bytes, media_type).expect("developed");
    pixels(&developed.renditions[2].bytes)
}

/// The same file with one byte of its first segment of this kind changed.
fn patched(jpeg: &[u8], marker: u8, at: usize, value: u8) -> Vec<u8> {
    let segment = memchr::memmem::find(jpeg, &[0xFF, marker]).expect("a segment");
    let mut bytes = jpeg.to_vec();
    bytes[segment + at] = value;
    bytes
}

#[test]
fn colours_of_a_quarter_resolution() {
    const BANDS: [[u8; 3]; 3] = [[230, 120, 40], [60, 180, 75], [40, 60, 200]];
    let picture = jpeg(&paint(640, 480, |_, y| BANDS[(y / 160) as usize]));
    // 4:2:0, 4:1:1 and 4:4:1 all have six blocks in a unit, in 16x16, 32x8 and 8x32 pixels. The blocks of bands as high as
    // whole units mean the same in all three, so only the frame header has to be changed.
    for sampling in [0x22, 0x41, 0x14] {
        let shown = large(&patched(&picture, 0xC0, 11, sampling), Jpeg);
        for (down, band) in [0.16, 0.5, 0.84].into_iter().zip(BANDS) {
            assert_near(colour_at(&shown, 0.5, down), band.map(i32::from), 4);
        }
    }
}

#[test]
fn ycck_is_turned_to_ink_first() {
    let cmyk = fixture("cmyk.jpg");
    let adobe = memchr::memmem::find(&cmyk, b"Adobe").expect("an Adobe segment");
    let with = |transform: u8| {
        let mut bytes = cmyk.clone();
        bytes[adobe + 11] = transform;
        bytes
    };
    // Read as YCCK, the picture's first three inks are brightness and colours: what is seen must follow from them.
    let raw = |bytes: &[u8]| {
        let mut decompressor = crate::imaging::turbo::Decompressor::new().expect("decompressor");
        let opened = decompressor.open(bytes, &crate::imaging::Limits::default()).expect("a sound header");
        opened.pixels(1).expect("a sound picture")
    };
    let (inks, shown) = (raw(&with(0)), raw(&with(2)));
    for (stored, seen) in inks.data.as_chunks::<4>().0.iter().zip(shown.data.as_chunks::<4>().0).step_by(997) {
        let [y, blue, red] = [stored[0], stored[1], stored[2]].map(f64::from);
        let (blue, red) = (blue - 128.0, red - 128.0);
        let light = [y + 1.402 * red, y - 0.344_14 * blue - 0.714_14 * red, y + 1.772 * blue];
        for (light, ink) in light.into_iter().zip(seen) {
            assert!((255.0 - light.clamp(0.0, 255.0) - f64::from(*ink)).abs() <= 1.5, "{stored:?} became {seen:?}");
        }
        assert_eq!(stored[3], seen[3]);
    }
    assert!(run(&with(2), Jpeg).is_ok());
}

/// A chunk of a PNG with its checksum.
fn chunk(name: [u8; 4], body: &[u8]) -> Vec<u8> {
    let named = [name.as_slice(), body].concat();
    let shifted = |sum: u32| if sum & 1 == 1 { (sum >> 1) ^ 0xEDB8_8320 } else { sum >> 1 };
    let sum = !named.iter().fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), |sum, _| shifted(sum)));
    let length = u32::try_from(body.len()).expect("a short chunk").to_be_bytes();
    [&length, named.as_slice(), &sum.to_be_bytes()].concat()
}

/// Zlib without compression.
fn stored(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0x78, 0x01];
    let blocks = data.chunks(0xFFFF);
    let last = blocks.len() - 1;
    for (index, block) in blocks.enumerate() {
        let length = u16::try_from(block.len()).expect("a block of 16 bits");
        out.push(u8::from(index == last));
        out.extend([length.to_le_bytes(), (!length).to_le_bytes()].concat());
        out.extend(block);
    }
    let sums = data.iter().fold((1_u32, 0_u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    out.extend((sums.1 << 16 | sums.0).to_be_bytes());
    out
}

#[test]
fn interlaced_png() {
    // Where each of the seven passes begins, and its steps.
    const PASSES: [[u32; 4]; 7] =
        [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]];
    let (width, height) = (203, 101);
    let picture = paint(width, height, |x, y| [low(x), low(2 * y), 90]);
    let mut samples = Vec::new();
    for [left, top, across, down] in PASSES {
        for y in (top..height).step_by(down as usize) {
            samples.push(0);
            for x in (left..width).step_by(across as usize) {
                samples.extend(&picture.data[((y * width + x) * 3) as usize..][..3]);
            }
        }
    }
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 1]].concat();
    let parts = [chunk(*b"IHDR", &header), chunk(*b"IDAT", &stored(&samples)), chunk(*b"IEND", &[])].concat();
    let interlaced = [b"\x89PNG\r\n\x1A\n".as_slice(), &parts].concat();
    let plain = png(width, height, png::ColorType::Rgb, png::BitDepth::Eight, &picture.data);
    assert_eq!(run(&interlaced, Png).expect("interlaced").renditions, run(&plain, Png).expect("plain").renditions);
    let cut = &interlaced[..interlaced.len() - 60];
    assert_eq!(refused(cut, Png), crate::imaging::Rejection::Truncated);
}

/// Asserts that the second file shows the first one turned clockwise.
#[track_caller]
fn assert_turned(plain: &[u8], turned: &[u8], media_type: MediaType) {
    let (plain, turned) = (large(plain, media_type), large(turned, media_type));
    assert_eq!((turned.width, turned.height), (plain.height, plain.width));
    for (across, down) in [(0.1, 0.2), (0.9, 0.2), (0.5, 0.5), (0.2, 0.9), (0.8, 0.7)] {
        assert_near(colour_at(&turned, across, down), colour_at(&plain, down, 1.0 - across), 12);
    }
}

#[test]
fn orientation_of_a_png() {
    let picture = paint(300, 200, |x, y| [low(x / 2), low(y), 128]);
    let plain = png(300, 200, png::ColorType::Rgb, png::BitDepth::Eight, &picture.data);
    let (head, rest) = plain.split_at(33);
    assert_turned(&plain, &[head, &chunk(*b"eXIf", QUARTER_TURN), rest].concat(), Png);
}

#[test]
fn orientation_of_a_webp() {
    let plain = fixture("photo.webp");
    let developed = run(&plain, Webp).expect("developed");
    let picture = memchr::memmem::find(&plain, b"VP8 ").expect("a lossy picture");
    let length = u32::from_le_bytes(*plain[picture + 4..].first_chunk().expect("a length")) as usize;
    let edge = |edge: u32| (edge - 1).to_le_bytes()[..3].to_vec();
    let canvas = [vec![8, 0, 0, 0], edge(developed.width), edge(developed.height)].concat();
    let exif_length = u32::try_from(QUARTER_TURN.len()).expect("short").to_le_bytes();
    let body = [
        b"WEBPVP8X\x0A\0\0\0",
        canvas.as_slice(),
        &plain[picture..picture + 8 + length + (length & 1)],
        b"EXIF",
        &exif_length,
        QUARTER_TURN,
    ]
    .concat();
    let size = u32::try_from(body.len()).expect("short").to_le_bytes();
    assert_turned(&plain, &[b"RIFF", size.as_slice(), &body].concat(), Webp);
}
