//! Linear-light images: samples are proportional to light intensity, so that sums and means are physically correct.
//! sRGB, the colour space of every rendition, stores a nonlinear encoding (IEC 61966-2-1).
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "samples are 0 to 1, tables have 65,536 entries"
)]

use crate::raster::Raster;
use std::sync::LazyLock;

/// Luminance weights of red, green and blue (ITU-R BT.709).
pub const LUMINANCE_WEIGHTS: [f32; 3] = [0.2126, 0.7152, 0.0722];

/// Number of table entries over 0 to 1. Where the sRGB curve is steepest, near black, one entry is a twentieth of an
/// 8-bit level.
const ENTRIES: usize = 65_536;

/// Converts a linear-light sample to sRGB, both 0 to 1.
fn linear_to_srgb(linear: f32) -> f32 {
    if linear <= 0.003_130_8 { 12.92 * linear } else { 1.055 * linear.powf(1.0 / 2.4) - 0.055 }
}

/// Converts an sRGB sample to linear light, both 0 to 1.
fn srgb_to_linear(level: f32) -> f32 {
    if level <= 0.040_45 { level / 12.92 } else { ((level + 0.055) / 1.055).powf(2.4) }
}

/// A lookup table of a function over 0 to 1.
pub struct Curve(Vec<f32>);

impl Curve {
    pub fn new(function: impl Fn(f32) -> f32) -> Self {
        Self((0..ENTRIES).map(|index| function(index as f32 / (ENTRIES - 1) as f32)).collect())
    }

    /// Creates a table from linear light to linear light, from a function of sRGB levels.
    pub fn from_srgb_levels(function: impl Fn(f32) -> f32) -> Self {
        Self(TO_SRGB.0.iter().map(|&level| srgb_to_linear(function(level).clamp(0.0, 1.0))).collect())
    }

    /// Returns the value at `sample`, which is clamped to 0 to 1.
    pub fn eval(&self, sample: f32) -> f32 {
        self.0[table_index(sample)]
    }
}

/// Linear light to sRGB levels.
pub static TO_SRGB: LazyLock<Curve> = LazyLock::new(|| Curve::new(linear_to_srgb));
/// sRGB levels to linear light.
pub static TO_LINEAR: LazyLock<Curve> = LazyLock::new(|| Curve::new(srgb_to_linear));

static SRGB_BYTES: LazyLock<Vec<u8>> =
    LazyLock::new(|| TO_SRGB.0.iter().map(|level| (level * 255.0).round() as u8).collect());

/// Returns the index of the nearest entry. Float-to-integer casts saturate, and convert NaN to 0.
fn table_index(sample: f32) -> usize {
    usize::from((sample * (ENTRIES - 1) as f32 + 0.5) as u16)
}

/// A linear-light image in planes: one for grey, three for red, green and blue. Samples are 0 to 1.
#[derive(Clone, Debug)]
pub struct LinearImage {
    pub width: usize,
    pub height: usize,
    pub planes: Vec<Vec<f32>>,
}

impl LinearImage {
    /// Converts an sRGB image of 1 or 3 channels.
    pub fn new(image: &Raster) -> Self {
        let table: Vec<f32> = (0..=u8::MAX).map(|level| srgb_to_linear(f32::from(level) / 255.0)).collect();
        let channels = image.channels as usize;
        let plane = |channel| -> Vec<f32> {
            image.data.iter().skip(channel).step_by(channels).map(|&level| table[usize::from(level)]).collect()
        };
        let planes = (0..channels).map(plane).collect();
        Self { width: image.width as usize, height: image.height as usize, planes }
    }

    /// Converts the image to sRGB.
    pub fn to_raster(&self) -> Raster {
        let channels = self.planes.len();
        let mut data = vec![0; self.width * self.height * channels];
        for (channel, plane) in self.planes.iter().enumerate() {
            for (level, &sample) in data.iter_mut().skip(channel).step_by(channels).zip(plane) {
                *level = SRGB_BYTES[table_index(sample)];
            }
        }
        Raster::new(data, self.width as u32, self.height as u32, channels as u32)
    }

    /// Returns the luminance plane.
    pub fn luminance(&self) -> Vec<f32> {
        match &self.planes[..] {
            [red, green, blue] => {
                let [r, g, b] = LUMINANCE_WEIGHTS;
                red.iter().zip(green).zip(blue).map(|((red, green), blue)| r * red + g * green + b * blue).collect()
            }
            planes => planes[0].clone(),
        }
    }

    /// Applies a function to every sample and clips the result to 0 to 1.
    pub fn map(&mut self, function: impl Fn(f32) -> f32) {
        self.planes.iter_mut().flatten().for_each(|sample| *sample = function(*sample).clamp(0.0, 1.0));
    }

    /// Converts a grey image to RGB, applies a function to every pixel, and clips the result to 0 to 1.
    pub fn map_rgb(&mut self, function: impl Fn([f32; 3]) -> [f32; 3]) {
        if let [grey] = &self.planes[..] {
            self.planes = vec![grey.clone(), grey.clone(), grey.clone()];
        }
        if let [reds, greens, blues] = &mut self.planes[..] {
            for ((red, green), blue) in reds.iter_mut().zip(greens).zip(blues) {
                [*red, *green, *blue] = function([*red, *green, *blue]).map(|sample| sample.clamp(0.0, 1.0));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_every_level() {
        let levels = Raster::new((0..=255).collect(), 16, 16, 1);
        assert_eq!(LinearImage::new(&levels).to_raster().data, levels.data);
    }

    #[test]
    fn matches_iec_61966_2_1() {
        // IEC 61966-2-1: level 188 of 255 is half the light of 255; levels up to 10 lie on the linear segment.
        let linear = LinearImage::new(&Raster::new(vec![0, 10, 188, 255], 4, 1, 1)).planes.remove(0);
        for (sample, expected) in linear.iter().zip([0.0, 10.0 / 255.0 / 12.92, 0.502_886, 1.0]) {
            assert!((sample - expected).abs() < 1e-5, "{sample} {expected}");
        }
    }

    #[test]
    fn clips_out_of_range_samples() {
        assert_eq!(
            [-1.0, f32::NAN, 2.0, f32::INFINITY].map(|sample| SRGB_BYTES[table_index(sample)]),
            [0, 0, 255, 255]
        );
    }
}
