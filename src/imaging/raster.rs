//! Pixels in memory, and turning them upright.

/// Which way a stored picture must be turned to stand upright: first mirrored, then its axes swapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Orientation {
    pub mirror_x: bool,
    pub mirror_y: bool,
    pub swap: bool,
}

impl Orientation {
    /// From the EXIF tag's value; anything but 2 to 8 is upright already.
    pub fn from_exif(value: u32) -> Self {
        let (mirror_x, mirror_y, swap) = match value {
            2 => (true, false, false),
            3 => (true, true, false),
            4 => (false, true, false),
            5 => (false, false, true),
            6 => (false, true, true),
            7 => (true, true, true),
            8 => (true, false, true),
            _ => (false, false, false),
        };
        Self { mirror_x, mirror_y, swap }
    }

    /// This one, and then another.
    pub fn then(self, next: Self) -> Self {
        // What the other mirrors are our axes as we leave them.
        let (next_x, next_y) = if self.swap { (next.mirror_y, next.mirror_x) } else { (next.mirror_x, next.mirror_y) };
        Self { mirror_x: self.mirror_x ^ next_x, mirror_y: self.mirror_y ^ next_y, swap: self.swap ^ next.swap }
    }

    /// Width and height as displayed.
    pub fn apply(self, (width, height): (u32, u32)) -> (u32, u32) {
        if self.swap { (height, width) } else { (width, height) }
    }
}

/// Interleaved 8-bit samples, row by row without padding: a plane (1 channel), RGB (3) or CMYK (4).
#[derive(Clone, Debug)]
pub struct Raster {
    pub data: Vec<u8>,
    pub width: u32,
    pub height: u32,
    pub channels: u32,
    /// How many samples across and down the picture really covers, from the top left. A plane of halved resolution ends in
    /// the middle of its last sample where the full size is odd; ignoring this shifts colours against brightness.
    pub extent: (f64, f64),
}

impl Raster {
    /// A raster whose samples are all covered. `data` must have `width * height * channels` bytes.
    pub fn new(data: Vec<u8>, width: u32, height: u32, channels: u32) -> Self {
        debug_assert_eq!(data.len(), (width * height * channels) as usize);
        Self { data, width, height, channels, extent: (width.into(), height.into()) }
    }

    /// Its measures without its samples.
    pub fn shell(&self) -> Self {
        Self { data: Vec::new(), ..*self }
    }

    /// The same picture, upright.
    pub fn oriented(self, orientation: Orientation) -> Self {
        if orientation == Orientation::default() {
            return self;
        }
        match self.channels {
            1 => self.oriented_by::<1>(orientation),
            3 => self.oriented_by::<3>(orientation),
            _ => self.oriented_by::<4>(orientation),
        }
    }

    fn oriented_by<const N: usize>(mut self, orientation: Orientation) -> Self {
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
        if !orientation.swap {
            return self;
        }
        if N == 1 {
            return self.transposed();
        }
        let mut turned = vec![[0_u8; N]; width * height];
        transpose(pixels, &mut turned, width, height);
        self.turned(turned.into_flattened())
    }

    /// A plane with its rows as columns.
    pub fn transposed(&self) -> Self {
        let mut turned = vec![0; self.data.len()];
        transpose_plane(&self.data, &mut turned, self.width as usize, self.height as usize);
        self.turned(turned)
    }

    /// These samples with width and height exchanged.
    fn turned(&self, data: Vec<u8>) -> Self {
        let extent = (self.extent.1, self.extent.0);
        Self { data, width: self.height, height: self.width, channels: self.channels, extent }
    }

    /// A copy with the border samples repeated outwards: so many columns left and right, rows above and below.
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

