//! Malformed, invalid and unusual request bodies, and unknown routes.

use reqwest::{Method, header::CONTENT_TYPE};
use serde_json::{Value, json};

use crate::harness::{Answer, Client, TestServer, client::id};

const API_ONLY: &str = "worker.enabled = false";

async fn post(client: &Client, path: &str, body: impl Into<reqwest::Body>) -> Answer {
    client.send(client.request(Method::POST, path).header(CONTENT_TYPE, "application/json").body(body)).await
}

#[tokio::test]
async fn rejects_malformed_json() {
    let server = TestServer::start_with(API_ONLY).await;
    let host = server.user("alice");
    let deep = format!("{{\"title\": {}", "[".repeat(60_000));
    let cases: [(&str, &[u8]); 14] = [
        ("empty", b""),
        ("white space", b" \n"),
        ("a word", b"title"),
        ("half an object", b"{\"title\": \"x\""),
        ("two objects", b"{\"title\": \"x\"}{\"title\": \"y\"}"),
        ("garbage behind", b"{\"title\": \"x\"} x"),
        ("a trailing comma", b"{\"title\": \"x\",}"),
        ("single quotes", b"{'title': 'x'}"),
        ("a bare NUL", b"{\"title\": \"a\0b\"}"),
        ("a NUL behind", b"{\"title\": \"x\"}\0"),
        ("invalid UTF-8", b"{\"title\": \"\xff\xfe\"}"),
        ("overlong UTF-8", b"{\"title\": \"\xc0\xaf\"}"),
        ("half a surrogate pair", b"{\"title\": \"\\ud83d\"}"),
        ("a byte order mark", b"\xef\xbb\xbf{\"title\": \"x\"}"),
    ];
    for (what, body) in cases {
        let answer = post(&host, "/v1/albums", body.to_vec()).await;
        assert_eq!(answer.status, 400, "{what}: {}", String::from_utf8_lossy(&answer.bytes));
    }
    let answer = post(&host, "/v1/albums", deep).await;
    assert!(answer.status == 400 || answer.status == 422, "deep nesting");
    assert_eq!(host.all("/v1/albums").await, [Value::Null; 0]);
}

