//! Bytes in, renditions out: the only place that opens pictures.
//!
//! Pure computation: no files, no network, no clock but to tell where time went, and of the crate it knows the words of `domain` only. The bytes are a stranger's, and
//! a decoder may be written in C, so in the product only the child processes of `worker::sandbox` call [`Developer::develop`];
//! everyone else may use the plain types.
//!
//! Promises:
//! - What is too large, too costly, cut off or not a picture is told by [`probe()`], from headers alone, before any decoding.
//! - A picture is shown whole or not at all: a decoder that warns of damaged data makes it [`Rejection::Corrupt`].
//! - A rendition holds pixels and nothing else: no EXIF, no place, no profile, no comment, nothing that followed the picture.
//! - Renditions stand upright, are sRGB, and are never larger than the picture.
//!
//! The way of a JPEG, which is nearly every photo: libjpeg-turbo decodes to brightness and colour planes, already reduced by
//! 2, 4 or 8 where that still covers the largest rendition; each plane is resampled; planes are encoded again. RGB is made
//! only where a colour profile or a filter asks for it. Each smaller rendition is made from the next larger one. What an edit
//! cuts away is not resampled, and what it keeps is decoded as finely as the cut needs.

mod decode;
mod exif;
mod filter;
mod icc;
mod media;
mod plan;
mod probe;
mod raster;
mod recipe;
mod rejection;
mod render;
mod scale;
mod turbo;

#[cfg(test)]
mod tests;

pub use exif::TakenAt;
pub use media::{Foreign, MediaType, Sniffed, UnknownMediaType, sniff};
pub use probe::{Probe, probe, recognise};
pub use recipe::{Limits, OutputFormat, Recipe, Size};
pub use rejection::Rejection;

use crate::domain::Filter;
use decode::{Decoded, Samples};
use plan::Plan;
use raster::{Orientation, Raster, Yuv};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// A photo's renditions and what is kept of its metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Developed {
    /// The original's real type.
    pub media_type: MediaType,
    /// The original's width as displayed, in pixels; of an edit, what its filters leave of it.
    pub width: u32,
    /// The same for the height.
    pub height: u32,
    /// When it was taken, by the camera's clock.
    pub taken_at: Option<TakenAt>,
    /// The camera's maker and model: one printable line of at most 120 characters.
    pub camera: Option<String>,
    /// The raw bytes of the picture's `ThumbHash`, 5 to 25 of them.
    pub placeholder: Vec<u8>,
    /// Every size in every format, in the recipe's order.
    pub renditions: Vec<Rendition>,
}

/// One picture to show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rendition {
    /// The size's name in the recipe.
    pub size: String,
    /// The format of the bytes.
    pub format: OutputFormat,
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// The encoded picture.
    #[serde(skip)]
    pub bytes: Vec<u8>,
}

/// Where the time of a photo went. What is left of it went to colours, turning and metadata.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stages {
    /// From bytes to samples.
    pub decode: Duration,
    /// To the sizes of the renditions.
    pub resize: Duration,
    /// From samples to bytes.
    pub encode: Duration,
}

/// Why there are no renditions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Failure {
    /// The file's fault; trying again is of no use.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Ours, e.g. a library that can't be set up or a recipe without sizes.
    #[error("imaging failed: {0}")]
    Internal(String),
}

/// [`Developer::develop`] for a single photo.
///
/// # Errors
/// As [`Developer::develop`].
pub fn develop(bytes: &[u8], declared: MediaType, recipe: &Recipe, limits: &Limits) -> Result<Developed, Failure> {
    Developer::new()?.develop(bytes, declared, recipe, limits)
}

/// The codecs, with handles and buffers that are kept from photo to photo.
pub struct Developer {
    decompressor: turbo::Decompressor,
    compressor: turbo::Compressor,
    scaler: scale::Scaler,
    stages: Stages,
}

impl Developer {
    /// Sets the codecs up.
    ///
    /// # Errors
    /// [`Failure::Internal`] if a library can't be set up, which only happens without memory.
    pub fn new() -> Result<Self, Failure> {
        let decompressor = turbo::Decompressor::new().map_err(Failure::Internal)?;
        let compressor = turbo::Compressor::new().map_err(Failure::Internal)?;
        Ok(Self { decompressor, compressor, scaler: scale::Scaler::new(), stages: Stages::default() })
    }

    /// Where the time of the last photo went that was developed.
    #[must_use]
    pub fn stages(&self) -> Stages {
        self.stages
    }

