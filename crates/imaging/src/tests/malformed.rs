//! Rejection of malformed, truncated and malicious files, and robustness against random bytes.

use super::helpers::*;
use crate::MediaType::{self, Gif, Jpeg, Png, Webp};
use crate::{Limits, Rejection, UnsupportedFormat, probe};
use proptest::prelude::*;
use std::time::{Duration, Instant};

const FIXTURES: [(&str, MediaType); 9] = [
    ("orientation-6.jpg", Jpeg),
    ("progressive.jpg", Jpeg),
    ("grey.jpg", Jpeg),
    ("cmyk.jpg", Jpeg),
    ("sixteen-bit.png", Png),
    ("alpha.png", Png),
    ("photo.webp", Webp),
    ("animated.webp", Webp),
    ("animated.gif", Gif),
];

#[test]
fn names_unsupported_formats() {
    assert_eq!(rejection_of(b"", Jpeg), Rejection::Empty);
    assert_eq!(rejection_of(b"just some words", Jpeg), Rejection::Unknown);
    assert_eq!(rejection_of(b"%PDF-1.7 named .jpg", Jpeg), Rejection::UnsupportedFormat(UnsupportedFormat::Pdf));
    assert_eq!(rejection_of(&fixture("head.heic"), Jpeg), Rejection::UnsupportedFormat(UnsupportedFormat::Heic));
    assert_eq!(rejection_of(&fixture("alpha.png"), Jpeg), Rejection::TypeMismatch { declared: Jpeg, real: Png });
}

#[test]
fn rejects_truncated_files() {
    for (name, media_type) in FIXTURES {
        let original = fixture(name);
        let last_bytes = original.len() - 40..original.len();
        for length in (16..original.len()).step_by(original.len() / 60).chain(last_bytes) {
            let rejection = rejection_of(&original[..length], media_type);
            assert_eq!(rejection, Rejection::Truncated, "{name} truncated to {length} of {}", original.len());
        }
    }
}

#[test]
fn rejects_truncated_jpeg_with_eoi() {
    for name in ["orientation-6.jpg", "grey.jpg", "cmyk.jpg"] {
        let original = fixture(name);
        for percent in [55, 70, 90, 97] {
            let patched = [&original[..original.len() * percent / 100], &[0xFF, 0xD9]].concat();
            let rejection = rejection_of(&patched, Jpeg);
            assert!(
                matches!(rejection, Rejection::Truncated | Rejection::Corrupt),
                "{name} at {percent}%: {rejection:?}"
            );
        }
    }
}

#[test]
fn accepts_camera_quirks() {
    let original = fixture("orientation-1.jpg");
    let expected = render_default(&original, Jpeg).expect("a valid image").renditions;
    let padded_end = [&original[..original.len() - 2], &[0; 64], &[0xFF, 0xD9]].concat();
    // SOI and the first segment have 20 bytes; the padding is inserted behind them.
    let padded_header = [&original[..20], &[0, 0, 7], &original[20..]].concat();
    let odd_jfif = with_segment(&original, 0xE0, b"JFIF\0\x09\x09\0\0\x01\0\x01\0\0");
    let padded_both = [&padded_header[..padded_header.len() - 2], &[0; 64], &[0xFF, 0xD9]].concat();
    for (name, bytes) in [("end", padded_end), ("head", padded_header), ("jfif", odd_jfif), ("both", padded_both)] {
        let rendered = render_default(&bytes, Jpeg).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(rendered.renditions, expected, "{name}");
    }
}

#[test]
fn header_warning_hides_no_damage() {
    let original = fixture("orientation-1.jpg");
    let truncated = [&original[..20], &[0, 0, 7], &original[20..original.len() * 9 / 10], &[0xFF, 0xD9]].concat();
    assert_eq!(rejection_of(&truncated, Jpeg), Rejection::Corrupt);
}

