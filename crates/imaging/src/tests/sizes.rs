//! Sizes, orientation, and the absence of metadata in renditions.

use super::helpers::*;
use crate::MediaType::{Gif, Jpeg, Png, Webp};
use crate::{Limits, OutputFormat, Recipe, Size, TakenAt, probe, render};

fn sizes(bytes: &[u8], media_type: crate::MediaType) -> Vec<(String, u32, u32)> {
    let rendered = render_default(bytes, media_type).expect("a valid image");
    for rendition in &rendered.renditions {
        let image = decode_rgb(&rendition.bytes);
        assert_eq!((image.width, image.height), (rendition.width, rendition.height));
    }
    rendered.renditions.into_iter().map(|rendition| (rendition.size, rendition.width, rendition.height)).collect()
}

fn edges(bytes: &[u8], media_type: crate::MediaType) -> [(u32, u32); 3] {
    let all: Vec<_> = sizes(bytes, media_type).into_iter().map(|(_, width, height)| (width, height)).collect();
    all.try_into().expect("three renditions")
}

#[test]
fn long_edges_are_exact() {
    let sizes_of = |width, height| edges(&grey_jpeg(width, height, 90), Jpeg);
    assert_eq!(sizes_of(2047, 2047), [(320, 320), (1024, 1024), (2047, 2047)]);
    assert_eq!(sizes_of(2048, 1000), [(320, 156), (1024, 500), (2048, 1000)]);
    assert_eq!(sizes_of(2049, 2047), [(320, 320), (1024, 1023), (2048, 2046)]);
    assert_eq!(sizes_of(5001, 3333), [(320, 213), (1024, 682), (2048, 1365)]);
    assert_eq!(sizes_of(319, 7), [(319, 7), (319, 7), (319, 7)]);
    assert_eq!(sizes_of(1, 1), [(1, 1), (1, 1), (1, 1)]);
    assert_eq!(sizes_of(1, 30_000), [(1, 320), (1, 1024), (1, 2048)]);
    assert_eq!(sizes_of(30_000, 1), [(320, 1), (1024, 1), (2048, 1)]);
}

#[test]
fn renders_odd_sizes_in_every_format() {
    for (width, height) in [(1, 1), (1, 30_000), (3, 5), (321, 7), (1025, 69), (2051, 153), (4099, 17)] {
        let image = rgb_image(width, height, |x, y| [low_byte(x), low_byte(y), 128]);
        let expected = edges(&encode_jpeg(&image), Jpeg);
        let as_png = encode_png(width, height, png::ColorType::Rgb, png::BitDepth::Eight, &image.data);
        assert_eq!(edges(&as_png, Png), expected, "{width}x{height}");
        for value in 2..=8 {
            let rotated = edges(&with_orientation(&encode_jpeg(&image), value), Jpeg);
            let swapped = expected.map(|(width, height)| if value > 4 { (height, width) } else { (width, height) });
            assert_eq!(rotated, swapped, "{width}x{height} orientation {value}");
        }
    }
}

#[test]
fn renders_every_fixture() {
    for (name, media_type, size) in [
        ("progressive.jpg", Jpeg, (400, 600)),
        ("grey.jpg", Jpeg, (400, 600)),
        ("cmyk.jpg", Jpeg, (400, 600)),
        ("camera.jpg", Jpeg, (1200, 800)),
        ("sixteen-bit.png", Png, (120, 180)),
        ("alpha.png", Png, (160, 240)),
        ("alpha.webp", Webp, (160, 240)),
        ("photo.webp", Webp, (300, 450)),
        ("animated.webp", Webp, (160, 240)),
        ("animated.gif", Gif, (160, 240)),
    ] {
        let rendered = render_default(&fixture(name), media_type).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((rendered.width, rendered.height), size, "{name}");
        assert!((5..=25).contains(&rendered.placeholder.len()), "{name}");
        assert_eq!(rendered.renditions.len(), 3, "{name}");
    }
}

#[test]
fn orientations_look_the_same() {
    let upright = render_default(&fixture("orientation-1.jpg"), Jpeg).expect("upright");
    let expected = decode_rgb(&upright.renditions[0].bytes);
    for value in 2..=8 {
        let rotated = render_default(&fixture(&format!("orientation-{value}.jpg")), Jpeg).expect("rotated");
        assert_eq!((rotated.width, rotated.height), (600, 400));
        let image = decode_rgb(&rotated.renditions[0].bytes);
        assert_eq!((image.width, image.height), (expected.width, expected.height));
        // The orientation number is drawn into the centre of these photos, so the centre is not compared.
        for (x, y) in [(0.05, 0.05), (0.95, 0.05), (0.05, 0.95), (0.95, 0.95), (0.5, 0.04)] {
            assert_near(mean_colour_at(&image, x, y), mean_colour_at(&expected, x, y), 12);
        }
    }
}

