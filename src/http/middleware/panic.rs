//! Panics of handlers.

use std::any::Any;

use axum::response::{IntoResponse, Response};

use crate::http::error::HttpError;

/// Answers 500 and logs the message of the panic.
#[expect(clippy::needless_pass_by_value, reason = "the signature that CatchPanicLayer asks for")]
pub fn internal_error(panic: Box<dyn Any + Send>) -> Response {
    let message = match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
        (Some(text), _) => text,
        (None, Some(text)) => *text,
        (None, None) => "",
    };
    HttpError::Internal(anyhow::anyhow!("a handler panicked: {message}")).into_response()
}
