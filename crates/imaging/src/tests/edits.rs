//! Filters on complete photos: crop rectangle, resolution and colours. `filter::apply::tests` checks sample values.

use super::helpers::*;
use crate::Filter;
use crate::MediaType::{Gif, Jpeg, Png, Webp};
use crate::filter::apply::tests::any_filter;
use crate::raster::Raster;
use crate::{Error, Limits, MediaType, Recipe, Rendered, decode_weight, probe, render, size_after_filters};
use proptest::prelude::*;

const RED: [i32; 3] = [220, 30, 30];
const GREEN: [i32; 3] = [30, 200, 40];
const BLUE: [i32; 3] = [30, 40, 210];
const YELLOW: [i32; 3] = [230, 220, 30];

fn render_edit(bytes: &[u8], media_type: MediaType, filters: &[Filter]) -> Result<Rendered, Error> {
    let recipe = Recipe { filters: filters.to_vec(), ..Recipe::default() };
    render(bytes, media_type, &recipe, &Limits::default())
}

/// Returns the largest rendition of an edit.
fn render_edit_large(bytes: &[u8], media_type: MediaType, filters: &[Filter]) -> Raster {
    let rendered = render_edit(bytes, media_type, filters).expect("a valid image");
    let largest = rendered.renditions.iter().find(|rendition| rendition.size == "large").expect("a large rendition");
    assert_eq!(Some((rendered.width, rendered.height)), size_after_filters(filters, default_size(bytes, media_type)));
    decode_rgb(&largest.bytes)
}

fn default_size(bytes: &[u8], media_type: MediaType) -> (u32, u32) {
    let rendered = render_default(bytes, media_type).expect("a valid image");
    (rendered.width, rendered.height)
}

const fn crop(x: f64, y: f64, width: f64, height: f64) -> Filter {
    Filter::Crop { x, y, width, height }
}

/// An image of four quarters: red and green above blue and yellow.
fn quarters(width: u32, height: u32) -> Raster {
    let to_bytes = |colour: [i32; 3]| colour.map(|sample| u8::try_from(sample).expect("a level"));
    rgb_image(width, height, |x, y| match (x < width / 2, y < height / 2) {
        (true, true) => to_bytes(RED),
        (false, true) => to_bytes(GREEN),
        (true, false) => to_bytes(BLUE),
        (false, false) => to_bytes(YELLOW),
    })
}

/// Asserts the colours of the four quarters, in the order of [`quarters`].
#[track_caller]
fn assert_quarters(image: &Raster, expected: [[i32; 3]; 4]) {
    let points = [(0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)];
    for ((x, y), colour) in points.into_iter().zip(expected) {
        assert_near(mean_colour_at(image, x, y), colour, 6);
    }
}

#[test]
fn rotates_clockwise() {
    let photo = encode_jpeg(&quarters(301, 200));
    let rotated = |degrees| render_edit_large(&photo, Jpeg, &[Filter::Rotate { degrees }]);
    assert_quarters(&rotated(90), [BLUE, RED, YELLOW, GREEN]);
    assert_quarters(&rotated(180), [YELLOW, BLUE, GREEN, RED]);
    assert_quarters(&rotated(270), [GREEN, YELLOW, RED, BLUE]);
    assert_eq!((rotated(90).width, rotated(90).height), (200, 301));
}

#[test]
fn four_rotations_give_same_bytes() {
    for photo in [fixture("camera.jpg"), fixture("orientation-7.jpg"), fixture("grey.jpg")] {
        let rotated = render_edit(&photo, Jpeg, &vec![Filter::Rotate { degrees: 90 }; 4]).expect("a valid image");
        assert_eq!(rotated, render_default(&photo, Jpeg).expect("a valid image"));
    }
}

