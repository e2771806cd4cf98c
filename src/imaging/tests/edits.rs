//! Filters on whole photos: which part is shown, how finely, and in which colours. What each does to pixels is tested beside it.

use super::make::*;
use crate::domain::Filter;
use crate::imaging::MediaType::{Gif, Jpeg, Png, Webp};
use crate::imaging::filter::tests::any_filter;
use crate::imaging::raster::Raster;
use crate::imaging::{Developed, Failure, Limits, MediaType, Recipe, develop, edited_size, probe, weigh};
use proptest::prelude::*;

const RED: [i32; 3] = [220, 30, 30];
const GREEN: [i32; 3] = [30, 200, 40];
const BLUE: [i32; 3] = [30, 40, 210];
const YELLOW: [i32; 3] = [230, 220, 30];

fn edit(bytes: &[u8], media_type: MediaType, filters: &[Filter]) -> Result<Developed, Failure> {
    let recipe = Recipe { filters: filters.to_vec(), ..Recipe::default() };
    develop(bytes, media_type, &recipe, &Limits::default())
}

/// The largest rendition of an edit.
fn edited(bytes: &[u8], media_type: MediaType, filters: &[Filter]) -> Raster {
    let developed = edit(bytes, media_type, filters).expect("a sound picture");
    let largest = developed.renditions.iter().find(|it| it.size == "large").expect("a large one");
    assert_eq!(Some((developed.width, developed.height)), edited_size(filters, shown(bytes, media_type)));
    pixels(&largest.bytes)
}

fn shown(bytes: &[u8], media_type: MediaType) -> (u32, u32) {
    let developed = run(bytes, media_type).expect("a sound picture");
    (developed.width, developed.height)
}

const fn crop(x: f64, y: f64, width: f64, height: f64) -> Filter {
    Filter::Crop { x, y, width, height }
}

/// Red and green above blue and yellow.
fn quarters(width: u32, height: u32) -> Raster {
    let byte = |colour: [i32; 3]| colour.map(|sample| u8::try_from(sample).expect("a level"));
    paint(width, height, |x, y| match (x < width / 2, y < height / 2) {
        (true, true) => byte(RED),
        (false, true) => byte(GREEN),
        (true, false) => byte(BLUE),
        (false, false) => byte(YELLOW),
    })
}

/// The colours of the four quarters, as in [`quarters`].
#[track_caller]
fn assert_quarters(picture: &Raster, expected: [[i32; 3]; 4]) {
    let places = [(0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)];
    for ((across, down), colour) in places.into_iter().zip(expected) {
        assert_near(colour_at(picture, across, down), colour, 6);
    }
}

#[test]
fn rotations_are_clockwise() {
    let photo = jpeg(&quarters(301, 200));
    let turned = |degrees| edited(&photo, Jpeg, &[Filter::Rotate { degrees }]);
    assert_quarters(&turned(90), [BLUE, RED, YELLOW, GREEN]);
    assert_quarters(&turned(180), [YELLOW, BLUE, GREEN, RED]);
    assert_quarters(&turned(270), [GREEN, YELLOW, RED, BLUE]);
    assert_eq!((turned(90).width, turned(90).height), (200, 301));
}

#[test]
fn four_rotations_give_the_same_bytes_as_none() {
    for photo in [fixture("camera.jpg"), fixture("orientation-7.jpg"), fixture("grey.jpg")] {
        let turned = edit(&photo, Jpeg, &vec![Filter::Rotate { degrees: 90 }; 4]).expect("a sound picture");
        assert_eq!(turned, run(&photo, Jpeg).expect("a sound picture"));
    }
}

#[test]
fn crops_are_of_the_upright_picture_whatever_its_orientation() {
    let mut quarter = vec![];
    for value in 1..=8 {
        let photo = with_orientation(&jpeg(&quarters(400, 240)), value);
        let upright = pixels(&run(&photo, Jpeg).expect("a sound picture").renditions[2].bytes);
        for (x, y) in [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.5, 0.5)] {
            let part = edited(&photo, Jpeg, &[crop(x, y, 0.5, 0.5)]);
            let expected = colour_at(&upright, x + 0.25, y + 0.25);
            assert_near(colour_at(&part, 0.1, 0.1), expected, 6);
            assert_near(colour_at(&part, 0.9, 0.9), expected, 6);
            quarter.push((part.width, part.height));
        }
    }
    assert_eq!(quarter[0], (200, 120));
    assert_eq!(quarter[31], (120, 200));
}

#[test]
fn crops_and_rotations_go_in_their_order() {
    let photo = jpeg(&quarters(400, 240));
    let (left, turn) = (crop(0.0, 0.0, 0.5, 1.0), Filter::Rotate { degrees: 90 });
    assert_quarters(&edited(&photo, Jpeg, &[left.clone(), turn.clone()]), [BLUE, RED, BLUE, RED]);
    assert_quarters(&edited(&photo, Jpeg, &[turn, left]), [BLUE, BLUE, YELLOW, YELLOW]);
}

