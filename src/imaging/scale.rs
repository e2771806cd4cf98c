//! Making pictures smaller.

use super::raster::{Orientation, Raster, Yuv};
use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{Filter, FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use std::f64::consts::{FRAC_PI_2, PI};
use std::time::{Duration, Instant};

/// Width and height of a picture whose long edge may be `long_edge` at most. Never enlarges; no edge is less than 1.
pub fn fit((width, height): (u32, u32), long_edge: u32) -> (u32, u32) {
    let long = width.max(height);
    let target = long_edge.max(1);
    if long <= target {
        return (width, height);
    }
    let scaled = |edge: u32| {
        let rounded = (u64::from(edge) * u64::from(target) * 2 + u64::from(long)) / (2 * u64::from(long));
        u32::try_from(rounded).unwrap_or(target).max(1)
    };
    (scaled(width), scaled(height))
}

/// The largest power of two, up to `most`, by which both edges can be divided and still cover the target.
pub fn reduction(size: (u32, u32), target: (u32, u32), most: u32) -> u32 {
    let mut factor = 1;
    while factor * 2 <= most && size.0.div_ceil(factor * 2) >= target.0 && size.1.div_ceil(factor * 2) >= target.1 {
        factor *= 2;
    }
    factor
}

/// How far Lanczos3 reaches.
const LOBES: f64 = 3.0;

/// Lanczos3, `sinc(x) * sinc(x / 3)`. The library's own asks for two sines per weight and for the weights of every plane
/// anew: 2% of a photo's time. This one takes a single short series, for sin(3a) = 3 sin(a) - 4 sin(a)^3.
fn lanczos3(x: f64) -> f64 {
    let angle = x * (PI / LOBES);
    if x.abs() >= LOBES {
        return 0.0;
    }
    if x.abs() < 1e-6 {
        return 1.0;
    }
    // sin(a) = sin(pi - a): a series is best near 0.
    let near = if angle.abs() > FRAC_PI_2 { PI - angle.abs() } else { angle.abs() };
    let square = near * near;
    let series = [-1.0 / 39_916_800.0, 1.0 / 362_880.0, -1.0 / 5040.0, 1.0 / 120.0, -1.0 / 6.0, 1.0];
    let sine = near * series.iter().fold(0.0, |sum, term| sum * square + term);
    sine * sine * (3.0 - 4.0 * sine * sine) / (LOBES * angle * angle)
}

/// A part of a picture, in fractions of its edges.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    /// Left and top.
    pub corner: (f64, f64),
    /// Width and height.
    pub span: (f64, f64),
}

impl Part {
    /// All of it.
    pub const WHOLE: Self = Self { corner: (0.0, 0.0), span: (1.0, 1.0) };

    /// In samples of a raster that covers so many.
    fn of(self, extent: (f64, f64)) -> ((f64, f64), (f64, f64)) {
        let scaled = |(x, y): (f64, f64)| (x * extent.0, y * extent.1);
        (scaled(self.corner), scaled(self.span))
    }
}

/// The resampler, with buffers that are kept from photo to photo.
pub struct Scaler {
    resizer: Resizer,
    kernel: Filter,
    spent: Duration,
}

impl Scaler {
    pub fn new() -> Self {
        let kernel = Filter::new("Lanczos3 by one polynomial", lanczos3, LOBES).expect("a positive number");
        Self { resizer: Resizer::new(), kernel, spent: Duration::ZERO }
    }

    /// A picture of `target` size with colour planes of half of it in both directions. The result is to be turned by
    /// `orientation` afterwards, which decides at which end the half sample of an odd edge lies.
    ///
    /// # Errors
    /// Never for consistent rasters; the resampler's own words.
    pub fn yuv(&mut self, from: &Yuv, target: (u32, u32), orientation: Orientation) -> Result<Yuv, String> {
        self.part_of_yuv(from, Part::WHOLE, target, orientation)
    }

