//! Combines the geometry filters of an edit (crop, rotate, straighten) into one rectangle in the upright image,
//! rotated by one angle.

use crate::Filter;
use crate::raster::Orientation;

/// Margin around a rotated rectangle, in samples of the result; bicubic interpolation reads that far.
const INTERPOLATION_MARGIN: f64 = 2.0;

/// A rectangle in pixels of the upright image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PixelRect {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
}

impl PixelRect {
    /// Returns the same rectangle in the stored image, which has `stored_size` pixels and the given EXIF orientation.
    pub fn in_stored_image(self, stored_size: (u32, u32), orientation: Orientation) -> Self {
        let mut rect = self;
        if orientation.swap_axes {
            rect = Self { x: self.y, y: self.x, width: self.height, height: self.width };
        }
        if orientation.mirror_x {
            rect.x = f64::from(stored_size.0) - rect.x - rect.width;
        }
        if orientation.mirror_y {
            rect.y = f64::from(stored_size.1) - rect.y - rect.height;
        }
        rect
    }
}

/// The combined effect of a list of geometry filters: a rectangle of the upright image and its rotation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Geometry {
    /// Size of the upright image in pixels.
    image_size: (u32, u32),
    /// Centre of the rectangle in the upright image, in pixels.
    centre: (f64, f64),
    /// Width and height of the rectangle as shown, in pixels of the upright image.
    size: (u32, u32),
    /// Clockwise quarter turns, 0 to 3.
    quarter_turns: u32,
    /// Clockwise degrees in addition to the quarter turns.
    straighten_degrees: f64,
}

impl Geometry {
    /// Combines the geometry filters for an upright image of this size. Returns `None` if a crop leaves no pixels.
    pub fn new(filters: &[Filter], image_size: (u32, u32)) -> Option<Self> {
        let centre = (f64::from(image_size.0) / 2.0, f64::from(image_size.1) / 2.0);
        let mut geometry = Self { image_size, centre, size: image_size, quarter_turns: 0, straighten_degrees: 0.0 };
        for filter in filters {
            match *filter {
                Filter::Crop { x, y, width, height } => geometry.crop((x, y), (width, height))?,
                Filter::Rotate { degrees } => geometry.rotate(u32::from(degrees) / 90),
                Filter::Straighten { degrees } => geometry.straighten(degrees),
                _ => {}
            }
        }
        Some(geometry)
    }

    /// Returns width and height as shown, in pixels of the upright image. Renditions are at most this large.
    pub fn size(&self) -> (u32, u32) {
        self.size
    }

    /// Returns whether the rectangle is rotated by an angle other than quarter turns.
    pub fn is_straightened(&self) -> bool {
        self.straighten_degrees != 0.0
    }

    /// Returns the quarter turns to apply to the upright image. Those of a straightened rectangle are part of its
    /// resampling, so the result is the identity.
    pub fn quarter_turn_orientation(&self) -> Orientation {
        match self.quarter_turns {
            _ if self.is_straightened() => Orientation::default(),
            1 => Orientation::from_exif(6),
            2 => Orientation::from_exif(3),
            3 => Orientation::from_exif(8),
            _ => Orientation::default(),
        }
    }

    /// Returns the bounding rectangle in the upright image, including the interpolation margin for a result of
    /// `target` pixels.
    pub fn source_rect(&self, target: (u32, u32)) -> PixelRect {
        let (width, height) = (f64::from(self.size.0), f64::from(self.size.1));
        let corners =
            [(width / 2.0, height / 2.0), (width / 2.0, -height / 2.0)].map(|corner| self.source_vector(corner));
        let half_extent =
            |axis: fn((f64, f64)) -> f64| corners.map(|corner| axis(corner).abs()).into_iter().fold(0.0, f64::max);
        let (half_width, half_height) = (half_extent(|(x, _)| x), half_extent(|(_, y)| y));
        if !self.is_straightened() {
            let (x, y) = (self.centre.0 - half_width, self.centre.1 - half_height);
            return PixelRect { x, y, width: 2.0 * half_width, height: 2.0 * half_height };
        }
        let margin = INTERPOLATION_MARGIN * (width / f64::from(target.0)).max(height / f64::from(target.1));
        let clipped_range = |centre: f64, half: f64, edge: u32| {
            let start = (centre - half - margin).floor().clamp(0.0, f64::from(edge) - 1.0);
            (start, (centre + half + margin).ceil().clamp(start + 1.0, edge.into()))
        };
        let (left, right) = clipped_range(self.centre.0, half_width, self.image_size.0);
        let (top, bottom) = clipped_range(self.centre.1, half_height, self.image_size.1);
        PixelRect { x: left, y: top, width: right - left, height: bottom - top }
    }

    /// Returns the centre of the rectangle in the upright image, in pixels.
    pub fn centre(&self) -> (f64, f64) {
        self.centre
    }

    /// Converts a vector in the shown rectangle to a vector in the upright image.
    pub fn source_vector(&self, (mut x, mut y): (f64, f64)) -> (f64, f64) {
        for _ in 0..self.quarter_turns {
            (x, y) = (y, -x);
        }
        if !self.is_straightened() {
            return (x, y);
        }
        let (sin, cos) = self.straighten_degrees.to_radians().sin_cos();
        (cos * x + sin * y, cos * y - sin * x)
    }

