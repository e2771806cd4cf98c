//! Entity tags: the version of the row, and what else the representation depends on.
//!
//! `If-None-Match` compares the whole tag, `If-Match` the version alone: a signed URL that was renewed in between is no
//! change of the photo.

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts},
};

use crate::services::ExpectedVersion;

/// The tag of a version as one caller sees it at one time.
pub fn tag(version: u32, view: impl std::fmt::Display) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{version}-{view}\"")).expect("a tag is visible ASCII")
}

/// Whether the client has this representation.
pub fn not_modified(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    let Ok(tag) = tag.to_str() else { return false };
    tags(headers, header::IF_NONE_MATCH).any(|known| known == "*" || known.trim_start_matches("W/") == tag)
}

/// `If-Match`.
impl<S: Sync> FromRequestParts<S> for ExpectedVersion {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let headers = &parts.headers;
        if !headers.contains_key(header::IF_MATCH) || tags(headers, header::IF_MATCH).any(|tag| tag == "*") {
            return Ok(Self::Any);
        }
        let version = |tag: &str| tag.strip_prefix('"')?.split_once('-')?.0.parse().ok();
        Ok(Self::OneOf(tags(headers, header::IF_MATCH).filter_map(version).collect()))
    }
}

fn tags(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}
