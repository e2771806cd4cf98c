//! Extractors whose rejections are problems that name the field. `clippy.toml` forbids those of axum.

use aws_lc_rs::digest;
use axum::{
    body::{Body, Bytes, HttpBody},
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderMap, header, request::Parts},
};
use serde::de::{DeserializeOwned, IgnoredAny};

use super::error::{HttpError, Result};
use crate::{app::AppState, server::BodyTooSlow};

/// The longest accepted `Idempotency-Key`, in bytes.
const MAX_KEY_BYTES: usize = 255;

/// A JSON body, with what `Idempotency-Key` needs.
#[derive(Debug)]
pub struct Json<T> {
    pub body: T,
    /// The `Idempotency-Key` header.
    pub key: Option<String>,
    /// SHA-256 over method, path and body.
    pub fingerprint: [u8; 32],
}

impl<T: DeserializeOwned> FromRequest<AppState> for Json<T> {
    type Rejection = HttpError;

    async fn from_request(request: Request, app: &AppState) -> Result<Self> {
        if !is_json(request.headers()) {
            return Err(HttpError::UnsupportedMediaType("send the body as application/json".into()));
        }
        let key = idempotency_key(request.headers())?;
        let limit = app.config.http.max_body_bytes;
        let mut digest = digest::Context::new(&digest::SHA256);
        digest.update(request.method().as_str().as_bytes());
        digest.update(request.uri().path().as_bytes());
        digest.update(b"\0");
        let (parts, body) = request.into_parts();
        let bytes = read(&parts.headers, body, limit).await?;
        digest.update(&bytes);
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(digest.finish().as_ref());
        Ok(Self { body: parse(&bytes)?, key, fingerprint })
    }
}

/// Reads the whole body, so that a slow client occupies nothing but its connection.
pub(crate) async fn buffer_body(request: Request, limit: usize) -> Result<Request> {
    if request.body().is_end_stream() {
        return Ok(request);
    }
    let (parts, body) = request.into_parts();
    let bytes = read(&parts.headers, body, limit).await?;
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

async fn read(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes> {
    use http_body_util::{BodyExt, LengthLimitError, Limited};
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > limit as u64) {
        return Err(HttpError::TooLarge(limit as u64));
    }
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(HttpError::TooLarge(limit as u64)),
        Err(error) if BodyTooSlow::is_cause_of(&*error) => Err(HttpError::TooSlow),
        Err(_) => Err(HttpError::BadRequest("the connection closed before the end of the body".into())),
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    // serde accepts an array for a struct; the contract has objects only.
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()).is_some_and(|byte| *byte != b'{') {
        serde_json::from_slice::<IgnoredAny>(bytes).map_err(|error| not_json(&error))?;
        return Err(HttpError::field(".", "must be an object"));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = error.path().to_string();
        let error = error.into_inner();
        if !error.is_data() {
            // serde_json reports a number or null in place of an enum's name as a syntax error.
            return match serde_json::from_slice::<serde_json::Value>(bytes) {
                Ok(_) => HttpError::field(field, "is of the wrong type"),
                Err(_) => not_json(&error),
            };
        }
        let text = error.to_string();
        let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message);
        // serde reports missing and unknown fields at the object; the client wants the field's name.
        let field = match message.split('`').nth(1).filter(|_| message.contains(" field `")) {
            Some(named) if field == "." => named.to_owned(),
            Some(named) if !field.ends_with(named) => format!("{field}.{named}"),
            _ => field,
        };
        HttpError::field(field, message)
    })?;
    json.end().map_err(|error| not_json(&error))?;
    Ok(value)
}

fn not_json(error: &serde_json::Error) -> HttpError {
    HttpError::BadRequest(format!("the body is not valid JSON: {error}"))
}

fn is_json(headers: &HeaderMap) -> bool {
    let essence = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).and_then(|v| v.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    match value.to_str() {
        Ok(key) if !key.is_empty() && key.len() <= MAX_KEY_BYTES && values.next().is_none() => Ok(Some(key.to_owned())),
        _ => Err(HttpError::field(
            "idempotency-key",
            format!("must be one key of 1 to {MAX_KEY_BYTES} visible ASCII characters"),
        )),
    }
}

/// Query parameters.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<AppState> for Query<T> {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self> {
        let pairs = url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
        let deserializer = serde_html_form::Deserializer::new(pairs);
        serde_path_to_error::deserialize(deserializer).map(Self).map_err(|error| {
            let field = error.path().to_string();
            let message = error.into_inner().to_string();
            let named = message.split('`').nth(1).filter(|_| field == "." && message.contains(" field `"));
            HttpError::field(named.unwrap_or(&field), &message)
        })
    }
}

/// Parameters of the path. A malformed id is 404: nothing has it.
#[derive(Debug)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<AppState> for Path<T> {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self> {
        #[expect(clippy::disallowed_types, reason = "its rejection is replaced here")]
        let path = axum::extract::Path::from_request_parts(parts, app).await;
        path.map(|path| Self(path.0)).map_err(|_| HttpError::NotFound)
    }
}

/// For a field that may be missing, but not null.
pub fn non_null<'de, T: serde::Deserialize<'de>, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// For a field that may be missing, or null to clear it.
pub fn nullable<'de, T: serde::Deserialize<'de>, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    <Option<T> as serde::Deserialize>::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsed")]
    struct Body {
        title: String,
        review: Option<bool>,
    }

    fn field(json: &str) -> String {
        match parse::<Body>(json.as_bytes()) {
            Err(HttpError::Unprocessable(errors)) => errors[0].field.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_the_invalid_field() {
        assert_eq!(field(r#"{"title": "x", "colour": 1}"#), "colour");
        assert_eq!(field(r#"{"review": true}"#), "title");
        assert_eq!(field(r#"{"title": 5}"#), "title");
        assert_eq!(field(r#"{"title": "x", "review": "yes"}"#), "review");
        assert_eq!(field(r#"["x", true]"#), ".");
        assert_eq!(field(&format!(r#"{{"title": {}{}}}"#, "[".repeat(100_000), "]".repeat(100_000))), "title");
    }

    #[test]
    fn rejects_malformed_json_with_400() {
        let deep = "[".repeat(100_000);
        for json in [
            &b"{"[..],
            b"",
            b"{\"title\": \"\xff\"}",
            b"{\"title\": \"x\"} x",
            deep.as_bytes(),
            br#"{"title": "\ud800"}"#,
        ] {
            assert!(
                matches!(parse::<Body>(json), Err(HttpError::BadRequest(_))),
                "{}",
                String::from_utf8_lossy(&json[..json.len().min(40)])
            );
        }
    }
}
