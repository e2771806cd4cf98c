//! Colours come out as they were meant.

use super::make::*;
use crate::imaging::MediaType::{Gif, Jpeg, Png, Webp};
use crate::imaging::raster::Raster;
use moxcms::ColorProfile;

/// Three bars: an orange, a green, a grey.
const BARS: [[u8; 3]; 3] = [[230, 120, 40], [60, 180, 75], [128, 128, 128]];

fn bars(width: u32, height: u32) -> Raster {
    paint(width, height, |x, _| BARS[(x * 3 / width) as usize])
}

fn shown(bytes: &[u8], media_type: crate::imaging::MediaType) -> [[i32; 3]; 3] {
    let developed = run(bytes, media_type).expect("developed");
    let large = pixels(&developed.renditions[2].bytes);
    [0.16, 0.5, 0.84].map(|across| colour_at(&large, across, 0.5))
}

fn plain() -> [[i32; 3]; 3] {
    BARS.map(|bar| bar.map(i32::from))
}

#[track_caller]
fn assert_bars(real: [[i32; 3]; 3], wanted: [[i32; 3]; 3], tolerance: i32) {
    real.into_iter().zip(wanted).for_each(|(real, wanted)| assert_near(real, wanted, tolerance));
}

#[test]
fn untagged_and_srgb_pictures_keep_their_colours() {
    let picture = jpeg(&bars(3000, 2000));
    assert_bars(shown(&picture, Jpeg), plain(), 3);
    let profile = ColorProfile::new_srgb().encode().expect("profile");
    let tagged = with_profile(&picture, &profile);
    assert_eq!(run(&tagged, Jpeg).expect("tagged").renditions, run(&picture, Jpeg).expect("plain").renditions);
}

#[test]
fn display_p3_and_adobe_rgb_become_srgb() {
    let picture = jpeg(&bars(3001, 2000));
    // Computed apart from this code, from the published primaries: linear light, 3x3 matrix, sRGB curve, clipped.
    let p3 = ColorProfile::new_display_p3().encode().expect("profile");
    assert_bars(shown(&with_profile(&picture, &p3), Jpeg), [[247, 112, 0], [0, 183, 57], [128, 128, 128]], 4);
    let adobe = ColorProfile::new_adobe_rgb().encode().expect("profile");
    assert_bars(shown(&with_profile(&picture, &adobe), Jpeg), [[255, 121, 25], [0, 181, 64], [129, 129, 129]], 4);
}

#[test]
fn broken_and_foreign_profiles_are_ignored() {
    let picture = jpeg(&bars(600, 400));
    let wanted = run(&picture, Jpeg).expect("plain").renditions;
    let p3 = ColorProfile::new_display_p3().encode().expect("profile");
    let grey = ColorProfile::new_gray_with_gamma(1.0).encode().expect("profile");
    for profile in [b"rubbish".to_vec(), p3[..p3.len() / 3].to_vec(), vec![0; 4096], grey] {
        assert_eq!(run(&with_profile(&picture, &profile), Jpeg).expect("developed").renditions, wanted);
    }
}

#[test]
fn grey_profiles_are_applied() {
    let linear = ColorProfile::new_gray_with_gamma(1.0).encode().expect("profile");
    let developed = run(&with_profile(&grey_jpeg(500, 500, 64), &linear), Jpeg).expect("developed");
    // Linear 64/255 = 0.251 is 0.537 on the sRGB curve: 137.
    assert_near(colour_at(&pixels(&developed.renditions[2].bytes), 0.5, 0.5), [137; 3], 3);
}

#[test]
fn cmyk_of_adobe_is_inverted_back() {
    let developed = run(&fixture("cmyk.jpg"), Jpeg).expect("developed");
    let same = run(&fixture("progressive.jpg"), Jpeg).expect("developed");
    let [cmyk, rgb] = [developed, same].map(|it| pixels(&it.renditions[2].bytes));
    for (across, down) in [(0.1, 0.1), (0.5, 0.5), (0.9, 0.9), (0.2, 0.7)] {
        assert_near(colour_at(&cmyk, across, down), colour_at(&rgb, across, down), 10);
    }
}

#[test]
fn png_of_every_depth() {
    let picture = bars(640, 400);
    let wide: Vec<u8> = picture.data.iter().flat_map(|&sample| [sample, 0x37]).collect();
    assert_bars(shown(&png(640, 400, png::ColorType::Rgb, png::BitDepth::Sixteen, &wide), Png), plain(), 3);
    assert_bars(shown(&png(640, 400, png::ColorType::Rgb, png::BitDepth::Eight, &picture.data), Png), plain(), 3);
    let bits = vec![0b1010_1010; 640 / 8 * 400];
    let developed = run(&png(640, 400, png::ColorType::Grayscale, png::BitDepth::One, &bits), Png).expect("developed");
    assert_near(colour_at(&pixels(&developed.renditions[0].bytes), 0.5, 0.5), [127; 3], 6);
}

#[test]
fn opacity_is_laid_on_white() {
    let half: Vec<u8> = (0..300 * 300).flat_map(|_| [200, 0, 0, 128]).collect();
    let developed = run(&png(300, 300, png::ColorType::Rgba, png::BitDepth::Eight, &half), Png).expect("developed");
    assert_near(colour_at(&pixels(&developed.renditions[2].bytes), 0.5, 0.5), [227, 127, 127], 3);
    let clear: Vec<u8> = (0..300 * 300).flat_map(|_| [90, 0]).collect();
    let bytes = png(300, 300, png::ColorType::GrayscaleAlpha, png::BitDepth::Eight, &clear);
    let developed = run(&bytes, Png).expect("developed");
    assert_near(colour_at(&pixels(&developed.renditions[2].bytes), 0.5, 0.5), [255; 3], 1);
    // The fixtures' opacity rises from nothing at the top.
    for (name, media_type) in [("alpha.png", Png), ("alpha.webp", Webp)] {
        let developed = run(&fixture(name), media_type).expect("developed");
        assert_near(colour_at(&pixels(&developed.renditions[2].bytes), 0.5, 0.0), [250; 3], 8);
    }
}

#[test]
fn of_an_animation_the_first_frame() {
    for (name, media_type) in [("animated.gif", Gif), ("animated.webp", Webp)] {
        let developed = run(&fixture(name), media_type).expect("developed");
        let still = run(&fixture("alpha.png"), Png).expect("developed");
        let [first, still] = [developed, still].map(|it| colour_at(&pixels(&it.renditions[2].bytes), 0.5, 0.97));
        // The second frame is plain red.
        assert_near(first, still, 24);
    }
}