    /// [`Scaler::yuv`] of a part of the picture.
    ///
    /// # Errors
    /// As [`Scaler::yuv`].
    pub fn part_of_yuv(
        &mut self,
        from: &Yuv,
        part: Part,
        target: (u32, u32),
        orientation: Orientation,
    ) -> Result<Yuv, String> {
        let luma = self.part_of_raster(&from.luma, part, target)?;
        let Some([blue, red]) = &from.chroma else { return Ok(Yuv { luma, chroma: None }) };
        let mut chroma = |plane: &Raster| self.half(plane, part, target, orientation);
        Ok(Yuv { luma, chroma: Some([chroma(blue)?, chroma(red)?]) })
    }

    /// The time that was spent since this was asked last.
    pub fn take_spent(&mut self) -> Duration {
        std::mem::take(&mut self.spent)
    }

    /// A raster of `target` size, of a part of another.
    ///
    /// # Errors
    /// As [`Scaler::yuv`].
    pub fn part_of_raster(&mut self, from: &Raster, part: Part, target: (u32, u32)) -> Result<Raster, String> {
        let (corner, span) = part.of(from.extent);
        self.window(from, target, corner, span)
    }

    /// A plane of half the `target` size, rounded up: its last sample may reach past the part by half of itself.
    fn half(
        &mut self,
        from: &Raster,
        part: Part,
        target: (u32, u32),
        orientation: Orientation,
    ) -> Result<Raster, String> {
        let size = (target.0.div_ceil(2), target.1.div_ceil(2));
        let (corner, span) = part.of(from.extent);
        let window = |span: f64, full: u32, half: u32| span * f64::from(2 * half) / f64::from(full);
        let across = window(span.0, target.0, size.0);
        let down = window(span.1, target.1, size.1);
        let left = corner.0 + if orientation.mirror_x { span.0 - across } else { 0.0 };
        let top = corner.1 + if orientation.mirror_y { span.1 - down } else { 0.0 };
        let mut half = self.window(from, size, (left, top), (across, down))?;
        half.extent = (f64::from(target.0) / 2.0, f64::from(target.1) / 2.0);
        Ok(half)
    }

    /// Resamples the window at `corner` of `span` samples, which may reach past the raster's borders.
    fn window(
        &mut self,
        from: &Raster,
        size: (u32, u32),
        corner: (f64, f64),
        span: (f64, f64),
    ) -> Result<Raster, String> {
        let begun = Instant::now();
        let overhang = |start: f64, span: f64, samples: u32| {
            let (before, after) = ((-start).max(0.0).ceil(), (start + span - f64::from(samples)).max(0.0).ceil());
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few samples, and positive")]
            (before as u32, after as u32)
        };
        let (left, right) = overhang(corner.0, span.0, from.width);
        let (above, below) = overhang(corner.1, span.1, from.height);
        let padded = (left + right + above + below > 0).then(|| from.padded([left, right, above, below]));
        let from = padded.as_ref().unwrap_or(from);
        let corner = (corner.0 + f64::from(left), corner.1 + f64::from(above));
        // Rows first, so that the columns have fewer rows to go through. A plane is turned for its columns: the library goes
        // through columns four rows at a time, but through rows 64 samples at a time, which is worth turning it twice.
        let rows = self.pass(from, (from.width, size.1), (0.0, corner.1), (f64::from(from.width), span.1))?;
        let resampled = if from.channels > 1 {
            self.pass(&rows, size, (corner.0, 0.0), (span.0, f64::from(size.1)))?
        } else {
            let turned = rows.transposed();
            drop(rows);
            self.pass(&turned, (size.1, size.0), (0.0, corner.0), (f64::from(size.1), span.0))?.transposed()
        };
        self.spent += begun.elapsed();
        Ok(resampled)
    }

