//! Which part of a picture an edit shows, and how it stands: any row of crops, rotations and straightenings is one rectangle
//! that lies somewhere in the upright picture, turned by some angle.

use crate::domain::Filter;
use crate::imaging::raster::Orientation;

/// How far around a tilted rectangle the picture is kept, in samples of the result: what bicubic interpolation reaches for.
const REACH: f64 = 2.0;

/// A rectangle in the upright picture, in its pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
}

impl Window {
    /// The same rectangle in the picture as stored, which is `stored` pixels large and is turned upright by `orientation`.
    pub fn stored(self, stored: (u32, u32), orientation: Orientation) -> Self {
        let mut it = self;
        if orientation.swap {
            it = Self { x: self.y, y: self.x, width: self.height, height: self.width };
        }
        if orientation.mirror_x {
            it.x = f64::from(stored.0) - it.x - it.width;
        }
        if orientation.mirror_y {
            it.y = f64::from(stored.1) - it.y - it.height;
        }
        it
    }
}

/// What is left of a picture, and how it is turned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Frame {
    /// The upright picture, in pixels.
    picture: (u32, u32),
    /// The rectangle's middle in the upright picture.
    centre: (f64, f64),
    /// Width and height of the rectangle as it is shown, in pixels of the picture.
    size: (u32, u32),
    /// Clockwise right angles that the picture is turned by.
    quarters: u32,
    /// Clockwise degrees beyond those.
    tilt: f64,
}

impl Frame {
    /// What the geometry among these filters leaves of an upright picture of this size; `None` if a crop leaves nothing.
    pub fn new(filters: &[Filter], picture: (u32, u32)) -> Option<Self> {
        let centre = (f64::from(picture.0) / 2.0, f64::from(picture.1) / 2.0);
        let mut frame = Self { picture, centre, size: picture, quarters: 0, tilt: 0.0 };
        for filter in filters {
            match *filter {
                Filter::Crop { x, y, width, height } => frame.crop((x, y), (width, height))?,
                Filter::Rotate { degrees } => frame.rotate(u32::from(degrees) / 90),
                Filter::Straighten { degrees } => frame.straighten(degrees),
                _ => {}
            }
        }
        Some(frame)
    }

    /// Width and height as shown, in pixels of the picture: the most that a rendition can have.
    pub fn size(&self) -> (u32, u32) {
        self.size
    }

    /// Whether the rectangle's sides are not parallel to the picture's.
    pub fn is_tilted(&self) -> bool {
        self.tilt != 0.0
    }

    /// The right angles that are left to turn the picture by, once upright. Those of a tilted one are part of its tilt.
    pub fn turn(&self) -> Orientation {
        match self.quarters {
            _ if self.is_tilted() => Orientation::default(),
            1 => Orientation::from_exif(6),
            2 => Orientation::from_exif(3),
            3 => Orientation::from_exif(8),
            _ => Orientation::default(),
        }
    }

    /// The upright rectangle around this one, with what interpolation reaches for when the result has `target` pixels.
    pub fn window(&self, target: (u32, u32)) -> Window {
        let (width, height) = (f64::from(self.size.0), f64::from(self.size.1));
        let corners = [(width / 2.0, height / 2.0), (width / 2.0, -height / 2.0)].map(|corner| self.upright(corner));
        let half =
            |part: fn((f64, f64)) -> f64| corners.map(|corner| part(corner).abs()).into_iter().fold(0.0, f64::max);
        let (across, down) = (half(|(x, _)| x), half(|(_, y)| y));
        if !self.is_tilted() {
            let (x, y) = (self.centre.0 - across, self.centre.1 - down);
            return Window { x, y, width: 2.0 * across, height: 2.0 * down };
        }
        let reach = REACH * (width / f64::from(target.0)).max(height / f64::from(target.1));
        let clipped = |centre: f64, half: f64, edge: u32| {
            let start = (centre - half - reach).floor().clamp(0.0, f64::from(edge) - 1.0);
            (start, (centre + half + reach).ceil().clamp(start + 1.0, edge.into()))
        };
        let (left, right) = clipped(self.centre.0, across, self.picture.0);
        let (top, bottom) = clipped(self.centre.1, down, self.picture.1);
        Window { x: left, y: top, width: right - left, height: bottom - top }
    }

    /// Where the middle of the rectangle lies in the upright picture.
    pub fn centre(&self) -> (f64, f64) {
        self.centre
    }

    /// A step across the rectangle as shown, as a step in the upright picture.
    pub fn upright(&self, (mut x, mut y): (f64, f64)) -> (f64, f64) {
        for _ in 0..self.quarters {
            (x, y) = (y, -x);
        }
        if !self.is_tilted() {
            return (x, y);
        }
        let (sine, cosine) = self.tilt.to_radians().sin_cos();
        (cosine * x + sine * y, cosine * y - sine * x)
    }

    /// Whole pixels, so that what is not scaled stays as sharp as it is.
    fn crop(&mut self, corner: (f64, f64), part: (f64, f64)) -> Option<()> {
        let cut = |start: f64, part: f64, edge: u32| {
            let edge = f64::from(edge);
            let (from, to) = ((start * edge).round(), ((start + part) * edge).round().min(edge));
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within an edge")]
            (to > from).then_some(((from + to - edge) / 2.0, (to - from) as u32))
        };
        let (across, width) = cut(corner.0, part.0, self.size.0)?;
        let (down, height) = cut(corner.1, part.1, self.size.1)?;
        let (x, y) = self.upright((across, down));
        self.centre = (self.centre.0 + x, self.centre.1 + y);
        self.size = (width, height);
        Some(())
    }

