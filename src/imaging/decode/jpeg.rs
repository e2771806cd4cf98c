//! JPEG: planes where it has them, reduced by libjpeg-turbo while decoding.

use super::{Decoded, Samples};
use crate::imaging::probe::jpeg::{Layout, stripped};
use crate::imaging::scale::reduction;
use crate::imaging::turbo::{Colour, Decompressor, Fault};
use crate::imaging::{Failure, Limits, Rejection};

/// The DCT of a block of 8x8 can give 4x4, 2x2 or 1x1 instead.
const MOST_REDUCTION: u32 = 8;

pub fn decode(
    bytes: &[u8],
    layout: &Layout,
    target: (u32, u32),
    limits: &Limits,
    decompressor: &mut Decompressor,
) -> Result<Decoded, Failure> {
    // What follows the picture's end never reaches the library.
    let picture = &bytes[..layout.end];
    let samples = match samples(picture, layout, target, limits, decompressor) {
        Ok(samples) => samples,
        // The first warning came from the headers, or hides others: try again with bare headers, and allow none at all.
        Err(Fault::Warned(warning)) if in_headers(&warning) => {
            let stripped = stripped(picture)?;
            samples(&stripped, layout, target, limits, decompressor).map_err(rejection)?
        }
        Err(fault) => return Err(rejection(fault).into()),
    };
    let profile: Vec<u8> = layout.icc.iter().flat_map(|part| &bytes[part.clone()]).copied().collect();
    Ok(Decoded { samples, profile: (!profile.is_empty()).then_some(profile) })
}

fn samples(
    jpeg: &[u8],
    layout: &Layout,
    target: (u32, u32),
    limits: &Limits,
    decompressor: &mut Decompressor,
) -> Result<Samples, Fault> {
    let opened = decompressor.open(jpeg, limits)?;
    if opened.size() != (layout.width, layout.height) {
        return Err(Fault::Failed("two readings of one header".to_owned()));
    }
    let reduction = reduction(opened.size(), target, MOST_REDUCTION);
    if opened.colour() == Colour::Planes {
        return opened.planes(reduction).map(Samples::Planes);
    }
    let mut pixels = opened.pixels(reduction)?;
    // Adobe writes light instead of ink.
    if layout.components == 4 && layout.adobe {
        pixels.data.iter_mut().for_each(|sample| *sample = 255 - *sample);
    }
    Ok(Samples::Pixels(pixels))
}

/// Warnings about headers or padding, which real cameras cause and which say nothing of the picture's data.
fn in_headers(warning: &str) -> bool {
    ["extraneous bytes before marker", "unknown JFIF revision", "Unknown Adobe color transform", "bad ICC marker"]
        .iter()
        .any(|harmless| warning.contains(harmless))
}

fn rejection(fault: Fault) -> Rejection {
    match fault {
        Fault::Failed(message)
            if ["Insufficient memory", "Backing store", "Memory limit", "scans", "too large", "allocation"]
                .iter()
                .any(|costly| message.contains(costly)) =>
        {
            Rejection::TooCostly
        }
        Fault::Failed(_) | Fault::Warned(_) => Rejection::Corrupt,
    }
}
