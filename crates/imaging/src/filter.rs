//! Filters of an edit: parameters, validation and implementation.

mod adjust;
pub(crate) mod apply;
mod blur;
mod geometry;
mod linear;
mod straighten;

pub(crate) use apply::{LINEAR_BYTES_PER_PIXEL, apply};
pub(crate) use geometry::{Geometry, PixelRect};

use serde::{Deserialize, Serialize};

/// Maximum number of filters in one edit.
pub const MAX_FILTERS: usize = 16;
/// Minimum radius in thousandths of the long edge; 0.2 pixels at the default large size of 2,048 pixels.
const MIN_RADIUS: f64 = 0.1;
/// Maximum radius in thousandths of the long edge.
const MAX_RADIUS: f64 = 50.0;
/// Maximum angle of `straighten`, in degrees.
const MAX_STRAIGHTEN_DEGREES: f64 = 45.0;
/// Tolerance of `x + width <= 1` and `y + height <= 1`: decimal fractions such as 0.9 and 0.1 are not exact in
/// binary.
const CROP_TOLERANCE: f64 = 1e-9;

/// One step of an edit, identified by `name`. Sample values are clipped to the valid range after each filter.
///
/// Geometry filters (`crop`, `rotate`, `straighten`) are applied first, in their order, each to the result of the
/// previous one. All other filters follow in their order. Radii are in thousandths of the long edge, so that an edit
/// looks the same at every size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "name", rename_all = "snake_case", deny_unknown_fields)]
pub enum Filter {
    /// Converts to grayscale by luminance (ITU-R BT.709 weights, linear light).
    #[cfg_attr(feature = "openapi", schema(title = "Grayscale"))]
    Grayscale {},
    /// Applies a sepia tone.
    #[cfg_attr(feature = "openapi", schema(title = "Sepia"))]
    Sepia {
        /// 0 (no effect) to 1 (full effect).
        #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 1))]
        amount: f64,
    },
    /// Changes the exposure.
    #[cfg_attr(feature = "openapi", schema(title = "Brightness"))]
    Brightness {
        /// -1 (a quarter of the light, two stops less) to 1 (four times the light).
        #[cfg_attr(feature = "openapi", schema(minimum = -1, maximum = 1))]
        amount: f64,
    },
    /// Changes the contrast around middle grey.
    #[cfg_attr(feature = "openapi", schema(title = "Contrast"))]
    Contrast {
        /// -1 (middle grey only) to 1 (four times the contrast).
        #[cfg_attr(feature = "openapi", schema(minimum = -1, maximum = 1))]
        amount: f64,
    },
    /// Changes the saturation.
    #[cfg_attr(feature = "openapi", schema(title = "Saturation"))]
    Saturation {
        /// -1 (grey) to 1 (twice the saturation).
        #[cfg_attr(feature = "openapi", schema(minimum = -1, maximum = 1))]
        amount: f64,
    },
    /// Changes the colour temperature.
    #[cfg_attr(feature = "openapi", schema(title = "Warmth"))]
    Warmth {
        /// -1 (bluish) to 1 (reddish).
        #[cfg_attr(feature = "openapi", schema(minimum = -1, maximum = 1))]
        amount: f64,
    },
    /// Sharpens edges (unsharp mask of the luminance).
    #[cfg_attr(feature = "openapi", schema(title = "Sharpen"))]
    Sharpen {
        /// 0 (no effect) to 2.
        #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 2))]
        amount: f64,
        /// The standard deviation of the mask: 0.1 to 50 thousandths of the long edge.
        #[cfg_attr(feature = "openapi", schema(minimum = 0.1, maximum = 50))]
        radius: f64,
    },
    /// Applies a Gaussian blur.
    #[cfg_attr(feature = "openapi", schema(title = "Blur"))]
    Blur {
        /// The standard deviation: 0.1 to 50 thousandths of the long edge.
        #[cfg_attr(feature = "openapi", schema(minimum = 0.1, maximum = 50))]
        radius: f64,
    },
    /// Darkens the corners.
    #[cfg_attr(feature = "openapi", schema(title = "Vignette"))]
    Vignette {
        /// 0 (no effect) to 1 (black corners).
        #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 1))]
        amount: f64,
    },
    /// Crops to a rectangle, given as fractions of width and height.
    #[cfg_attr(feature = "openapi", schema(title = "Crop"))]
    Crop {
        /// The left edge.
        #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 1))]
        x: f64,
        /// The top edge.
        #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 1))]
        y: f64,
        /// Greater than 0; `x + width` is at most 1.
        #[cfg_attr(feature = "openapi", schema(exclusive_minimum = 0, maximum = 1))]
        width: f64,
        /// Greater than 0; `y + height` is at most 1.
        #[cfg_attr(feature = "openapi", schema(exclusive_minimum = 0, maximum = 1))]
        height: f64,
    },
    /// Rotates clockwise by quarter turns.
    #[cfg_attr(feature = "openapi", schema(title = "Rotate"))]
    Rotate {
        /// 90, 180 or 270.
        degrees: u16,
    },
    /// Rotates clockwise by any angle, and crops to the largest upright rectangle of the same aspect ratio that lies
    /// within the image.
    #[cfg_attr(feature = "openapi", schema(title = "Straighten"))]
    Straighten {
        /// Degrees, -45 to 45.
        #[cfg_attr(feature = "openapi", schema(minimum = -45, maximum = 45))]
        degrees: f64,
    },
    /// Sets the black and white points from the histogram of the image.
    #[cfg_attr(feature = "openapi", schema(title = "Auto"))]
    Auto {},
}

