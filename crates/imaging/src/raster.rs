//! Images in memory and EXIF orientation.

/// The transformation that turns a stored image upright: mirror first, then swap the axes (EXIF 2.32, tag 274).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Orientation {
    pub mirror_x: bool,
    pub mirror_y: bool,
    pub swap_axes: bool,
}

impl Orientation {
    /// Converts the value of the EXIF tag. Values other than 2 to 8 are upright.
    pub fn from_exif(value: u32) -> Self {
        let (mirror_x, mirror_y, swap_axes) = match value {
            2 => (true, false, false),
            3 => (true, true, false),
            4 => (false, true, false),
            5 => (false, false, true),
            6 => (false, true, true),
            7 => (true, true, true),
            8 => (true, false, true),
            _ => (false, false, false),
        };
        Self { mirror_x, mirror_y, swap_axes }
    }

    /// Returns the orientation that applies `self` first and `next` second.
    pub fn then(self, next: Self) -> Self {
        // `next` mirrors the axes as they are after `self`.
        let (next_x, next_y) =
            if self.swap_axes { (next.mirror_y, next.mirror_x) } else { (next.mirror_x, next.mirror_y) };
        Self {
            mirror_x: self.mirror_x ^ next_x,
            mirror_y: self.mirror_y ^ next_y,
            swap_axes: self.swap_axes ^ next.swap_axes,
        }
    }

    /// Returns width and height as displayed.
    pub fn apply(self, (width, height): (u32, u32)) -> (u32, u32) {
        if self.swap_axes { (height, width) } else { (width, height) }
    }
}

/// Interleaved 8-bit samples in rows without padding: one plane (1 channel), RGB (3) or CMYK (4).
#[derive(Clone, Debug)]
pub struct Raster {
    pub data: Vec<u8>,
    pub width: u32,
    pub height: u32,
    pub channels: u32,
    /// Width and height in samples that the image covers, from the top left. A subsampled plane ends in the middle of
    /// its last sample if the full size is odd; ignoring this shifts chroma against luma.
    pub extent: (f64, f64),
}

impl Raster {
    /// Creates a raster whose samples are all covered by the image. `data` has `width * height * channels` bytes.
    pub fn new(data: Vec<u8>, width: u32, height: u32, channels: u32) -> Self {
        debug_assert_eq!(data.len(), (width * height * channels) as usize);
        Self { data, width, height, channels, extent: (width.into(), height.into()) }
    }

    /// Returns a raster with the same dimensions and no samples.
    pub fn without_data(&self) -> Self {
        Self { data: Vec::new(), ..*self }
    }

    /// Applies an orientation.
    pub fn oriented(self, orientation: Orientation) -> Self {
        if orientation == Orientation::default() {
            return self;
        }
        match self.channels {
            1 => self.oriented_channels::<1>(orientation),
            3 => self.oriented_channels::<3>(orientation),
            _ => self.oriented_channels::<4>(orientation),
        }
    }

    fn oriented_channels<const N: usize>(mut self, orientation: Orientation) -> Self {
        let (width, height) = (self.width as usize, self.height as usize);
        let (pixels, _) = self.data.as_chunks_mut::<N>();
        if orientation.mirror_x {
            pixels.chunks_exact_mut(width).for_each(<[_]>::reverse);
        }
        if orientation.mirror_y {
            let (top, bottom) = pixels.split_at_mut(height / 2 * width);
            for (above, below) in top.chunks_exact_mut(width).zip(bottom.chunks_exact_mut(width).rev()) {
                above.swap_with_slice(below);
            }
        }
        if !orientation.swap_axes {
            return self;
        }
        self.transposed()
    }

    /// Returns the image with rows and columns swapped.
    pub fn transposed(&self) -> Self {
        match self.channels {
            1 => {
                let mut transposed = vec![0; self.data.len()];
                transpose_plane(&self.data, &mut transposed, self.width as usize, self.height as usize);
                self.with_swapped_axes(transposed)
            }
            3 => self.transposed_pixels::<3>(),
            _ => self.transposed_pixels::<4>(),
        }
    }

