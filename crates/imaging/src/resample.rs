//! Resampling: sizes, Lanczos resampling of planes and pixels, and row-by-row reduction.

mod rows;

use super::raster::{Orientation, Raster, Yuv};
use rows::resample_rows;
use std::time::{Duration, Instant};

/// Returns the size of an image scaled to at most `long_edge` pixels on its long edge. Never enlarges; both edges are
/// at least 1.
pub fn fit((width, height): (u32, u32), long_edge: u32) -> (u32, u32) {
    let source_edge = width.max(height);
    let target = long_edge.max(1);
    if source_edge <= target {
        return (width, height);
    }
    let scaled_edge = |edge: u32| {
        let rounded = (u64::from(edge) * u64::from(target) * 2 + u64::from(source_edge)) / (2 * u64::from(source_edge));
        u32::try_from(rounded).unwrap_or(target).max(1)
    };
    (scaled_edge(width), scaled_edge(height))
}

/// Returns the largest power of two, up to `max`, by which both edges can be divided and still cover the target.
pub fn reduction_factor(size: (u32, u32), target: (u32, u32), max: u32) -> u32 {
    let mut factor = 1;
    while factor * 2 <= max && size.0.div_ceil(factor * 2) >= target.0 && size.1.div_ceil(factor * 2) >= target.1 {
        factor *= 2;
    }
    factor
}

/// A crop rectangle in fractions of the edges of an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CropRect {
    /// Left and top, 0 to 1.
    pub origin: (f64, f64),
    /// Width and height, 0 to 1.
    pub size: (f64, f64),
}

impl CropRect {
    /// The complete image.
    pub const FULL: Self = Self { origin: (0.0, 0.0), size: (1.0, 1.0) };

    /// Returns origin and size in samples, for a raster that covers `extent` samples.
    fn in_samples(self, extent: (f64, f64)) -> ((f64, f64), (f64, f64)) {
        let scaled = |(x, y): (f64, f64)| (x * extent.0, y * extent.1);
        (scaled(self.origin), scaled(self.size))
    }
}

/// Resamples images, and adds up the time that this takes.
#[derive(Default)]
pub struct Resampler {
    elapsed: Duration,
}

impl Resampler {
    /// Resamples an image to `target` pixels with 4:2:0 chroma. The caller applies `orientation` afterwards; it
    /// decides at which end of an odd edge the half chroma sample lies.
    pub fn resample_yuv(&mut self, from: &Yuv, target: (u32, u32), orientation: Orientation) -> Yuv {
        self.resample_yuv_crop(from, CropRect::FULL, target, orientation)
    }

    /// Like [`Resampler::resample_yuv`], for a crop rectangle of the image.
    pub fn resample_yuv_crop(
        &mut self,
        from: &Yuv,
        crop: CropRect,
        target: (u32, u32),
        orientation: Orientation,
    ) -> Yuv {
        let luma = self.resample_crop(&from.luma, crop, target);
        let Some([cb, cr]) = &from.chroma else { return Yuv { luma, chroma: None } };
        let mut chroma = |plane: &Raster| self.resample_chroma(plane, crop, target, orientation);
        Yuv { luma, chroma: Some([chroma(cb), chroma(cr)]) }
    }

    /// Returns the time spent since the previous call, and resets it.
    pub fn take_elapsed(&mut self) -> Duration {
        std::mem::take(&mut self.elapsed)
    }

    /// Resamples a crop rectangle of a raster to `target` samples.
    pub fn resample_crop(&mut self, from: &Raster, crop: CropRect, target: (u32, u32)) -> Raster {
        let (origin, rect_size) = crop.in_samples(from.extent);
        self.resample_rect(from, target, origin, rect_size)
    }

    /// Resamples a chroma plane to half of `target`, rounded up. The last sample of an odd edge extends beyond the
    /// crop rectangle by half of its size.
    fn resample_chroma(
        &mut self,
        from: &Raster,
        crop: CropRect,
        target: (u32, u32),
        orientation: Orientation,
    ) -> Raster {
        let size = (target.0.div_ceil(2), target.1.div_ceil(2));
        let (origin, rect_size) = crop.in_samples(from.extent);
        let extended =
            |rect_size: f64, full_edge: u32, half: u32| rect_size * f64::from(2 * half) / f64::from(full_edge);
        let width = extended(rect_size.0, target.0, size.0);
        let height = extended(rect_size.1, target.1, size.1);
        let left = origin.0 + if orientation.mirror_x { rect_size.0 - width } else { 0.0 };
        let top = origin.1 + if orientation.mirror_y { rect_size.1 - height } else { 0.0 };
        let mut plane = self.resample_rect(from, size, (left, top), (width, height));
        plane.extent = (f64::from(target.0) / 2.0, f64::from(target.1) / 2.0);
        plane
    }

