//! Turns the bytes of a photo into renditions: JPEG or WebP images at the sizes of a [`Recipe`], plus a few metadata
//! fields.
//!
//! The crate does no I/O and reads no clock except to measure stage durations. Input is untrusted, and one of the
//! decoders is a C library, so the service calls [`Renderer::render`] only in sandboxed child processes. The plain
//! data types are safe to use anywhere.
//!
//! Guarantees:
//! - [`probe()`] rejects files that are too large, too expensive to decode, truncated or not an accepted format. It
//!   reads headers only, before anything is decoded.
//! - An image is rendered completely or rejected: a decoder warning about damaged data yields [`Rejection::Corrupt`].
//! - A rendition contains pixels only: no EXIF, GPS position, ICC profile, comment or data that follows the image.
//! - A rendition is upright, in sRGB, and never larger than the original.
//!
//! # Pipeline
//! JPEG is the common case. libjpeg-turbo decodes to luma and chroma planes, reduced by 2, 4 or 8 in the DCT where
//! the result still covers the largest rendition. Each plane is resampled, and the planes are encoded again. The
//! planes are converted to RGB only if an ICC profile or a filter requires it. Each smaller rendition is resampled
//! from the next larger one. Only the crop rectangle of an edit is resampled, and the decode resolution follows from
//! that rectangle.
//!
//! # Example
//! The service imports the crate as `imaging`.
//! ```
//! use darkroom_imaging::{Limits, MediaType, Recipe, Renderer};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/camera.jpg"))?;
//!     let mut renderer = Renderer::new()?;
//!     let rendered = renderer.render(&bytes, MediaType::Jpeg, &Recipe::default(), &Limits::default())?;
//!     assert_eq!((rendered.width, rendered.height), (1200, 800));
//!     for rendition in &rendered.renditions {
//!         println!("{}: {} x {}", rendition.size, rendition.width, rendition.height);
//!     }
//!     Ok(())
//! }
//! ```

mod decode;
mod encode;
mod exif;
mod filter;
mod icc;
mod input;
mod media;
mod plan;
mod probe;
mod raster;
mod recipe;
mod rejection;
mod resample;
mod turbo;

#[cfg(test)]
mod tests;

pub use exif::TakenAt;
pub use filter::{Filter, FilterError, validate_filters};
pub use input::MappedFile;
pub use media::{MediaType, Sniffed, UnknownMediaType, UnsupportedFormat, sniff};
pub use probe::{Probe, probe, recognise};
pub use recipe::{Limits, OutputFormat, Recipe, Size};
pub use rejection::Rejection;

use decode::{Decoded, Samples};
use plan::Plan;
use raster::{Orientation, Raster, Yuv};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// The result of rendering one photo.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rendered {
    /// The media type of the original, detected from its bytes.
    pub media_type: MediaType,
    /// Width in pixels of the upright original, after the geometry filters of the recipe.
    pub width: u32,
    /// Height in pixels of the upright original, after the geometry filters of the recipe.
    pub height: u32,
    /// Capture time from EXIF, in the local time of the camera.
    pub taken_at: Option<TakenAt>,
    /// Camera make and model from EXIF, as one line of at most 120 printable characters.
    pub camera: Option<String>,
    /// The binary `ThumbHash` of the image, 5 to 25 bytes.
    pub placeholder: Vec<u8>,
    /// One rendition per size and format, in the order of the recipe.
    pub renditions: Vec<Rendition>,
}

/// One encoded image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rendition {
    /// The name of the [`Size`] in the recipe.
    pub size: String,
    /// The format of `bytes`.
    pub format: OutputFormat,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// The encoded image; skipped by serde.
    #[serde(skip)]
    pub bytes: Vec<u8>,
}

/// Time spent per stage of one [`Renderer::render`] call. Colour conversion, orientation, filters and metadata are
/// not included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageTimes {
    /// Decoding the original to samples.
    pub decode: Duration,
    /// Resampling to the sizes of the renditions and the placeholder.
    pub resize: Duration,
    /// Encoding the renditions.
    pub encode: Duration,
}

