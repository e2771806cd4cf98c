//! EXIF metadata (EXIF 2.32): orientation, capture time and camera. The GPS position is never read.

use super::raster::Orientation;
use chrono::{NaiveDate, NaiveDateTime};
use exif::{Exif, In, Tag, Value};
use serde::{Deserialize, Serialize};

/// Maximum length of the camera name, in characters.
const MAX_CAMERA_CHARS: usize = 120;

/// Capture time as shown by the clock of the camera.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenAt {
    /// Local time of the camera (`DateTimeOriginal`, or `DateTimeDigitized`).
    pub local: NaiveDateTime,
    /// UTC offset in minutes, east positive, -840 to 840; `None` if the camera did not write a valid one.
    pub offset_minutes: Option<i16>,
}

/// The metadata that is read from EXIF.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    pub orientation: Orientation,
    pub taken_at: Option<TakenAt>,
    pub camera: Option<String>,
}

/// Reads a TIFF structure. Missing, invalid or implausible fields get their defaults.
pub fn read_metadata(tiff: &[u8]) -> Metadata {
    let mut reader = exif::Reader::new();
    reader.continue_on_error(true);
    let exif = match reader.read_raw(tiff.to_vec()) {
        Ok(exif) => exif,
        Err(exif::Error::PartialResult(partial)) => partial.into_inner().0,
        Err(_) => return Metadata::default(),
    };
    let orientation = exif.get_field(Tag::Orientation, In::PRIMARY).and_then(|field| field.value.get_uint(0));
    Metadata {
        orientation: Orientation::from_exif(orientation.unwrap_or(1)),
        taken_at: taken_at(&exif),
        camera: camera(&exif),
    }
}

/// Returns the first string of an ASCII field.
fn text_field(exif: &Exif, tag: Tag) -> Option<&[u8]> {
    match &exif.get_field(tag, In::PRIMARY)?.value {
        Value::Ascii(strings) => strings.first().map(Vec::as_slice),
        _ => None,
    }
}

fn taken_at(exif: &Exif) -> Option<TakenAt> {
    let tag_pairs =
        [(Tag::DateTimeOriginal, Tag::OffsetTimeOriginal), (Tag::DateTimeDigitized, Tag::OffsetTimeDigitized)];
    let (date_time, offset) =
        tag_pairs.into_iter().find_map(|(time, offset)| text_field(exif, time).map(|date_time| (date_time, offset)))?;
    let mut date_time = exif::DateTime::from_ascii(date_time).ok()?;
    if let Some(offset) = text_field(exif, offset).or_else(|| text_field(exif, Tag::OffsetTime)) {
        // An invalid offset is ignored; the local time is still usable.
        let _ = date_time.parse_offset(offset);
    }
    let date = NaiveDate::from_ymd_opt(date_time.year.into(), date_time.month.into(), date_time.day.into())?;
    let local = date.and_hms_opt(date_time.hour.into(), date_time.minute.into(), date_time.second.into())?;
    let offset_minutes = date_time.offset.filter(|minutes| (-840..=840).contains(minutes));
    Some(TakenAt { local, offset_minutes })
}

/// Joins make and model, e.g. `Canon EOS 5D`. A model that starts with the make is used alone.
fn camera(exif: &Exif) -> Option<String> {
    let [make, model] = [Tag::Make, Tag::Model].map(|tag| sanitize(text_field(exif, tag).unwrap_or_default()));
    let first_word = make.split(' ').next().unwrap_or_default();
    let model_includes_make = !first_word.is_empty() && model.to_lowercase().starts_with(&first_word.to_lowercase());
    let name = if model_includes_make { model } else { format!("{make} {model}") };
    let name: String = name.trim().chars().take(MAX_CAMERA_CHARS).collect();
    (!name.is_empty()).then_some(name)
}

/// Returns printable text on one line: control and bidirectional formatting characters become spaces, and runs of
/// whitespace are collapsed.
fn sanitize(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let is_hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{FFFD}' | '\u{FEFF}' | '\u{200B}'..='\u{200F}')
            || matches!(c, '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{2069}')
    };
    let visible: String = text.chars().map(|c| if is_hidden(c) { ' ' } else { c }).collect();
    visible.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sanitizes_camera_names() {
        assert_eq!(sanitize(b"  Fuji\0\x1b[31m  X\xff\n"), "Fuji [31m X");
        assert_eq!(sanitize("a\u{202E}b".as_bytes()), "a b");
    }

    #[test]
    fn ignores_invalid_exif() {
        assert_eq!(read_metadata(b""), Metadata::default());
        assert_eq!(read_metadata(b"II*\0\xff\xff\xff\xff"), Metadata::default());
        assert_eq!(read_metadata(&[0x49; 4000]), Metadata::default());
    }
}
