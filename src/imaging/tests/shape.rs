//! Sizes, orientation, and what a rendition must not contain.

use super::make::*;
use crate::imaging::MediaType::{Gif, Jpeg, Png, Webp};
use crate::imaging::{Limits, OutputFormat, Recipe, Size, TakenAt, develop, probe};

fn sizes(bytes: &[u8], media_type: crate::imaging::MediaType) -> Vec<(String, u32, u32)> {
    let developed = run(bytes, media_type).expect("a sound picture");
    for rendition in &developed.renditions {
        let shown = pixels(&rendition.bytes);
        assert_eq!((shown.width, shown.height), (rendition.width, rendition.height));
    }
    developed.renditions.into_iter().map(|it| (it.size, it.width, it.height)).collect()
}

fn edges(bytes: &[u8], media_type: crate::imaging::MediaType) -> [(u32, u32); 3] {
    let all: Vec<_> = sizes(bytes, media_type).into_iter().map(|(_, width, height)| (width, height)).collect();
    all.try_into().expect("three renditions")
}

#[test]
fn long_edges_are_exact_and_never_enlarged() {
    let of = |width, height| edges(&grey_jpeg(width, height, 90), Jpeg);
    assert_eq!(of(2047, 2047), [(320, 320), (1024, 1024), (2047, 2047)]);
    assert_eq!(of(2048, 1000), [(320, 156), (1024, 500), (2048, 1000)]);
    assert_eq!(of(2049, 2047), [(320, 320), (1024, 1023), (2048, 2046)]);
    assert_eq!(of(5001, 3333), [(320, 213), (1024, 682), (2048, 1365)]);
    assert_eq!(of(319, 7), [(319, 7), (319, 7), (319, 7)]);
    assert_eq!(of(1, 1), [(1, 1), (1, 1), (1, 1)]);
    assert_eq!(of(1, 30_000), [(1, 320), (1, 1024), (1, 2048)]);
    assert_eq!(of(30_000, 1), [(320, 1), (1024, 1), (2048, 1)]);
}

#[test]
fn odd_sizes_in_colour_and_in_every_format() {
    for (width, height) in [(1, 1), (1, 30_000), (3, 5), (321, 7), (1025, 69), (2051, 153), (4099, 17)] {
        let picture = paint(width, height, |x, y| [low(x), low(y), 128]);
        let expected = edges(&jpeg(&picture), Jpeg);
        let as_png = png(width, height, png::ColorType::Rgb, png::BitDepth::Eight, &picture.data);
        assert_eq!(edges(&as_png, Png), expected, "{width}x{height}");
        for value in 2..=8 {
            let turned = edges(&with_orientation(&jpeg(&picture), value), Jpeg);
            let swapped = expected.map(|(width, height)| if value > 4 { (height, width) } else { (width, height) });
            assert_eq!(turned, swapped, "{width}x{height} orientation {value}");
        }
    }
}

#[test]
fn real_photos_of_every_kind() {
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
        let developed = run(&fixture(name), media_type).unwrap_or_else(|failure| panic!("{name}: {failure}"));
        assert_eq!((developed.width, developed.height), size, "{name}");
        assert!((5..=25).contains(&developed.placeholder.len()), "{name}");
        assert_eq!(developed.renditions.len(), 3, "{name}");
    }
}

#[test]
fn all_eight_orientations_look_the_same() {
    let upright = run(&fixture("orientation-1.jpg"), Jpeg).expect("upright");
    let wanted = pixels(&upright.renditions[0].bytes);
    for value in 2..=8 {
        let turned = run(&fixture(&format!("orientation-{value}.jpg")), Jpeg).expect("turned");
        assert_eq!((turned.width, turned.height), (600, 400));
        let shown = pixels(&turned.renditions[0].bytes);
        assert_eq!((shown.width, shown.height), (wanted.width, wanted.height));
        // The numbers are drawn into these photos, so all but the middle is compared.
        for (across, down) in [(0.05, 0.05), (0.95, 0.05), (0.05, 0.95), (0.95, 0.95), (0.5, 0.04)] {
            assert_near(colour_at(&shown, across, down), colour_at(&wanted, across, down), 12);
        }
    }
}

