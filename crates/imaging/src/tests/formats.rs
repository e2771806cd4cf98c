//! Less common encodings: chroma subsampling other than 4:2:0, YCCK, interlaced PNG, and EXIF orientation in PNG and
//! WebP.

use super::helpers::*;
use crate::MediaType::{self, Jpeg, Png, Webp};
use crate::raster::Raster;

/// EXIF orientation 6: rotate 90 degrees clockwise.
const EXIF_ROTATE_90: &[u8] = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";

fn render_large(bytes: &[u8], media_type: MediaType) -> Raster {
    let rendered = render_default(bytes, media_type).expect("rendered");
    decode_rgb(&rendered.renditions[2].bytes)
}

/// Sets one byte of the first segment with this marker.
fn patch_segment(jpeg: &[u8], marker: u8, offset: usize, value: u8) -> Vec<u8> {
    let segment = memchr::memmem::find(jpeg, &[0xFF, marker]).expect("a segment");
    let mut bytes = jpeg.to_vec();
    bytes[segment + offset] = value;
    bytes
}

#[test]
fn decodes_quarter_resolution_chroma() {
    const BANDS: [[u8; 3]; 3] = [[230, 120, 40], [60, 180, 75], [40, 60, 200]];
    let image = encode_jpeg(&rgb_image(640, 480, |_, y| BANDS[(y / 160) as usize]));
    // In 4:2:0, 4:1:1 and 4:4:1 an MCU has six blocks and covers 16x16, 32x8 and 8x32 pixels. The image has uniform
    // bands of whole MCUs, so its blocks are valid for all three and only the frame header has to be changed.
    for sampling in [0x22, 0x41, 0x14] {
        let rendered = render_large(&patch_segment(&image, 0xC0, 11, sampling), Jpeg);
        for (y, band) in [0.16, 0.5, 0.84].into_iter().zip(BANDS) {
            assert_near(mean_colour_at(&rendered, 0.5, y), band.map(i32::from), 4);
        }
    }
}

#[test]
fn converts_ycck_to_cmyk() {
    let cmyk = fixture("cmyk.jpg");
    let adobe = memchr::memmem::find(&cmyk, b"Adobe").expect("an Adobe segment");
    let with_transform = |transform: u8| {
        let mut bytes = cmyk.clone();
        bytes[adobe + 11] = transform;
        bytes
    };
    // The first three components, read as YCCK, are luma and chroma. The expected ink amounts are computed from them.
    let decode_raw = |bytes: &[u8]| {
        let mut decompressor = crate::turbo::Decompressor::new().expect("decompressor");
        let reader = decompressor.open(bytes, &crate::Limits::default()).expect("a valid header");
        reader.decode_pixels(1).expect("a valid image")
    };
    let (as_cmyk, as_ycck) = (decode_raw(&with_transform(0)), decode_raw(&with_transform(2)));
    for (stored, decoded) in as_cmyk.data.as_chunks::<4>().0.iter().zip(as_ycck.data.as_chunks::<4>().0).step_by(997) {
        let [y, cb, cr] = [stored[0], stored[1], stored[2]].map(f64::from);
        let (cb, cr) = (cb - 128.0, cr - 128.0);
        let rgb = [y + 1.402 * cr, y - 0.344_14 * cb - 0.714_14 * cr, y + 1.772 * cb];
        for (level, ink) in rgb.into_iter().zip(decoded) {
            assert!((255.0 - level.clamp(0.0, 255.0) - f64::from(*ink)).abs() <= 1.5, "{stored:?} became {decoded:?}");
        }
        assert_eq!(stored[3], decoded[3]);
    }
    assert!(render_default(&with_transform(2), Jpeg).is_ok());
}

/// Encodes a PNG chunk with its CRC-32.
fn png_chunk(name: [u8; 4], body: &[u8]) -> Vec<u8> {
    let typed = [name.as_slice(), body].concat();
    let shift = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
    let crc = !typed.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| shift(crc)));
    let length = u32::try_from(body.len()).expect("below 4 GiB").to_be_bytes();
    [&length, typed.as_slice(), &crc.to_be_bytes()].concat()
}

