//! The three things that are taken from EXIF: which way is up, when, and by what camera. Never where.

use super::raster::Orientation;
use chrono::{NaiveDate, NaiveDateTime};
use exif::{Exif, In, Tag, Value};
use serde::{Deserialize, Serialize};

/// The most characters of a camera's name.
const MAX_CAMERA_CHARS: usize = 120;

/// When a photo was taken, as the camera's clock showed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenAt {
    /// The camera's local time.
    pub local: NaiveDateTime,
    /// Minutes east of UTC, where the camera wrote it (-840 to 840).
    pub offset_minutes: Option<i16>,
}

/// What EXIF tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub orientation: Orientation,
    pub taken_at: Option<TakenAt>,
    pub camera: Option<String>,
}

/// Reads a TIFF structure; what is broken or absurd in it is left out.
pub fn read(tiff: &[u8]) -> Facts {
    let mut reader = exif::Reader::new();
    reader.continue_on_error(true);
    let exif = match reader.read_raw(tiff.to_vec()) {
        Ok(exif) => exif,
        Err(exif::Error::PartialResult(partial)) => partial.into_inner().0,
        Err(_) => return Facts::default(),
    };
    let orientation = exif.get_field(Tag::Orientation, In::PRIMARY).and_then(|field| field.value.get_uint(0));
    Facts {
        orientation: Orientation::from_exif(orientation.unwrap_or(1)),
        taken_at: taken_at(&exif),
        camera: camera(&exif),
    }
}

/// The bytes of a text tag.
fn text(exif: &Exif, tag: Tag) -> Option<&[u8]> {
    match &exif.get_field(tag, In::PRIMARY)?.value {
        Value::Ascii(parts) => parts.first().map(Vec::as_slice),
        _ => None,
    }
}

fn taken_at(exif: &Exif) -> Option<TakenAt> {
    let pairs = [(Tag::DateTimeOriginal, Tag::OffsetTimeOriginal), (Tag::DateTimeDigitized, Tag::OffsetTimeDigitized)];
    let (stamp, offset) = pairs.into_iter().find_map(|(time, offset)| text(exif, time).map(|stamp| (stamp, offset)))?;
    let mut stamp = exif::DateTime::from_ascii(stamp).ok()?;
    if let Some(offset) = text(exif, offset).or_else(|| text(exif, Tag::OffsetTime)) {
        // A wrong offset leaves the local time, which is worth more.
        let _ = stamp.parse_offset(offset);
    }
    let date = NaiveDate::from_ymd_opt(stamp.year.into(), stamp.month.into(), stamp.day.into())?;
    let local = date.and_hms_opt(stamp.hour.into(), stamp.minute.into(), stamp.second.into())?;
    let offset_minutes = stamp.offset.filter(|minutes| (-840..=840).contains(minutes));
    Some(TakenAt { local, offset_minutes })
}

/// Maker and model as one name: `Canon EOS 5D`, without saying `Canon Canon`.
fn camera(exif: &Exif) -> Option<String> {
    let [make, model] = [Tag::Make, Tag::Model].map(|tag| clean(text(exif, tag).unwrap_or_default()));
    let maker = make.split(' ').next().unwrap_or_default();
    let named = !maker.is_empty() && model.to_lowercase().starts_with(&maker.to_lowercase());
    let name = if named { model } else { format!("{make} {model}") };
    let name: String = name.trim().chars().take(MAX_CAMERA_CHARS).collect();
    (!name.is_empty()).then_some(name)
}

/// Printable text in one line: control and direction characters out, runs of blanks joined.
fn clean(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{FFFD}' | '\u{FEFF}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{2069}')
    };
    let kept: String = text.chars().map(|c| if hidden(c) { ' ' } else { c }).collect();
    kept.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleans_names() {
        assert_eq!(clean(b"  Fuji\0\x1b[31m  X\xff\n"), "Fuji [31m X");
        assert_eq!(clean("a\u{202E}b".as_bytes()), "a b");
    }

    #[test]
    fn takes_rubbish_for_nothing() {
        assert_eq!(read(b""), Facts::default());
        assert_eq!(read(b"II*\0\xff\xff\xff\xff"), Facts::default());
        assert_eq!(read(&[0x49; 4000]), Facts::default());
    }
}
