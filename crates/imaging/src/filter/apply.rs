//! Applies filters to pixels. Geometry filters are combined into one [`Geometry`], which also determines the decode
//! resolution. All other filters run in order on linear-light planes of the upright image at the size of the largest
//! rendition.

#[cfg(test)]
pub mod tests;

use super::{Filter, Geometry, PixelRect, adjust, linear::LinearImage, straighten};
use crate::raster::Raster;

/// Maximum bytes per pixel that [`apply`] holds: three linear-light planes of `f32`, three destination planes of a
/// blur or rotation, and the 8-bit samples.
pub const LINEAR_BYTES_PER_PIXEL: u64 = 32;

/// Radii are in thousandths of the long edge.
const RADIUS_UNITS_PER_EDGE: f64 = 1000.0;

/// Applies the filters to an upright sRGB image of 1 or 3 channels. If the geometry includes an angle other than
/// quarter turns, `source` is the content of `source_rect` and is rotated and cropped to `target` pixels here;
/// otherwise it already shows what the geometry selects.
pub fn apply(
    source: &Raster,
    source_rect: PixelRect,
    geometry: &Geometry,
    target: (u32, u32),
    filters: &[Filter],
) -> Raster {
    let mut image = LinearImage::new(source);
    if geometry.is_straightened() {
        image = straighten::rotate_and_crop(&image, source_rect, geometry, target);
    }
    for filter in filters {
        apply_one(&mut image, filter);
    }
    image.to_raster()
}

#[expect(clippy::cast_possible_truncation, reason = "amounts are between -1 and 2")]
fn apply_one(image: &mut LinearImage, filter: &Filter) {
    let radius_in_pixels = |radius: f64| {
        #[expect(clippy::cast_precision_loss, reason = "the edge of a rendition")]
        let long_edge = image.width.max(image.height) as f64;
        radius / RADIUS_UNITS_PER_EDGE * long_edge
    };
    match *filter {
        Filter::Grayscale {} => adjust::grayscale(image),
        Filter::Sepia { amount } => adjust::sepia(image, amount as f32),
        Filter::Brightness { amount } => adjust::brightness(image, amount as f32),
        Filter::Contrast { amount } => adjust::contrast(image, amount as f32),
        Filter::Saturation { amount } => adjust::saturation(image, amount as f32),
        Filter::Warmth { amount } => adjust::warmth(image, amount as f32),
        Filter::Sharpen { amount, radius } => adjust::sharpen(image, amount as f32, radius_in_pixels(radius)),
        Filter::Blur { radius } => adjust::gaussian_blur(image, radius_in_pixels(radius)),
        Filter::Vignette { amount } => adjust::vignette(image, amount as f32),
        Filter::Auto {} => adjust::auto(image),
        // Applied through the geometry.
        Filter::Crop { .. } | Filter::Rotate { .. } | Filter::Straighten { .. } => {}
    }
}
