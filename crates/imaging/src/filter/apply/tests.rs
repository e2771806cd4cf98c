//! Tests of every filter on exact sample values.

use super::{Filter, Geometry, PixelRect, apply};
use crate::raster::Raster;
use proptest::prelude::*;

/// Filters an image that is already cropped and rotated.
fn filtered(image: &Raster, filters: &[Filter]) -> Raster {
    let size = (image.width, image.height);
    let geometry = Geometry::new(filters, size).expect("the crop leaves pixels");
    apply(image, full_rect(size), &geometry, geometry.size(), filters)
}

fn full_rect((width, height): (u32, u32)) -> PixelRect {
    PixelRect { x: 0.0, y: 0.0, width: width.into(), height: height.into() }
}

fn filter_pixel(colour: [u8; 3], filters: &[Filter]) -> Vec<u8> {
    filtered(&Raster::new(colour.to_vec(), 1, 1, 3), filters).data
}

/// Returns an image with all 256 grey levels, or as many colours.
fn all_levels(channels: u32) -> Raster {
    let data =
        (0..=255_u8).flat_map(|level| [level, level.wrapping_mul(7), 255 - level].into_iter().take(channels as usize));
    Raster::new(data.collect(), 16, 16, channels)
}

fn max_difference(left: &Raster, right: &Raster) -> u8 {
    assert_eq!((left.width, left.height, left.channels), (right.width, right.height, right.channels));
    left.data.iter().zip(&right.data).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0)
}

/// Returns the mean linear light of a grey image, 0 to 1, by the formula of IEC 61966-2-1.
fn mean_linear_light(image: &Raster) -> f64 {
    let to_linear = |&level: &u8| {
        let level = f64::from(level) / 255.0;
        if level <= 0.040_45 { level / 12.92 } else { ((level + 0.055) / 1.055).powf(2.4) }
    };
    image.data.iter().map(to_linear).sum::<f64>() / f64::from(image.width * image.height)
}

#[test]
fn grayscale_keeps_luminance() {
    // The sRGB levels of 0.2126, 0.7152 and 0.0722 of the light. Weighting levels instead would give 54, 182 and 18.
    for (colour, level) in [
        ([255, 0, 0], 127),
        ([0, 255, 0], 220),
        ([0, 0, 255], 76),
        ([255, 255, 255], 255),
        ([0, 0, 0], 0),
        ([90, 90, 90], 90),
    ] {
        assert_eq!(filter_pixel(colour, &[Filter::Grayscale {}]), [level], "{colour:?}");
        assert_eq!(filter_pixel(colour, &[Filter::Saturation { amount: -1.0 }]), [level; 3], "{colour:?}");
    }
}

#[test]
fn zero_amounts_change_nothing() {
    for image in [all_levels(1), all_levels(3)] {
        for filter in [
            Filter::Brightness { amount: 0.0 },
            Filter::Contrast { amount: 0.0 },
            Filter::Saturation { amount: 0.0 },
            Filter::Vignette { amount: 0.0 },
            Filter::Sharpen { amount: 0.0, radius: 5.0 },
        ] {
            assert!(max_difference(&filtered(&image, std::slice::from_ref(&filter)), &image) <= 1, "{filter:?}");
        }
    }
    for filter in [Filter::Sepia { amount: 0.0 }, Filter::Warmth { amount: 0.0 }] {
        assert!(
            max_difference(&filtered(&all_levels(3), std::slice::from_ref(&filter)), &all_levels(3)) <= 1,
            "{filter:?}"
        );
    }
}

#[test]
fn brightness_scales_linear_light() {
    // Two stops: level 99 is an eighth of the light, level 187 is half.
    let grey = |level| Raster::new(vec![level], 1, 1, 1);
    assert_eq!(filtered(&grey(99), &[Filter::Brightness { amount: 1.0 }]).data, [187]);
    assert_eq!(filtered(&grey(188), &[Filter::Brightness { amount: -1.0 }]).data, [99]);
    assert_eq!(filtered(&grey(200), &[Filter::Brightness { amount: 1.0 }]).data, [255]);
}

#[test]
fn contrast_pivots_on_middle_grey() {
    let grey = |level, amount| filtered(&Raster::new(vec![level], 1, 1, 1), &[Filter::Contrast { amount }]).data[0];
    // Middle grey lies between levels 127 and 128.
    assert!([0, 77, 255].iter().all(|&level| (127..=128).contains(&grey(level, -1.0))));
    assert_eq!([62, 128, 193].map(|level| grey(level, -0.5)), [95, 128, 160]);
    assert_eq!([117, 138].map(|level| grey(level, 1.0)), [86, 170]);
}

