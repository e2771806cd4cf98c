//! Rotation by any angle with bicubic interpolation (Catmull-Rom) in linear light, which preserves the brightness of
//! thin lines.
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positions within an image"
)]

use super::geometry::{Geometry, PixelRect};
use super::linear::LinearImage;

/// Interpolation taps per axis.
const TAPS: usize = 4;

/// Returns the rectangle selected by `geometry` at `target` pixels. `from` is the content of `source_rect` at any
/// scale.
pub fn rotate_and_crop(
    from: &LinearImage,
    source_rect: PixelRect,
    geometry: &Geometry,
    target: (u32, u32),
) -> LinearImage {
    let (width, height) = (target.0 as usize, target.1 as usize);
    let scale = (from.width as f64 / source_rect.width, from.height as f64 / source_rect.height);
    let pixel_size =
        (f64::from(geometry.size().0) / f64::from(target.0), f64::from(geometry.size().1) / f64::from(target.1));
    let first_centre = ((0.5 - width as f64 / 2.0) * pixel_size.0, (0.5 - height as f64 / 2.0) * pixel_size.1);
    let sample_vector = |vector: (f64, f64)| (vector.0 * scale.0, vector.1 * scale.1);
    let (column_step, row_step) = (
        sample_vector(geometry.source_vector((pixel_size.0, 0.0))),
        sample_vector(geometry.source_vector((0.0, pixel_size.1))),
    );
    let (first, centre) = (geometry.source_vector(first_centre), geometry.centre());
    let first = sample_vector((first.0 + centre.0 - source_rect.x, first.1 + centre.1 - source_rect.y));
    let mut planes = vec![Vec::with_capacity(width * height); from.planes.len()];
    for row in 0..height {
        for column in 0..width {
            // Sample positions are pixel centres.
            let x = first.0 + column_step.0 * column as f64 + row_step.0 * row as f64 - 0.5;
            let y = first.1 + column_step.1 * column as f64 + row_step.1 * row as f64 - 0.5;
            let (columns, horizontal) = taps(x, from.width);
            let (rows, vertical) = taps(y, from.height);
            for (plane, out) in from.planes.iter().zip(&mut planes) {
                let mut sum = 0.0;
                for (row, weight) in rows.iter().zip(vertical) {
                    let source_row = &plane[row * from.width..][..from.width];
                    let row_sum: f32 =
                        columns.iter().zip(horizontal).map(|(&column, weight)| source_row[column] * weight).sum();
                    sum += row_sum * weight;
                }
                out.push(sum.clamp(0.0, 1.0));
            }
        }
    }
    LinearImage { width, height, planes }
}

/// Returns the indices and weights of the samples around `position`. Indices beyond the border are clamped.
fn taps(position: f64, edge: usize) -> ([usize; TAPS], [f32; TAPS]) {
    let start = position.floor();
    let fraction = (position - start) as f32;
    let (square, cube) = (fraction * fraction, fraction * fraction * fraction);
    let weights = [
        0.5 * (-cube + 2.0 * square - fraction),
        0.5 * (3.0 * cube - 5.0 * square + 2.0),
        0.5 * (-3.0 * cube + 4.0 * square + fraction),
        0.5 * (cube - square),
    ];
    let last = (edge - 1) as f64;
    (std::array::from_fn(|tap| (start - 1.0 + tap as f64).clamp(0.0, last) as usize), weights)
}
