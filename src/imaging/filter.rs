//! Filters on pixels. Geometry becomes one [`Frame`], which decides what is decoded and how finely; the rest works on the
//! upright picture at the size of the largest rendition, in order, in planes of light.

mod blur;
mod frame;
mod light;
mod tilt;
mod tone;

#[cfg(test)]
pub mod tests;

pub use frame::{Frame, Window};

use super::raster::Raster;
use crate::domain::Filter;
use light::Light;

/// The bytes that [`apply`] holds for a pixel at most: three planes of light, three that are blurred or tilted into, and bytes.
pub const BYTES_PER_PIXEL: u64 = 32;

/// Radii are told in thousandths of the long edge.
const PER_MILLE: f64 = 1000.0;

/// What a frame and the filters beside it make of an upright sRGB picture of 1 or 3 channels. A tilted frame is cut out of the
/// picture, which is the frame's window then; any other picture is what the frame shows already.
pub fn apply(picture: &Raster, window: Window, frame: &Frame, target: (u32, u32), filters: &[Filter]) -> Raster {
    let mut light = Light::new(picture);
    if frame.is_tilted() {
        light = tilt::tilted(&light, window, frame, target);
    }
    for filter in filters {
        step(&mut light, filter);
    }
    light.raster()
}

#[expect(clippy::cast_possible_truncation, reason = "amounts, which lie near 1")]
fn step(light: &mut Light, filter: &Filter) {
    let samples = |radius: f64| {
        #[expect(clippy::cast_precision_loss, reason = "an edge of a rendition")]
        let long_edge = light.width.max(light.height) as f64;
        radius / PER_MILLE * long_edge
    };
    match *filter {
        Filter::Grayscale {} => tone::grayscale(light),
        Filter::Sepia { amount } => tone::sepia(light, amount as f32),
        Filter::Brightness { amount } => tone::brightness(light, amount as f32),
        Filter::Contrast { amount } => tone::contrast(light, amount as f32),
        Filter::Saturation { amount } => tone::saturation(light, amount as f32),
        Filter::Warmth { amount } => tone::warmth(light, amount as f32),
        Filter::Sharpen { amount, radius } => tone::sharpen(light, amount as f32, samples(radius)),
        Filter::Blur { radius } => tone::soften(light, samples(radius)),
        Filter::Vignette { amount } => tone::vignette(light, amount as f32),
        Filter::Auto {} => tone::auto(light),
        // They are in the frame.
        Filter::Crop { .. } | Filter::Rotate { .. } | Filter::Straighten { .. } => {}
    }
}