    /// Resamples the rectangle of `rect_size` samples at `origin` to `size`. The rectangle may extend beyond the
    /// raster, whose border samples are then repeated.
    fn resample_rect(&mut self, from: &Raster, size: (u32, u32), origin: (f64, f64), rect_size: (f64, f64)) -> Raster {
        let started = Instant::now();
        let border_padding = |start: f64, rect_size: f64, samples: u32| {
            let (before, after) = ((-start).max(0.0).ceil(), (start + rect_size - f64::from(samples)).max(0.0).ceil());
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a small positive number of samples"
            )]
            (before as u32, after as u32)
        };
        let (left, right) = border_padding(origin.0, rect_size.0, from.width);
        let (pad_top, pad_bottom) = border_padding(origin.1, rect_size.1, from.height);
        let padded = (left + right + pad_top + pad_bottom > 0).then(|| from.padded([left, right, pad_top, pad_bottom]));
        let from = padded.as_ref().unwrap_or(from);
        let origin = (origin.0 + f64::from(left), origin.1 + f64::from(pad_top));
        // Vertically, then vertically once more on the transposed image: whole rows of samples are summed at a time,
        // which outweighs the two transpositions.
        let narrow = resample_height(from, origin.1, rect_size.1, size.1).transposed();
        let resampled = resample_height(&narrow, origin.0, rect_size.0, size.0).transposed();
        self.elapsed += started.elapsed();
        resampled
    }
}

/// Resamples `span` rows from `origin` on to `height` rows.
fn resample_height(from: &Raster, origin: f64, span: f64, height: u32) -> Raster {
    let row_bytes = (from.width * from.channels) as usize;
    let data = resample_rows(&from.data, row_bytes, origin, span, height);
    Raster::new(data, from.width, height, from.channels)
}

/// Reduces an image by averaging blocks of `factor` x `factor` pixels. Takes one row at a time, so that the full-size
/// image is never in memory.
pub struct RowDownscaler {
    width: usize,
    channels: usize,
    factor: usize,
    sums: Vec<u32>,
    rows_summed: usize,
    rows: usize,
    data: Vec<u8>,
}

impl RowDownscaler {
    /// Creates a downscaler for an image of this size. Reserves the complete output, because a growing vector would
    /// hold it twice while it is moved.
    pub fn new(size: (u32, u32), channels: u32, factor: u32) -> Self {
        let (width, height) = (size.0 as usize, size.1 as usize);
        let (channels, factor) = (channels as usize, factor as usize);
        let sums = vec![0; width.div_ceil(factor) * channels];
        let data = Vec::with_capacity(sums.len() * height.div_ceil(factor));
        Self { width, channels, factor, sums, rows_summed: 0, rows: 0, data }
    }

    /// Adds the next row of `width * channels` samples.
    pub fn push(&mut self, row: &[u8]) {
        self.rows += 1;
        if self.factor == 1 {
            self.data.extend_from_slice(row);
            return;
        }
        for (sums, block) in self.sums.chunks_exact_mut(self.channels).zip(row.chunks(self.factor * self.channels)) {
            for pixel in block.chunks_exact(self.channels) {
                sums.iter_mut().zip(pixel).for_each(|(sum, sample)| *sum += u32::from(*sample));
            }
        }
        self.rows_summed += 1;
        if self.rows_summed == self.factor {
            self.flush();
        }
    }

    fn flush(&mut self) {
        for (index, sum) in self.sums.iter_mut().enumerate() {
            let columns = self.factor.min(self.width - index / self.channels * self.factor);
            let count = u32::try_from(columns * self.rows_summed).unwrap_or(u32::MAX);
            self.data.push(u8::try_from((*sum + count / 2) / count).unwrap_or(u8::MAX));
            *sum = 0;
        }
        self.rows_summed = 0;
    }

    /// Returns the reduced image.
    pub fn finish(mut self) -> Raster {
        if self.rows_summed > 0 {
            self.flush();
        }
        let reduced_edge = |edge: usize| u32::try_from(edge.div_ceil(self.factor)).unwrap_or(u32::MAX);
        #[expect(clippy::cast_precision_loss, reason = "edges are below 2^24")]
        let exact_edge = |edge: usize| edge as f64 / self.factor as f64;
        let channels = u32::try_from(self.channels).unwrap_or(u32::MAX);
        let mut raster = Raster::new(self.data, reduced_edge(self.width), reduced_edge(self.rows), channels);
        raster.extent = (exact_edge(self.width), exact_edge(self.rows));
        raster
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fits_without_enlarging() {
        assert_eq!(fit((4000, 3000), 2048), (2048, 1536));
        assert_eq!(fit((3000, 4000), 1024), (768, 1024));
        assert_eq!(fit((2048, 1), 2048), (2048, 1));
        assert_eq!(fit((2049, 2049), 2048), (2048, 2048));
        assert_eq!(fit((1, 30_000), 2048), (1, 2048));
        assert_eq!(fit((1, 1), 320), (1, 1));
    }

    #[test]
    fn reduction_covers_target() {
        assert_eq!(reduction_factor((8000, 6000), (2048, 1536), 8), 2);
        assert_eq!(reduction_factor((4096, 3072), (2048, 1536), 8), 2);
        assert_eq!(reduction_factor((2047, 2047), (2047, 2047), 8), 1);
        assert_eq!(reduction_factor((65_000, 65_000), (320, 320), 8), 8);
    }

    #[test]
    fn averages_partial_blocks_at_edges() {
        let mut downscaler = RowDownscaler::new((3, 3), 1, 2);
        downscaler.push(&[0, 10, 50]);
        downscaler.push(&[20, 30, 70]);
        downscaler.push(&[1, 3, 9]);
        let raster = downscaler.finish();
        assert_eq!((raster.data, raster.extent), (vec![15, 60, 2, 9], (1.5, 1.5)));
    }
}
