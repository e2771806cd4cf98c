//! Gaussian blur by three box filters, whose cost does not depend on the radius. Planes are mirrored at their
//! borders, so that the mean of all samples is preserved.
//!
//! Method: P. Gwosdek et al., "Theoretical foundations of Gaussian convolution by extended box filtering", SSVM 2011.
//! The outermost samples have a fractional weight, so that the variance is exact for any radius.
#![expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "radii are small and positive")]

/// Number of box filter passes.
const PASSES: u8 = 3;
/// Number of rows that are filtered at once; their samples are interleaved for SIMD.
const LANES: usize = 8;

/// Blurs a plane of `width` columns. `sigma` is the standard deviation in samples.
pub fn blur(plane: &mut Vec<f32>, width: usize, sigma: f64) {
    let box_filter = BoxFilter::new(sigma);
    let height = plane.len() / width;
    let transposed = box_filter.blur_rows_transposed(plane, width, height);
    *plane = box_filter.blur_rows_transposed(&transposed, height, width);
}

/// A box filter over `2 * radius + 1` samples, with `edge_weight` for the next sample at both ends. `scale`
/// normalises the sum.
#[derive(Clone, Copy, Debug)]
struct BoxFilter {
    radius: usize,
    edge_weight: f32,
    scale: f32,
}

impl BoxFilter {
    fn new(sigma: f64) -> Self {
        let variance = sigma * sigma / f64::from(PASSES);
        let radius = ((12.0 * variance + 1.0).sqrt() / 2.0 - 0.5).floor();
        let edge_weight = (2.0 * radius + 1.0) * (radius * (radius + 1.0) - 3.0 * variance)
            / (6.0 * (variance - (radius + 1.0).powi(2)));
        let scale = 1.0 / (2.0 * radius + 1.0 + 2.0 * edge_weight);
        Self { radius: radius as usize, edge_weight: edge_weight as f32, scale: scale as f32 }
    }

    /// Blurs the rows of a plane and returns it transposed.
    fn blur_rows_transposed(self, plane: &[f32], width: usize, height: usize) -> Vec<f32> {
        let mut out = vec![0.0; plane.len()];
        // The buffers have a margin at both ends for the mirrored samples.
        let margin = self.radius + 1;
        let mut from = vec![[0.0; LANES]; width + 2 * margin];
        let mut to = from.clone();
        for top in (0..height).step_by(LANES) {
            let lines = (height - top).min(LANES);
            for lane in 0..lines {
                let row = &plane[(top + lane) * width..][..width];
                from[margin..].iter_mut().zip(row).for_each(|(samples, &sample)| samples[lane] = sample);
            }
            for _ in 0..PASSES {
                mirror_borders(&mut from, margin);
                self.filter_lines(&from, &mut to[margin..margin + width]);
                std::mem::swap(&mut from, &mut to);
            }
            for (x, samples) in from[margin..margin + width].iter().enumerate() {
                out[x * height + top..][..lines].copy_from_slice(&samples[..lines]);
            }
        }
        out
    }

    fn filter_lines(self, from: &[[f32; LANES]], to: &mut [[f32; LANES]]) {
        let span = 2 * self.radius + 1;
        let mut sum = [0.0; LANES];
        for samples in &from[1..=span] {
            add(&mut sum, samples);
        }
        for (position, out) in to.iter_mut().enumerate() {
            let (before, after) = (&from[position], &from[position + span + 1]);
            for lane in 0..LANES {
                out[lane] = (sum[lane] + self.edge_weight * (before[lane] + after[lane])) * self.scale;
                sum[lane] += after[lane] - from[position + 1][lane];
            }
        }
    }
}

fn add(sum: &mut [f32; LANES], samples: &[f32; LANES]) {
    sum.iter_mut().zip(samples).for_each(|(sum, sample)| *sum += sample);
}

/// Fills `margin` samples at both ends with the mirror image of the samples between.
fn mirror_borders(line: &mut [[f32; LANES]], margin: usize) {
    let length = line.len() - 2 * margin;
    for distance in 0..margin {
        // The mirror image repeats, because the radius may exceed the size of the plane.
        let offset = distance % (2 * length);
        let offset = if offset < length { offset } else { 2 * length - 1 - offset };
        line[margin - 1 - distance] = line[margin + offset];
        line[margin + length + distance] = line[margin + length - 1 - offset];
    }
}

#[cfg(test)]
#[expect(clippy::cast_precision_loss, reason = "small integers")]
mod tests {
    use super::*;

    #[test]
    fn impulse_response_has_given_sigma() {
        for sigma in [0.2, 0.4, 1.0, 3.3, 20.0] {
            let (width, height, middle) = (401, 3, 200);
            let mut plane = vec![0.0; width * height];
            (0..height).for_each(|y| plane[y * width + middle] = 1.0);
            blur(&mut plane, width, sigma);
            let row = &plane[width..2 * width];
            let sum: f32 = row.iter().sum();
            // Beyond five sigma only rounding errors of the running sums remain.
            let margin = (5.0 * sigma).ceil() as usize + 1;
            let near = middle - margin..=middle + margin;
            let variance: f64 = near.map(|x| (x as f64 - middle as f64).powi(2) * f64::from(row[x])).sum();
            assert!((sum - 1.0).abs() < 1e-4, "{sigma}: {sum}");
            assert!((variance.sqrt() - sigma).abs() < 0.01 * sigma, "{sigma}: {}", variance.sqrt());
        }
    }

    #[test]
    fn preserves_mean_for_any_radius() {
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