#[test]
fn crops_the_upright_image() {
    let mut sizes = vec![];
    for value in 1..=8 {
        let photo = with_orientation(&encode_jpeg(&quarters(400, 240)), value);
        let upright = decode_rgb(&render_default(&photo, Jpeg).expect("a valid image").renditions[2].bytes);
        for (x, y) in [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.5, 0.5)] {
            let cropped = render_edit_large(&photo, Jpeg, &[crop(x, y, 0.5, 0.5)]);
            let expected = mean_colour_at(&upright, x + 0.25, y + 0.25);
            assert_near(mean_colour_at(&cropped, 0.1, 0.1), expected, 6);
            assert_near(mean_colour_at(&cropped, 0.9, 0.9), expected, 6);
            sizes.push((cropped.width, cropped.height));
        }
    }
    assert_eq!(sizes[0], (200, 120));
    assert_eq!(sizes[31], (120, 200));
}

#[test]
fn applies_geometry_in_order() {
    let photo = encode_jpeg(&quarters(400, 240));
    let (left, rotate) = (crop(0.0, 0.0, 0.5, 1.0), Filter::Rotate { degrees: 90 });
    assert_quarters(&render_edit_large(&photo, Jpeg, &[left.clone(), rotate.clone()]), [BLUE, RED, BLUE, RED]);
    assert_quarters(&render_edit_large(&photo, Jpeg, &[rotate, left]), [BLUE, BLUE, YELLOW, YELLOW]);
}

#[test]
fn small_crop_keeps_full_resolution() {
    // Lines of one pixel, which are lost in a rendition of the complete image.
    let image = rgb_image(4200, 300, |x, _| if x % 2 == 0 { [20; 3] } else { [230; 3] });
    let uncropped = decode_rgb(&render_default(&encode_jpeg(&image), Jpeg).expect("a valid image").renditions[2].bytes);
    assert!(
        uncropped.data.iter().all(|level| (60..200).contains(level)),
        "the uncropped rendition still shows the lines"
    );
    let as_png = encode_png(4200, 300, png::ColorType::Rgb, png::BitDepth::Eight, &image.data);
    for (bytes, media_type) in [(encode_jpeg(&image), Jpeg), (as_png, Png)] {
        let cropped = render_edit_large(&bytes, media_type, &[crop(0.5, 0.0, 0.1, 1.0)]);
        assert_eq!((cropped.width, cropped.height), (420, 300));
        let (dark, bright) = (cropped.data[(150 * 420 + 40) * 3], cropped.data[(150 * 420 + 41) * 3]);
        assert!(dark < 60 && bright > 190, "{media_type:?}: {dark} {bright}");
    }
}

#[test]
fn crop_is_pixel_exact() {
    // A white rectangle on black, cropped to its edges.
    let image =
        rgb_image(1000, 500, |x, y| if (200..600).contains(&x) && (100..300).contains(&y) { [255; 3] } else { [0; 3] });
    let as_png = encode_png(1000, 500, png::ColorType::Rgb, png::BitDepth::Eight, &image.data);
    let cropped = render_edit_large(&as_png, Png, &[crop(0.2, 0.2, 0.4, 0.4)]);
    assert_eq!((cropped.width, cropped.height), (400, 200));
    assert!(cropped.data.iter().all(|&level| level >= 254));
}

#[test]
fn filters_every_format() {
    let filters = [
        crop(0.1, 0.2, 0.7, 0.6),
        Filter::Rotate { degrees: 270 },
        Filter::Straighten { degrees: 7.5 },
        Filter::Auto {},
        Filter::Warmth { amount: 0.3 },
        Filter::Sharpen { amount: 0.5, radius: 1.0 },
        Filter::Vignette { amount: 0.4 },
    ];
    for (name, media_type) in [
        ("camera.jpg", Jpeg),
        ("progressive.jpg", Jpeg),
        ("grey.jpg", Jpeg),
        ("cmyk.jpg", Jpeg),
        ("orientation-6.jpg", Jpeg),
        ("sixteen-bit.png", Png),
        ("alpha.png", Png),
        ("photo.webp", Webp),
        ("animated.gif", Gif),
    ] {
        let image = render_edit_large(&fixture(name), media_type, &filters);
        let levels = image.data.iter().max().zip(image.data.iter().min());
        assert!(levels.is_some_and(|(high, low)| high - low > 100), "{name}: {levels:?}");
    }
}

