//! Embedded colour profiles: everything leaves as sRGB.

use super::raster::Raster;
use moxcms::{ColorProfile, DataColorSpace, Layout, Transform8BitExecutor, TransformOptions};
use std::sync::Arc;

/// How far a colour may move (of 255) before a profile is worth applying: sRGB comes in many spellings that differ by a level.
const SAME: u8 = 2;

/// A conversion from an embedded profile to sRGB.
pub struct Conversion {
    transform: Arc<Transform8BitExecutor>,
}

impl Conversion {
    /// Reads a profile for pictures of so many channels. `None` for a profile that is broken, belongs to another kind of
    /// picture, or is sRGB in all but name.
    pub fn new(profile: &[u8], channels: u32) -> Option<Self> {
        let profile = ColorProfile::new_from_slice(profile).ok()?;
        let layout = match (profile.color_space, channels) {
            (DataColorSpace::Gray, 1) => Layout::Gray,
            (DataColorSpace::Rgb, 3) => Layout::Rgb,
            (DataColorSpace::Cmyk, 4) => Layout::Rgba,
            _ => return None,
        };
        let options = TransformOptions::default();
        let transform = profile.create_transform_8bit(layout, &ColorProfile::new_srgb(), Layout::Rgb, options).ok()?;
        let conversion = Self { transform };
        (channels == 4 || conversion.moves(channels)?).then_some(conversion)
    }

    /// Whether any of a spread of colours changes visibly.
    fn moves(&self, channels: u32) -> Option<bool> {
        const STEPS: [u8; 5] = [0, 64, 128, 192, 255];
        let colours: Vec<[u8; 3]> = if channels == 1 {
            STEPS.iter().map(|&level| [level; 3]).collect()
        } else {
            STEPS.iter().flat_map(|&r| STEPS.iter().flat_map(move |&g| STEPS.iter().map(move |&b| [r, g, b]))).collect()
        };
        let before: Vec<u8> = if channels == 1 {
            colours.iter().map(|colour| colour[0]).collect()
        } else {
            colours.as_flattened().to_vec()
        };
        let mut after = vec![0; colours.len() * 3];
        self.transform.transform(&before, &mut after).ok()?;
        Some(colours.as_flattened().iter().zip(&after).any(|(old, new)| old.abs_diff(*new) > SAME))
    }

    /// The picture in sRGB, or `None` if the profile can't be applied after all. CMYK is expected as ink: 0 is none.
    pub fn apply(&self, from: &Raster) -> Option<Raster> {
        let mut data = vec![0; from.width as usize * from.height as usize * 3];
        self.transform.transform(&from.data, &mut data).ok()?;
        Some(Raster { data, channels: 3, ..from.shell() })
    }
}

/// CMYK ink to RGB without a profile: each ink takes its light away.
pub fn plain_cmyk(from: &Raster) -> Raster {
    let (inks, _) = from.data.as_chunks::<4>();
    let lit = |ink: u8, black: u8| {
        let light = u32::from(255 - ink) * u32::from(255 - black);
        u8::try_from((light + 127) / 255).unwrap_or(u8::MAX)
    };
    let data = inks.iter().flat_map(|&[c, m, y, k]| [lit(c, k), lit(m, k), lit(y, k)]).collect();
    Raster { data, channels: 3, ..from.shell() }
}
