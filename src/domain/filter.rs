//! Filters: what an edit does to a photo. The words, their bounds and their rules; the pixels are `imaging`'s.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The most filters of one edit.
pub const MOST_FILTERS: usize = 16;
/// The smallest radius, in thousandths of the long edge: a third of a pixel of the largest rendition.
const LEAST_RADIUS: f64 = 0.1;
/// The largest radius, in thousandths of the long edge.
const LARGEST_RADIUS: f64 = 50.0;
/// The most that a picture is straightened by, in degrees.
const STEEPEST: f64 = 45.0;
/// How far right and left, or top and bottom, of a crop may reach beyond 1: fractions such as 0.9 and 0.1 don't add up exactly.
const ROUNDING: f64 = 1e-9;

/// One step of an edit, told by its `name`. What a picture can't hold is clipped after each.
///
/// `crop`, `rotate` and `straighten` come first, in their order, each seeing what the one before left; then all others in
/// theirs. Radii are in thousandths of the long edge, so that an edit looks the same in every size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "name", rename_all = "snake_case", deny_unknown_fields)]
pub enum Filter {
    /// Only the brightness stays.
    #[schema(title = "Grayscale")]
    Grayscale {},
    /// Brown tones.
    #[schema(title = "Sepia")]
    Sepia {
        /// 0 (nothing) to 1 (all of it).
        #[schema(minimum = 0, maximum = 1)]
        amount: f64,
    },
    /// More or less light.
    #[schema(title = "Brightness")]
    Brightness {
        /// -1 (a quarter of the light, two stops less) to 1 (four times the light).
        #[schema(minimum = -1, maximum = 1)]
        amount: f64,
    },
    /// More or less difference from the middle grey.
    #[schema(title = "Contrast")]
    Contrast {
        /// -1 (all is middle grey) to 1 (four times the difference).
        #[schema(minimum = -1, maximum = 1)]
        amount: f64,
    },
    /// More or less colour.
    #[schema(title = "Saturation")]
    Saturation {
        /// -1 (grey) to 1 (twice the colour).
        #[schema(minimum = -1, maximum = 1)]
        amount: f64,
    },
    /// Redder or bluer light.
    #[schema(title = "Warmth")]
    Warmth {
        /// -1 (bluish) to 1 (reddish).
        #[schema(minimum = -1, maximum = 1)]
        amount: f64,
    },
    /// Clearer edges (an unsharp mask).
    #[schema(title = "Sharpen")]
    Sharpen {
        /// 0 (nothing) to 2.
        #[schema(minimum = 0, maximum = 2)]
        amount: f64,
        /// 0.1 to 50 thousandths of the long edge.
        #[schema(minimum = 0.1, maximum = 50)]
        radius: f64,
    },
    /// Softer all over (Gaussian).
    #[schema(title = "Blur")]
    Blur {
        /// The standard deviation: 0.1 to 50 thousandths of the long edge.
        #[schema(minimum = 0.1, maximum = 50)]
        radius: f64,
    },
    /// Darker corners.
    #[schema(title = "Vignette")]
    Vignette {
        /// 0 (nothing) to 1 (black corners).
        #[schema(minimum = 0, maximum = 1)]
        amount: f64,
    },
    /// A part of the picture, as fractions of its width and height.
    #[schema(title = "Crop")]
    Crop {
        /// The left edge.
        #[schema(minimum = 0, maximum = 1)]
        x: f64,
        /// The top edge.
        #[schema(minimum = 0, maximum = 1)]
        y: f64,
        /// Above 0; `x + width` is 1 at most.
        #[schema(exclusive_minimum = 0, maximum = 1)]
        width: f64,
        /// Above 0; `y + height` is 1 at most.
        #[schema(exclusive_minimum = 0, maximum = 1)]
        height: f64,
    },
    /// Clockwise by right angles.
    #[schema(title = "Rotate")]
    Rotate {
        /// 90, 180 or 270.
        degrees: u16,
    },
    /// Clockwise by any angle, cut to the largest upright rectangle of the same shape that lies within the picture.
    #[schema(title = "Straighten")]
    Straighten {
        /// -45 to 45.
        #[schema(minimum = -45, maximum = 45)]
        degrees: f64,
    },
    /// Black and white points from the picture's own histogram.
    #[schema(title = "Auto")]
    Auto {},
}

/// A rule that a list of filters breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where, e.g. `filters[2].amount`.
    pub path: String,
    /// What is wrong with it.
    pub why: String,
}

impl Filter {
    /// Whether it changes which part of the photo is shown, and how it stands.
    #[must_use]
    pub const fn is_geometry(&self) -> bool {
        matches!(self, Self::Crop { .. } | Self::Rotate { .. } | Self::Straighten { .. })
    }