    /// Resamples a window that lies within the raster.
    fn pass(
        &mut self,
        from: &Raster,
        size: (u32, u32),
        corner: (f64, f64),
        span: (f64, f64),
    ) -> Result<Raster, String> {
        let pixels = match from.channels {
            1 => PixelType::U8,
            3 => PixelType::U8x3,
            _ => PixelType::U8x4,
        };
        let view = ImageRef::new(from.width, from.height, &from.data, pixels).map_err(|error| error.to_string())?;
        let mut data = vec![0; (size.0 * size.1 * from.channels) as usize];
        let mut out = Image::from_slice_u8(size.0, size.1, &mut data, pixels).map_err(|error| error.to_string())?;
        let options = ResizeOptions::new()
            .resize_alg(ResizeAlg::Convolution(FilterType::Custom(self.kernel)))
            .use_alpha(false)
            .crop(corner.0, corner.1, span.0, span.1);
        self.resizer.resize(&view, &mut out, &options).map_err(|error| error.to_string())?;
        Ok(Raster::new(data, size.0, size.1, from.channels))
    }
}

/// Takes rows of a picture one by one and averages squares of `factor` times `factor` pixels, so that a large picture
/// is never in memory as a whole.
pub struct RowShrinker {
    width: usize,
    channels: usize,
    factor: usize,
    sums: Vec<u32>,
    rows_summed: usize,
    rows: usize,
    data: Vec<u8>,
}

impl RowShrinker {
    /// For a picture of this width and height. Room is made for all of it at once: what is not reduced would be held twice
    /// over each time that it is moved to a larger place.
    pub fn new(size: (u32, u32), channels: u32, factor: u32) -> Self {
        let (width, height) = (size.0 as usize, size.1 as usize);
        let (channels, factor) = (channels as usize, factor as usize);
        let sums = vec![0; width.div_ceil(factor) * channels];
        let data = Vec::with_capacity(sums.len() * height.div_ceil(factor));
        Self { width, channels, factor, sums, rows_summed: 0, rows: 0, data }
    }

    /// Takes the next row of `width * channels` samples.
    pub fn push(&mut self, row: &[u8]) {
        self.rows += 1;
        if self.factor == 1 {
            self.data.extend_from_slice(row);
            return;
        }
        for (sums, square) in self.sums.chunks_exact_mut(self.channels).zip(row.chunks(self.factor * self.channels)) {
            for pixel in square.chunks_exact(self.channels) {
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
            let across = self.factor.min(self.width - index / self.channels * self.factor);
            let count = u32::try_from(across * self.rows_summed).unwrap_or(u32::MAX);
            self.data.push(u8::try_from((*sum + count / 2) / count).unwrap_or(u8::MAX));
            *sum = 0;
        }
        self.rows_summed = 0;
    }

    /// The smaller picture.
    pub fn finish(mut self) -> Raster {
        if self.rows_summed > 0 {
            self.flush();
        }
        let small = |edge: usize| u32::try_from(edge.div_ceil(self.factor)).unwrap_or(u32::MAX);
        #[expect(clippy::cast_precision_loss, reason = "edges are below 2^24")]
        let exact = |edge: usize| edge as f64 / self.factor as f64;
        let channels = u32::try_from(self.channels).unwrap_or(u32::MAX);
        let mut raster = Raster::new(self.data, small(self.width), small(self.rows), channels);
        raster.extent = (exact(self.width), exact(self.rows));
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
    fn knows_lanczos() {
        let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) };
        for step in -400..=400 {
            let x = f64::from(step) / 100.0;
            let expected = if x.abs() < 3.0 { sinc(x) * sinc(x / 3.0) } else { 0.0 };
            assert!((lanczos3(x) - expected).abs() < 1e-6, "{x}");
        }
    }

    #[test]
    fn reduces_no_further_than_the_target() {
        assert_eq!(reduction((8000, 6000), (2048, 1536), 8), 2);
        assert_eq!(reduction((4096, 3072), (2048, 1536), 8), 2);
        assert_eq!(reduction((2047, 2047), (2047, 2047), 8), 1);
        assert_eq!(reduction((65_000, 65_000), (320, 320), 8), 8);
    }

    #[test]
    fn averages_squares_up_to_the_ragged_edge() {
        let mut shrinker = RowShrinker::new((3, 3), 1, 2);
        shrinker.push(&[0, 10, 50]);
        shrinker.push(&[20, 30, 70]);
        shrinker.push(&[1, 3, 9]);
        let raster = shrinker.finish();
        assert_eq!((raster.data, raster.extent), (vec![15, 60, 2, 9], (1.5, 1.5)));
    }
}
