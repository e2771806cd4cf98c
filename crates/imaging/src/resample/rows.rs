//! Vertical resampling of 8-bit samples: each output row is a weighted sum of input rows.
//!
//! Fixed-point arithmetic as in Pillow-SIMD: 16-bit weights, 32-bit sums, one rounding. On x86-64 the sums use AVX2
//! where the processor has it; elsewhere the compiler vectorises the portable loop. Both give the same bytes.

use std::f64::consts::{FRAC_PI_2, PI};

/// Support radius of the Lanczos3 kernel, in output samples.
const LANCZOS_RADIUS: f64 = 3.0;
/// The most fractional bits of a sum: 8 bits are the sample, 2 are for weights that are negative or add up to more
/// than 1.
const MAX_FRACTION_BITS: u32 = 32 - 8 - 2;
/// Samples of a row that are summed at a time.
const BLOCK: usize = 64;

/// The weights of consecutive input rows for one output row.
struct Taps {
    first_row: usize,
    weights: Vec<i16>,
}

/// Resamples `span` rows from `origin` on to `out_rows` rows by the Lanczos3 kernel. All rows have `row_bytes` bytes;
/// samples of all channels are treated alike. The rows from `origin` to `origin + span` must exist.
pub fn resample_rows(data: &[u8], row_bytes: usize, origin: f64, span: f64, out_rows: u32) -> Vec<u8> {
    let rows = data.len() / row_bytes;
    let mut out = vec![0; row_bytes * out_rows as usize];
    let (taps, fraction_bits) = taps(rows, origin, span, out_rows);
    for (out_row, taps) in out.chunks_exact_mut(row_bytes).zip(&taps) {
        let rows = &data[taps.first_row * row_bytes..][..taps.weights.len() * row_bytes];
        weighted_sum(rows, &taps.weights, fraction_bits, out_row);
    }
    out
}

/// The Lanczos3 kernel, `sinc(x) * sinc(x / 3)`, with one short series for both sines: sin(3a) = 3 sin(a) - 4 sin(a)^3.
fn lanczos3(x: f64) -> f64 {
    let angle = x * (PI / LANCZOS_RADIUS);
    if x.abs() >= LANCZOS_RADIUS {
        return 0.0;
    }
    if x.abs() < 1e-6 {
        return 1.0;
    }
    // sin(a) = sin(pi - a). The series is most accurate near 0.
    let reduced_angle = if angle.abs() > FRAC_PI_2 { PI - angle.abs() } else { angle.abs() };
    let square = reduced_angle * reduced_angle;
    let sine_terms = [-1.0 / 39_916_800.0, 1.0 / 362_880.0, -1.0 / 5040.0, 1.0 / 120.0, -1.0 / 6.0, 1.0];
    let sine = reduced_angle * sine_terms.iter().fold(0.0, |sum, term| sum * square + term);
    sine * sine * (3.0 - 4.0 * sine * sine) / (LANCZOS_RADIUS * angle * angle)
}

/// Returns the weights for each output row, and the number of their fractional bits: as many as the largest weight
/// leaves.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "row numbers, and weights that were scaled to 16 bits"
)]
fn taps(rows: usize, origin: f64, span: f64, out_rows: u32) -> (Vec<Taps>, u32) {
    let scale = span / f64::from(out_rows);
    // An enlarging kernel keeps its width in input rows.
    let stretch = scale.max(1.0);
    let radius = LANCZOS_RADIUS * stretch;
    let windows: Vec<(usize, Vec<f64>)> = (0..out_rows)
        .map(|row| {
            let centre = origin + (f64::from(row) + 0.5) * scale;
            let first = (centre - radius).floor().max(0.0) as usize;
            let end = ((centre + radius).ceil() as usize).min(rows);
            let weights: Vec<f64> = (first..end).map(|row| lanczos3((row as f64 + 0.5 - centre) / stretch)).collect();
            let sum: f64 = weights.iter().sum();
            (first, weights.into_iter().map(|weight| weight / sum).collect())
        })
        .collect();
    let largest = windows.iter().flat_map(|(_, weights)| weights).copied().fold(0.0, f64::max);
    let fits = |bits: &u32| (largest * f64::from(1_u32 << bits)).round() <= f64::from(i16::MAX);
    let fraction_bits = (1..MAX_FRACTION_BITS).rev().find(fits).unwrap_or(1);
    let unit = f64::from(1_u32 << fraction_bits);
    let taps = windows.into_iter().map(|(first_row, weights)| Taps {
        first_row,
        weights: weights.into_iter().map(|weight| (weight * unit).round() as i16).collect(),
    });
    (taps.collect(), fraction_bits)
}