#[test]
fn mirroring_does_not_shift_chroma() {
    // A red bar that ends in the middle of an odd width. Chroma shifted against luma would show at its edge.
    let image = rgb_image(4002, 1500, |x, _| if x < 2001 { [220, 20, 20] } else { [20, 20, 220] });
    let recipe = Recipe { sizes: vec![Size { name: "odd".to_owned(), long_edge: 1001 }], ..Recipe::default() };
    let render_odd = |value| {
        let bytes = with_orientation(&encode_jpeg(&image), value);
        let rendered = render(&bytes, Jpeg, &recipe, &Limits::default()).expect("rendered");
        decode_rgb(&rendered.renditions[0].bytes)
    };
    let (plain, mut mirrored) = (render_odd(1), render_odd(2));
    mirrored.data = mirrored.data.as_chunks::<3>().0.iter().rev().flatten().copied().collect();
    // The two images are compressed on different block grids, so they are not equal. A shift by one pixel causes a
    // difference of 100 and more.
    let max_difference = plain.data.iter().zip(&mirrored.data).map(|(a, b)| a.abs_diff(*b)).max().expect("pixels");
    assert!(max_difference <= 40, "mirrored and unmirrored differ by {max_difference}");
}

#[test]
fn keeps_only_time_and_camera() {
    let original = fixture("camera.jpg");
    let recipe = Recipe { formats: vec![OutputFormat::Jpeg, OutputFormat::Webp], ..Recipe::default() };
    let rendered = render(&original, Jpeg, &recipe, &Limits::default()).expect("rendered");
    assert_eq!(rendered.camera.as_deref(), Some("Canon EOS 5D Mark IV"));
    let local = "2024-05-01T10:11:12".parse().expect("a time");
    assert_eq!(rendered.taken_at, Some(TakenAt { local, offset_minutes: Some(120) }));
    assert_eq!(rendered.renditions.len(), 6);
    for rendition in &rendered.renditions {
        let bytes = &rendition.bytes;
        for text in
            [b"Exif".as_slice(), b"Secret", b"secret", b"http", b"ICC_PROFILE", b"Canon", b"EXIF", b"XMP ", b"ICCP"]
        {
            assert!(
                memchr::memmem::find(bytes, text).is_none(),
                "{} in {}",
                String::from_utf8_lossy(text),
                rendition.size
            );
        }
        if rendition.format == OutputFormat::Jpeg {
            assert_eq!(header_markers(bytes).first(), Some(&0xE0));
            assert!(
                header_markers(bytes)[1..].iter().all(|marker| !(0xE0..=0xFE).contains(marker)),
                "{:x?}",
                header_markers(bytes)
            );
        } else {
            assert_eq!(&bytes[12..15], b"VP8", "the file is a simple WebP");
            assert_ne!(bytes[15], b'X', "the file is a simple WebP");
        }
    }
}

/// Returns the markers of a JPEG before SOS.
fn header_markers(jpeg: &[u8]) -> Vec<u8> {
    let (mut offset, mut markers) = (2, Vec::new());
    while jpeg[offset + 1] != 0xDA {
        markers.push(jpeg[offset + 1]);
        offset += 2 + usize::from(u16::from_be_bytes([jpeg[offset + 2], jpeg[offset + 3]]));
    }
    markers
}

#[test]
fn ignores_data_behind_the_image() {
    let plain = fixture("progressive.jpg");
    let with_trailer = [plain.clone(), b"PK\x03\x04 <script>secret</script>".to_vec(), fixture("grey.jpg")].concat();
    assert_eq!(render_default(&with_trailer, Jpeg).expect("rendered"), render_default(&plain, Jpeg).expect("rendered"));
}

#[test]
fn probe_reports_pixels_and_weight() {
    let baseline = probe(&fixture("camera.jpg"), Jpeg, &Limits::default()).expect("a valid image");
    assert_eq!((baseline.pixels, baseline.weight), (960_000, 960_000));
    let progressive = probe(&fixture("progressive.jpg"), Jpeg, &Limits::default()).expect("a valid image");
    assert!(progressive.weight > 2 * progressive.pixels);
}

#[test]
fn renders_webp_in_recipe_order() {
    let size = |name: &str, long_edge| Size { name: name.to_owned(), long_edge };
    let recipe = Recipe {
        sizes: vec![size("b", 200), size("a", 50), size("c", 400)],
        formats: vec![OutputFormat::Webp],
        ..Recipe::default()
    };
    let rendered = render(&fixture("photo.webp"), Webp, &recipe, &Limits::default()).expect("rendered");
    let names_and_heights: Vec<_> =
        rendered.renditions.iter().map(|rendition| (rendition.size.as_str(), rendition.height)).collect();
    assert_eq!(names_and_heights, [("b", 200), ("a", 50), ("c", 400)]);
    assert!(rendered.renditions.iter().all(|rendition| render_default(&rendition.bytes, Webp).is_ok()));
}