    /// The top left part of so many columns and rows.
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

/// Swaps rows and columns, tile by tile: a straight walk would miss the cache with every write.
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

/// Edge of the squares that [`transpose_plane`] turns at once.
const SQUARE: usize = 8;

/// [`transpose`] for single bytes, by squares that fit into eight words: a sixth of its time.
fn transpose_plane(from: &[u8], to: &mut [u8], width: usize, height: usize) {
    /// What is read and written in a tile stays in the cache until its lines are whole.
    const TILE: usize = 64;
    let (inner_width, inner_height) = (width - width % SQUARE, height - height % SQUARE);
    for top in (0..inner_height).step_by(TILE) {
        for left in (0..inner_width).step_by(TILE) {
            for x in (left..(left + TILE).min(inner_width)).step_by(SQUARE) {
                for y in (top..(top + TILE).min(inner_height)).step_by(SQUARE) {
                    transpose_square(&from[y * width + x..], width, &mut to[x * height + y..], height);
                }
            }
        }
    }
    for y in 0..height {
        let rest = if y < inner_height { inner_width } else { 0 };
        (rest..width).for_each(|x| to[x * height + y] = from[y * width + x]);
    }
}

/// Turns the square at the beginning of both slices, whose rows are so many bytes apart: first exchanges the quarters of
/// 4x4 samples that lie off the diagonal, then those of 2x2 within each quarter, then single samples.
fn transpose_square(from: &[u8], from_row: usize, to: &mut [u8], to_row: usize) {
    const STEPS: [(usize, u64); 3] =
        [(4, 0x0000_0000_FFFF_FFFF), (2, 0x0000_FFFF_0000_FFFF), (1, 0x00FF_00FF_00FF_00FF)];
    let mut rows = [0_u64; SQUARE];
    for (index, row) in rows.iter_mut().enumerate() {
        *row = from[index * from_row..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    }
    for (step, mask) in STEPS {
        for upper in (0..SQUARE).filter(|row| row & step == 0) {
            let exchanged = ((rows[upper] >> (8 * step)) ^ rows[upper + step]) & mask;
            rows[upper] ^= exchanged << (8 * step);
            rows[upper + step] ^= exchanged;
        }
    }
    for (index, row) in rows.iter().enumerate() {
        to[index * to_row..][..SQUARE].copy_from_slice(&row.to_le_bytes());
    }
}

/// A picture as JPEG holds it: brightness, and two colour planes of their own resolution unless it is grey.
#[derive(Clone, Debug)]
pub struct Yuv {
    pub luma: Raster,
    pub chroma: Option<[Raster; 2]>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_all_eight_ways() {
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
            let turned = Raster::new(vec![1, 2, 3, 4, 5, 6], 3, 2, 1).oriented(Orientation::from_exif(value));
            assert_eq!((turned.data.as_slice(), turned.width), (pixels, width), "orientation {value}");
        }
    }

    #[test]
    fn two_turns_are_one() {
        let picture = Raster::new(vec![1, 2, 3, 4, 5, 6], 3, 2, 1);
        for (first, second) in (1..=8).flat_map(|first| (1..=8).map(move |second| (first, second))) {
            let (first, second) = (Orientation::from_exif(first), Orientation::from_exif(second));
            let one_by_one = picture.clone().oriented(first).oriented(second);
            let at_once = picture.clone().oriented(first.then(second));
            assert_eq!((at_once.data, at_once.width), (one_by_one.data, one_by_one.width), "{first:?} {second:?}");
        }
    }

    #[test]
    fn turns_planes_of_any_size() {
        for (width, height) in [(1, 1), (15, 40), (16, 16), (17, 33), (64, 16), (100, 70), (1, 50), (50, 1)] {
            let data: Vec<u8> =
                (0..width * height).map(|index| u8::try_from(index % 251).expect("below 251")).collect();
            let turned = Raster::new(data.clone(), width, height, 1).transposed();
            assert_eq!((turned.width, turned.height), (height, width));
            let is = |x: u32, y: u32| turned.data[(x * height + y) as usize] == data[(y * width + x) as usize];
            assert!((0..height).all(|y| (0..width).all(|x| is(x, y))), "{width}x{height}");
        }
    }

    #[test]
    fn pads_by_repeating_the_border() {
        let padded = Raster::new(vec![1, 2, 3, 4], 2, 2, 1).padded([1, 0, 0, 1]);
        assert_eq!(padded.data, [1, 1, 2, 3, 3, 4, 3, 3, 4]);
    }
}
