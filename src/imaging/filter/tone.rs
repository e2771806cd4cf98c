//! Filters that look at a pixel, or at a pixel and its surroundings, and leave the shape of the picture.
//!
//! What stands for something that happens to light is done to light: more or less of it (brightness, vignette), its colour
//! (warmth, sepia, saturation, grayscale, so that luminance is what a meter would tell) and its spreading (blur). What is about
//! how steps of grey look is done to sRGB levels, which lie about evenly for the eye: contrast and `auto` would crush all shadows
//! of light, and a mask sharpened in light has dark edges that look wider than bright ones.
#![expect(clippy::cast_precision_loss, reason = "edges and counts, for fractions")]

use super::blur::blur;
use super::light::{Curve, DECODED, ENCODED, LUMINANCE, Light};

/// Light that `brightness` of 1 multiplies by: two stops.
const MOST_GAIN: f32 = 4.0;
/// The slope of `contrast` of 1.
const STEEPEST_CONTRAST: f32 = 4.0;
/// How much more red, and less blue, light has at `warmth` of 1, before it is brought back to the same luminance.
const MOST_WARMTH: f32 = 1.5;
/// The light of a grey of luminance 1 in sepia; its own luminance is 1, too.
const SEPIA: [f32; 3] = [1.3, 0.956_3, 0.55];
/// The part of the half diagonal within which a vignette changes nothing.
const CLEAR: f32 = 0.3;
/// The part of the pixels that `auto` lets go black, and white.
const LOST: f64 = 0.001;
/// The most that `auto` stretches by: fog has no black in it, and noise is no picture.
const MOST_STRETCH: f32 = 3.0;
/// Steps of the histogram of `auto`.
const STEPS: usize = 1024;

pub fn grayscale(picture: &mut Light) {
    picture.planes = vec![picture.luminance()];
}

pub fn sepia(picture: &mut Light, amount: f32) {
    picture.map_colours(|colour| {
        let luminance = luminance(colour);
        std::array::from_fn(|channel| mix(colour[channel], luminance * SEPIA[channel], amount))
    });
}

pub fn brightness(picture: &mut Light, amount: f32) {
    let gain = MOST_GAIN.powf(amount);
    picture.map(|sample| sample * gain);
}

pub fn contrast(picture: &mut Light, amount: f32) {
    let slope = if amount > 0.0 { 1.0 + amount * (STEEPEST_CONTRAST - 1.0) } else { 1.0 + amount };
    let curve = Curve::of_levels(|level| 0.5 + (level - 0.5) * slope);
    picture.map(|sample| curve.of(sample));
}

pub fn saturation(picture: &mut Light, amount: f32) {
    if picture.planes.len() > 1 {
        picture.map_colours(|colour| {
            let luminance = luminance(colour);
            colour.map(|sample| mix(luminance, sample, 1.0 + amount))
        });
    }
}

pub fn warmth(picture: &mut Light, amount: f32) {
    let gains = [MOST_WARMTH.powf(amount), 1.0, MOST_WARMTH.powf(-amount)];
    let white = luminance(gains);
    picture.map_colours(|colour| std::array::from_fn(|channel| colour[channel] * gains[channel] / white));
}

/// An unsharp mask of the luminance alone: colours of their own would fringe.
pub fn sharpen(picture: &mut Light, amount: f32, radius: f64) {
    let levels: Vec<f32> = picture.luminance().into_iter().map(|sample| ENCODED.of(sample)).collect();
    let mut mask = levels.clone();
    blur(&mut mask, picture.width, radius);
    for (mask, &level) in mask.iter_mut().zip(&levels) {
        let sharpened = level + amount * (level - *mask);
        *mask = DECODED.of(sharpened) - DECODED.of(level);
    }
    for plane in &mut picture.planes {
        plane.iter_mut().zip(&mask).for_each(|(sample, more)| *sample = (*sample + more).clamp(0.0, 1.0));
    }
}

pub fn soften(picture: &mut Light, radius: f64) {
    for plane in &mut picture.planes {
        blur(plane, picture.width, radius);
    }
}

pub fn vignette(picture: &mut Light, amount: f32) {
    let (middle_x, middle_y) = (picture.width as f32 / 2.0, picture.height as f32 / 2.0);
    // By hand: `hypotf` has a version that glibc 2.34, of Amazon Linux 2023, does not know.
    let half_diagonal = (middle_x * middle_x + middle_y * middle_y).sqrt();
    for y in 0..picture.height {
        let down = y as f32 + 0.5 - middle_y;
        let left = |x: usize| {
            let across = x as f32 + 0.5 - middle_x;
            let distance = (across * across + down * down).sqrt() / half_diagonal;
            let part = ((distance - CLEAR) / (1.0 - CLEAR)).clamp(0.0, 1.0);
            1.0 - amount * part * part * (3.0 - 2.0 * part)
        };
        for plane in &mut picture.planes {
            let row = &mut plane[y * picture.width..][..picture.width];
            row.iter_mut().enumerate().for_each(|(x, sample)| *sample *= left(x));
        }
    }
}

pub fn auto(picture: &mut Light) {
    let mut histogram = vec![0_usize; STEPS];
    let luminance = picture.luminance();
    for &sample in &luminance {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a level of 0 to 1")]
        let step = (ENCODED.of(sample) * (STEPS - 1) as f32).round() as usize;
        histogram[step.min(STEPS - 1)] += 1;
    }
    let lost = luminance.len() as f64 * LOST;
    let low = beyond(histogram.iter(), lost);
    let high = STEPS - 1 - beyond(histogram.iter().rev(), lost);
    let level = |step: usize| step as f32 / (STEPS - 1) as f32;
    let (low, high) = (level(low), level(high.max(low)));
    let span = (high - low).max(1.0 / MOST_STRETCH);
    // Where there is less than that, what is missing is shared so that the picture keeps its place between black and white.
    let room = 1.0 - (high - low);
    let black = if room > 0.0 { low - (span - (high - low)) * low / room } else { 0.0 };
    let curve = Curve::of_levels(|level| (level - black) / span);
    picture.map(|sample| curve.of(sample));
}

/// The step at which more than so many pixels have been counted.
fn beyond<'a>(mut counts: impl Iterator<Item = &'a usize>, lost: f64) -> usize {
    let mut seen = 0;
    let reached = |count: &usize| {
        seen += count;
        seen as f64 > lost
    };
    counts.position(reached).unwrap_or(0)
}

fn luminance(colour: [f32; 3]) -> f32 {
    colour.iter().zip(LUMINANCE).map(|(sample, weight)| sample * weight).sum()
}

fn mix(from: f32, to: f32, part: f32) -> f32 {
    from + (to - from) * part
}
