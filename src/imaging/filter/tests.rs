//! What each filter does to pixels, to the level.

use super::{Frame, Window, apply};
use crate::domain::Filter;
use crate::imaging::raster::Raster;
use proptest::prelude::*;

/// Filters a picture that the frame shows already.
fn toned(picture: &Raster, filters: &[Filter]) -> Raster {
    let size = (picture.width, picture.height);
    let frame = Frame::new(filters, size).expect("something is left");
    apply(picture, whole(size), &frame, frame.size(), filters)
}

fn whole((width, height): (u32, u32)) -> Window {
    Window { x: 0.0, y: 0.0, width: width.into(), height: height.into() }
}

fn one(colour: [u8; 3], filters: &[Filter]) -> Vec<u8> {
    toned(&Raster::new(colour.to_vec(), 1, 1, 3), filters).data
}

/// Every level of grey, or as many colours.
fn spread(channels: u32) -> Raster {
    let data =
        (0..=255_u8).flat_map(|level| [level, level.wrapping_mul(7), 255 - level].into_iter().take(channels as usize));
    Raster::new(data.collect(), 16, 16, channels)
}

fn most_apart(one: &Raster, other: &Raster) -> u8 {
    assert_eq!((one.width, one.height, one.channels), (other.width, other.height, other.channels));
    one.data.iter().zip(&other.data).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0)
}

/// The mean of a grey picture's light, 0 to 1, by the standard's formula.
fn light(picture: &Raster) -> f64 {
    let light = |&level: &u8| {
        let level = f64::from(level) / 255.0;
        if level <= 0.040_45 { level / 12.92 } else { ((level + 0.055) / 1.055).powf(2.4) }
    };
    picture.data.iter().map(light).sum::<f64>() / f64::from(picture.width * picture.height)
}

#[test]
fn grayscale_keeps_the_luminance_of_light() {
    // sRGB levels of 0.2126, 0.7152 and 0.0722 of the light; of levels their sums would be 54, 182 and 18.
    for (colour, level) in [
        ([255, 0, 0], 127),
        ([0, 255, 0], 220),
        ([0, 0, 255], 76),
        ([255, 255, 255], 255),
        ([0, 0, 0], 0),
        ([90, 90, 90], 90),
    ] {
        assert_eq!(one(colour, &[Filter::Grayscale {}]), [level], "{colour:?}");
        assert_eq!(one(colour, &[Filter::Saturation { amount: -1.0 }]), [level; 3], "{colour:?}");
    }
}

#[test]
fn amounts_of_nothing_change_nothing() {
    for picture in [spread(1), spread(3)] {
        for filter in [
            Filter::Brightness { amount: 0.0 },
            Filter::Contrast { amount: 0.0 },
            Filter::Saturation { amount: 0.0 },
            Filter::Vignette { amount: 0.0 },
            Filter::Sharpen { amount: 0.0, radius: 5.0 },
        ] {
            assert!(most_apart(&toned(&picture, std::slice::from_ref(&filter)), &picture) <= 1, "{filter:?}");
        }
    }
    for filter in [Filter::Sepia { amount: 0.0 }, Filter::Warmth { amount: 0.0 }] {
        assert!(most_apart(&toned(&spread(3), std::slice::from_ref(&filter)), &spread(3)) <= 1, "{filter:?}");
    }
}

#[test]
fn brightness_is_a_factor_of_light() {
    // Two stops: level 99 is an eighth of the light, 187 is half.
    let grey = |level| Raster::new(vec![level], 1, 1, 1);
    assert_eq!(toned(&grey(99), &[Filter::Brightness { amount: 1.0 }]).data, [187]);
    assert_eq!(toned(&grey(188), &[Filter::Brightness { amount: -1.0 }]).data, [99]);
    assert_eq!(toned(&grey(200), &[Filter::Brightness { amount: 1.0 }]).data, [255]);
}

#[test]
fn contrast_turns_around_the_middle_level() {
    let grey = |level, amount| toned(&Raster::new(vec![level], 1, 1, 1), &[Filter::Contrast { amount }]).data[0];
    // The middle lies between levels 127 and 128.
    assert!([0, 77, 255].iter().all(|&level| (127..=128).contains(&grey(level, -1.0))));
    assert_eq!([62, 128, 193].map(|level| grey(level, -0.5)), [95, 128, 160]);
    assert_eq!([117, 138].map(|level| grey(level, 1.0)), [86, 170]);
}