    /// Makes every rendition of a photo. `bytes` is the whole file, `declared` the type that its sender gave.
    ///
    /// # Errors
    /// [`Failure::Rejected`] with the reason for whatever is wrong with the file, [`Failure::Internal`] for the rest.
    pub fn develop(
        &mut self,
        bytes: &[u8],
        declared: MediaType,
        recipe: &Recipe,
        limits: &Limits,
    ) -> Result<Developed, Failure> {
        let (probe, layout) = probe::survey(bytes, declared, limits)?;
        let facts = layout.exif(bytes).map(exif::read).unwrap_or_default();
        let plan = Plan::new(recipe, (probe.width, probe.height), facts.orientation).map_err(Failure::Internal)?;
        // Of a photo that failed half-way.
        self.scaler.take_spent();
        let begun = Instant::now();
        let decoded = decode::decode(bytes, &layout, plan.decoded, limits, &mut self.decompressor)?;
        self.stages.decode = begun.elapsed();
        let master = self.master(decoded, &plan, &recipe.filters).map_err(Failure::Internal)?;
        let (width, height) = plan.frame.size();
        let (renditions, placeholder, encode) =
            render::renditions(master, (width, height), recipe, &mut self.scaler, &mut self.compressor)
                .map_err(Failure::Internal)?;
        self.stages.encode = encode;
        self.stages.resize = self.scaler.take_spent();
        Ok(Developed {
            media_type: probe.media_type,
            width,
            height,
            taken_at: facts.taken_at,
            camera: facts.camera,
            placeholder,
            renditions,
        })
    }

    /// The picture at its largest size: upright, sRGB, filtered, in planes of half resolution.
    fn master(&mut self, decoded: Decoded, plan: &Plan, filters: &[Filter]) -> Result<Yuv, String> {
        let upright = self.upright(decoded, plan)?;
        if !plan.in_light {
            return match upright {
                Samples::Planes(planes) => Ok(planes),
                Samples::Pixels(pixels) => self.planes(pixels),
            };
        }
        let pixels = match upright {
            Samples::Planes(Yuv { luma, chroma: None }) => luma,
            Samples::Planes(planes) => self.compressor.rgb(&planes)?,
            Samples::Pixels(pixels) => pixels,
        };
        let filtered = filter::apply(&pixels, plan.window, &plan.frame, plan.target, filters);
        drop(pixels);
        self.planes(filtered)
    }

    /// The part of the picture that is shown, resampled, upright and in sRGB: grey, RGB, or in planes of half resolution.
    fn upright(&mut self, decoded: Decoded, plan: &Plan) -> Result<Samples, String> {
        let &Plan { part, reduced, orientation, .. } = plan;
        let profile = |channels| decoded.profile.as_deref().and_then(|profile| icc::Conversion::new(profile, channels));
        match decoded.samples {
            Samples::Planes(planes) => {
                let Some(conversion) = profile(if planes.chroma.is_some() { 3 } else { 1 }) else {
                    let Yuv { luma, chroma } = self.scaler.part_of_yuv(&planes, part, reduced, orientation)?;
                    let chroma = chroma.map(|planes| planes.map(|plane| plane.oriented(orientation)));
                    return Ok(Samples::Planes(Yuv { luma: luma.oriented(orientation), chroma }));
                };
                let small = self.scaler.part_of_yuv(&planes, part, reduced, Orientation::default())?;
                drop(planes);
                let pixels = if small.chroma.is_some() { self.compressor.rgb(&small)? } else { small.luma };
                Ok(Samples::Pixels(converted(pixels, Some(conversion)).oriented(orientation)))
            }
            Samples::Pixels(pixels) => {
                let conversion = profile(pixels.channels);
                let small = self.scaler.part_of_raster(&pixels, part, reduced)?;
                drop(pixels);
                Ok(Samples::Pixels(converted(small, conversion).oriented(orientation)))
            }
        }
    }

    /// Splits a grey or RGB picture into planes.
    fn planes(&mut self, pixels: Raster) -> Result<Yuv, String> {
        if pixels.channels == 1 { Ok(Yuv { luma: pixels, chroma: None }) } else { self.compressor.planes(&pixels) }
    }
}

/// A picture in sRGB: by its profile, or as it is.
fn converted(pixels: Raster, conversion: Option<icc::Conversion>) -> Raster {
    match conversion.and_then(|conversion| conversion.apply(&pixels)) {
        Some(converted) => converted,
        None if pixels.channels == 4 => icc::plain_cmyk(&pixels),
        None => pixels,
    }
}

/// What to count a photo as when decodes are admitted: [`Probe::weight`], and what a recipe's filters need beside.
///
/// # Errors
/// As [`probe()`].
pub fn weigh(bytes: &[u8], declared: MediaType, recipe: &Recipe, limits: &Limits) -> Result<u64, Rejection> {
    let (probe, layout) = probe::survey(bytes, declared, limits)?;
    if recipe.filters.is_empty() {
        return Ok(probe.weight);
    }
    let facts = layout.exif(bytes).map(exif::read).unwrap_or_default();
    let plan = Plan::new(recipe, (probe.width, probe.height), facts.orientation);
    Ok(plan.map_or(probe.weight, |plan| plan.weight(&probe)))
}

/// What these filters leave of a photo of so many pixels, as displayed; `None` if it is nothing.
#[must_use]
pub fn edited_size(filters: &[Filter], photo: (u32, u32)) -> Option<(u32, u32)> {
    filter::Frame::new(filters, photo).map(|frame| frame.size())
}