    /// Tells each broken rule by its field.
    fn check(&self, wrong: &mut impl FnMut(&str, String)) {
        let mut within = |field: &str, value: f64, least: f64, most: f64| {
            // Also what is no number.
            if !(least..=most).contains(&value) {
                wrong(field, format!("must be {least} to {most}"));
            }
        };
        match *self {
            Self::Grayscale {} | Self::Auto {} => {}
            Self::Sepia { amount } | Self::Vignette { amount } => within("amount", amount, 0.0, 1.0),
            Self::Brightness { amount }
            | Self::Contrast { amount }
            | Self::Saturation { amount }
            | Self::Warmth { amount } => within("amount", amount, -1.0, 1.0),
            Self::Sharpen { amount, radius } => {
                within("amount", amount, 0.0, 2.0);
                within("radius", radius, LEAST_RADIUS, LARGEST_RADIUS);
            }
            Self::Blur { radius } => within("radius", radius, LEAST_RADIUS, LARGEST_RADIUS),
            Self::Straighten { degrees } => within("degrees", degrees, -STEEPEST, STEEPEST),
            Self::Rotate { degrees } => {
                if !matches!(degrees, 90 | 180 | 270) {
                    wrong("degrees", "must be 90, 180 or 270".to_owned());
                }
            }
            Self::Crop { x, y, width, height } => {
                for (corner, start, edge, length) in [("x", x, "width", width), ("y", y, "height", height)] {
                    if !(0.0..1.0).contains(&start) {
                        wrong(corner, "must be 0 or more, and less than 1".to_owned());
                    } else if !(length > 0.0 && start + length <= 1.0 + ROUNDING) {
                        wrong(edge, format!("must be above 0, and 1 at most together with {corner}"));
                    }
                }
            }
        }
    }
}

/// Checks the filters of an edit.
///
/// # Errors
/// Every broken rule.
pub fn check(filters: &[Filter]) -> Result<(), Vec<Mistake>> {
    let mut mistakes = Vec::new();
    if filters.is_empty() || filters.len() > MOST_FILTERS {
        mistakes.push(Mistake { path: "filters".to_owned(), why: format!("must be 1 to {MOST_FILTERS} filters") });
    }
    for (index, filter) in filters.iter().enumerate().take(MOST_FILTERS) {
        filter.check(&mut |field, why| mistakes.push(Mistake { path: format!("filters[{index}].{field}"), why }));
    }
    if mistakes.is_empty() { Ok(()) } else { Err(mistakes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(filters: &[Filter]) -> Vec<String> {
        check(filters).err().unwrap_or_default().into_iter().map(|mistake| mistake.path).collect()
    }

    #[test]
    fn every_mistake_is_told_by_its_path() {
        let filters = [
            Filter::Brightness { amount: 1.5 },
            Filter::Sharpen { amount: f64::NAN, radius: f64::INFINITY },
            Filter::Grayscale {},
            Filter::Rotate { degrees: 45 },
            Filter::Crop { x: 0.5, y: -0.1, width: 0.6, height: 0.5 },
            Filter::Straighten { degrees: -45.1 },
        ];
        let expected = [
            "filters[0].amount",
            "filters[1].amount",
            "filters[1].radius",
            "filters[3].degrees",
            "filters[4].width",
            "filters[4].y",
            "filters[5].degrees",
        ];
        assert_eq!(paths(&filters), expected);
        assert_eq!(paths(&[]), ["filters"]);
        assert_eq!(paths(&vec![Filter::Auto {}; 17]), ["filters"]);
        assert_eq!(paths(&vec![Filter::Auto {}; 16]), [""; 0]);
    }

    #[test]
    fn bounds_are_allowed_and_what_lies_beyond_is_not() {
        let crop = |x, width| Filter::Crop { x, y: 0.0, width, height: 1.0 };
        for good in [
            Filter::Sepia { amount: 0.0 },
            Filter::Contrast { amount: -1.0 },
            Filter::Blur { radius: 0.1 },
            Filter::Blur { radius: 50.0 },
            Filter::Straighten { degrees: 45.0 },
            crop(0.0, 1.0),
            crop(0.7, 0.3),
            crop(0.9, 0.1),
        ] {
            assert_eq!(check(std::slice::from_ref(&good)), Ok(()), "{good:?}");
        }
        for bad in [
            Filter::Sepia { amount: -0.1 },
            Filter::Vignette { amount: 1.1 },
            Filter::Blur { radius: 0.0 },
            Filter::Blur { radius: f64::NEG_INFINITY },
            Filter::Rotate { degrees: 0 },
            Filter::Rotate { degrees: 360 },
            crop(0.0, 0.0),
            crop(1.0, 0.1),
            crop(0.5, f64::NAN),
            crop(f64::NAN, 0.5),
        ] {
            assert!(check(std::slice::from_ref(&bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn json_is_tagged_by_name_and_takes_nothing_unknown() {
        let filter = Filter::Brightness { amount: 0.2 };
        let json = r#"{"name":"brightness","amount":0.2}"#;
        assert_eq!(serde_json::to_string(&filter).unwrap(), json);
        assert_eq!(serde_json::from_str::<Filter>(json).unwrap(), filter);
        for wrong in [
            r#"{"name":"grayscale","amount":1}"#,
            r#"{"name":"brightness"}"#,
            r#"{"name":"brightness","amount":0.2,"radius":1}"#,
            r#"{"name":"brightness","amount":"0.2"}"#,
            r#"{"name":"brightness","amount":1e999}"#,
            r#"{"name":"Brightness","amount":0.2}"#,
            r#"{"amount":0.2}"#,
            r#"{"name":"rotate","degrees":90.5}"#,
        ] {
            assert!(serde_json::from_str::<Filter>(wrong).is_err(), "{wrong}");
        }
    }
}