    fn transposed_pixels<const N: usize>(&self) -> Self {
        let (pixels, _) = self.data.as_chunks::<N>();
        let mut transposed = vec![[0_u8; N]; pixels.len()];
        transpose(pixels, &mut transposed, self.width as usize, self.height as usize);
        self.with_swapped_axes(transposed.into_flattened())
    }

    /// Returns a raster of `data` with width and height swapped.
    fn with_swapped_axes(&self, data: Vec<u8>) -> Self {
        let extent = (self.extent.1, self.extent.0);
        Self { data, width: self.height, height: self.width, channels: self.channels, extent }
    }

    /// Returns a copy that repeats the border samples outwards, by the given number of columns to the left and right
    /// and rows above and below.
    pub fn padded(&self, [left, right, above, below]: [u32; 4]) -> Self {
        let channels = self.channels as usize;
        let (width, height) = (self.width + left + right, self.height + above + below);
        let mut data = Vec::with_capacity((width * height * self.channels) as usize);
        for row in 0..height {
            let from = row.saturating_sub(above).min(self.height - 1) as usize;
            let row = &self.data[from * self.width as usize * channels..][..self.width as usize * channels];
            (0..left).for_each(|_| data.extend_from_slice(&row[..channels]));
            data.extend_from_slice(row);
            (0..right).for_each(|_| data.extend_from_slice(&row[row.len() - channels..]));
        }
        Self { data, width, height, channels: self.channels, extent: self.extent }
    }

    /// Returns the top left `width` columns and `height` rows.
    pub fn cropped(mut self, width: u32, height: u32) -> Self {
        let (old, new) = ((self.width * self.channels) as usize, (width * self.channels) as usize);
        if new < old {
            for row in 1..height as usize {
                self.data.copy_within(row * old..row * old + new, row * new);
            }
        }
        self.data.truncate(new * height as usize);
        Self::new(self.data, width, height, self.channels)
    }
}

/// Swaps rows and columns in tiles. A row-by-row loop would miss the cache on every write.
fn transpose<const N: usize>(from: &[[u8; N]], to: &mut [[u8; N]], width: usize, height: usize) {
    const TILE: usize = 32;
    for top in (0..height).step_by(TILE) {
        for left in (0..width).step_by(TILE) {
            for x in left..(left + TILE).min(width) {
                for y in top..(top + TILE).min(height) {
                    to[x * height + y] = from[y * width + x];
                }
            }
        }
    }
}

/// Edge length in samples of the blocks of [`transpose_plane`].
const BLOCK: usize = 8;

/// [`transpose`] for bytes, in blocks that fit into eight 64-bit words. Takes a sixth of the time.
fn transpose_plane(from: &[u8], to: &mut [u8], width: usize, height: usize) {
    /// Edge length of a tile whose source and destination cache lines stay in the cache.
    const TILE: usize = 64;
    let (inner_width, inner_height) = (width - width % BLOCK, height - height % BLOCK);
    for top in (0..inner_height).step_by(TILE) {
        for left in (0..inner_width).step_by(TILE) {
            for x in (left..(left + TILE).min(inner_width)).step_by(BLOCK) {
                for y in (top..(top + TILE).min(inner_height)).step_by(BLOCK) {
                    transpose_block(&from[y * width + x..], width, &mut to[x * height + y..], height);
                }
            }
        }
    }
    for y in 0..height {
        let first_column = if y < inner_height { inner_width } else { 0 };
        (first_column..width).for_each(|x| to[x * height + y] = from[y * width + x]);
    }
}