/// Returns a fixture with width and height in the frame header overwritten.
fn with_claimed_size(name: &str, width: u16, height: u16) -> Vec<u8> {
    let mut bytes = fixture(name);
    let frame = (0..bytes.len())
        .find(|&offset| bytes[offset] == 0xFF && matches!(bytes[offset + 1], 0xC0 | 0xC2))
        .expect("a frame header");
    bytes[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
    bytes[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
    bytes
}

#[track_caller]
fn probe_rejection(bytes: &[u8], media_type: MediaType) -> Rejection {
    let start = Instant::now();
    let rejection = probe(bytes, media_type, &Limits::default()).expect_err("the file must be rejected");
    assert!(start.elapsed() < Duration::from_millis(100), "took {:?}", start.elapsed());
    rejection
}

#[test]
fn rejects_claimed_sizes_before_decode() {
    let too_many = Rejection::TooManyPixels { width: 64_250, height: 64_250 };
    assert_eq!(probe_rejection(&with_claimed_size("progressive.jpg", 64_250, 64_250), Jpeg), too_many);
    assert_eq!(probe_rejection(&with_claimed_size("progressive.jpg", 9_999, 9_999), Jpeg), Rejection::Truncated);
    assert_eq!(probe_rejection(&with_claimed_size("orientation-1.jpg", 9_999, 9_999), Jpeg), Rejection::Truncated);
    assert_eq!(probe_rejection(&with_claimed_size("orientation-1.jpg", 0, 9_999), Jpeg), Rejection::Corrupt);

    let mut png = fixture("alpha.png");
    png[16..24].copy_from_slice(&[0, 0, 0x27, 0x0F, 0, 0, 0x27, 0x0F]);
    assert_eq!(probe_rejection(&png, Png), Rejection::Truncated);
    png[16..24].fill(0x7F);
    assert_eq!(probe_rejection(&png, Png).code(), "too_many_pixels");

    let mut gif = fixture("animated.gif");
    gif[6..10].fill(0xFF);
    assert_eq!(probe_rejection(&gif, Gif).code(), "too_many_pixels");
    let mut webp = fixture("animated.webp");
    webp[24..30].fill(0xFF);
    assert_eq!(probe_rejection(&webp, Webp).code(), "too_many_pixels");
}

#[test]
fn rejects_too_many_scans_before_decode() {
    let original = fixture("progressive.jpg");
    let last_scan = memchr::memmem::rfind(&original, &[0xFF, 0xDA]).expect("a scan");
    let scan = original[last_scan..original.len() - 2].repeat(500);
    let bomb = [&original[..original.len() - 2], &scan, &[0xFF, 0xD9]].concat();
    assert_eq!(probe_rejection(&bomb, Jpeg), Rejection::TooCostly);
}

#[test]
fn limits_png_profile_decompression() {
    // An ICC profile of 60 MB of zeros, compressed to 60 kB.
    let zeros = vec![0; 60 << 20];
    let mut bytes = Vec::new();
    let mut info = png::Info::with_size(64, 64);
    info.color_type = png::ColorType::Rgb;
    info.icc_profile = Some(zeros.into());
    let encoder = png::Encoder::with_info(&mut bytes, info).expect("encoder");
    let mut writer = encoder.write_header().expect("header");
    writer.write_image_data(&[50; 64 * 64 * 3]).expect("data");
    drop(writer);
    let rendered = render_default(&bytes, Png).expect("the profile is ignored");
    assert_near(mean_colour_at(&decode_rgb(&rendered.renditions[0].bytes), 0.5, 0.5), [50; 3], 3);
}

#[test]
fn rejects_unsupported_jpeg_encodings() {
    let mut bytes = fixture("orientation-1.jpg");
    let frame = memchr::memmem::find(&bytes, &[0xFF, 0xC0]).expect("a frame header");
    bytes[frame + 4] = 12;
    assert_eq!(rejection_of(&bytes, Jpeg).code(), "encoding_unsupported");
    bytes[frame + 1] = 0xC9;
    assert_eq!(rejection_of(&bytes, Jpeg).code(), "encoding_unsupported");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// A file with random changes is rendered or rejected; it never panics or causes an internal error.
    #[test]
    fn mutated_files_never_panic(
        index in 0..FIXTURES.len(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        in_header in any::<bool>(),
    ) {
        let (name, media_type) = FIXTURES[index];
        let mut bytes = fixture(name);
        let end = if in_header { bytes.len().min(700) } else { bytes.len() };
        for (offset, value) in changes {
            bytes[offset.index(end)] = value;
        }
        let result = render_default(&bytes, media_type);
        prop_assert!(!matches!(result, Err(crate::Error::Internal(_))), "{result:?}");
    }

    /// Random bytes behind the beginning of a valid file never cause a panic.
    #[test]
    fn random_bytes_never_panic(
        index in 0..FIXTURES.len(),
        header_length in 2_usize..64,
        tail in proptest::collection::vec(any::<u8>(), 0..2000),
    ) {
        let (name, media_type) = FIXTURES[index];
        let bytes = [&fixture(name)[..header_length], &tail].concat();
        let _ = render_default(&bytes, media_type);
    }
}
