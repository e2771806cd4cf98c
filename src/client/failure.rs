//! What a failed call means for the rest: try again, give up this photo, or give up all.

use std::{
    error::Error as _,
    time::{Duration, SystemTime},
};

use chrono::DateTime;
use reqwest::{Response, StatusCode, header};
use serde::{Deserialize, de::DeserializeOwned};

/// Why a call failed, by what it means for the rest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It may work later; `after` is what the server asks for.
    #[error("{why}")]
    Passing { why: String, after: Option<Duration> },
    /// This photo can't be added.
    #[error("{0}")]
    Refused(String),
    /// No photo can.
    #[error("{0}")]
    Fatal(String),
}

impl Failure {
    /// As the one error of the whole run.
    pub fn about_album(&self) -> anyhow::Error {
        anyhow::anyhow!("nothing was uploaded: {self}")
    }
}

/// The JSON of an answer.
///
/// # Errors
/// The status is none of 2xx, or the body is not what the contract says.
pub async fn answer<T: DeserializeOwned>(response: Response) -> Result<T, Failure> {
    let status = response.status();
    if status.is_redirection() {
        return Err(Failure::Fatal(redirected(&response)));
    }
    if !status.is_success() {
        return Err(refusal(response).await.unwrap_or_else(not_ours));
    }
    let bytes = response.bytes().await.map_err(transport)?;
    serde_json::from_slice(&bytes).map_err(|_| not_ours())
}

/// What an answer other than 2xx means.
pub async fn refusal(response: Response) -> Option<Failure> {
    let status = response.status();
    if status.is_success() {
        return None;
    }
    let after = response
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|value| parse_retry_after(value.to_str().ok()?, SystemTime::now()));
    let problem: Problem =
        response.bytes().await.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    Some(problem.meaning(status, after))
}

/// RFC 9457 problem details, or as much of them as there is.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    detail: Option<String>,
    request_id: Option<String>,
    errors: Vec<FieldError>,
}

#[derive(Debug, Deserialize)]
struct FieldError {
    field: String,
    message: String,
}

impl Problem {
    fn meaning(self, status: StatusCode, after: Option<Duration>) -> Failure {
        let why = self.sentence(status);
        match status.as_u16() {
            408 | 429 | 500..=599 => Failure::Passing { why, after },
            409 if after.is_some() => Failure::Passing { why, after },
            401 => Failure::Fatal(format!("{why} (401)")),
            403 => Failure::Fatal(why),
            404 => Failure::Fatal(format!("the server knows no such album, or not for this token: {why}")),
            // The same for each photo.
            422 if self.errors.iter().any(|error| error.field == "guest_name") => Failure::Fatal(why),
            _ => Failure::Refused(why),
        }
    }

    fn sentence(&self, status: StatusCode) -> String {
        let mut text = self.detail.clone().unwrap_or_else(|| format!("the server answered {status}"));
        let rules: Vec<_> = self.errors.iter().map(|error| format!("{} {}", error.field, error.message)).collect();
        if !rules.is_empty() {
            text = format!("{text}: {}", rules.join(", "));
        }
        match self.request_id.as_ref().filter(|_| status.is_server_error()) {
            Some(id) => format!("{text} (request {id})"),
            None => text,
        }
    }
}

fn redirected(response: &Response) -> String {
    let to = response.headers().get(header::LOCATION).and_then(|to| response.url().join(to.to_str().ok()?).ok());
    match to {
        Some(to) => format!("the server has moved: it leads to {}", to.origin().ascii_serialization()),
        None => "the server leads elsewhere and does not say where".into(),
    }
}

/// Something else than the contract's answer came.
pub fn not_ours() -> Failure {
    Failure::Fatal("the answer is not that of a Darkroom server; is its address right?".into())
}

/// A failure that may pass, without a word of the server about when.
pub fn passing(why: impl Into<String>) -> Failure {
    Failure::Passing { why: why.into(), after: None }
}

/// No answer at all. The innermost cause says most; the URL is left out, for it may be a signed one.
pub fn transport(error: reqwest::Error) -> Failure {
    let error = error.without_url();
    if error.is_timeout() {
        return passing("the server does not answer");
    }
    let mut cause = error.source();
    while let Some(inner) = cause.and_then(std::error::Error::source) {
        cause = Some(inner);
    }
    let what = if error.is_connect() { "the server can't be reached" } else { "the connection broke" };
    passing(cause.map_or_else(|| what.to_owned(), |cause| format!("{what}: {cause}")))
}

/// The value of `Retry-After`: seconds, or a date (RFC 9110, section 10.2.3).
fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = SystemTime::from(DateTime::parse_from_rfc2822(value).ok()?);
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(status: u16, after: Option<u64>, body: &str) -> Failure {
        let problem: Problem = serde_json::from_str(body).unwrap_or_default();
        problem.meaning(StatusCode::from_u16(status).unwrap(), after.map(Duration::from_secs))
    }

    #[test]
    fn classifies_each_status() {
        let body = r#"{"type": "x", "detail": "so", "request_id": "r1"}"#;
        for status in [408, 429, 500, 502, 503, 504] {
            assert!(matches!(meaning(status, None, body), Failure::Passing { .. }), "{status}");
        }
        for status in [401, 403, 404] {
            assert!(matches!(meaning(status, None, body), Failure::Fatal(_)), "{status}");
        }
        for status in [400, 409, 413, 415, 422] {
            assert_eq!(meaning(status, None, body), Failure::Refused("so".into()), "{status}");
        }
        assert!(matches!(meaning(409, Some(1), body), Failure::Passing { after: Some(_), .. }));
        assert_eq!(meaning(503, None, body), Failure::Passing { why: "so (request r1)".into(), after: None });
    }

    #[test]
    fn describes_field_errors_or_status() {
        let body = r#"{"detail": "validation failed", "errors": [{"field": "a", "message": "b"}, {"field": "guest_name", "message": "d"}]}"#;
        assert_eq!(meaning(422, None, body), Failure::Fatal("validation failed: a b, guest_name d".into()));
        assert_eq!(meaning(413, None, "<html>"), Failure::Refused("the server answered 413 Payload Too Large".into()));
    }

    #[test]
    fn reads_retry_after_as_seconds_or_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_445_412_470);
        assert_eq!(parse_retry_after(" 3 ", now), Some(Duration::from_secs(3)));
        assert_eq!(parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT", now), Some(Duration::from_secs(10)));
        assert_eq!(parse_retry_after("Wed, 21 Oct 2015 07:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(parse_retry_after("soon", now), None);
    }
}
