//! Checks responses against the OpenAPI document that the service publishes.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use jsonschema::Validator;
use reqwest::Method;
use serde_json::Value;

use super::Answer;

static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::to_value(darkroom::http::openapi_document()).expect("JSON"));

/// The paths of the document.
pub fn document() -> &'static Value {
    &DOCUMENT
}

/// Panics unless the document describes the response.
pub fn check(method: &Method, path: &str, answer: &Answer) {
    let context = || format!("{method} {path} -> {}: {}", answer.status, String::from_utf8_lossy(&answer.bytes));
    assert!(!answer.header("x-request-id").is_empty(), "no request id: {}", context());
    let problem = answer.status.is_client_error() || answer.status.is_server_error();
    if problem {
        assert_eq!(answer.header("content-type"), "application/problem+json", "{}", context());
        let body = answer.json();
        assert_eq!(body["status"], answer.status.as_u16(), "{}", context());
        assert_eq!(body["request_id"], answer.header("x-request-id"), "{}", context());
        for secret in ["SELECT", "INSERT", "/tmp", "sqlx", "dki_", "darkroom/src"] {
            assert!(!body.to_string().contains(secret), "{secret}: {}", context());
        }
    }
    let Some(operation) = operation(method, path) else { return };
    let status = answer.status.as_u16().to_string();
    let responses = &operation["responses"];
    let described = if responses[&status].is_object() { &responses[&status] } else { &responses["default"] };
    assert!(described.is_object() && (problem || responses[&status].is_object()), "not in the document: {}", context());
    let bodies = &described["content"];
    let kind = if problem { "application/problem+json" } else { "application/json" };
    let schema = &bodies[kind]["schema"];
    if schema.is_null() {
        return;
    }
    let errors: Vec<String> = validator(schema)
        .iter_errors(&answer.json())
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{errors:?}: {}", context());
}

/// The validator of a schema of the document; cached, because building one takes longer than a request.
fn validator(schema: &'static Value) -> Arc<Validator> {
    static VALIDATORS: LazyLock<Mutex<HashMap<usize, Arc<Validator>>>> = LazyLock::new(Mutex::default);
    let mut validators = VALIDATORS.lock().unwrap_or_else(PoisonError::into_inner);
    let make = || {
        let mut schema = schema.clone();
        schema["components"] = DOCUMENT["components"].clone();
        Arc::new(jsonschema::draft202012::new(&schema).expect("a JSON schema"))
    };
    validators.entry(std::ptr::from_ref(schema).addr()).or_insert_with(make).clone()
}

fn operation(method: &Method, path: &str) -> Option<&'static Value> {
    let paths = DOCUMENT["paths"].as_object().expect("paths");
    let matching = paths.iter().find(|(template, _)| fits(template, path));
    let operation = matching.map(|(_, item)| &item[method.as_str().to_lowercase()])?;
    operation.is_object().then_some(operation)
}

fn fits(template: &str, path: &str) -> bool {
    let (template, path): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
    template.len() == path.len() && template.iter().zip(&path).all(|(t, p)| t.starts_with('{') || t == p)
}

/// The fields of a schema of the document, for comparison with the design.
pub fn fields(schema: &str) -> Vec<String> {
    let schema = &DOCUMENT["components"]["schemas"][schema];
    let mut names: Vec<String> = schema["properties"].as_object().expect("an object").keys().cloned().collect();
    names.sort();
    names
}