/// Transposes the 8x8 block at the start of both slices, whose rows are `from_stride` and `to_stride` bytes apart.
/// Swaps the off-diagonal 4x4 quarters, then the 2x2 quarters within each, then single samples.
fn transpose_block(from: &[u8], from_stride: usize, to: &mut [u8], to_stride: usize) {
    const STEPS: [(usize, u64); 3] =
        [(4, 0x0000_0000_FFFF_FFFF), (2, 0x0000_FFFF_0000_FFFF), (1, 0x00FF_00FF_00FF_00FF)];
    let mut rows = [0_u64; BLOCK];
    for (index, row) in rows.iter_mut().enumerate() {
        *row = from[index * from_stride..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    }
    for (distance, mask) in STEPS {
        for upper in (0..BLOCK).filter(|row| row & distance == 0) {
            let difference = ((rows[upper] >> (8 * distance)) ^ rows[upper + distance]) & mask;
            rows[upper] ^= difference << (8 * distance);
            rows[upper + distance] ^= difference;
        }
    }
    for (index, row) in rows.iter().enumerate() {
        to[index * to_stride..][..BLOCK].copy_from_slice(&row.to_le_bytes());
    }
}

/// Luma and chroma planes. The chroma planes have their own resolution and are absent for grey images.
#[derive(Clone, Debug)]
pub struct Yuv {
    pub luma: Raster,
    pub chroma: Option<[Raster; 2]>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn applies_all_exif_orientations() {
        // Stored:  1 2 3
        //          4 5 6
        let expected: [(u32, &[u8], u32); 8] = [
            (1, &[1, 2, 3, 4, 5, 6], 3),
            (2, &[3, 2, 1, 6, 5, 4], 3),
            (3, &[6, 5, 4, 3, 2, 1], 3),
            (4, &[4, 5, 6, 1, 2, 3], 3),
            (5, &[1, 4, 2, 5, 3, 6], 2),
            (6, &[4, 1, 5, 2, 6, 3], 2),
            (7, &[6, 3, 5, 2, 4, 1], 2),
            (8, &[3, 6, 2, 5, 1, 4], 2),
        ];
        for (value, pixels, width) in expected {
            let oriented = Raster::new(vec![1, 2, 3, 4, 5, 6], 3, 2, 1).oriented(Orientation::from_exif(value));
            assert_eq!((oriented.data.as_slice(), oriented.width), (pixels, width), "orientation {value}");
        }
    }

    #[test]
    fn composes_orientations() {
        let image = Raster::new(vec![1, 2, 3, 4, 5, 6], 3, 2, 1);
        for (first, second) in (1..=8).flat_map(|first| (1..=8).map(move |second| (first, second))) {
            let (first, second) = (Orientation::from_exif(first), Orientation::from_exif(second));
            let separately = image.clone().oriented(first).oriented(second);
            let composed = image.clone().oriented(first.then(second));
            assert_eq!((composed.data, composed.width), (separately.data, separately.width), "{first:?} {second:?}");
        }
    }

    #[test]
    fn transposes_planes_of_any_size() {
        for (width, height) in [(1, 1), (15, 40), (16, 16), (17, 33), (64, 16), (100, 70), (1, 50), (50, 1)] {
            let data: Vec<u8> =
                (0..width * height).map(|index| u8::try_from(index % 251).expect("below 251")).collect();
            let transposed = Raster::new(data.clone(), width, height, 1).transposed();
            assert_eq!((transposed.width, transposed.height), (height, width));
            let is = |x: u32, y: u32| transposed.data[(x * height + y) as usize] == data[(y * width + x) as usize];
            assert!((0..height).all(|y| (0..width).all(|x| is(x, y))), "{width}x{height}");
        }
    }

    #[test]
    fn pads_by_repeating_border() {
        let padded = Raster::new(vec![1, 2, 3, 4], 2, 2, 1).padded([1, 0, 0, 1]);
        assert_eq!(padded.data, [1, 1, 2, 3, 3, 4, 3, 3, 4]);
    }
}