#[tokio::test]
async fn names_field_of_invalid_json() {
    let server = TestServer::start_with(API_ONLY).await;
    let host = server.user("alice");
    let long = format!("{{\"title\": \"{}\"}}", "é".repeat(201));
    let nested = format!("{{\"title\": {}1{}}}", "[".repeat(100), "]".repeat(100));
    for (body, field) in [
        ("{}", "title"),
        (r#"{"title": null}"#, "title"),
        (r#"{"title": 5}"#, "title"),
        (r#"{"title": ["x"]}"#, "title"),
        (r#"{"title": {"x": "y"}}"#, "title"),
        (r#"{"title": ""}"#, "title"),
        (r#"{"title": " \u3000\n"}"#, "title"),
        (r#"{"title": "a\u0000b"}"#, "title"),
        (r#"{"title": "a\u0007b"}"#, "title"),
        (r#"{"title": "x", "title": "y"}"#, "title"),
        (&long, "title"),
        (&nested, "title"),
        (r#"{"title": "x", "review": "yes"}"#, "review"),
        (r#"{"title": "x", "review": 1}"#, "review"),
        (r#"{"title": "x", "review": null}"#, "review"),
        (r#"{"title": "x", "colour": "red"}"#, "colour"),
        (r#"{"title": "x", "id": "y"}"#, "id"),
        (r#"{"title": "x", "": 1}"#, ""),
        (r#"{"title": "x", "Title": "y"}"#, "Title"),
        (r#"["x", true]"#, "."),
        ("null", "."),
        ("\"x\"", "."),
        ("5", "."),
    ] {
        assert_eq!(post(&host, "/v1/albums", body.to_owned()).await.fields(), [field], "{body}");
    }
    assert_eq!(host.all("/v1/albums").await, [Value::Null; 0]);

    let album = host.album("Patched").await;
    let path = format!("/v1/albums/{album}");
    for (body, field) in [
        (json!({ "title": null }), "title"),
        (json!({ "review": null }), "review"),
        (json!({ "closed": null }), "closed"),
        (json!({ "closed": "true" }), "closed"),
        (json!({ "title": "x".repeat(201) }), "title"),
        (json!({ "role": "host" }), "role"),
        (json!({ "photo_count": 5 }), "photo_count"),
    ] {
        assert_eq!(host.patch(&path, &body).await.fields(), [field], "{body}");
    }
    let after = host.get(&path).await.expect(200);
    assert_eq!((&after["title"], &after["created_at"]), (&json!("Patched"), &after["updated_at"]));
}

#[tokio::test]
async fn rejects_large_body_unread() {
    let server = TestServer::start_with(API_ONLY).await;
    let host = server.user("alice");
    let title = |bytes: usize| format!("{{\"title\": \"{}\"}}", "x".repeat(bytes)).into_bytes();
    post(&host, "/v1/albums", title(10 << 20)).await.expect(413);
    let parts = title(10 << 20).chunks(8192).map(|part| Ok::<_, std::io::Error>(part.to_vec())).collect::<Vec<_>>();
    let chunked = reqwest::Body::wrap_stream(futures_util::stream::iter(parts));
    post(&host, "/v1/albums", chunked).await.expect(413);
    // Below the body limit, the title's own rule applies.
    assert_eq!(post(&host, "/v1/albums", title(60_000)).await.fields(), ["title"]);
}

#[tokio::test]
async fn keeps_unicode_titles_byte_for_byte() {
    let server = TestServer::start_with(API_ONLY).await;
    let host = server.user("alice");
    let longest = "👩‍👩‍👧‍👦".chars().cycle().take(200).collect::<String>();
    let patched = host.album("To be renamed").await;
    for title in [
        "👰🏽‍♀️ Hochzeit 🇩🇪",
        "חתונה של דנה \u{202e}ויוסי\u{202c}",
        "عرس ليلى",
        "e\u{301} is not \u{e9}",
        "Z\u{351}\u{36b}a\u{334}l\u{35c}g\u{300}o",
        "  padded  ",
        "trailing space ",
        "ﬁ ＦＵＬＬ ß ẞ İ ı",
        "\u{feff}\u{200b}zero width",
        "\u{10ffff}\u{e000}",
        "\"quotes\" \\ back / slash <b>&amp;</b> '; DROP TABLE albums; --",
        "%00 %s {} ${x}",
        &longest,
    ] {
        let album = host.post("/v1/albums", &json!({ "title": title })).await.expect(201);
        assert_eq!(album["title"], title);
        assert_eq!(host.get(&format!("/v1/albums/{}", id(&album))).await.expect(200)["title"], title);
        assert_eq!(host.get("/v1/albums?limit=1").await.expect(200)["items"][0]["title"], title);
        let path = format!("/v1/albums/{patched}");
        assert_eq!(host.patch(&path, &json!({ "title": title })).await.expect(200)["title"], title);
        assert_eq!(host.get(&path).await.expect(200)["title"], title);
    }
    // Titles that some collations treat as equal are different.
    let renamed = format!("/v1/albums/{patched}");
    for title in ["e\u{301}", "\u{e9}", "\u{c9}", "\u{e9} "] {
        let before = host.events(&patched).await.len();
        host.patch(&renamed, &json!({ "title": title })).await.expect(200);
        assert_eq!(host.events(&patched).await.len(), before + 1, "{title}");
    }
}

#[tokio::test]
async fn requires_json_content_type() {
    let server = TestServer::start_with(API_ONLY).await;
    let host = server.user("alice");
    let album = format!("/v1/albums/{}", host.album("Types").await);
    let routes = [
        (Method::POST, "/v1/albums".to_owned(), "{\"title\": \"x\"}", 201),
        (Method::PATCH, album.clone(), "{\"title\": \"x\"}", 200),
        (Method::POST, format!("{album}/invites"), "{\"role\": \"view\"}", 201),
        (Method::POST, format!("{album}/photos"), "{\"content_type\": \"image/png\", \"bytes\": 1}", 201),
    ];
    for (method, path, body, status) in routes {
        let send = async |content_type: Option<&str>| {
            let mut request = host.request(method.clone(), &path).body(body);
            if let Some(content_type) = content_type {
                request = request.header(CONTENT_TYPE, content_type);
            }
            host.send(request).await
        };
        for wrong in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", "text/json", "", "json"] {
            send(Some(wrong)).await.expect(415);
        }
        send(None).await.expect(415);
        for right in ["application/json", "APPLICATION/JSON", "application/json; charset=utf-8"] {
            send(Some(right)).await.expect(status);
        }
    }
}

#[tokio::test]
async fn unknown_route_or_method_is_a_problem() {
    let server = TestServer::start_with(API_ONLY).await;
    let (host, anybody) = (server.user("alice"), server.anybody());
    let unknown = uuid::Uuid::now_v7();
    for path in [
        "/v1",
        "/v1/",
        "/v2/albums",
        "/v1/albums/",
        "/v1/album",
        "/V1/albums",
        "/v1/photos",
        "/v1/albums//photos",
        "/favicon.ico",
        "/health",
        "/metrics",
        "/info",
        "/log-level",
        "/.env",
        "/v1/albums/..%2f..%2fetc",
        "/%00",
        "/%ff",
    ] {
        let answer = host.get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.json()["type"], "urn:darkroom:problem:not-found", "{path}");
    }
    for (method, path) in [
        (Method::PUT, "/v1/albums".to_owned()),
        (Method::DELETE, "/v1/albums".to_owned()),
        (Method::POST, format!("/v1/albums/{unknown}")),
        (Method::PUT, format!("/v1/albums/{unknown}/photos")),
        (Method::POST, format!("/v1/albums/{unknown}/events")),
        (Method::GET, format!("/v1/uploads/{unknown}")),
        (Method::POST, format!("/v1/photos/{unknown}")),
        (Method::DELETE, format!("/v1/renditions/{unknown}/thumb.jpg")),
        (Method::POST, "/health/live".to_owned()),
        (Method::POST, "/openapi.json".to_owned()),
        (Method::from_bytes(b"PURGE").unwrap(), "/v1/albums".to_owned()),
    ] {
        for client in [&host, &anybody] {
            let answer = client.send(client.request(method.clone(), &path)).await;
            assert_eq!(answer.status, 405, "{method} {path}");
            assert!(!answer.header("allow").is_empty(), "{method} {path}");
        }
    }
}
