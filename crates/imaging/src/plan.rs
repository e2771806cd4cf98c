//! The render plan: derives from a recipe and an image size which rectangle is decoded, at which resolution, and how
//! it is oriented.

use super::filter::{Geometry, LINEAR_BYTES_PER_PIXEL, PixelRect};
use super::raster::Orientation;
use super::resample::{CropRect, fit, reduction_factor};
use super::{Probe, Recipe};

/// Maximum reduction factor of the decoders that hold a complete image, used to estimate memory.
const MAX_DECODER_REDUCTION: u32 = 8;
const DECODED_BYTES_PER_PIXEL: u64 = 3;

/// The steps from a stored image to its largest rendition.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Combined effect of the geometry filters; the identity without any.
    pub geometry: Geometry,
    /// The rectangle of the upright image that is resampled, in pixels.
    pub source_rect: PixelRect,
    /// The same rectangle in the stored image, in fractions of its edges.
    pub crop: CropRect,
    /// Size in pixels that the rectangle is resampled to, before the orientation is applied.
    pub resampled_size: (u32, u32),
    /// Minimum size in pixels at which the complete stored image must be decoded so that nothing is enlarged.
    pub min_decoded_size: (u32, u32),
    /// Orientation applied after resampling: EXIF orientation, then quarter turns of the edit.
    pub orientation: Orientation,
    /// Size of the largest rendition in pixels.
    pub target_size: (u32, u32),
    /// Whether a filter needs linear-light samples, i.e. anything other than crops and quarter turns.
    pub needs_linear_light: bool,
}

impl Plan {
    /// Plans the rendering of an image of `stored` pixels with the given EXIF orientation.
    ///
    /// # Errors
    /// A message for operators if the recipe has no sizes or formats, or if its crop leaves no pixels.
    pub fn new(recipe: &Recipe, stored: (u32, u32), orientation: Orientation) -> Result<Self, String> {
        let largest_edge = recipe.sizes.iter().map(|size| size.long_edge).max();
        let largest_edge =
            largest_edge.filter(|_| !recipe.formats.is_empty()).ok_or("the recipe has no sizes or no formats")?;
        let geometry = Geometry::new(&recipe.filters, orientation.apply(stored)).ok_or("the crop leaves no pixels")?;
        let target_size = fit(geometry.size(), largest_edge);
        let source_rect = geometry.source_rect(target_size);
        let rotation = orientation.then(geometry.quarter_turn_orientation());
        let resampled_size = if geometry.is_straightened() {
            scaled_rect_size(&source_rect, &geometry, target_size)
        } else {
            target_size
        };
        // The source rectangle refers to the upright image; the remaining quarter turns apply to the resampled
        // result.
        let (resampled_size, stored_rect) =
            (rotation.apply(resampled_size), source_rect.in_stored_image(stored, orientation));
        let edges = (f64::from(stored.0), f64::from(stored.1));
        let crop = CropRect {
            origin: (stored_rect.x / edges.0, stored_rect.y / edges.1),
            size: (stored_rect.width / edges.0, stored_rect.height / edges.1),
        };
        let min_decoded_size = (
            full_edge(resampled_size.0, crop.size.0).min(stored.0),
            full_edge(resampled_size.1, crop.size.1).min(stored.1),
        );
        let needs_linear_light =
            geometry.is_straightened() || recipe.filters.iter().any(|filter| !filter.is_geometry());
        Ok(Self {
            geometry,
            source_rect,
            crop,
            resampled_size,
            min_decoded_size,
            orientation: rotation,
            target_size,
            needs_linear_light,
        })
    }

    /// Returns the admission weight in pixels: the weight of the probe, or the estimated bytes of the decoded image
    /// and of the linear-light planes where a crop or filter makes that more.
    pub fn weight(&self, probe: &Probe) -> u64 {
        let factor = reduction_factor((probe.width, probe.height), self.min_decoded_size, MAX_DECODER_REDUCTION);
        let pixels = |(width, height): (u32, u32)| u64::from(width) * u64::from(height);
        let decoded_bytes =
            pixels((probe.width.div_ceil(factor), probe.height.div_ceil(factor))) * DECODED_BYTES_PER_PIXEL;
        let linear_bytes = if self.needs_linear_light {
            pixels(self.resampled_size).max(pixels(self.target_size)) * LINEAR_BYTES_PER_PIXEL
        } else {
            0
        };
        if self.needs_linear_light || self.crop != CropRect::FULL {
            probe.weight.max(decoded_bytes + linear_bytes)
        } else {
            probe.weight
        }
    }
}

/// Returns the size of the source rectangle at the scale of the largest rendition.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "at most the edge of the source, and positive"
)]
fn scaled_rect_size(source_rect: &PixelRect, geometry: &Geometry, target_size: (u32, u32)) -> (u32, u32) {
    let scale = f64::from(target_size.0.max(target_size.1)) / f64::from(geometry.size().0.max(geometry.size().1));
    let edge = |length: f64| ((length * scale).round() as u32).max(1);
    (edge(source_rect.width), edge(source_rect.height))
}

/// Returns the full edge length at which the fraction `crop` of it has `cropped` samples.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "float-to-integer casts saturate")]
fn full_edge(cropped: u32, crop: f64) -> u32 {
    (f64::from(cropped) / crop - 1e-6).ceil() as u32
}
