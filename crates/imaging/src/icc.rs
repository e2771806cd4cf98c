//! Conversion of embedded ICC profiles to sRGB.

use super::raster::Raster;
use moxcms::{ColorProfile, DataColorSpace, Layout, Transform8BitExecutor, TransformOptions};
use std::sync::Arc;

/// Maximum change of a channel, of 255, at which a profile is treated as sRGB. Encodings of the sRGB profile differ
/// by up to this much.
const MAX_NEGLIGIBLE_CHANGE: u8 = 2;

/// A conversion from an embedded profile to sRGB.
pub struct Conversion {
    transform: Arc<Transform8BitExecutor>,
}

impl Conversion {
    /// Parses a profile for images of `channels` channels. Returns `None` if the profile is invalid, belongs to
    /// another colour space, or is equivalent to sRGB.
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
        (channels == 4 || conversion.changes_colours(channels)?).then_some(conversion)
    }

    /// Returns whether a grid of test colours changes by more than [`MAX_NEGLIGIBLE_CHANGE`].
    fn changes_colours(&self, channels: u32) -> Option<bool> {
        const LEVELS: [u8; 5] = [0, 64, 128, 192, 255];
        let colours: Vec<[u8; 3]> = if channels == 1 {
            LEVELS.iter().map(|&level| [level; 3]).collect()
        } else {
            LEVELS
                .iter()
                .flat_map(|&r| LEVELS.iter().flat_map(move |&g| LEVELS.iter().map(move |&b| [r, g, b])))
                .collect()
        };
        let before: Vec<u8> =
            if channels == 1 { colours.iter().map(|rgb| rgb[0]).collect() } else { colours.as_flattened().to_vec() };
        let mut after = vec![0; colours.len() * 3];
        self.transform.transform(&before, &mut after).ok()?;
        Some(colours.as_flattened().iter().zip(&after).any(|(old, new)| old.abs_diff(*new) > MAX_NEGLIGIBLE_CHANGE))
    }

    /// Converts an image to sRGB. CMYK samples are ink amounts: 0 is no ink. Returns `None` if the conversion fails.
    pub fn apply(&self, from: &Raster) -> Option<Raster> {
        let mut data = vec![0; from.width as usize * from.height as usize * 3];
        self.transform.transform(&from.data, &mut data).ok()?;
        Some(Raster { data, channels: 3, ..from.without_data() })
    }
}

/// Converts CMYK ink amounts to RGB without a profile: each channel is `(255 - ink) * (255 - black) / 255`.
pub fn cmyk_to_rgb(from: &Raster) -> Raster {
    let (inks, _) = from.data.as_chunks::<4>();
    let channel = |ink: u8, black: u8| {
        let product = u32::from(255 - ink) * u32::from(255 - black);
        u8::try_from((product + 127) / 255).unwrap_or(u8::MAX)
    };
    let data = inks.iter().flat_map(|&[c, m, y, k]| [channel(c, k), channel(m, k), channel(y, k)]).collect();
    Raster { data, channels: 3, ..from.without_data() }
}