/// A validation error of a list of filters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterError {
    /// The path of the invalid field, e.g. `filters[2].amount`.
    pub path: String,
    /// The rule that the field violates.
    pub reason: String,
}

impl Filter {
    /// Returns whether the filter changes the shown rectangle or its orientation (`crop`, `rotate`, `straighten`).
    #[must_use]
    pub const fn is_geometry(&self) -> bool {
        matches!(self, Self::Crop { .. } | Self::Rotate { .. } | Self::Straighten { .. })
    }

    /// Calls `report` with the field and the rule for every violation.
    fn validate(&self, report: &mut impl FnMut(&str, String)) {
        let mut check_range = |field: &str, value: f64, min: f64, max: f64| {
            // Also rejects NaN.
            if !(min..=max).contains(&value) {
                report(field, format!("must be {min} to {max}"));
            }
        };
        match *self {
            Self::Grayscale {} | Self::Auto {} => {}
            Self::Sepia { amount } | Self::Vignette { amount } => check_range("amount", amount, 0.0, 1.0),
            Self::Brightness { amount }
            | Self::Contrast { amount }
            | Self::Saturation { amount }
            | Self::Warmth { amount } => check_range("amount", amount, -1.0, 1.0),
            Self::Sharpen { amount, radius } => {
                check_range("amount", amount, 0.0, 2.0);
                check_range("radius", radius, MIN_RADIUS, MAX_RADIUS);
            }
            Self::Blur { radius } => check_range("radius", radius, MIN_RADIUS, MAX_RADIUS),
            Self::Straighten { degrees } => {
                check_range("degrees", degrees, -MAX_STRAIGHTEN_DEGREES, MAX_STRAIGHTEN_DEGREES);
            }
            Self::Rotate { degrees } => {
                if !matches!(degrees, 90 | 180 | 270) {
                    report("degrees", "must be 90, 180 or 270".to_owned());
                }
            }
            Self::Crop { x, y, width, height } => {
                for (start_field, start, length_field, length) in [("x", x, "width", width), ("y", y, "height", height)]
                {
                    if !(0.0..1.0).contains(&start) {
                        report(start_field, "must be 0 or more, and less than 1".to_owned());
                    } else if !(length > 0.0 && start + length <= 1.0 + CROP_TOLERANCE) {
                        report(length_field, format!("must be above 0, and 1 at most together with {start_field}"));
                    }
                }
            }
        }
    }
}

/// Validates the filters of an edit.
///
/// # Errors
/// Every violation, in the order of the filters.
pub fn validate_filters(filters: &[Filter]) -> Result<(), Vec<FilterError>> {
    let mut errors = Vec::new();
    if filters.is_empty() || filters.len() > MAX_FILTERS {
        errors.push(FilterError { path: "filters".to_owned(), reason: format!("must be 1 to {MAX_FILTERS} filters") });
    }
    for (index, filter) in filters.iter().enumerate().take(MAX_FILTERS) {
        filter.validate(&mut |field, reason| {
            errors.push(FilterError { path: format!("filters[{index}].{field}"), reason });
        });
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(filters: &[Filter]) -> Vec<String> {
        validate_filters(filters).err().unwrap_or_default().into_iter().map(|error| error.path).collect()
    }

    #[test]
    fn reports_every_error_with_path() {
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
    fn accepts_bounds_and_rejects_beyond() {
        let crop = |x, width| Filter::Crop { x, y: 0.0, width, height: 1.0 };
        for valid in [
            Filter::Sepia { amount: 0.0 },
            Filter::Contrast { amount: -1.0 },
            Filter::Blur { radius: 0.1 },
            Filter::Blur { radius: 50.0 },
            Filter::Straighten { degrees: 45.0 },
            crop(0.0, 1.0),
            crop(0.7, 0.3),
            crop(0.9, 0.1),
        ] {
            assert_eq!(validate_filters(std::slice::from_ref(&valid)), Ok(()), "{valid:?}");
        }
        for invalid in [
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
            assert!(validate_filters(std::slice::from_ref(&invalid)).is_err(), "{invalid:?}");
        }
    }

    #[test]
    fn json_has_name_tag_and_no_unknown_keys() {
        let filter = Filter::Brightness { amount: 0.2 };
        let json = r#"{"name":"brightness","amount":0.2}"#;
        assert_eq!(serde_json::to_string(&filter).unwrap(), json);
        assert_eq!(serde_json::from_str::<Filter>(json).unwrap(), filter);
        for invalid in [
            r#"{"name":"grayscale","amount":1}"#,
            r#"{"name":"brightness"}"#,
            r#"{"name":"brightness","amount":0.2,"radius":1}"#,
            r#"{"name":"brightness","amount":"0.2"}"#,
            r#"{"name":"brightness","amount":1e999}"#,
            r#"{"name":"Brightness","amount":0.2}"#,
            r#"{"amount":0.2}"#,
            r#"{"name":"rotate","degrees":90.5}"#,
        ] {
            assert!(serde_json::from_str::<Filter>(invalid).is_err(), "{invalid}");
        }
    }
}
