//! Turning by any angle: bicubic interpolation (Catmull and Rom) of light, so that fine bright lines don't go dark.
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "places within a picture"
)]

use super::frame::{Frame, Window};
use super::light::Light;

/// Samples that count in each direction.
const TAPS: usize = 4;

/// What a frame shows, at a size of so many pixels, of a picture that is the frame's window, scaled.
pub fn tilted(from: &Light, window: Window, frame: &Frame, target: (u32, u32)) -> Light {
    let (width, height) = (target.0 as usize, target.1 as usize);
    let scale = (from.width as f64 / window.width, from.height as f64 / window.height);
    let pixel = (f64::from(frame.size().0) / f64::from(target.0), f64::from(frame.size().1) / f64::from(target.1));
    let corner = ((0.5 - width as f64 / 2.0) * pixel.0, (0.5 - height as f64 / 2.0) * pixel.1);
    let place = |step: (f64, f64)| (step.0 * scale.0, step.1 * scale.1);
    let (across, down) = (place(frame.upright((pixel.0, 0.0))), place(frame.upright((0.0, pixel.1))));
    let (first, centre) = (frame.upright(corner), frame.centre());
    let first = place((first.0 + centre.0 - window.x, first.1 + centre.1 - window.y));
    let mut planes = vec![Vec::with_capacity(width * height); from.planes.len()];
    for row in 0..height {
        for column in 0..width {
            // Samples lie in the middle of their squares.
            let x = first.0 + across.0 * column as f64 + down.0 * row as f64 - 0.5;
            let y = first.1 + across.1 * column as f64 + down.1 * row as f64 - 0.5;
            let (columns, horizontal) = taps(x, from.width);
            let (rows, vertical) = taps(y, from.height);
            for (plane, out) in from.planes.iter().zip(&mut planes) {
                let mut sum = 0.0;
                for (row, weight) in rows.iter().zip(vertical) {
                    let line = &plane[row * from.width..][..from.width];
                    let part: f32 = columns.iter().zip(horizontal).map(|(&column, weight)| line[column] * weight).sum();
                    sum += part * weight;
                }
                out.push(sum.clamp(0.0, 1.0));
            }
        }
    }
    Light { width, height, planes }
}

/// The samples around a place, the border ones repeated beyond it, and their weights.
fn taps(place: f64, edge: usize) -> ([usize; TAPS], [f32; TAPS]) {
    let start = place.floor();
    let part = (place - start) as f32;
    let (square, cube) = (part * part, part * part * part);
    let weights = [
        0.5 * (-cube + 2.0 * square - part),
        0.5 * (3.0 * cube - 5.0 * square + 2.0),
        0.5 * (-3.0 * cube + 4.0 * square + part),
        0.5 * (cube - square),
    ];
    let last = (edge - 1) as f64;
    (std::array::from_fn(|tap| (start - 1.0 + tap as f64).clamp(0.0, last) as usize), weights)
}