#[test]
fn warmth_moves_colours_and_keeps_luminance() {
    let warm = one([128; 3], &[Filter::Warmth { amount: 0.5 }]);
    let cold = one([128; 3], &[Filter::Warmth { amount: -0.5 }]);
    assert!(warm[0] > 135 && warm[2] < 120, "{warm:?}");
    assert!(cold[0] < 120 && cold[2] > 135, "{cold:?}");
    for colour in [warm, cold] {
        let grey = one([colour[0], colour[1], colour[2]], &[Filter::Grayscale {}]);
        assert!(grey[0].abs_diff(128) <= 1, "{grey:?}");
    }
}

#[test]
fn sepia_is_brown_whatever_the_colour() {
    for colour in [[40, 80, 200], [128; 3]] {
        let brown = one(colour, &[Filter::Sepia { amount: 1.0 }]);
        assert!(brown[0] > brown[1] && brown[1] > brown[2], "{brown:?}");
    }
    // A grey picture gets colours.
    assert_eq!(toned(&spread(1), &[Filter::Sepia { amount: 1.0 }]).channels, 3);
}

#[test]
fn order_matters() {
    let (brighter, flatter) = (Filter::Brightness { amount: 0.8 }, Filter::Contrast { amount: -0.5 });
    let one = toned(&spread(1), &[brighter.clone(), flatter.clone()]);
    assert!(most_apart(&one, &toned(&spread(1), &[flatter, brighter])) > 20);
}

#[test]
fn blur_keeps_the_mean_of_light() {
    // White and black stripes: as light, half; as levels 128 it would be a fifth.
    let stripes = Raster::new((0..64 * 64).map(|at| if at % 4 < 2 { 255 } else { 0 }).collect(), 64, 64, 1);
    let blurred = toned(&stripes, &[Filter::Blur { radius: 50.0 }]);
    assert!((light(&blurred) - light(&stripes)).abs() < 0.005);
    // At the border stripes meet their mirror images.
    let inner = (16..48).flat_map(|y| &blurred.data[y * 64 + 16..y * 64 + 48]);
    assert!(inner.clone().all(|level| level.abs_diff(188) <= 2), "{:?}", inner.max());
}

#[test]
fn sharpen_makes_edges_steeper_and_leaves_flats() {
    let edge = Raster::new((0..32 * 4).map(|at| if at % 32 < 16 { 100 } else { 150 }).collect(), 32, 4, 1);
    let sharp = toned(&edge, &[Filter::Sharpen { amount: 1.0, radius: 50.0 }]);
    assert!(sharp.data[15] < 90 && sharp.data[16] > 160, "{:?}", &sharp.data[12..20]);
    assert!(sharp.data[0].abs_diff(100) <= 1 && sharp.data[31].abs_diff(150) <= 1);
}

#[test]
fn vignette_leaves_the_middle_and_darkens_the_corners_alike() {
    let white = Raster::new(vec![255; 60 * 40 * 3], 60, 40, 3);
    let dark = toned(&white, &[Filter::Vignette { amount: 1.0 }]);
    let at = |x: usize, y: usize| dark.data[(y * 60 + x) * 3];
    assert!((25..35).all(|x| (15..25).all(|y| at(x, y) == 255)));
    assert!(at(0, 0) < 20 && at(10, 5) > at(0, 0));
    assert_eq!([at(59, 0), at(0, 39), at(59, 39)], [at(0, 0); 3]);
}

#[test]
fn auto_stretches_what_is_flat_and_leaves_what_is_not() {
    assert!(most_apart(&toned(&spread(1), &[Filter::Auto {}]), &spread(1)) <= 1);
    let foggy = Raster::new((0..100).map(|at| 80 + at).collect(), 10, 10, 1);
    let clear = toned(&foggy, &[Filter::Auto {}]);
    assert!(clear.data[0] <= 1 && clear.data[99] >= 254, "{:?}", clear.data);
    let fog = Raster::new(vec![140; 100], 10, 10, 1);
    assert!(most_apart(&toned(&fog, &[Filter::Auto {}]), &fog) <= 1);
    // Fog is not stretched into noise.
    let thick = Raster::new((0..100).map(|at| 140 + at % 10).collect(), 10, 10, 1);
    let thick = toned(&thick, &[Filter::Auto {}]).data;
    assert!(thick.iter().max().zip(thick.iter().min()).is_some_and(|(high, low)| high - low <= 28), "{thick:?}");
}

