//! Colour management, bit depths and alpha.

use super::helpers::*;
use crate::MediaType::{Gif, Jpeg, Png, Webp};
use crate::raster::Raster;
use moxcms::ColorProfile;

/// Three bars: orange, green, grey.
const BARS: [[u8; 3]; 3] = [[230, 120, 40], [60, 180, 75], [128, 128, 128]];

fn bars(width: u32, height: u32) -> Raster {
    rgb_image(width, height, |x, _| BARS[(x * 3 / width) as usize])
}

fn render_bar_colours(bytes: &[u8], media_type: crate::MediaType) -> [[i32; 3]; 3] {
    let rendered = render_default(bytes, media_type).expect("rendered");
    let large = decode_rgb(&rendered.renditions[2].bytes);
    [0.16, 0.5, 0.84].map(|x| mean_colour_at(&large, x, 0.5))
}

fn bar_colours() -> [[i32; 3]; 3] {
    BARS.map(|bar| bar.map(i32::from))
}

#[track_caller]
fn assert_bars(actual: [[i32; 3]; 3], expected: [[i32; 3]; 3], tolerance: i32) {
    actual.into_iter().zip(expected).for_each(|(actual, expected)| assert_near(actual, expected, tolerance));
}

#[test]
fn keeps_untagged_and_srgb_colours() {
    let image = encode_jpeg(&bars(3000, 2000));
    assert_bars(render_bar_colours(&image, Jpeg), bar_colours(), 3);
    let profile = ColorProfile::new_srgb().encode().expect("profile");
    let tagged = with_profile(&image, &profile);
    assert_eq!(
        render_default(&tagged, Jpeg).expect("tagged").renditions,
        render_default(&image, Jpeg).expect("plain").renditions
    );
}

#[test]
fn converts_display_p3_and_adobe_rgb() {
    let image = encode_jpeg(&bars(3001, 2000));
    // Expected values are computed independently from the published primaries: linear light, 3x3 matrix, sRGB curve,
    // clipped.
    let p3 = ColorProfile::new_display_p3().encode().expect("profile");
    assert_bars(
        render_bar_colours(&with_profile(&image, &p3), Jpeg),
        [[247, 112, 0], [0, 183, 57], [128, 128, 128]],
        4,
    );
    let adobe = ColorProfile::new_adobe_rgb().encode().expect("profile");
    assert_bars(
        render_bar_colours(&with_profile(&image, &adobe), Jpeg),
        [[255, 121, 25], [0, 181, 64], [129, 129, 129]],
        4,
    );
}

#[test]
fn ignores_unusable_profiles() {
    let image = encode_jpeg(&bars(600, 400));
    let expected = render_default(&image, Jpeg).expect("plain").renditions;
    let p3 = ColorProfile::new_display_p3().encode().expect("profile");
    let grey = ColorProfile::new_gray_with_gamma(1.0).encode().expect("profile");
    for profile in [b"rubbish".to_vec(), p3[..p3.len() / 3].to_vec(), vec![0; 4096], grey] {
        assert_eq!(render_default(&with_profile(&image, &profile), Jpeg).expect("rendered").renditions, expected);
    }
}

#[test]
fn applies_grey_profiles() {
    let linear = ColorProfile::new_gray_with_gamma(1.0).encode().expect("profile");
    let rendered = render_default(&with_profile(&grey_jpeg(500, 500, 64), &linear), Jpeg).expect("rendered");
    // Linear 64/255 = 0.251 is 0.537 on the sRGB curve: level 137.
    assert_near(mean_colour_at(&decode_rgb(&rendered.renditions[2].bytes), 0.5, 0.5), [137; 3], 3);
}

#[test]
fn inverts_adobe_cmyk() {
    let rendered = render_default(&fixture("cmyk.jpg"), Jpeg).expect("rendered");
    let original = render_default(&fixture("progressive.jpg"), Jpeg).expect("rendered");
    let [cmyk, rgb] = [rendered, original].map(|rendered| decode_rgb(&rendered.renditions[2].bytes));
    for (x, y) in [(0.1, 0.1), (0.5, 0.5), (0.9, 0.9), (0.2, 0.7)] {
        assert_near(mean_colour_at(&cmyk, x, y), mean_colour_at(&rgb, x, y), 10);
    }
}

#[test]
fn decodes_png_bit_depths() {
    let image = bars(640, 400);
    let wide: Vec<u8> = image.data.iter().flat_map(|&sample| [sample, 0x37]).collect();
    assert_bars(
        render_bar_colours(&encode_png(640, 400, png::ColorType::Rgb, png::BitDepth::Sixteen, &wide), Png),
        bar_colours(),
        3,
    );
    assert_bars(
        render_bar_colours(&encode_png(640, 400, png::ColorType::Rgb, png::BitDepth::Eight, &image.data), Png),
        bar_colours(),
        3,
    );
    let bits = vec![0b1010_1010; 640 / 8 * 400];
    let rendered = render_default(&encode_png(640, 400, png::ColorType::Grayscale, png::BitDepth::One, &bits), Png)
        .expect("rendered");
    assert_near(mean_colour_at(&decode_rgb(&rendered.renditions[0].bytes), 0.5, 0.5), [127; 3], 6);
}

#[test]
fn composites_alpha_on_white() {
    let translucent: Vec<u8> = (0..300 * 300).flat_map(|_| [200, 0, 0, 128]).collect();
    let rendered = render_default(&encode_png(300, 300, png::ColorType::Rgba, png::BitDepth::Eight, &translucent), Png)
        .expect("rendered");
    assert_near(mean_colour_at(&decode_rgb(&rendered.renditions[2].bytes), 0.5, 0.5), [227, 127, 127], 3);
    let transparent: Vec<u8> = (0..300 * 300).flat_map(|_| [90, 0]).collect();
    let bytes = encode_png(300, 300, png::ColorType::GrayscaleAlpha, png::BitDepth::Eight, &transparent);
    let rendered = render_default(&bytes, Png).expect("rendered");
    assert_near(mean_colour_at(&decode_rgb(&rendered.renditions[2].bytes), 0.5, 0.5), [255; 3], 1);
    // The alpha of the fixtures is 0 at the top and increases downwards.
    for (name, media_type) in [("alpha.png", Png), ("alpha.webp", Webp)] {
        let rendered = render_default(&fixture(name), media_type).expect("rendered");
        assert_near(mean_colour_at(&decode_rgb(&rendered.renditions[2].bytes), 0.5, 0.0), [250; 3], 8);
    }
}

#[test]
fn renders_first_animation_frame() {
    for (name, media_type) in [("animated.gif", Gif), ("animated.webp", Webp)] {
        let rendered = render_default(&fixture(name), media_type).expect("rendered");
        let still = render_default(&fixture("alpha.png"), Png).expect("rendered");
        let [first, still] =
            [rendered, still].map(|rendered| mean_colour_at(&decode_rgb(&rendered.renditions[2].bytes), 0.5, 0.97));
        // The second frame is solid red.
        assert_near(first, still, 24);
    }
}