    /// Crops to a rectangle in fractions of the current size, rounded to whole pixels so that unscaled content is not
    /// interpolated. Returns `None` if no pixels are left.
    fn crop(&mut self, origin: (f64, f64), size: (f64, f64)) -> Option<()> {
        let crop_axis = |start: f64, length: f64, edge: u32| {
            let edge = f64::from(edge);
            let (from, to) = ((start * edge).round(), ((start + length) * edge).round().min(edge));
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "at most the edge of the image, and positive"
            )]
            (to > from).then_some(((from + to - edge) / 2.0, (to - from) as u32))
        };
        let (dx, width) = crop_axis(origin.0, size.0, self.size.0)?;
        let (dy, height) = crop_axis(origin.1, size.1, self.size.1)?;
        let (x, y) = self.source_vector((dx, dy));
        self.centre = (self.centre.0 + x, self.centre.1 + y);
        self.size = (width, height);
        Some(())
    }

    fn rotate(&mut self, quarter_turns: u32) {
        self.quarter_turns = (self.quarter_turns + quarter_turns) % 4;
        if quarter_turns % 2 == 1 {
            self.size = (self.size.1, self.size.0);
        }
    }

    fn straighten(&mut self, degrees: f64) {
        self.straighten_degrees += degrees;
        let (sin, cos) = degrees.to_radians().abs().sin_cos();
        let (width, height) = (f64::from(self.size.0), f64::from(self.size.1));
        // The bounding box of the rotated rectangle must fit into the current rectangle.
        let scale = (width / (width * cos + height * sin)).min(height / (width * sin + height * cos));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most the edge of the image, and positive"
        )]
        let scaled_edge = |edge: f64| ((edge * scale + 1e-9).floor() as u32).max(1);
        self.size = (scaled_edge(width), scaled_edge(height));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crop(x: f64, y: f64, width: f64, height: f64) -> Filter {
        Filter::Crop { x, y, width, height }
    }

    #[test]
    fn rounds_crops_to_whole_pixels() {
        let geometry = Geometry::new(&[crop(0.25, 0.1, 0.5, 0.333)], (1000, 601)).unwrap();
        assert_eq!(geometry.size(), (500, 200));
        assert_eq!(geometry.source_rect((1, 1)), PixelRect { x: 250.0, y: 60.0, width: 500.0, height: 200.0 });
    }

    #[test]
    fn crops_are_cumulative() {
        let geometry = Geometry::new(&[crop(0.5, 0.5, 0.5, 0.5), crop(0.0, 0.5, 0.5, 0.5)], (800, 400)).unwrap();
        assert_eq!(geometry.source_rect((1, 1)), PixelRect { x: 400.0, y: 300.0, width: 200.0, height: 100.0 });
        assert_eq!(geometry.size(), (200, 100));
    }

    #[test]
    fn crops_the_rotated_image() {
        // After a rotation by 90 degrees clockwise, the left column of the image is the top row.
        let geometry = Geometry::new(&[Filter::Rotate { degrees: 90 }, crop(0.0, 0.0, 1.0, 0.25)], (800, 400)).unwrap();
        assert_eq!(geometry.size(), (400, 200));
        assert_eq!(geometry.source_rect((1, 1)), PixelRect { x: 0.0, y: 0.0, width: 200.0, height: 400.0 });
        assert_eq!(geometry.quarter_turn_orientation(), Orientation::from_exif(6));
    }

    #[test]
    fn four_quarter_turns_are_identity() {
        let rotated = Geometry::new(&vec![Filter::Rotate { degrees: 90 }; 4], (17, 9));
        assert_eq!(rotated, Geometry::new(&[], (17, 9)));
    }

    #[test]
    fn rejects_empty_crop() {
        assert_eq!(Geometry::new(&[crop(0.1, 0.1, 0.2, 0.2)], (1, 1)), None);
        assert!(Geometry::new(&[crop(0.1, 0.1, 0.8, 0.8)], (1, 1)).is_some());
        let repeated: Vec<Filter> = vec![crop(0.0, 0.0, 0.4, 0.4); 16];
        assert_eq!(Geometry::new(&repeated, (1000, 1000)), None);
    }

    #[test]
    fn straighten_keeps_largest_rectangle() {
        for degrees in [-45.0, -12.5, 0.0, 0.5, 3.0, 30.0, 45.0] {
            for image_size in [(1000, 1000), (4000, 3000), (300, 2000)] {
                let geometry = Geometry::new(&[Filter::Straighten { degrees }], image_size).unwrap();
                let (width, height) = (f64::from(geometry.size.0), f64::from(geometry.size.1));
                let fits = |growth: f64| {
                    let corners = [(width + growth, height + growth), (width + growth, -height - growth)];
                    let corners = corners.map(|(x, y)| geometry.source_vector((x / 2.0, y / 2.0)));
                    let width = corners.iter().map(|corner| corner.0.abs() * 2.0).fold(0.0, f64::max);
                    let height = corners.iter().map(|corner| corner.1.abs() * 2.0).fold(0.0, f64::max);
                    width <= f64::from(image_size.0) + 1e-6 && height <= f64::from(image_size.1) + 1e-6
                };
                assert!(fits(0.0) && !fits(8.0), "{degrees} of {image_size:?}: {width}x{height}");
                assert!((width / height - f64::from(image_size.0) / f64::from(image_size.1)).abs() < 0.02);
            }
        }
    }

    #[test]
    fn maps_rect_to_stored_image() {
        // Stored 4x2, shown 2x4. The rectangle is the sample that the EXIF orientation moves to the top left.
        let source_rect = PixelRect { x: 0.0, y: 0.0, width: 1.0, height: 1.0 };
        for (value, corner) in [(5, (0.0, 0.0)), (6, (0.0, 1.0)), (7, (3.0, 1.0)), (8, (3.0, 0.0))] {
            let stored = source_rect.in_stored_image((4, 2), Orientation::from_exif(value));
            assert_eq!((stored.x, stored.y), corner, "orientation {value}");
        }
    }
}
