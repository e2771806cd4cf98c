//! What a recipe means for one picture: which part of it is decoded, how finely, and how it is turned.

use super::filter::{BYTES_PER_PIXEL, Frame, Window};
use super::raster::Orientation;
use super::scale::{Part, fit, reduction};
use super::{Probe, Recipe};

/// The most that decoders reduce by on their own, of those that hold a picture as a whole.
const MOST_REDUCTION: u32 = 8;
/// Bytes of a decoded pixel.
const DECODED_BYTES: u64 = 3;

/// The way from a stored picture to its largest rendition.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What the edit shows; all of the picture without one.
    pub frame: Frame,
    /// The part of the upright picture that is resampled, in its pixels.
    pub window: Window,
    /// The same, of the picture as stored.
    pub part: Part,
    /// What the part is resampled to, before it is turned.
    pub reduced: (u32, u32),
    /// What all of the stored picture has to be decoded to at least, so that nothing is enlarged.
    pub decoded: (u32, u32),
    /// How the part is turned.
    pub orientation: Orientation,
    /// The largest rendition.
    pub target: (u32, u32),
    /// Whether pixels have to be looked at as light: there is more to do than to cut and to turn.
    pub in_light: bool,
}

impl Plan {
    /// For a picture of `stored` pixels that is turned upright by `orientation`.
    ///
    /// # Errors
    /// Says what is wrong with the recipe.
    pub fn new(recipe: &Recipe, stored: (u32, u32), orientation: Orientation) -> Result<Self, String> {
        let longest = recipe.sizes.iter().map(|size| size.long_edge).max();
        let longest = longest.filter(|_| !recipe.formats.is_empty()).ok_or("a recipe without sizes or formats")?;
        let frame = Frame::new(&recipe.filters, orientation.apply(stored)).ok_or("a crop that leaves nothing")?;
        let target = fit(frame.size(), longest);
        let window = frame.window(target);
        let turned = orientation.then(frame.turn());
        let reduced = if frame.is_tilted() { shrunk(&window, &frame, target) } else { target };
        // The window is of the upright picture; what is left to turn after that is done to the result.
        let (reduced, place) = (turned.apply(reduced), window.stored(stored, orientation));
        let edges = (f64::from(stored.0), f64::from(stored.1));
        let part = Part {
            corner: (place.x / edges.0, place.y / edges.1),
            span: (place.width / edges.0, place.height / edges.1),
        };
        let decoded = (whole(reduced.0, part.span.0).min(stored.0), whole(reduced.1, part.span.1).min(stored.1));
        let in_light = frame.is_tilted() || recipe.filters.iter().any(|filter| !filter.is_geometry());
        Ok(Self { frame, window, part, reduced, decoded, orientation: turned, target, in_light })
    }

    /// What a picture counts as when decodes are admitted: more than a plain one where more of it is held.
    pub fn weight(&self, probe: &Probe) -> u64 {
        let factor = reduction((probe.width, probe.height), self.decoded, MOST_REDUCTION);
        let pixels = |(width, height): (u32, u32)| u64::from(width) * u64::from(height);
        let held = pixels((probe.width.div_ceil(factor), probe.height.div_ceil(factor))) * DECODED_BYTES;
        let light = if self.in_light { pixels(self.reduced).max(pixels(self.target)) * BYTES_PER_PIXEL } else { 0 };
        if self.in_light || self.part != Part::WHOLE { probe.weight.max(held + light) } else { probe.weight }
    }
}

/// The window of a tilted frame at the scale that the frame is shown at.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within an edge")]
fn shrunk(window: &Window, frame: &Frame, target: (u32, u32)) -> (u32, u32) {
    let scale = f64::from(target.0.max(target.1)) / f64::from(frame.size().0.max(frame.size().1));
    let edge = |length: f64| ((length * scale).round() as u32).max(1);
    (edge(window.width), edge(window.height))
}

/// The edge of a whole of which a part is so many samples.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast from a float saturates")]
fn whole(samples: u32, part: f64) -> u32 {
    (f64::from(samples) / part - 1e-6).ceil() as u32
}
