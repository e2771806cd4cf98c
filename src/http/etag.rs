//! Entity tags: the version of the row, and what else the representation depends on.
//!
//! `If-None-Match` compares all of it. `If-Match` compares the version alone: a signed URL in the answer that has
//! been renewed since is no change of the photo.

use axum::http::{HeaderMap, HeaderValue, header};

use crate::http::error::{HttpError, Result};

/// The tag of a version as one caller sees it at one time.
pub fn tag(version: u32, view: impl std::fmt::Display) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{version}-{view}\"")).expect("a tag is visible ASCII")
}

/// Whether the client has this very representation.
pub fn not_modified(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    let Ok(tag) = tag.to_str() else { return false };
    tags(headers, &header::IF_NONE_MATCH).any(|known| known == "*" || known.trim_start_matches("W/") == tag)
}

/// Refuses a change of another version than the client has seen.
pub fn check_match(headers: &HeaderMap, version: u32) -> Result<()> {
    if !headers.contains_key(header::IF_MATCH) {
        return Ok(());
    }
    let prefix = format!("\"{version}-");
    let fits = tags(headers, &header::IF_MATCH).any(|known| known == "*" || known.starts_with(&prefix));
    if fits { Ok(()) } else { Err(HttpError::PreconditionFailed) }
}

fn tags<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}