#[test]
fn straightening_leaves_nothing_of_the_border() {
    // Outside of the frame all is red; inside white.
    for degrees in [-45.0, -7.3, 0.4, 12.0, 45.0] {
        let filters = [Filter::Straighten { degrees }];
        let (size, frame) = ((90, 60), Frame::new(&filters, (90, 60)).unwrap());
        let window = frame.window(frame.size());
        assert!(window.x >= 0.0 && window.x + window.width <= 90.0 && window.y + window.height <= 60.0);
        let white = Raster::new(vec![255; size.0 * size.1 * 3], 90, 60, 3);
        let whole = apply(&white, whole((90, 60)), &frame, frame.size(), &filters);
        assert_eq!((whole.width, whole.height), frame.size());
        assert!(whole.data.iter().all(|&level| level == 255), "{degrees}");
    }
}

#[test]
fn straightening_turns_clockwise_about_the_middle() {
    // A dark line from left to right falls to the right when it is turned clockwise.
    let line = Raster::new(
        (0..101 * 101).map(|at| if (49..52).contains(&(at / 101)) { 0 } else { 255 }).collect(),
        101,
        101,
        1,
    );
    let filters = [Filter::Straighten { degrees: 20.0 }];
    let frame = Frame::new(&filters, (101, 101)).unwrap();
    let turned = apply(&line, whole((101, 101)), &frame, frame.size(), &filters);
    let darkest = |x: u32| (0..turned.height).min_by_key(|y| turned.data[(y * turned.width + x) as usize]).unwrap();
    let (left, middle, right) = (darkest(2), darkest(turned.width / 2), darkest(turned.width - 3));
    assert!(middle.abs_diff(turned.height / 2) <= 1, "{middle}");
    // tan 20 degrees over half of the width.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few pixels")]
    let fall = (0.364 * f64::from(turned.width / 2 - 2)).round() as u32;
    assert!(left.abs_diff(middle - fall) <= 1 && right.abs_diff(middle + fall) <= 1, "{left} {middle} {right}");
}

/// Any filter within its bounds, the bounds themselves most of all.
pub fn any_filter() -> impl Strategy<Value = Filter> {
    let part = |least: f64, most: f64| prop_oneof![Just(least), Just(most), least..=most];
    prop_oneof![
        Just(Filter::Grayscale {}),
        Just(Filter::Auto {}),
        part(0.0, 1.0).prop_map(|amount| Filter::Sepia { amount }),
        part(-1.0, 1.0).prop_map(|amount| Filter::Brightness { amount }),
        part(-1.0, 1.0).prop_map(|amount| Filter::Contrast { amount }),
        part(-1.0, 1.0).prop_map(|amount| Filter::Saturation { amount }),
        part(-1.0, 1.0).prop_map(|amount| Filter::Warmth { amount }),
        (part(0.0, 2.0), part(0.1, 50.0)).prop_map(|(amount, radius)| Filter::Sharpen { amount, radius }),
        part(0.1, 50.0).prop_map(|radius| Filter::Blur { radius }),
        part(0.0, 1.0).prop_map(|amount| Filter::Vignette { amount }),
        prop_oneof![Just(90), Just(180), Just(270)].prop_map(|degrees| Filter::Rotate { degrees }),
        part(-45.0, 45.0).prop_map(|degrees| Filter::Straighten { degrees }),
        (part(0.0, 0.999), part(0.0, 0.999), part(1e-9, 1.0), part(1e-9, 1.0)).prop_map(|(x, y, width, height)| {
            Filter::Crop { x, y, width: width.min(1.0 - x), height: height.min(1.0 - y) }
        }),
    ]
}

proptest! {
    #[test]
    fn no_filters_within_bounds_panic(
        filters in prop::collection::vec(any_filter(), 1..6),
        (width, height) in (1_u32..20, 1_u32..20),
        colour: bool,
        seed: u8,
    ) {
        prop_assert_eq!(crate::domain::filter::check(&filters), Ok(()));
        let channels = if colour { 3 } else { 1 };
        let data = (0..width * height * channels).map(|at| (at * 37).to_le_bytes()[0].wrapping_mul(seed)).collect();
        let picture = Raster::new(data, width, height, channels);
        if let Some(frame) = Frame::new(&filters, (width, height)) {
            let made = apply(&picture, whole((width, height)), &frame, frame.size(), &filters);
            prop_assert_eq!(made.data.len(), (made.width * made.height * made.channels) as usize);
        }
    }
}
