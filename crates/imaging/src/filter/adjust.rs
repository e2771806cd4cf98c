//! Filters that change sample values and keep the geometry: tone, colour, blur, sharpening and vignette.
//!
//! Filters that model light work on linear light: brightness, vignette, warmth, sepia, saturation, grayscale and
//! blur. Filters that model perceived tone work on sRGB levels, which are approximately perceptually uniform:
//! contrast, `auto` and sharpening. In linear light, contrast and `auto` would clip the shadows, and sharpening would
//! make dark halos look wider than bright ones.
#![expect(clippy::cast_precision_loss, reason = "edges and pixel counts, used as ratios")]

use super::blur::blur;
use super::linear::{Curve, LUMINANCE_WEIGHTS, LinearImage, TO_LINEAR, TO_SRGB};

/// Gain of `brightness` at 1: two stops.
const MAX_GAIN: f32 = 4.0;
/// Slope of `contrast` at 1.
const MAX_CONTRAST_SLOPE: f32 = 4.0;
/// Gain of red, and inverse gain of blue, of `warmth` at 1, before normalisation to constant luminance.
const MAX_WARMTH_GAIN: f32 = 1.5;
/// Linear RGB of the sepia tint for luminance 1; its own luminance is 1 as well.
const SEPIA_TINT: [f32; 3] = [1.3, 0.956_3, 0.55];
/// Fraction of the half diagonal within which a vignette has no effect.
const VIGNETTE_CLEAR_RADIUS: f32 = 0.3;
/// Fraction of the pixels that `auto` clips to black, and to white.
const AUTO_CLIPPED_FRACTION: f64 = 0.001;
/// Maximum stretch of `auto`, so that it does not amplify noise in low-contrast images such as fog.
const AUTO_MAX_STRETCH: f32 = 3.0;
/// Number of histogram bins of `auto`.
const HISTOGRAM_BINS: usize = 1024;

pub fn grayscale(image: &mut LinearImage) {
    image.planes = vec![image.luminance()];
}

pub fn sepia(image: &mut LinearImage, amount: f32) {
    image.map_rgb(|rgb| {
        let luminance = luminance(rgb);
        std::array::from_fn(|channel| lerp(rgb[channel], luminance * SEPIA_TINT[channel], amount))
    });
}

pub fn brightness(image: &mut LinearImage, amount: f32) {
    let gain = MAX_GAIN.powf(amount);
    image.map(|sample| sample * gain);
}

pub fn contrast(image: &mut LinearImage, amount: f32) {
    let slope = if amount > 0.0 { 1.0 + amount * (MAX_CONTRAST_SLOPE - 1.0) } else { 1.0 + amount };
    let curve = Curve::from_srgb_levels(|level| 0.5 + (level - 0.5) * slope);
    image.map(|sample| curve.eval(sample));
}

pub fn saturation(image: &mut LinearImage, amount: f32) {
    if image.planes.len() > 1 {
        image.map_rgb(|rgb| {
            let luminance = luminance(rgb);
            rgb.map(|sample| lerp(luminance, sample, 1.0 + amount))
        });
    }
}

pub fn warmth(image: &mut LinearImage, amount: f32) {
    let gains = [MAX_WARMTH_GAIN.powf(amount), 1.0, MAX_WARMTH_GAIN.powf(-amount)];
    let luminance_gain = luminance(gains);
    image.map_rgb(|rgb| std::array::from_fn(|channel| rgb[channel] * gains[channel] / luminance_gain));
}

/// Applies an unsharp mask of the luminance. Separate masks per channel would cause colour fringes.
pub fn sharpen(image: &mut LinearImage, amount: f32, radius: f64) {
    let levels: Vec<f32> = image.luminance().into_iter().map(|sample| TO_SRGB.eval(sample)).collect();
    let mut mask = levels.clone();
    blur(&mut mask, image.width, radius);
    for (mask, &level) in mask.iter_mut().zip(&levels) {
        let sharpened = level + amount * (level - *mask);
        *mask = TO_LINEAR.eval(sharpened) - TO_LINEAR.eval(level);
    }
    for plane in &mut image.planes {
        plane.iter_mut().zip(&mask).for_each(|(sample, difference)| *sample = (*sample + difference).clamp(0.0, 1.0));
    }
}

pub fn gaussian_blur(image: &mut LinearImage, radius: f64) {
    for plane in &mut image.planes {
        blur(plane, image.width, radius);
    }
}

pub fn vignette(image: &mut LinearImage, amount: f32) {
    let (centre_x, centre_y) = (image.width as f32 / 2.0, image.height as f32 / 2.0);
    // Not `hypot`: it may link to a `hypotf` symbol version that glibc 2.34 (Amazon Linux 2023) does not have.
    let half_diagonal = (centre_x * centre_x + centre_y * centre_y).sqrt();
    for y in 0..image.height {
        let dy = y as f32 + 0.5 - centre_y;
        let gain = |x: usize| {
            let dx = x as f32 + 0.5 - centre_x;
            let distance = (dx * dx + dy * dy).sqrt() / half_diagonal;
            let falloff = ((distance - VIGNETTE_CLEAR_RADIUS) / (1.0 - VIGNETTE_CLEAR_RADIUS)).clamp(0.0, 1.0);
            1.0 - amount * falloff * falloff * (3.0 - 2.0 * falloff)
        };
        for plane in &mut image.planes {
            let row = &mut plane[y * image.width..][..image.width];
            row.iter_mut().enumerate().for_each(|(x, sample)| *sample *= gain(x));
        }
    }
}

pub fn auto(image: &mut LinearImage) {
    let mut histogram = vec![0_usize; HISTOGRAM_BINS];
    let luminance = image.luminance();
    for &sample in &luminance {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "levels are 0 to 1")]
        let bin = (TO_SRGB.eval(sample) * (HISTOGRAM_BINS - 1) as f32).round() as usize;
        histogram[bin.min(HISTOGRAM_BINS - 1)] += 1;
    }
    let clipped_pixels = luminance.len() as f64 * AUTO_CLIPPED_FRACTION;
    let low = first_bin_above(histogram.iter(), clipped_pixels);
    let high = HISTOGRAM_BINS - 1 - first_bin_above(histogram.iter().rev(), clipped_pixels);
    let level = |bin: usize| bin as f32 / (HISTOGRAM_BINS - 1) as f32;
    let (low, high) = (level(low), level(high.max(low)));
    let span = (high - low).max(1.0 / AUTO_MAX_STRETCH);
    // If the range is narrower than the maximum stretch allows, the remaining headroom is distributed so that the
    // image keeps its relative position between black and white.
    let unused_range = 1.0 - (high - low);
    let black = if unused_range > 0.0 { low - (span - (high - low)) * low / unused_range } else { 0.0 };
    let curve = Curve::from_srgb_levels(|level| (level - black) / span);
    image.map(|sample| curve.eval(sample));
}

/// Returns the index of the first bin at which the cumulative count exceeds `clipped_pixels`.
fn first_bin_above<'a>(mut counts: impl Iterator<Item = &'a usize>, clipped_pixels: f64) -> usize {
    let mut counted = 0;
    let exceeds = |count: &usize| {
        counted += count;
        counted as f64 > clipped_pixels
    };
    counts.position(exceeds).unwrap_or(0)
}

fn luminance(rgb: [f32; 3]) -> f32 {
    rgb.iter().zip(LUMINANCE_WEIGHTS).map(|(sample, weight)| sample * weight).sum()
}

fn lerp(from: f32, to: f32, fraction: f32) -> f32 {
    from + (to - from) * fraction
}
