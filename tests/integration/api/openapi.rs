//! The OpenAPI document, its documentation page, and what every response has: request ids and CORS.

use std::{collections::BTreeSet, process::Command};

use reqwest::Method;
use serde_json::Value;

use crate::harness::{Answer, TestServer, openapi};

const API_ONLY: &str = "worker.enabled = false";

/// The routes, with the status for anonymous callers.
const ROUTES: [(&str, &[(&str, u16)]); 16] = [
    ("/v1/albums", &[("post", 401), ("get", 401)]),
    ("/v1/albums/{album_id}", &[("get", 401), ("patch", 401), ("delete", 401)]),
    ("/v1/albums/{album_id}/invites", &[("post", 401), ("get", 401)]),
    ("/v1/albums/{album_id}/invites/{invite_id}", &[("delete", 401)]),
    ("/v1/albums/{album_id}/photos", &[("post", 401), ("get", 401)]),
    ("/v1/albums/{album_id}/events", &[("get", 401)]),
    ("/v1/photos/{photo_id}", &[("get", 401), ("patch", 401), ("delete", 401)]),
    ("/v1/photos/{photo_id}/original", &[("get", 401)]),
    ("/v1/photos/{photo_id}/edits", &[("post", 401), ("get", 401)]),
    ("/v1/photos/{photo_id}/edits/{edit_id}", &[("get", 401), ("patch", 401)]),
    ("/v1/uploads/{photo_id}", &[("put", 401)]),
    ("/v1/renditions/{photo_id}/{name}", &[("get", 401)]),
    ("/v1/renditions/{photo_id}/{edit_id}/{name}", &[("get", 401)]),
    ("/v1/originals/{photo_id}", &[("get", 401)]),
    ("/health/live", &[("get", 200)]),
    ("/health/ready", &[("get", 200)]),
];

#[tokio::test]
async fn document_lists_contract_routes() {
    let paths = openapi::document()["paths"].as_object().unwrap();
    let documented: BTreeSet<(&str, &str)> =
        paths.iter().flat_map(|(path, item)| item.as_object().unwrap().keys().map(move |m| (&**path, &**m))).collect();
    let wanted: BTreeSet<(&str, &str)> =
        ROUTES.iter().flat_map(|(path, methods)| methods.iter().map(move |(method, _)| (*path, *method))).collect();
    assert_eq!(documented, wanted);

    let server = TestServer::start_with(API_ONLY).await;
    let anybody = server.anybody();
    for (template, methods) in ROUTES {
        let path: Vec<String> = template
            .split('/')
            .map(|part| if part.starts_with('{') { uuid::Uuid::now_v7().to_string() } else { part.to_owned() })
            .collect();
        for method in ["get", "post", "put", "patch", "delete"] {
            let known = methods.iter().find(|(known, _)| *known == method).map_or(405, |(_, status)| *status);
            let request = anybody.request(method.to_uppercase().parse().unwrap(), &path.join("/"));
            assert_eq!(anybody.send(request).await.status, known, "{method} {template}");
        }
    }
}

#[test]
fn resources_have_contract_fields() {
    let sorted = |fields: &str| {
        let mut fields: Vec<String> = fields.split(", ").map(str::to_owned).collect();
        fields.sort();
        fields
    };
    for (schema, fields) in [
        ("AlbumBody", "id, title, role, review, closed, photo_count, created_at, updated_at"),
        (
            "PhotoBody",
            "id, album_id, state, visibility, uploader, caption, content_type, bytes, sha256, width, height, taken_at, \
             camera, placeholder, renditions, reject_reason, created_at, ready_at",
        ),
        ("UploaderBody", "kind, name"),
        ("RenditionBody", "name, content_type, width, height, bytes, url"),
        ("EditBody", "id, photo_id, state, filters, renditions, fail_reason, created_at, ready_at"),
        ("EventBody", "seq, kind, at, photo_id, edit_id"),
        ("EventList", "items, last"),
        ("Upload", "method, url, headers, expires_at"),
        ("AddedPhoto", "photo, upload"),
        ("Problem", "type, title, status, detail, request_id, errors"),
        ("FieldError", "field, message"),
    ] {
        assert_eq!(openapi::fields(schema), sorted(fields), "{schema}");
    }
    let words = |schema: &str| openapi::document()["components"]["schemas"][schema]["enum"].clone();
    assert_eq!(
        words("PhotoState"),
        serde_json::json!(["awaiting_upload", "processing", "ready", "rejected", "expired"])
    );
    assert_eq!(words("EditState"), serde_json::json!(["pending_review", "processing", "ready", "failed"]));
    assert_eq!(words("Visibility"), serde_json::json!(["visible", "pending_review", "hidden"]));
}

#[tokio::test]
async fn document_is_3_1_and_equals_cli_output() {
    let server = TestServer::start_with(API_ONLY).await;
    let document = server.anybody().get("/openapi.json").await.expect(200);
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."), "{}", document["openapi"]);
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let printed = Command::new(env!("CARGO_BIN_EXE_darkroom")).arg("openapi").output().unwrap();
    assert!(printed.status.success());
    assert_eq!(serde_json::from_slice::<Value>(&printed.stdout).unwrap(), document);
    assert_eq!(&document, openapi::document());
    resolve(&document, &document);
}

/// Each `$ref` resolves, and operation ids are unique.
fn resolve(value: &Value, document: &Value) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| match (name.as_str(), value.as_str()) {
            ("$ref", Some(to)) => assert!(document.pointer(to.trim_start_matches('#')).is_some(), "{to}"),
            _ => resolve(value, document),
        }),
        Value::Array(items) => items.iter().for_each(|item| resolve(item, document)),
        _ => {}
    }
}

