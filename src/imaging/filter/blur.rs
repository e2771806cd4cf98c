//! Gaussian blur by three running means, whose cost does not depend on the radius. Beyond its border a plane is its own mirror
//! image, so that no sample loses or gains weight: the mean stays.
//!
//! The widths are those of P. Gwosdek et al., "Theoretical foundations of Gaussian convolution by extended box filtering"
//! (SSVM 2011): the outermost samples count in part, so that the variance is exact for any radius.
#![expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "radii, which are small and positive")]

/// How many running means make a bell.
const PASSES: u8 = 3;
/// So many lines are averaged at once: their samples stand side by side, as the processor's vectors want them.
const LANES: usize = 8;

/// Blurs a plane of so many samples across by a standard deviation in samples.
pub fn blur(plane: &mut Vec<f32>, width: usize, sigma: f64) {
    let mean = Mean::new(sigma);
    let height = plane.len() / width;
    let turned = mean.lines_as_columns(plane, width, height);
    *plane = mean.lines_as_columns(&turned, height, width);
}

/// A running mean over `2 * whole + 1` samples and a part of the next one at both ends.
#[derive(Clone, Copy, Debug)]
struct Mean {
    whole: usize,
    part: f32,
    scale: f32,
}

impl Mean {
    fn new(sigma: f64) -> Self {
        let variance = sigma * sigma / f64::from(PASSES);
        let whole = ((12.0 * variance + 1.0).sqrt() / 2.0 - 0.5).floor();
        let part =
            (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * variance) / (6.0 * (variance - (whole + 1.0).powi(2)));
        let scale = 1.0 / (2.0 * whole + 1.0 + 2.0 * part);
        Self { whole: whole as usize, part: part as f32, scale: scale as f32 }
    }

    /// Blurs the rows of a plane, and gives it back with its rows as columns.
    fn lines_as_columns(self, plane: &[f32], width: usize, height: usize) -> Vec<f32> {
        let mut out = vec![0.0; plane.len()];
        // Each buffer has room for what the mean sees beyond both ends.
        let reach = self.whole + 1;
        let mut from = vec![[0.0; LANES]; width + 2 * reach];
        let mut to = from.clone();
        for top in (0..height).step_by(LANES) {
            let lines = (height - top).min(LANES);
            for lane in 0..lines {
                let row = &plane[(top + lane) * width..][..width];
                from[reach..].iter_mut().zip(row).for_each(|(samples, &sample)| samples[lane] = sample);
            }
            for _ in 0..PASSES {
                mirror(&mut from, reach);
                self.pass(&from, &mut to[reach..reach + width]);
                std::mem::swap(&mut from, &mut to);
            }
            for (x, samples) in from[reach..reach + width].iter().enumerate() {
                out[x * height + top..][..lines].copy_from_slice(&samples[..lines]);
            }
        }
        out
    }

    fn pass(self, from: &[[f32; LANES]], to: &mut [[f32; LANES]]) {
        let span = 2 * self.whole + 1;
        let mut sum = [0.0; LANES];
        for samples in &from[1..=span] {
            add(&mut sum, samples);
        }
        for (at, out) in to.iter_mut().enumerate() {
            let (before, after) = (&from[at], &from[at + span + 1]);
            for lane in 0..LANES {
                out[lane] = (sum[lane] + self.part * (before[lane] + after[lane])) * self.scale;
                sum[lane] += after[lane] - from[at + 1][lane];
            }
        }
    }
}

fn add(sum: &mut [f32; LANES], samples: &[f32; LANES]) {
    sum.iter_mut().zip(samples).for_each(|(sum, sample)| *sum += sample);
}

/// Fills so many samples at both ends by the mirror images of what lies between.
fn mirror(line: &mut [[f32; LANES]], reach: usize) {
    let length = line.len() - 2 * reach;
    for beyond in 0..reach {
        // There and back again, as often as it takes: a radius may be larger than the picture.
        let place = beyond % (2 * length);
        let place = if place < length { place } else { 2 * length - 1 - place };
        line[reach - 1 - beyond] = line[reach + place];
        line[reach + length + beyond] = line[reach + length - 1 - place];
    }
}

#[cfg(test)]
#[expect(clippy::cast_precision_loss, reason = "small numbers")]
mod tests {
    use super::*;

    #[test]
    fn a_point_becomes_a_bell_of_the_wanted_width() {
        for sigma in [0.2, 0.4, 1.0, 3.3, 20.0] {
            let (width, height, middle) = (401, 3, 200);
            let mut plane = vec![0.0; width * height];
            (0..height).for_each(|y| plane[y * width + middle] = 1.0);
            blur(&mut plane, width, sigma);
            let row = &plane[width..2 * width];
            let sum: f32 = row.iter().sum();
            // Further out there is nothing but what running sums leave of rounding.
            let reach = (5.0 * sigma).ceil() as usize + 1;
            let near = middle - reach..=middle + reach;
            let variance: f64 = near.map(|x| (x as f64 - middle as f64).powi(2) * f64::from(row[x])).sum();
            assert!((sum - 1.0).abs() < 1e-4, "{sigma}: {sum}");
            assert!((variance.sqrt() - sigma).abs() < 0.01 * sigma, "{sigma}: {}", variance.sqrt());
        }
    }

    #[test]
    fn the_mean_stays_whatever_the_radius() {
        for (width, height) in [(1, 1), (1, 7), (9, 2), (31, 17), (8, 8)] {
            let mut plane: Vec<f32> = (0..width * height).map(|index| (index * 7919 % 101) as f32 / 100.0).collect();
            let mean = |plane: &[f32]| plane.iter().sum::<f32>() / plane.len() as f32;
            let before = mean(&plane);
            for sigma in [0.05, 0.7, 5.0, 300.0] {
                blur(&mut plane, width, sigma);
                assert!((mean(&plane) - before).abs() < 1e-4, "{width}x{height} by {sigma}");
            }
        }
    }
}