#[test]
fn warmth_keeps_luminance() {
    let warm = filter_pixel([128; 3], &[Filter::Warmth { amount: 0.5 }]);
    let cold = filter_pixel([128; 3], &[Filter::Warmth { amount: -0.5 }]);
    assert!(warm[0] > 135 && warm[2] < 120, "{warm:?}");
    assert!(cold[0] < 120 && cold[2] > 135, "{cold:?}");
    for colour in [warm, cold] {
        let grey = filter_pixel([colour[0], colour[1], colour[2]], &[Filter::Grayscale {}]);
        assert!(grey[0].abs_diff(128) <= 1, "{grey:?}");
    }
}

#[test]
fn sepia_is_brown_for_any_colour() {
    for colour in [[40, 80, 200], [128; 3]] {
        let brown = filter_pixel(colour, &[Filter::Sepia { amount: 1.0 }]);
        assert!(brown[0] > brown[1] && brown[1] > brown[2], "{brown:?}");
    }
    // A grey image is converted to RGB.
    assert_eq!(filtered(&all_levels(1), &[Filter::Sepia { amount: 1.0 }]).channels, 3);
}

#[test]
fn filter_order_matters() {
    let (brighter, lower_contrast) = (Filter::Brightness { amount: 0.8 }, Filter::Contrast { amount: -0.5 });
    let brightened_first = filtered(&all_levels(1), &[brighter.clone(), lower_contrast.clone()]);
    assert!(max_difference(&brightened_first, &filtered(&all_levels(1), &[lower_contrast, brighter])) > 20);
}

#[test]
fn blur_keeps_mean_linear_light() {
    // White and black stripes average to half of the light, level 188. Averaging levels would give 128, a fifth of
    // the light.
    let stripes = Raster::new((0..64 * 64).map(|index| if index % 4 < 2 { 255 } else { 0 }).collect(), 64, 64, 1);
    let blurred = filtered(&stripes, &[Filter::Blur { radius: 50.0 }]);
    assert!((mean_linear_light(&blurred) - mean_linear_light(&stripes)).abs() < 0.005);
    // Exclude the border, where stripes are mirrored.
    let inner = (16..48).flat_map(|y| &blurred.data[y * 64 + 16..y * 64 + 48]);
    assert!(inner.clone().all(|level| level.abs_diff(188) <= 2), "{:?}", inner.max());
}

#[test]
fn sharpen_changes_edges_only() {
    let edge = Raster::new((0..32 * 4).map(|index| if index % 32 < 16 { 100 } else { 150 }).collect(), 32, 4, 1);
    let sharp = filtered(&edge, &[Filter::Sharpen { amount: 1.0, radius: 50.0 }]);
    assert!(sharp.data[15] < 90 && sharp.data[16] > 160, "{:?}", &sharp.data[12..20]);
    assert!(sharp.data[0].abs_diff(100) <= 1 && sharp.data[31].abs_diff(150) <= 1);
}

#[test]
fn vignette_darkens_corners_equally() {
    let white = Raster::new(vec![255; 60 * 40 * 3], 60, 40, 3);
    let dark = filtered(&white, &[Filter::Vignette { amount: 1.0 }]);
    let level_at = |x: usize, y: usize| dark.data[(y * 60 + x) * 3];
    assert!((25..35).all(|x| (15..25).all(|y| level_at(x, y) == 255)));
    assert!(level_at(0, 0) < 20 && level_at(10, 5) > level_at(0, 0));
    assert_eq!([level_at(59, 0), level_at(0, 39), level_at(59, 39)], [level_at(0, 0); 3]);
}

#[test]
fn auto_stretches_low_contrast_only() {
    assert!(max_difference(&filtered(&all_levels(1), &[Filter::Auto {}]), &all_levels(1)) <= 1);
    let low_contrast = Raster::new((0..100).map(|index| 80 + index).collect(), 10, 10, 1);
    let stretched = filtered(&low_contrast, &[Filter::Auto {}]);
    assert!(stretched.data[0] <= 1 && stretched.data[99] >= 254, "{:?}", stretched.data);
    let uniform = Raster::new(vec![140; 100], 10, 10, 1);
    assert!(max_difference(&filtered(&uniform, &[Filter::Auto {}]), &uniform) <= 1);
    // The stretch is limited, so that noise is not amplified.
    let noise = Raster::new((0..100).map(|index| 140 + index % 10).collect(), 10, 10, 1);
    let noise = filtered(&noise, &[Filter::Auto {}]).data;
    assert!(noise.iter().max().zip(noise.iter().min()).is_some_and(|(high, low)| high - low <= 28), "{noise:?}");
}

