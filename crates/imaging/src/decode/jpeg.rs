//! Decodes a JPEG with libjpeg-turbo, to planes if its colour space and chroma subsampling allow it.

use super::{Decoded, Samples};
use crate::probe::jpeg::{JpegLayout, strip_metadata};
use crate::resample::reduction_factor;
use crate::turbo::{ColourModel, Decompressor, JpegError};
use crate::{Error, Limits, Rejection};

/// libjpeg-turbo decodes an 8x8 block to 4x4, 2x2 or 1x1 samples instead.
const MAX_DCT_REDUCTION: u32 = 8;

pub fn decode(
    bytes: &[u8],
    layout: &JpegLayout,
    target: (u32, u32),
    limits: &Limits,
    decompressor: &mut Decompressor,
) -> Result<Decoded, Error> {
    // Data behind EOI is never passed to the library.
    let jpeg = &bytes[..layout.end];
    let samples = match decode_samples(jpeg, layout, target, limits, decompressor) {
        Ok(samples) => samples,
        // The warning is about a header and may hide a later one. Decode again without metadata, and accept no
        // warning.
        Err(JpegError::Warning(warning)) if is_header_warning(&warning) => {
            let stripped = strip_metadata(jpeg)?;
            decode_samples(&stripped, layout, target, limits, decompressor).map_err(to_rejection)?
        }
        Err(error) => return Err(to_rejection(error).into()),
    };
    let icc_profile: Vec<u8> = layout.icc.iter().flat_map(|chunk| &bytes[chunk.clone()]).copied().collect();
    Ok(Decoded { samples, icc_profile: (!icc_profile.is_empty()).then_some(icc_profile) })
}

fn decode_samples(
    jpeg: &[u8],
    layout: &JpegLayout,
    target: (u32, u32),
    limits: &Limits,
    decompressor: &mut Decompressor,
) -> Result<Samples, JpegError> {
    let reader = decompressor.open(jpeg, limits)?;
    if reader.size() != (layout.width, layout.height) {
        return Err(JpegError::Failure("header check and libjpeg-turbo disagree about the image size".to_owned()));
    }
    let factor = reduction_factor(reader.size(), target, MAX_DCT_REDUCTION);
    if reader.colour_model() == ColourModel::Planes {
        return reader.decode_planes(factor).map(Samples::Planes);
    }
    let mut pixels = reader.decode_pixels(factor)?;
    // Adobe stores inverted CMYK.
    if layout.components == 4 && layout.adobe {
        pixels.data.iter_mut().for_each(|sample| *sample = 255 - *sample);
    }
    Ok(Samples::Pixels(pixels))
}

/// Returns whether a warning is about headers or padding. Real cameras cause these, and the image data may still be
/// intact.
fn is_header_warning(warning: &str) -> bool {
    ["extraneous bytes before marker", "unknown JFIF revision", "Unknown Adobe color transform", "bad ICC marker"]
        .iter()
        .any(|harmless| warning.contains(harmless))
}

fn to_rejection(error: JpegError) -> Rejection {
    match error {
        JpegError::Failure(message)
            if ["Insufficient memory", "Backing store", "Memory limit", "scans", "too large", "allocation"]
                .iter()
                .any(|costly| message.contains(costly)) =>
        {
            Rejection::TooCostly
        }
        JpegError::Failure(_) | JpegError::Warning(_) => Rejection::Corrupt,
    }
}