/// The reason why [`Renderer::render`] returned no renditions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Error {
    /// The file is rejected; retrying with the same file fails again.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// An internal failure, e.g. a codec that cannot be initialised or a recipe without sizes.
    #[error("imaging failed: {0}")]
    Internal(String),
}

/// Renders one photo with a new [`Renderer`].
///
/// # Errors
/// Those of [`Renderer::new`] and [`Renderer::render`].
pub fn render(bytes: &[u8], declared: MediaType, recipe: &Recipe, limits: &Limits) -> Result<Rendered, Error> {
    Renderer::new()?.render(bytes, declared, recipe, limits)
}

/// Renders photos. Codec handles and buffers are reused from one call to the next.
pub struct Renderer {
    decompressor: turbo::Decompressor,
    compressor: turbo::Compressor,
    resampler: resample::Resampler,
    stage_times: StageTimes,
}

impl Renderer {
    /// Initialises the codecs.
    ///
    /// # Errors
    /// [`Error::Internal`] if a codec cannot allocate its state.
    pub fn new() -> Result<Self, Error> {
        let decompressor = turbo::Decompressor::new().map_err(Error::Internal)?;
        let compressor = turbo::Compressor::new().map_err(Error::Internal)?;
        Ok(Self {
            decompressor,
            compressor,
            resampler: resample::Resampler::default(),
            stage_times: StageTimes::default(),
        })
    }

    /// Returns the stage durations of the last [`Self::render`] call. If that call failed, stages that it did not
    /// reach keep the durations of an earlier call.
    #[must_use]
    pub fn stage_times(&self) -> StageTimes {
        self.stage_times
    }

    /// Renders every size in every format of the recipe. `bytes` is the complete file; `declared` is the media type
    /// that the client sent.
    ///
    /// # Errors
    /// [`Error::Rejected`] if the file is not acceptable, [`Error::Internal`] if the recipe or a codec fails.
    pub fn render(
        &mut self,
        bytes: &[u8],
        declared: MediaType,
        recipe: &Recipe,
        limits: &Limits,
    ) -> Result<Rendered, Error> {
        let (probe, layout) = probe::probe_with_layout(bytes, declared, limits)?;
        let metadata = layout.exif(bytes).map(exif::read_metadata).unwrap_or_default();
        let plan = Plan::new(recipe, (probe.width, probe.height), metadata.orientation).map_err(Error::Internal)?;
        // Discard the time of a previous call that returned an error.
        self.resampler.take_elapsed();
        let started = Instant::now();
        let decoded = decode::decode(bytes, &layout, plan.min_decoded_size, limits, &mut self.decompressor)?;
        self.stage_times.decode = started.elapsed();
        let largest = self.render_largest(decoded, &plan, &recipe.filters).map_err(Error::Internal)?;
        let (width, height) = plan.geometry.size();
        let (renditions, placeholder, encode) =
            encode::encode_renditions(largest, (width, height), recipe, &mut self.resampler, &mut self.compressor)
                .map_err(Error::Internal)?;
        self.stage_times.encode = encode;
        self.stage_times.resize = self.resampler.take_elapsed();
        Ok(Rendered {
            media_type: probe.media_type,
            width,
            height,
            taken_at: metadata.taken_at,
            camera: metadata.camera,
            placeholder,
            renditions,
        })
    }

    /// Returns the image at the size of the largest rendition: upright, sRGB, filtered, as 4:2:0 planes or luma
    /// alone.
    fn render_largest(&mut self, decoded: Decoded, plan: &Plan, filters: &[Filter]) -> Result<Yuv, String> {
        let oriented = self.orient_and_convert(decoded, plan)?;
        if !plan.needs_linear_light {
            return match oriented {
                Samples::Planes(planes) => Ok(planes),
                Samples::Pixels(pixels) => self.convert_to_planes(pixels),
            };
        }
        let pixels = match oriented {
            Samples::Planes(Yuv { luma, chroma: None }) => luma,
            Samples::Planes(planes) => self.compressor.convert_to_rgb(&planes)?,
            Samples::Pixels(pixels) => pixels,
        };
        let filtered = filter::apply(&pixels, plan.source_rect, &plan.geometry, plan.target_size, filters);
        drop(pixels);
        self.convert_to_planes(filtered)
    }

