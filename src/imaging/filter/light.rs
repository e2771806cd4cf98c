//! Pictures as light: samples in proportion to the light that they stand for, so that sums and means of them are those of
//! light. sRGB, the space of every rendition, stores about its square root instead (IEC 61966-2-1).
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "samples of 0 to 1 in tables of 65,536"
)]

use crate::imaging::raster::Raster;
use std::sync::LazyLock;

/// The light of red, green and blue in white (ITU-R BT.709).
pub const LUMINANCE: [f32; 3] = [0.2126, 0.7152, 0.0722];

/// Entries of a table over 0 to 1. Where sRGB is steepest, in the dark, one is a twentieth of a level of 255.
const ENTRIES: usize = 65_536;

/// Light to sRGB, both 0 to 1.
fn encode(light: f32) -> f32 {
    if light <= 0.003_130_8 { 12.92 * light } else { 1.055 * light.powf(1.0 / 2.4) - 0.055 }
}

/// sRGB to light, both 0 to 1.
fn decode(level: f32) -> f32 {
    if level <= 0.040_45 { level / 12.92 } else { ((level + 0.055) / 1.055).powf(2.4) }
}

/// A function over 0 to 1, as a table.
pub struct Curve(Vec<f32>);

impl Curve {
    pub fn new(function: impl Fn(f32) -> f32) -> Self {
        Self((0..ENTRIES).map(|index| function(index as f32 / (ENTRIES - 1) as f32)).collect())
    }

    /// From light to light, by a function of sRGB levels.
    pub fn of_levels(function: impl Fn(f32) -> f32) -> Self {
        Self(ENCODED.0.iter().map(|&level| decode(function(level).clamp(0.0, 1.0))).collect())
    }

    /// The function of a sample; what is below 0 or above 1 counts as that.
    pub fn of(&self, sample: f32) -> f32 {
        self.0[index(sample)]
    }
}

/// From light to sRGB levels.
pub static ENCODED: LazyLock<Curve> = LazyLock::new(|| Curve::new(encode));
/// From sRGB levels to light.
pub static DECODED: LazyLock<Curve> = LazyLock::new(|| Curve::new(decode));

static BYTES: LazyLock<Vec<u8>> =
    LazyLock::new(|| ENCODED.0.iter().map(|level| (level * 255.0).round() as u8).collect());

/// The nearest entry. A cast from a float saturates, and takes what is no number for 0.
fn index(sample: f32) -> usize {
    usize::from((sample * (ENTRIES - 1) as f32 + 0.5) as u16)
}

/// A picture in planes of light: one for grey, three for red, green and blue. Samples are 0 to 1.
#[derive(Clone, Debug)]
pub struct Light {
    pub width: usize,
    pub height: usize,
    pub planes: Vec<Vec<f32>>,
}

impl Light {
    /// The light of an sRGB picture of 1 or 3 channels.
    pub fn new(picture: &Raster) -> Self {
        let table: Vec<f32> = (0..=u8::MAX).map(|level| decode(f32::from(level) / 255.0)).collect();
        let channels = picture.channels as usize;
        let plane = |channel| -> Vec<f32> {
            picture.data.iter().skip(channel).step_by(channels).map(|&level| table[usize::from(level)]).collect()
        };
        let planes = (0..channels).map(plane).collect();
        Self { width: picture.width as usize, height: picture.height as usize, planes }
    }

    /// The picture in sRGB.
    pub fn raster(&self) -> Raster {
        let channels = self.planes.len();
        let mut data = vec![0; self.width * self.height * channels];
        for (channel, plane) in self.planes.iter().enumerate() {
            for (level, &sample) in data.iter_mut().skip(channel).step_by(channels).zip(plane) {
                *level = BYTES[index(sample)];
            }
        }
        Raster::new(data, self.width as u32, self.height as u32, channels as u32)
    }

    /// A plane of the picture's luminance.
    pub fn luminance(&self) -> Vec<f32> {
        match &self.planes[..] {
            [red, green, blue] => {
                let [r, g, b] = LUMINANCE;
                red.iter().zip(green).zip(blue).map(|((red, green), blue)| r * red + g * green + b * blue).collect()
            }
            planes => planes[0].clone(),
        }
    }

    /// Every sample through a function; the result is clipped to what a picture can hold.
    pub fn map(&mut self, function: impl Fn(f32) -> f32) {
        self.planes.iter_mut().flatten().for_each(|sample| *sample = function(*sample).clamp(0.0, 1.0));
    }

    /// Every pixel of a picture in colour (a grey one becomes such) through a function, clipped.
    pub fn map_colours(&mut self, function: impl Fn([f32; 3]) -> [f32; 3]) {
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
    fn every_level_comes_back() {
        let levels = Raster::new((0..=255).collect(), 16, 16, 1);
        assert_eq!(Light::new(&levels).raster().data, levels.data);
    }

    #[test]
    fn light_is_as_the_standard_says() {
        // IEC 61966-2-1: level 188 of 255 is half of the light of 255, 10 and below lie on the straight part.
        let light = Light::new(&Raster::new(vec![0, 10, 188, 255], 4, 1, 1)).planes.remove(0);
        for (sample, expected) in light.iter().zip([0.0, 10.0 / 255.0 / 12.92, 0.502_886, 1.0]) {
            assert!((sample - expected).abs() < 1e-5, "{sample} {expected}");
        }
    }

    #[test]
    fn what_is_out_of_range_is_clipped() {
        assert_eq!([-1.0, f32::NAN, 2.0, f32::INFINITY].map(|sample| BYTES[index(sample)]), [0, 0, 255, 255]);
    }
}