    fn rotate(&mut self, quarters: u32) {
        self.quarters = (self.quarters + quarters) % 4;
        if quarters % 2 == 1 {
            self.size = (self.size.1, self.size.0);
        }
    }

    fn straighten(&mut self, degrees: f64) {
        self.tilt += degrees;
        let (sine, cosine) = degrees.to_radians().abs().sin_cos();
        let (width, height) = (f64::from(self.size.0), f64::from(self.size.1));
        // The turned rectangle's own upright bounds must fit into what there was.
        let scale = (width / (width * cosine + height * sine)).min(height / (width * sine + height * cosine));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within an edge")]
        let shrunk = |edge: f64| ((edge * scale + 1e-9).floor() as u32).max(1);
        self.size = (shrunk(width), shrunk(height));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crop(x: f64, y: f64, width: f64, height: f64) -> Filter {
        Filter::Crop { x, y, width, height }
    }

    #[test]
    fn crops_are_whole_pixels() {
        let frame = Frame::new(&[crop(0.25, 0.1, 0.5, 0.333)], (1000, 601)).unwrap();
        assert_eq!(frame.size(), (500, 200));
        assert_eq!(frame.window((1, 1)), Window { x: 250.0, y: 60.0, width: 500.0, height: 200.0 });
    }

    #[test]
    fn a_crop_sees_what_the_one_before_left() {
        let frame = Frame::new(&[crop(0.5, 0.5, 0.5, 0.5), crop(0.0, 0.5, 0.5, 0.5)], (800, 400)).unwrap();
        assert_eq!(frame.window((1, 1)), Window { x: 400.0, y: 300.0, width: 200.0, height: 100.0 });
        assert_eq!(frame.size(), (200, 100));
    }

    #[test]
    fn a_crop_after_a_rotation_is_of_the_turned_picture() {
        // Turned by 90 degrees clockwise, the left column of the picture is its top row.
        let frame = Frame::new(&[Filter::Rotate { degrees: 90 }, crop(0.0, 0.0, 1.0, 0.25)], (800, 400)).unwrap();
        assert_eq!(frame.size(), (400, 200));
        assert_eq!(frame.window((1, 1)), Window { x: 0.0, y: 0.0, width: 200.0, height: 400.0 });
        assert_eq!(frame.turn(), Orientation::from_exif(6));
    }

    #[test]
    fn four_rotations_are_none() {
        let turned = Frame::new(&vec![Filter::Rotate { degrees: 90 }; 4], (17, 9));
        assert_eq!(turned, Frame::new(&[], (17, 9)));
    }

    #[test]
    fn a_crop_that_leaves_nothing_is_told() {
        assert_eq!(Frame::new(&[crop(0.1, 0.1, 0.2, 0.2)], (1, 1)), None);
        assert!(Frame::new(&[crop(0.1, 0.1, 0.8, 0.8)], (1, 1)).is_some());
        let halves: Vec<Filter> = vec![crop(0.0, 0.0, 0.4, 0.4); 16];
        assert_eq!(Frame::new(&halves, (1000, 1000)), None);
    }

    #[test]
    fn a_straightened_rectangle_is_the_largest_that_lies_within() {
        for degrees in [-45.0, -12.5, 0.0, 0.5, 3.0, 30.0, 45.0] {
            for picture in [(1000, 1000), (4000, 3000), (300, 2000)] {
                let frame = Frame::new(&[Filter::Straighten { degrees }], picture).unwrap();
                let (width, height) = (f64::from(frame.size.0), f64::from(frame.size.1));
                let reach = |grown: f64| {
                    let corners = [(width + grown, height + grown), (width + grown, -height - grown)];
                    let corners = corners.map(|(x, y)| frame.upright((x / 2.0, y / 2.0)));
                    let across = corners.iter().map(|corner| corner.0.abs() * 2.0).fold(0.0, f64::max);
                    let down = corners.iter().map(|corner| corner.1.abs() * 2.0).fold(0.0, f64::max);
                    across <= f64::from(picture.0) + 1e-6 && down <= f64::from(picture.1) + 1e-6
                };
                assert!(reach(0.0) && !reach(8.0), "{degrees} of {picture:?}: {width}x{height}");
                assert!((width / height - f64::from(picture.0) / f64::from(picture.1)).abs() < 0.02);
            }
        }
    }

    #[test]
    fn windows_find_their_way_into_stored_pictures() {
        // Stored 4x2, shown 2x4: the window is the sample that the EXIF orientation brings to the top left.
        let window = Window { x: 0.0, y: 0.0, width: 1.0, height: 1.0 };
        for (value, corner) in [(5, (0.0, 0.0)), (6, (0.0, 1.0)), (7, (3.0, 1.0)), (8, (3.0, 0.0))] {
            let stored = window.stored((4, 2), Orientation::from_exif(value));
            assert_eq!((stored.x, stored.y), corner, "orientation {value}");
        }
    }
}