#[test]
fn a_small_part_is_as_fine_as_the_original() {
    // Fine lines, which are gone in a rendition of the whole.
    let picture = paint(4200, 300, |x, _| if x % 2 == 0 { [20; 3] } else { [230; 3] });
    let whole = pixels(&run(&jpeg(&picture), Jpeg).expect("a sound picture").renditions[2].bytes);
    assert!(whole.data.iter().all(|level| (60..200).contains(level)), "the lines are gone");
    let as_png = png(4200, 300, png::ColorType::Rgb, png::BitDepth::Eight, &picture.data);
    for (bytes, media_type) in [(jpeg(&picture), Jpeg), (as_png, Png)] {
        let part = edited(&bytes, media_type, &[crop(0.5, 0.0, 0.1, 1.0)]);
        assert_eq!((part.width, part.height), (420, 300));
        let (dark, bright) = (part.data[(150 * 420 + 40) * 3], part.data[(150 * 420 + 41) * 3]);
        assert!(dark < 60 && bright > 190, "{media_type:?}: {dark} {bright}");
    }
}

#[test]
fn a_crop_is_exact_to_the_pixel() {
    // A white square on black, cut out to its edges.
    let picture =
        paint(1000, 500, |x, y| if (200..600).contains(&x) && (100..300).contains(&y) { [255; 3] } else { [0; 3] });
    let as_png = png(1000, 500, png::ColorType::Rgb, png::BitDepth::Eight, &picture.data);
    let part = edited(&as_png, Png, &[crop(0.2, 0.2, 0.4, 0.4)]);
    assert_eq!((part.width, part.height), (400, 200));
    assert!(part.data.iter().all(|&level| level >= 254));
}

#[test]
fn every_kind_of_picture_takes_every_kind_of_filter() {
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
        let picture = edited(&fixture(name), media_type, &filters);
        let levels = picture.data.iter().max().zip(picture.data.iter().min());
        assert!(levels.is_some_and(|(high, low)| high - low > 100), "{name}: {levels:?}");
    }
}

#[test]
fn straightened_photos_show_the_photo_to_their_borders() {
    // Any sample from beyond the photo would be other than white.
    let white = jpeg(&paint(300, 200, |_, _| [255; 3]));
    let mut filters = vec![Filter::Straighten { degrees: -13.0 }, Filter::Rotate { degrees: 90 }];
    let straight = edited(&white, Jpeg, &filters);
    assert!(straight.data.iter().all(|&level| level >= 254));
    filters.push(crop(0.0, 0.0, 0.2, 0.2));
    assert!(edited(&white, Jpeg, &filters).data.iter().all(|&level| level >= 254));
    // The middle stays the middle.
    let photo = jpeg(&quarters(401, 301));
    let straight = edited(&photo, Jpeg, &[Filter::Rotate { degrees: 90 }, Filter::Straighten { degrees: 5.0 }]);
    assert_quarters(&straight, [BLUE, RED, YELLOW, GREEN]);
}

#[test]
fn grayscale_makes_grey_renditions_and_sepia_of_grey_ones_in_colour() {
    let grey = edit(&fixture("camera.jpg"), Jpeg, &[Filter::Grayscale {}]).expect("a sound picture");
    let colour = run(&fixture("camera.jpg"), Jpeg).expect("a sound picture");
    assert!(grey.renditions[2].bytes.len() < colour.renditions[2].bytes.len());
    let sepia = edited(&fixture("grey.jpg"), Jpeg, &[Filter::Sepia { amount: 1.0 }]);
    let [red, _, blue] = colour_at(&sepia, 0.5, 0.5);
    assert!(red > blue + 10, "{red} {blue}");
}

#[test]
fn filters_weigh_what_they_hold() {
    let photo = jpeg(&paint(4000, 500, |x, y| [low(x), low(y), 0]));
    let limits = Limits::default();
    let weight = |filters: &[Filter]| {
        let recipe = Recipe { filters: filters.to_vec(), ..Recipe::default() };
        weigh(&photo, Jpeg, &recipe, &limits).expect("a sound picture")
    };
    let plain = probe(&photo, Jpeg, &limits).expect("a sound picture").weight;
    assert_eq!(weight(&[]), plain);
    assert!(weight(&[crop(0.0, 0.0, 0.1, 0.1)]) >= 4000 * 500 * 3);
    assert!(weight(&[Filter::Blur { radius: 1.0 }]) >= 2048 * 256 * 32);
}

#[test]
fn what_is_no_filter_for_this_picture_is_told() {
    let tiny = jpeg(&paint(1, 1, |_, _| [9, 9, 9]));
    let nothing = [crop(0.0, 0.0, 0.1, 0.1)];
    assert_eq!(edited_size(&nothing, (1, 1)), None);
    assert!(matches!(edit(&tiny, Jpeg, &nothing), Err(Failure::Internal(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn no_filters_of_small_photos_panic(
        filters in prop::collection::vec(any_filter(), 1..5),
        (width, height) in (1_u32..9, 1_u32..9),
        orientation in 1_u8..=8,
        grey: bool,
    ) {
        let bytes = if grey { grey_jpeg(width, height, 77) } else { jpeg(&paint(width, height, |x, y| [low(x * 90), low(y * 60), 5])) };
        let bytes = with_orientation(&bytes, orientation);
        let (width, height) = if orientation > 4 { (height, width) } else { (width, height) };
        match edited_size(&filters, (width, height)) {
            Some(size) => {
                let developed = edit(&bytes, Jpeg, &filters).expect("something is left");
                prop_assert_eq!((developed.width, developed.height), size);
                prop_assert!(developed.renditions.iter().all(|it| (it.width, it.height) == size));
            }
            None => prop_assert!(edit(&bytes, Jpeg, &filters).is_err()),
        }
    }
}
