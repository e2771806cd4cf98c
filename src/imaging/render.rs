//! From one upright picture to every rendition, and to the placeholder.

use super::raster::{Orientation, Raster, Yuv};
use super::scale::{Scaler, fit};
use super::turbo::Compressor;
use super::{OutputFormat, Recipe, Rendition};
use std::time::{Duration, Instant};

/// `ThumbHash` takes pictures of up to 100 pixels a side, but keeps only seven waves in each direction: 32 samples
/// are plenty for these, and its cosines cost a tenth.
const PLACEHOLDER_EDGE: u32 = 32;

/// Makes every size of a picture that was `full` pixels large, each from the next larger one, in every format; in the recipe's order.
/// Answers the placeholder and the time that encoding took, too.
pub fn renditions(
    master: Yuv,
    full: (u32, u32),
    recipe: &Recipe,
    scaler: &mut Scaler,
    compressor: &mut Compressor,
) -> Result<(Vec<Rendition>, Vec<u8>, Duration), String> {
    let mut order: Vec<usize> = (0..recipe.sizes.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(recipe.sizes[index].long_edge));
    let mut made: Vec<(usize, Rendition)> = Vec::with_capacity(order.len() * recipe.formats.len());
    let (mut current, mut encoding) = (master, Duration::ZERO);
    for index in order {
        let size = &recipe.sizes[index];
        let target = fit(full, size.long_edge);
        if target != (current.luma.width, current.luma.height) {
            current = scaler.yuv(&current, target, Orientation::default())?;
        }
        for &format in &recipe.formats {
            let twin = made.iter().find(|(_, it)| it.format == format && (it.width, it.height) == target);
            let begun = Instant::now();
            let bytes = match twin {
                Some((_, twin)) => twin.bytes.clone(),
                None => encode(&current, format, recipe, compressor)?,
            };
            encoding += begun.elapsed();
            made.push((index, Rendition { size: size.name.clone(), format, width: target.0, height: target.1, bytes }));
        }
    }
    made.sort_by_key(|(index, _)| *index);
    let placeholder = placeholder(&current, scaler, compressor)?;
    Ok((made.into_iter().map(|(_, rendition)| rendition).collect(), placeholder, encoding))
}

fn encode(
    picture: &Yuv,
    format: OutputFormat,
    recipe: &Recipe,
    compressor: &mut Compressor,
) -> Result<Vec<u8>, String> {
    match format {
        OutputFormat::Jpeg => compressor.jpeg(picture, recipe.jpeg_quality),
        OutputFormat::Webp => webp(&compressor.rgb(picture)?, recipe),
    }
}

fn webp(rgb: &Raster, recipe: &Recipe) -> Result<Vec<u8>, String> {
    let mut config = webp::WebPConfig::new().map_err(|()| "libwebp could not be set up".to_owned())?;
    config.quality = f32::from(recipe.webp_quality.min(100));
    config.method = i32::from(recipe.webp_effort.min(6));
    let encoder = webp::Encoder::from_rgb(&rgb.data, rgb.width, rgb.height);
    encoder.encode_advanced(&config).map(|bytes| bytes.to_vec()).map_err(|error| format!("libwebp: {error:?}"))
}

/// The picture's `ThumbHash`, some 25 bytes.
fn placeholder(picture: &Yuv, scaler: &mut Scaler, compressor: &mut Compressor) -> Result<Vec<u8>, String> {
    let target = fit((picture.luma.width, picture.luma.height), PLACEHOLDER_EDGE);
    let small = scaler.yuv(picture, target, Orientation::default())?;
    let rgb = compressor.rgb(&small)?;
    let rgba: Vec<u8> = rgb.data.as_chunks::<3>().0.iter().flat_map(|&[r, g, b]| [r, g, b, 255]).collect();
    Ok(thumbhash::rgba_to_thumb_hash(target.0 as usize, target.1 as usize, &rgba))
}