/// Writes the weighted sum of `rows`, which are as many as `weights` and as long as `out`.
fn weighted_sum(rows: &[u8], weights: &[i16], fraction_bits: u32, out: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if out.len() >= BLOCK && is_x86_feature_detected!("avx2") {
        #[expect(unsafe_code, reason = "a function for processors with AVX2")]
        // SAFETY: AVX2 was detected.
        unsafe {
            avx2::weighted_sum(rows, weights, fraction_bits, out);
        }
        return;
    }
    weighted_sum_portable(rows, weights, fraction_bits, out);
}

fn weighted_sum_portable(rows: &[u8], weights: &[i16], fraction_bits: u32, out: &mut [u8]) {
    let width = out.len();
    for (index, block) in out.chunks_mut(BLOCK).enumerate() {
        let mut sums = [1_i32 << (fraction_bits - 1); BLOCK];
        for (row, weight) in rows.chunks_exact(width).zip(weights) {
            for (sum, sample) in sums.iter_mut().zip(&row[index * BLOCK..][..block.len()]) {
                *sum += i32::from(*sample) * i32::from(*weight);
            }
        }
        for (sample, sum) in block.iter_mut().zip(sums) {
            *sample = u8::try_from((sum >> fraction_bits).clamp(0, 255)).unwrap_or(u8::MAX);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::BLOCK;
    use std::arch::x86_64::{
        __m256i, _mm_cvtsi32_si128, _mm256_add_epi32, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_packs_epi32,
        _mm256_packus_epi16, _mm256_set1_epi32, _mm256_setzero_si256, _mm256_sra_epi32, _mm256_storeu_si256,
        _mm256_unpackhi_epi8, _mm256_unpacklo_epi8,
    };

    /// Samples of one register.
    const LANES: usize = 32;

    /// As [`super::weighted_sum`]. `out` has at least [`BLOCK`] bytes; its last block overlaps the one before.
    #[target_feature(enable = "avx2")]
    pub fn weighted_sum(rows: &[u8], weights: &[i16], fraction_bits: u32, out: &mut [u8]) {
        let width = out.len();
        let last = width - BLOCK;
        let shift = _mm_cvtsi32_si128(fraction_bits.cast_signed());
        // Two rows at a time: a multiplication takes pairs of 16-bit numbers and adds their products.
        let (pairs, odd) = weights.as_chunks::<2>();
        for column in (0..last).step_by(BLOCK).chain([last]) {
            let mut sums = [[_mm256_set1_epi32(1 << (fraction_bits - 1)); 4]; BLOCK / LANES];
            let mut start = column;
            for &[first, second] in pairs {
                let (upper, lower) = (&rows[start..][..BLOCK], &rows[start + width..][..BLOCK]);
                for (half, sums) in sums.iter_mut().enumerate() {
                    add(sums, load(&upper[half * LANES..]), load(&lower[half * LANES..]), first, second);
                }
                start += 2 * width;
            }
            if let [weight] = *odd {
                let row = &rows[start..][..BLOCK];
                for (half, sums) in sums.iter_mut().enumerate() {
                    add(sums, load(&row[half * LANES..]), _mm256_setzero_si256(), weight, 0);
                }
            }
            for (half, sums) in sums.into_iter().enumerate() {
                let [a, b, c, d] = sums.map(|sum| _mm256_sra_epi32(sum, shift));
                let block = _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
                store(&mut out[column + half * LANES..], block);
            }
        }
    }

    /// Adds two rows of samples times their weights. The order of the sums is the one that packing restores.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn add(sums: &mut [__m256i; 4], first: __m256i, second: __m256i, first_weight: i16, second_weight: i16) {
        let [low, high] = [first_weight, second_weight].map(|weight| i32::from(weight.cast_unsigned()));
        let weights = _mm256_set1_epi32(high << 16 | low);
        let zero = _mm256_setzero_si256();
        let (low, high) = (_mm256_unpacklo_epi8(first, second), _mm256_unpackhi_epi8(first, second));
        let samples = [
            _mm256_unpacklo_epi8(low, zero),
            _mm256_unpackhi_epi8(low, zero),
            _mm256_unpacklo_epi8(high, zero),
            _mm256_unpackhi_epi8(high, zero),
        ];
        for (sum, samples) in sums.iter_mut().zip(samples) {
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(samples, weights));
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    #[expect(unsafe_code, reason = "a load by a pointer")]
    fn load(bytes: &[u8]) -> __m256i {
        let bytes: &[u8; LANES] = bytes.first_chunk().expect("a block lies within its row");
        // SAFETY: the array has the 32 bytes that are read; unaligned reads are allowed.
        unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    #[expect(unsafe_code, reason = "a store by a pointer")]
    fn store(bytes: &mut [u8], block: __m256i) {
        let bytes: &mut [u8; LANES] = bytes.first_chunk_mut().expect("a block lies within its row");
        // SAFETY: the array has the 32 bytes that are written; unaligned writes are allowed.
        unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), block) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        std::iter::repeat_with(next).take(length).collect()
    }

    #[test]
    fn approximates_lanczos3() {
        let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) };
        for step in -400..=400 {
            let x = f64::from(step) / 100.0;
            let expected = if x.abs() < 3.0 { sinc(x) * sinc(x / 3.0) } else { 0.0 };
            assert!((lanczos3(x) - expected).abs() < 1e-6, "{x}");
        }
    }

    #[test]
    fn vector_and_portable_sums_are_equal() {
        for (width, rows, out_rows) in [(32, 7, 3), (33, 40, 7), (63, 9, 8), (64, 100, 41), (1000, 23, 22), (5, 9, 4)] {
            let data = noise(width * rows);
            #[expect(clippy::cast_precision_loss, reason = "a small number")]
            let (taps, bits) = taps(rows, 0.25, rows as f64 - 0.5, out_rows);
            for Taps { first_row, weights } in taps {
                let rows = &data[first_row * width..][..weights.len() * width];
                let (mut vector, mut portable) = (vec![0; width], vec![0; width]);
                weighted_sum(rows, &weights, bits, &mut vector);
                weighted_sum_portable(rows, &weights, bits, &mut portable);
                assert_eq!(vector, portable, "{width} x {}", weights.len());
            }
        }
    }

    #[test]
    fn constant_rows_stay_constant() {
        for level in [0, 1, 127, 254, 255] {
            let out = resample_rows(&[level; 40 * 100], 40, 0.0, 100.0, 37);
            assert!(out.iter().all(|&sample| sample == level), "{level}");
        }
    }

    #[test]
    fn equal_size_copies_the_rows() {
        let data = noise(40 * 20);
        assert_eq!(resample_rows(&data, 40, 3.0, 12.0, 12), data[3 * 40..15 * 40]);
    }

    #[test]
    fn extreme_samples_are_clipped() {
        // A sharp edge overshoots on both sides by some 10% of its height.
        let data: Vec<u8> = (0..64).flat_map(|row| [if row < 32 { 0 } else { 255 }; 32]).collect();
        let out = resample_rows(&data, 32, 0.0, 64.0, 31);
        let rows: Vec<u8> = out.chunks_exact(32).map(|row| row[0]).collect();
        assert!(rows[..15].iter().all(|&sample| sample < 40), "{rows:?}");
        assert!(rows[16..].iter().all(|&sample| sample > 215), "{rows:?}");
    }
}