#[test]
fn straighten_shows_no_border() {
    // Samples from outside the photo would not be white.
    let white = encode_jpeg(&rgb_image(300, 200, |_, _| [255; 3]));
    let mut filters = vec![Filter::Straighten { degrees: -13.0 }, Filter::Rotate { degrees: 90 }];
    let straightened = render_edit_large(&white, Jpeg, &filters);
    assert!(straightened.data.iter().all(|&level| level >= 254));
    filters.push(crop(0.0, 0.0, 0.2, 0.2));
    assert!(render_edit_large(&white, Jpeg, &filters).data.iter().all(|&level| level >= 254));
    // The centre is preserved.
    let photo = encode_jpeg(&quarters(401, 301));
    let straightened =
        render_edit_large(&photo, Jpeg, &[Filter::Rotate { degrees: 90 }, Filter::Straighten { degrees: 5.0 }]);
    assert_quarters(&straightened, [BLUE, RED, YELLOW, GREEN]);
}

#[test]
fn grayscale_and_sepia_change_channels() {
    let grey = render_edit(&fixture("camera.jpg"), Jpeg, &[Filter::Grayscale {}]).expect("a valid image");
    let colour = render_default(&fixture("camera.jpg"), Jpeg).expect("a valid image");
    assert!(grey.renditions[2].bytes.len() < colour.renditions[2].bytes.len());
    let sepia = render_edit_large(&fixture("grey.jpg"), Jpeg, &[Filter::Sepia { amount: 1.0 }]);
    let [red, _, blue] = mean_colour_at(&sepia, 0.5, 0.5);
    assert!(red > blue + 10, "{red} {blue}");
}

#[test]
fn filters_increase_decode_weight() {
    let photo = encode_jpeg(&rgb_image(4000, 500, |x, y| [low_byte(x), low_byte(y), 0]));
    let limits = Limits::default();
    let weight = |filters: &[Filter]| {
        let recipe = Recipe { filters: filters.to_vec(), ..Recipe::default() };
        decode_weight(&photo, Jpeg, &recipe, &limits).expect("a valid image")
    };
    let plain = probe(&photo, Jpeg, &limits).expect("a valid image").weight;
    assert_eq!(weight(&[]), plain);
    assert!(weight(&[crop(0.0, 0.0, 0.1, 0.1)]) >= 4000 * 500 * 3);
    assert!(weight(&[Filter::Blur { radius: 1.0 }]) >= 2048 * 256 * 32);
}

#[test]
fn rejects_crop_without_pixels() {
    let tiny = encode_jpeg(&rgb_image(1, 1, |_, _| [9, 9, 9]));
    let empty_crop = [crop(0.0, 0.0, 0.1, 0.1)];
    assert_eq!(size_after_filters(&empty_crop, (1, 1)), None);
    assert!(matches!(render_edit(&tiny, Jpeg, &empty_crop), Err(Error::Internal(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn small_photo_filters_never_panic(
        filters in prop::collection::vec(any_filter(), 1..5),
        (width, height) in (1_u32..9, 1_u32..9),
        orientation in 1_u8..=8,
        grey: bool,
    ) {
        let bytes = if grey {
            grey_jpeg(width, height, 77)
        } else {
            encode_jpeg(&rgb_image(width, height, |x, y| [low_byte(x * 90), low_byte(y * 60), 5]))
        };
        let bytes = with_orientation(&bytes, orientation);
        let (width, height) = if orientation > 4 { (height, width) } else { (width, height) };
        match size_after_filters(&filters, (width, height)) {
            Some(size) => {
                let rendered = render_edit(&bytes, Jpeg, &filters).expect("the crop leaves pixels");
                prop_assert_eq!((rendered.width, rendered.height), size);
                prop_assert!(rendered.renditions.iter().all(|rendition| (rendition.width, rendition.height) == size));
            }
            None => prop_assert!(render_edit(&bytes, Jpeg, &filters).is_err()),
        }
    }
}