#[test]
fn operation_ids_are_unique() {
    let paths = openapi::document()["paths"].as_object().unwrap();
    let operations = paths.values().flat_map(|item| item.as_object().unwrap().values());
    let names: Vec<&str> = operations.map(|operation| operation["operationId"].as_str().expect("a name")).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
}

/// The links in `src="..."` and `href="..."` of a page.
fn links(page: &str) -> Vec<String> {
    let after = |mark: &'static str| page.split(mark).skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
    after("src=\"").chain(after("href=\"")).collect()
}

#[tokio::test]
async fn documentation_page_is_self_contained() {
    let server = TestServer::start_with(API_ONLY).await;
    let anybody = server.anybody();
    let text = |answer: &Answer| String::from_utf8_lossy(&answer.bytes).into_owned();
    let root = anybody.get("/").await;
    assert_eq!((root.status.as_u16(), root.header("location")), (307, "/docs/"));
    let page = anybody.get("/docs/").await;
    assert!(page.status == 200 && page.header("content-type").starts_with("text/html"));
    // CloudFront caches only marked responses.
    for (path, kept) in [("/docs/", true), ("/openapi.json", true), ("/docs/none", false), ("/health/live", false)] {
        assert_eq!(anybody.get(path).await.header("cache-control") == "public, max-age=300", kept, "{path}");
    }
    let page = text(&page);
    let links = links(&page);
    assert!(links.iter().any(|link| link.contains("bundle.js")), "{links:?}");
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("\"//"), "{page}");
    for link in &links {
        assert!(!link.contains(':') && !link.starts_with("//"), "{link}");
        let file = anybody.get(&format!("/docs/{}", link.trim_start_matches("./"))).await;
        assert!(file.status == 200 && !file.bytes.is_empty(), "{link}");
        // The bundle mentions hosts in licences and schemas; the initializer defines which ones it calls.
        if link.contains("initializer") {
            let script = text(&file);
            assert!(!script.contains("http://") && !script.contains("https://"), "{script}");
            assert!(script.contains("/openapi.json"), "{script}");
            // Otherwise the bundle sends documents to validator.swagger.io, unless they are on localhost.
            assert!(script.contains("\"validatorUrl\": \"none\""), "{script}");
        }
    }
    assert!(links.iter().any(|link| link.contains("initializer")), "{links:?}");
}

#[tokio::test]
async fn cors_allows_configured_origin_only() {
    let server = TestServer::start_with("worker.enabled = false\nhttp.cors_origins = ['https://photos.example']").await;
    let host = server.user("alice");
    let ask = async |method: Method, path: &str, origin: &str| {
        let request = host.request(method, path).header("origin", origin);
        host.send(
            request
                .header("access-control-request-method", "PATCH")
                .header("access-control-request-headers", "authorization"),
        )
        .await
    };
    for path in ["/v1/albums", "/health/live", "/nowhere"] {
        let allowed = ask(Method::GET, path, "https://photos.example").await;
        assert_eq!(allowed.header("access-control-allow-origin"), "https://photos.example", "{path}");
        for header in ["etag", "location", "retry-after", "x-request-id", "idempotency-replayed"] {
            assert!(allowed.header("access-control-expose-headers").contains(header), "{header}");
        }
        let preflight = ask(Method::OPTIONS, path, "https://photos.example").await;
        assert_eq!(
            (preflight.status.as_u16(), preflight.header("access-control-allow-origin")),
            (200, "https://photos.example")
        );
        assert!(preflight.header("access-control-allow-methods").contains("PATCH"));
        for header in ["authorization", "content-type", "if-match", "if-none-match", "idempotency-key"] {
            assert!(preflight.header("access-control-allow-headers").contains(header), "{header}");
        }
        for origin in ["https://photos.example.evil", "http://photos.example", "https://evil.example", "null"] {
            for method in [Method::GET, Method::OPTIONS] {
                let refused = ask(method, path, origin).await;
                assert_eq!(refused.header("access-control-allow-origin"), "", "{origin}");
            }
        }
    }
    let silent = TestServer::start_with(API_ONLY).await;
    let get = silent.anybody().request(Method::GET, "/health/live").header("origin", "https://photos.example");
    assert_eq!(silent.anybody().send(get).await.header("access-control-allow-origin"), "");
}

#[tokio::test]
async fn each_response_has_a_request_id() {
    let server = TestServer::start_with(API_ONLY).await;
    let host = server.user("alice");
    let mut made = BTreeSet::new();
    for path in ["/v1/albums", "/health/live", "/nowhere", "/openapi.json", "/docs/", "/v1/renditions/x/y"] {
        let with = async |id: &str| {
            let answer = host.send(host.request(Method::GET, path).header("x-request-id", id)).await;
            answer.header("x-request-id").to_owned()
        };
        assert_eq!(with("from-the-gateway/1").await, "from-the-gateway/1", "{path}");
        let longest = "i".repeat(128);
        assert_eq!(with(&longest).await, longest);
        for unfit in ["", &"i".repeat(129), "é"] {
            made.insert(with(unfit).await);
        }
        made.insert(host.get(path).await.header("x-request-id").to_owned());
    }
    assert_eq!(made.len(), 24, "each made once: {made:?}");
    assert!(made.iter().all(|id| id.parse::<uuid::Uuid>().is_ok()), "{made:?}");
}
