//! `/join`: the guests' page that invite links open.

use axum::{
    http::header,
    response::{Html, IntoResponse},
};

/// The page loads nothing from other hosts; the invite stays behind the `#` of its URL.
pub async fn page() -> impl IntoResponse {
    const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
        img-src * data: blob:; connect-src *; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, Html(include_str!("../../../web/join.html")))
}