#[test]
fn straighten_excludes_the_border() {
    // The image is white; samples from outside would be darker.
    for degrees in [-45.0, -7.3, 0.4, 12.0, 45.0] {
        let filters = [Filter::Straighten { degrees }];
        let (size, geometry) = ((90, 60), Geometry::new(&filters, (90, 60)).unwrap());
        let source_rect = geometry.source_rect(geometry.size());
        assert!(
            source_rect.x >= 0.0
                && source_rect.x + source_rect.width <= 90.0
                && source_rect.y + source_rect.height <= 60.0
        );
        let white = Raster::new(vec![255; size.0 * size.1 * 3], 90, 60, 3);
        let straightened = apply(&white, full_rect((90, 60)), &geometry, geometry.size(), &filters);
        assert_eq!((straightened.width, straightened.height), geometry.size());
        assert!(straightened.data.iter().all(|&level| level == 255), "{degrees}");
    }
}

#[test]
fn straighten_rotates_clockwise() {
    // A dark horizontal line descends to the right after a clockwise rotation.
    let line = Raster::new(
        (0..101 * 101).map(|index| if (49..52).contains(&(index / 101)) { 0 } else { 255 }).collect(),
        101,
        101,
        1,
    );
    let filters = [Filter::Straighten { degrees: 20.0 }];
    let geometry = Geometry::new(&filters, (101, 101)).unwrap();
    let rotated = apply(&line, full_rect((101, 101)), &geometry, geometry.size(), &filters);
    let darkest = |x: u32| (0..rotated.height).min_by_key(|y| rotated.data[(y * rotated.width + x) as usize]).unwrap();
    let (left, middle, right) = (darkest(2), darkest(rotated.width / 2), darkest(rotated.width - 3));
    assert!(middle.abs_diff(rotated.height / 2) <= 1, "{middle}");
    // tan(20 degrees) over half of the width.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few pixels")]
    let expected_shift = (0.364 * f64::from(rotated.width / 2 - 2)).round() as u32;
    assert!(
        left.abs_diff(middle - expected_shift) <= 1 && right.abs_diff(middle + expected_shift) <= 1,
        "{left} {middle} {right}"
    );
}

/// Generates valid filters, preferring the bounds of their ranges.
pub fn any_filter() -> impl Strategy<Value = Filter> {
    let in_range = |min: f64, max: f64| prop_oneof![Just(min), Just(max), min..=max];
    prop_oneof![
        Just(Filter::Grayscale {}),
        Just(Filter::Auto {}),
        in_range(0.0, 1.0).prop_map(|amount| Filter::Sepia { amount }),
        in_range(-1.0, 1.0).prop_map(|amount| Filter::Brightness { amount }),
        in_range(-1.0, 1.0).prop_map(|amount| Filter::Contrast { amount }),
        in_range(-1.0, 1.0).prop_map(|amount| Filter::Saturation { amount }),
        in_range(-1.0, 1.0).prop_map(|amount| Filter::Warmth { amount }),
        (in_range(0.0, 2.0), in_range(0.1, 50.0)).prop_map(|(amount, radius)| Filter::Sharpen { amount, radius }),
        in_range(0.1, 50.0).prop_map(|radius| Filter::Blur { radius }),
        in_range(0.0, 1.0).prop_map(|amount| Filter::Vignette { amount }),
        prop_oneof![Just(90), Just(180), Just(270)].prop_map(|degrees| Filter::Rotate { degrees }),
        in_range(-45.0, 45.0).prop_map(|degrees| Filter::Straighten { degrees }),
        (in_range(0.0, 0.999), in_range(0.0, 0.999), in_range(1e-9, 1.0), in_range(1e-9, 1.0)).prop_map(
            |(x, y, width, height)| { Filter::Crop { x, y, width: width.min(1.0 - x), height: height.min(1.0 - y) } }
        ),
    ]
}

proptest! {
    #[test]
    fn valid_filters_never_panic(
        filters in prop::collection::vec(any_filter(), 1..6),
        (width, height) in (1_u32..20, 1_u32..20),
        colour: bool,
        seed: u8,
    ) {
        prop_assert_eq!(crate::validate_filters(&filters), Ok(()));
        let channels = if colour { 3 } else { 1 };
        let sample = |index: u32| (index * 37).to_le_bytes()[0].wrapping_mul(seed);
        let data = (0..width * height * channels).map(sample).collect();
        let image = Raster::new(data, width, height, channels);
        if let Some(geometry) = Geometry::new(&filters, (width, height)) {
            let result = apply(&image, full_rect((width, height)), &geometry, geometry.size(), &filters);
            prop_assert_eq!(result.data.len(), (result.width * result.height * result.channels) as usize);
        }
    }
}
