//! Files that must be refused, quickly and for the right reason, and rubbish that must not bring the house down.

use super::make::*;
use crate::imaging::MediaType::{self, Gif, Jpeg, Png, Webp};
use crate::imaging::{Foreign, Limits, Rejection, probe};
use proptest::prelude::*;
use std::time::{Duration, Instant};

const ALL: [(&str, MediaType); 9] = [
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
fn what_is_no_photo_is_named() {
    assert_eq!(refused(b"", Jpeg), Rejection::Empty);
    assert_eq!(refused(b"just some words", Jpeg), Rejection::Unknown);
    assert_eq!(refused(b"%PDF-1.7 named .jpg", Jpeg), Rejection::Foreign(Foreign::Pdf));
    assert_eq!(refused(&fixture("head.heic"), Jpeg), Rejection::Foreign(Foreign::Heic));
    assert_eq!(refused(&fixture("alpha.png"), Jpeg), Rejection::TypeMismatch { declared: Jpeg, real: Png });
}

#[test]
fn a_picture_cut_anywhere_is_refused() {
    for (name, media_type) in ALL {
        let whole = fixture(name);
        let near_the_end = whole.len() - 40..whole.len();
        for length in (16..whole.len()).step_by(whole.len() / 60).chain(near_the_end) {
            let rejection = refused(&whole[..length], media_type);
            assert_eq!(rejection, Rejection::Truncated, "{name} cut to {length} of {}", whole.len());
        }
    }
}

#[test]
fn a_cut_picture_with_a_patched_end_is_refused() {
    for name in ["orientation-6.jpg", "grey.jpg", "cmyk.jpg"] {
        let whole = fixture(name);
        for part in [55, 70, 90, 97] {
            let patched = [&whole[..whole.len() * part / 100], &[0xFF, 0xD9]].concat();
            let rejection = refused(&patched, Jpeg);
            assert!(matches!(rejection, Rejection::Truncated | Rejection::Corrupt), "{name} at {part}%: {rejection:?}");
        }
    }
}

#[test]
fn quirks_of_real_cameras_are_forgiven() {
    let whole = fixture("orientation-1.jpg");
    let wanted = run(&whole, Jpeg).expect("sound").renditions;
    let padded_end = [&whole[..whole.len() - 2], &[0; 64], &[0xFF, 0xD9]].concat();
    // Between the first segment (20 bytes) and the next: padding; an odd JFIF version; an unknown Adobe transform.
    let padded_head = [&whole[..20], &[0, 0, 7], &whole[20..]].concat();
    let odd_jfif = with_segment(&whole, 0xE0, b"JFIF\0\x09\x09\0\0\x01\0\x01\0\0");
    let both = [&padded_head[..padded_head.len() - 2], &[0; 64], &[0xFF, 0xD9]].concat();
    for (what, bytes) in [("end", padded_end), ("head", padded_head), ("jfif", odd_jfif), ("both", both)] {
        let developed = run(&bytes, Jpeg).unwrap_or_else(|failure| panic!("{what}: {failure}"));
        assert_eq!(developed.renditions, wanted, "{what}");
    }
}

#[test]
fn a_forgiven_quirk_hides_no_damage() {
    let whole = fixture("orientation-1.jpg");
    let cut = [&whole[..20], &[0, 0, 7], &whole[20..whole.len() * 9 / 10], &[0xFF, 0xD9]].concat();
    assert_eq!(refused(&cut, Jpeg), Rejection::Corrupt);
}

/// A JPEG of a few bytes that claims a size: headers of a real one, its size overwritten.
fn claiming(name: &str, width: u16, height: u16) -> Vec<u8> {
    let mut bytes = fixture(name);
    let frame =
        (0..bytes.len()).find(|&at| bytes[at] == 0xFF && matches!(bytes[at + 1], 0xC0 | 0xC2)).expect("a frame");
    bytes[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
    bytes[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
    bytes
}

#[track_caller]
fn refused_at_once(bytes: &[u8], media_type: MediaType) -> Rejection {
    let start = Instant::now();
    let rejection = probe(bytes, media_type, &Limits::default()).expect_err("a bomb");
    assert!(start.elapsed() < Duration::from_millis(100), "took {:?}", start.elapsed());
    rejection
}

#[test]
fn bombs_are_refused_before_decoding() {
    let too_many = Rejection::TooManyPixels { width: 64_250, height: 64_250 };
    assert_eq!(refused_at_once(&claiming("progressive.jpg", 64_250, 64_250), Jpeg), too_many);
    assert_eq!(refused_at_once(&claiming("progressive.jpg", 9_999, 9_999), Jpeg), Rejection::Truncated);
    assert_eq!(refused_at_once(&claiming("orientation-1.jpg", 9_999, 9_999), Jpeg), Rejection::Truncated);
    assert_eq!(refused_at_once(&claiming("orientation-1.jpg", 0, 9_999), Jpeg), Rejection::Corrupt);

    let mut png = fixture("alpha.png");
    png[16..24].copy_from_slice(&[0, 0, 0x27, 0x0F, 0, 0, 0x27, 0x0F]);
    assert_eq!(refused_at_once(&png, Png), Rejection::Truncated);
    png[16..24].fill(0x7F);
    assert_eq!(refused_at_once(&png, Png).code(), "too_many_pixels");

    let mut gif = fixture("animated.gif");
    gif[6..10].fill(0xFF);
    assert_eq!(refused_at_once(&gif, Gif).code(), "too_many_pixels");
    let mut webp = fixture("animated.webp");
    webp[24..30].fill(0xFF);
    assert_eq!(refused_at_once(&webp, Webp).code(), "too_many_pixels");
}

#[test]
fn scan_bombs_are_refused_before_decoding() {
    let whole = fixture("progressive.jpg");
    let last_scan = memchr::memmem::rfind(&whole, &[0xFF, 0xDA]).expect("a scan");
    let scan = whole[last_scan..whole.len() - 2].repeat(500);
    let bomb = [&whole[..whole.len() - 2], &scan, &[0xFF, 0xD9]].concat();
    assert_eq!(refused_at_once(&bomb, Jpeg), Rejection::TooCostly);
}

#[test]
fn unpacking_chunks_of_a_png_are_bounded() {
    // A profile and a text of 60 MB of zeros each, packed to 60 kB.
    let zeros = vec![0; 60 << 20];
    let mut bytes = Vec::new();
    let mut info = png::Info::with_size(64, 64);
    info.color_type = png::ColorType::Rgb;
    info.icc_profile = Some(zeros.into());
    let encoder = png::Encoder::with_info(&mut bytes, info).expect("encoder");
    let mut writer = encoder.write_header().expect("header");
    writer.write_image_data(&[50; 64 * 64 * 3]).expect("data");
    drop(writer);
    let developed = run(&bytes, Png).expect("the profile is ignored");
    assert_near(colour_at(&pixels(&developed.renditions[0].bytes), 0.5, 0.5), [50; 3], 3);
}

#[test]
fn twelve_bit_and_odd_jpegs_are_named() {
    let mut bytes = fixture("orientation-1.jpg");
    let frame = memchr::memmem::find(&bytes, &[0xFF, 0xC0]).expect("a frame");
    bytes[frame + 4] = 12;
    assert_eq!(refused(&bytes, Jpeg).code(), "encoding_unsupported");
    bytes[frame + 1] = 0xC9;
    assert_eq!(refused(&bytes, Jpeg).code(), "encoding_unsupported");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens to a file's bytes, it is developed or refused; nothing panics and nothing is ours to blame.
    #[test]
    fn mutations_never_panic(
        which in 0..ALL.len(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        in_head in any::<bool>(),
    ) {
        let (name, media_type) = ALL[which];
        let mut bytes = fixture(name);
        let reach = if in_head { bytes.len().min(700) } else { bytes.len() };
        for (place, value) in changes {
            bytes[place.index(reach)] = value;
        }
        let outcome = run(&bytes, media_type);
        prop_assert!(!matches!(outcome, Err(crate::imaging::Failure::Internal(_))), "{outcome:?}");
    }

    /// Bytes that only begin like a picture.
    #[test]
    fn rubbish_never_panics(which in 0..ALL.len(), head in 2_usize..64, tail in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let (name, media_type) = ALL[which];
        let bytes = [&fixture(name)[..head], &tail].concat();
        let _ = run(&bytes, media_type);
    }
}
