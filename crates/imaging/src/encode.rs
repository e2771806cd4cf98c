//! Resamples the largest image to every rendition size, encodes each one, and computes the placeholder.

use super::raster::{Orientation, Raster, Yuv};
use super::resample::{Resampler, fit};
use super::turbo::Compressor;
use super::{OutputFormat, Recipe, Rendition};
use std::time::{Duration, Instant};

/// Long edge of the input of `ThumbHash`, in pixels. The format allows 100, but keeps at most seven frequencies per
/// axis, which 32 samples represent; this takes a tenth of the time.
const PLACEHOLDER_EDGE: u32 = 32;

/// Encodes every size in every format, in the order of the recipe, each size resampled from the next larger one.
/// `full_size` is the size in pixels of the upright original after geometry filters.
///
/// Returns the renditions, the placeholder and the time spent encoding.
pub fn encode_renditions(
    largest: Yuv,
    full_size: (u32, u32),
    recipe: &Recipe,
    resampler: &mut Resampler,
    compressor: &mut Compressor,
) -> Result<(Vec<Rendition>, Vec<u8>, Duration), String> {
    let mut order: Vec<usize> = (0..recipe.sizes.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(recipe.sizes[index].long_edge));
    let mut encoded: Vec<(usize, Rendition)> = Vec::with_capacity(order.len() * recipe.formats.len());
    let (mut planes, mut encode_time) = (largest, Duration::ZERO);
    for index in order {
        let size = &recipe.sizes[index];
        let target = fit(full_size, size.long_edge);
        if target != (planes.luma.width, planes.luma.height) {
            planes = resampler.resample_yuv(&planes, target, Orientation::default());
        }
        for &format in &recipe.formats {
            let duplicate = encoded
                .iter()
                .find(|(_, rendition)| rendition.format == format && (rendition.width, rendition.height) == target);
            let started = Instant::now();
            let bytes = match duplicate {
                Some((_, duplicate)) => duplicate.bytes.clone(),
                None => encode(&planes, format, recipe, compressor)?,
            };
            encode_time += started.elapsed();
            encoded
                .push((index, Rendition { size: size.name.clone(), format, width: target.0, height: target.1, bytes }));
        }
    }
    encoded.sort_by_key(|(index, _)| *index);
    let placeholder = placeholder(&planes, resampler, compressor)?;
    Ok((encoded.into_iter().map(|(_, rendition)| rendition).collect(), placeholder, encode_time))
}

fn encode(image: &Yuv, format: OutputFormat, recipe: &Recipe, compressor: &mut Compressor) -> Result<Vec<u8>, String> {
    match format {
        OutputFormat::Jpeg => compressor.encode_jpeg(image, recipe.jpeg_quality),
        OutputFormat::Webp => encode_webp(&compressor.convert_to_rgb(image)?, recipe),
    }
}

fn encode_webp(rgb: &Raster, recipe: &Recipe) -> Result<Vec<u8>, String> {
    let mut config = webp::WebPConfig::new().map_err(|()| "libwebp could not be initialised".to_owned())?;
    config.quality = f32::from(recipe.webp_quality.min(100));
    config.method = i32::from(recipe.webp_effort.min(6));
    let encoder = webp::Encoder::from_rgb(&rgb.data, rgb.width, rgb.height);
    encoder
        .encode_advanced(&config)
        .map(|bytes| bytes.to_vec())
        .map_err(|error| format!("libwebp failed to encode: {error:?}"))
}

/// Returns the `ThumbHash` of the image, 5 to 25 bytes.
fn placeholder(image: &Yuv, resampler: &mut Resampler, compressor: &mut Compressor) -> Result<Vec<u8>, String> {
    let target = fit((image.luma.width, image.luma.height), PLACEHOLDER_EDGE);
    let thumbnail = resampler.resample_yuv(image, target, Orientation::default());
    let rgb = compressor.convert_to_rgb(&thumbnail)?;
    let rgba: Vec<u8> = rgb.data.as_chunks::<3>().0.iter().flat_map(|&[r, g, b]| [r, g, b, 255]).collect();
    Ok(thumbhash::rgba_to_thumb_hash(target.0 as usize, target.1 as usize, &rgba))
}