/// Encodes a zlib stream of stored blocks.
fn zlib_stored(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0x78, 0x01];
    let blocks = data.chunks(0xFFFF);
    let last = blocks.len() - 1;
    for (index, block) in blocks.enumerate() {
        let length = u16::try_from(block.len()).expect("a block of 16 bits");
        out.push(u8::from(index == last));
        out.extend([length.to_le_bytes(), (!length).to_le_bytes()].concat());
        out.extend(block);
    }
    let adler32 = data.iter().fold((1_u32, 0_u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    out.extend((adler32.1 << 16 | adler32.0).to_be_bytes());
    out
}

#[test]
fn decodes_interlaced_png() {
    // Start and step of the seven Adam7 passes: left, top, horizontal, vertical.
    const PASSES: [[u32; 4]; 7] =
        [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]];
    let (width, height) = (203, 101);
    let image = rgb_image(width, height, |x, y| [low_byte(x), low_byte(2 * y), 90]);
    let mut samples = Vec::new();
    for [left, top, step_x, step_y] in PASSES {
        for y in (top..height).step_by(step_y as usize) {
            samples.push(0);
            for x in (left..width).step_by(step_x as usize) {
                samples.extend(&image.data[((y * width + x) * 3) as usize..][..3]);
            }
        }
    }
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 1]].concat();
    let chunks =
        [png_chunk(*b"IHDR", &header), png_chunk(*b"IDAT", &zlib_stored(&samples)), png_chunk(*b"IEND", &[])].concat();
    let interlaced = [b"\x89PNG\r\n\x1A\n".as_slice(), &chunks].concat();
    let plain = encode_png(width, height, png::ColorType::Rgb, png::BitDepth::Eight, &image.data);
    assert_eq!(
        render_default(&interlaced, Png).expect("interlaced").renditions,
        render_default(&plain, Png).expect("plain").renditions
    );
    let truncated = &interlaced[..interlaced.len() - 60];
    assert_eq!(rejection_of(truncated, Png), crate::Rejection::Truncated);
}

/// Asserts that the second file shows the first one rotated by 90 degrees clockwise.
#[track_caller]
fn assert_rotated_90(plain: &[u8], rotated: &[u8], media_type: MediaType) {
    let (plain, rotated) = (render_large(plain, media_type), render_large(rotated, media_type));
    assert_eq!((rotated.width, rotated.height), (plain.height, plain.width));
    for (x, y) in [(0.1, 0.2), (0.9, 0.2), (0.5, 0.5), (0.2, 0.9), (0.8, 0.7)] {
        assert_near(mean_colour_at(&rotated, x, y), mean_colour_at(&plain, y, 1.0 - x), 12);
    }
}

#[test]
fn applies_png_orientation() {
    let image = rgb_image(300, 200, |x, y| [low_byte(x / 2), low_byte(y), 128]);
    let plain = encode_png(300, 200, png::ColorType::Rgb, png::BitDepth::Eight, &image.data);
    let (head, rest) = plain.split_at(33);
    assert_rotated_90(&plain, &[head, &png_chunk(*b"eXIf", EXIF_ROTATE_90), rest].concat(), Png);
}

#[test]
fn applies_webp_orientation() {
    let plain = fixture("photo.webp");
    let rendered = render_default(&plain, Webp).expect("rendered");
    let vp8 = memchr::memmem::find(&plain, b"VP8 ").expect("a VP8 chunk");
    let length = u32::from_le_bytes(*plain[vp8 + 4..].first_chunk().expect("a length")) as usize;
    let edge = |edge: u32| (edge - 1).to_le_bytes()[..3].to_vec();
    let canvas = [vec![8, 0, 0, 0], edge(rendered.width), edge(rendered.height)].concat();
    let exif_length = u32::try_from(EXIF_ROTATE_90.len()).expect("below 4 GiB").to_le_bytes();
    let body = [
        b"WEBPVP8X\x0A\0\0\0",
        canvas.as_slice(),
        &plain[vp8..vp8 + 8 + length + (length & 1)],
        b"EXIF",
        &exif_length,
        EXIF_ROTATE_90,
    ]
    .concat();
    let size = u32::try_from(body.len()).expect("below 4 GiB").to_le_bytes();
    assert_rotated_90(&plain, &[b"RIFF", size.as_slice(), &body].concat(), Webp);
}