#[test]
fn mirrored_colours_stay_on_their_shapes() {
    // A red bar whose edge lies in the middle of an odd width: colour shifted against brightness would show at the edge.
    let picture = paint(4002, 1500, |x, _| if x < 2001 { [220, 20, 20] } else { [20, 20, 220] });
    let recipe = Recipe { sizes: vec![Size { name: "odd".to_owned(), long_edge: 1001 }], ..Recipe::default() };
    let show = |value| {
        let bytes = with_orientation(&jpeg(&picture), value);
        let developed = develop(&bytes, Jpeg, &recipe, &Limits::default()).expect("developed");
        pixels(&developed.renditions[0].bytes)
    };
    let (plain, mut mirrored) = (show(1), show(2));
    mirrored.data = mirrored.data.as_chunks::<3>().0.iter().rev().flatten().copied().collect();
    // The two are compressed on different grids, so they are never equal; a shift by one pixel makes 100 and more.
    let worst = plain.data.iter().zip(&mirrored.data).map(|(a, b)| a.abs_diff(*b)).max().expect("pixels");
    assert!(worst <= 40, "mirrored and unmirrored differ by {worst}");
}

#[test]
fn keeps_time_and_camera_and_nothing_else() {
    let original = fixture("camera.jpg");
    let recipe = Recipe { formats: vec![OutputFormat::Jpeg, OutputFormat::Webp], ..Recipe::default() };
    let developed = develop(&original, Jpeg, &recipe, &Limits::default()).expect("developed");
    assert_eq!(developed.camera.as_deref(), Some("Canon EOS 5D Mark IV"));
    let local = "2024-05-01T10:11:12".parse().expect("a time");
    assert_eq!(developed.taken_at, Some(TakenAt { local, offset_minutes: Some(120) }));
    assert_eq!(developed.renditions.len(), 6);
    for rendition in &developed.renditions {
        let bytes = &rendition.bytes;
        for word in
            [b"Exif".as_slice(), b"Secret", b"secret", b"http", b"ICC_PROFILE", b"Canon", b"EXIF", b"XMP ", b"ICCP"]
        {
            assert!(
                memchr::memmem::find(bytes, word).is_none(),
                "{} in {}",
                String::from_utf8_lossy(word),
                rendition.size
            );
        }
        if rendition.format == OutputFormat::Jpeg {
            assert_eq!(markers(bytes).first(), Some(&0xE0));
            assert!(markers(bytes)[1..].iter().all(|marker| !(0xE0..=0xFE).contains(marker)), "{:x?}", markers(bytes));
        } else {
            assert_eq!(&bytes[12..15], b"VP8", "no extended WebP");
            assert_ne!(bytes[15], b'X', "no extended WebP");
        }
    }
}

/// The markers of a JPEG's head.
fn markers(jpeg: &[u8]) -> Vec<u8> {
    let (mut at, mut found) = (2, Vec::new());
    while jpeg[at + 1] != 0xDA {
        found.push(jpeg[at + 1]);
        at += 2 + usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
    }
    found
}

#[test]
fn what_follows_a_picture_is_no_part_of_it() {
    let plain = fixture("progressive.jpg");
    let hidden = [plain.clone(), b"PK\x03\x04 <script>secret</script>".to_vec(), fixture("grey.jpg")].concat();
    assert_eq!(run(&hidden, Jpeg).expect("developed"), run(&plain, Jpeg).expect("developed"));
}

#[test]
fn probing_counts_pixels_and_weight() {
    let baseline = probe(&fixture("camera.jpg"), Jpeg, &Limits::default()).expect("sound");
    assert_eq!((baseline.pixels, baseline.weight), (960_000, 960_000));
    let progressive = probe(&fixture("progressive.jpg"), Jpeg, &Limits::default()).expect("sound");
    assert!(progressive.weight > 2 * progressive.pixels);
}

#[test]
fn renders_webp_and_custom_sizes_in_the_order_asked_for() {
    let size = |name: &str, long_edge| Size { name: name.to_owned(), long_edge };
    let recipe = Recipe {
        sizes: vec![size("b", 200), size("a", 50), size("c", 400)],
        formats: vec![OutputFormat::Webp],
        ..Recipe::default()
    };
    let developed = develop(&fixture("photo.webp"), Webp, &recipe, &Limits::default()).expect("developed");
    let shapes: Vec<_> = developed.renditions.iter().map(|it| (it.size.as_str(), it.height)).collect();
    assert_eq!(shapes, [("b", 200), ("a", 50), ("c", 400)]);
    assert!(developed.renditions.iter().all(|it| run(&it.bytes, Webp).is_ok()));
}