    /// Resamples the crop rectangle, converts it to sRGB and applies the orientation. Returns planes (4:2:0 or luma
    /// alone) if no colour conversion is needed, otherwise grey or RGB pixels.
    fn orient_and_convert(&mut self, decoded: Decoded, plan: &Plan) -> Result<Samples, String> {
        let &Plan { crop, resampled_size, orientation, .. } = plan;
        let conversion_for =
            |channels| decoded.icc_profile.as_deref().and_then(|profile| icc::Conversion::new(profile, channels));
        match decoded.samples {
            Samples::Planes(planes) => {
                let Some(conversion) = conversion_for(if planes.chroma.is_some() { 3 } else { 1 }) else {
                    let Yuv { luma, chroma } =
                        self.resampler.resample_yuv_crop(&planes, crop, resampled_size, orientation);
                    let chroma = chroma.map(|planes| planes.map(|plane| plane.oriented(orientation)));
                    return Ok(Samples::Planes(Yuv { luma: luma.oriented(orientation), chroma }));
                };
                let resampled = self.resampler.resample_yuv_crop(&planes, crop, resampled_size, Orientation::default());
                drop(planes);
                let pixels = if resampled.chroma.is_some() {
                    self.compressor.convert_to_rgb(&resampled)?
                } else {
                    resampled.luma
                };
                Ok(Samples::Pixels(convert_to_srgb(pixels, Some(conversion)).oriented(orientation)))
            }
            Samples::Pixels(pixels) => {
                let conversion = conversion_for(pixels.channels);
                let resampled = self.resampler.resample_crop(&pixels, crop, resampled_size);
                drop(pixels);
                Ok(Samples::Pixels(convert_to_srgb(resampled, conversion).oriented(orientation)))
            }
        }
    }

    /// Converts grey or RGB pixels to planes (luma alone or 4:2:0).
    fn convert_to_planes(&mut self, pixels: Raster) -> Result<Yuv, String> {
        if pixels.channels == 1 {
            Ok(Yuv { luma: pixels, chroma: None })
        } else {
            self.compressor.convert_to_planes(&pixels)
        }
    }
}

/// Converts an image to sRGB. Without a usable profile, CMYK is converted by formula and other images are returned
/// unchanged.
fn convert_to_srgb(pixels: Raster, conversion: Option<icc::Conversion>) -> Raster {
    match conversion.and_then(|conversion| conversion.apply(&pixels)) {
        Some(converted) => converted,
        None if pixels.channels == 4 => icc::cmyk_to_rgb(&pixels),
        None => pixels,
    }
}

/// Returns the admission weight of a photo in pixels: [`Probe::weight`], increased by the memory that the filters of
/// the recipe need.
///
/// # Errors
/// As [`probe()`].
pub fn decode_weight(bytes: &[u8], declared: MediaType, recipe: &Recipe, limits: &Limits) -> Result<u64, Rejection> {
    let (probe, layout) = probe::probe_with_layout(bytes, declared, limits)?;
    if recipe.filters.is_empty() {
        return Ok(probe.weight);
    }
    let metadata = layout.exif(bytes).map(exif::read_metadata).unwrap_or_default();
    let plan = Plan::new(recipe, (probe.width, probe.height), metadata.orientation);
    Ok(plan.map_or(probe.weight, |plan| plan.weight(&probe)))
}

/// Returns width and height in pixels after the geometry filters, for an upright photo of size `photo`. Returns
/// `None` if a crop leaves no pixels.
#[must_use]
pub fn size_after_filters(filters: &[Filter], photo: (u32, u32)) -> Option<(u32, u32)> {
    filter::Geometry::new(filters, photo).map(|geometry| geometry.size())
}
