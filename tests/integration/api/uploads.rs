//! Uploads by signed URL: a body is accepted only if it matches its declaration.

use chrono::{TimeDelta, Utc};
use futures_util::{future::join_all, stream};
use reqwest::{Body, Method};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::{Answer, Client, TestServer, album_invariants::files, client::id, eventually, sha256_hex};

const API_ONLY: &str = "worker.enabled = false";
const PNG: &str = "image/png";

/// The declared bytes, whose content only a worker checks.
fn bytes() -> Vec<u8> {
    b"bytes of a picture ".repeat(50)
}

/// A server, its host, and a declared photo with its upload URL.
async fn prepared() -> (TestServer, Client, Value, String) {
    let server = TestServer::start_with(API_ONLY).await;
    let host = server.user("alice");
    let album = host.album("Uploads").await;
    let declared = host.declare(&album, PNG, &bytes()).await;
    let url = declared["upload"]["url"].as_str().unwrap().to_owned();
    (server, host, declared, url)
}

/// PUT with these headers.
async fn put(server: &TestServer, url: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
    let anybody = server.anybody();
    let mut request = anybody.request(Method::PUT, url).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    anybody.send(request).await
}

/// A body without a declared length.
fn chunked(bytes: &[u8]) -> Body {
    let parts: Vec<std::io::Result<Vec<u8>>> = bytes.chunks(100).map(|part| Ok(part.to_vec())).collect();
    Body::wrap_stream(stream::iter(parts))
}

/// No file was kept, and the photo still awaits its upload.
async fn nothing_kept(server: &TestServer, host: &Client, photo: &Value, what: &str) {
    eventually("nothing kept", async || files(&server.photos()).is_empty().then_some(())).await;
    let now = host.get(&format!("/v1/photos/{}", id(photo))).await.expect(200);
    assert_eq!(&now, photo, "{what}");
    assert_eq!(server.database.count("SELECT COUNT(*) FROM jobs").await, 0, "{what}");
}

/// The valid upload works once, and the stored bytes are equal.
async fn right_upload_works(server: &TestServer, host: &Client, declared: &Value) {
    let photo = id(&declared["photo"]);
    host.put(&declared["upload"], bytes()).await.expect(200);
    let now = host.get(&format!("/v1/photos/{photo}")).await.expect(200);
    assert_eq!((&now["state"], now["sha256"].as_str()), (&"processing".into(), Some(&*sha256_hex(&bytes()))));
    assert_kept(server, &photo);
    assert_eq!(server.database.count("SELECT COUNT(*) FROM jobs WHERE kind = 'render_photo'").await, 1);
}

fn assert_kept(server: &TestServer, photo: &str) {
    let kept: Vec<String> = files(&server.photos()).into_iter().collect();
    assert_eq!(kept, [format!("originals/{}/{photo}", &photo[34..])]);
    assert!(std::fs::read(server.photos().join(&kept[0])).unwrap() == bytes());
}

/// Name, expected status, headers and body.
type Case<'a> = (&'a str, u16, &'a [(&'a str, &'a str)], Body);

#[tokio::test]
async fn rejects_body_unlike_declaration() {
    let (server, host, declared, url) = prepared().await;
    let (typed, whole) = ([("content-type", PNG)], bytes());
    let (longer, shorter) = ([&whole[..], b"x"].concat(), whole[1..].to_vec());
    let mut other = whole.clone();
    other[7] ^= 1;
    let cases: [Case; 13] = [
        ("longer", 413, &typed, longer.clone().into()),
        ("longer, in chunks", 413, &typed, chunked(&longer)),
        ("much longer, in chunks", 413, &typed, chunked(&whole.repeat(20))),
        ("shorter", 422, &typed, shorter.clone().into()),
        ("shorter, in chunks", 422, &typed, chunked(&shorter)),
        ("empty", 422, &typed, Body::default()),
        ("empty, in chunks", 422, &typed, chunked(&[])),
        ("other bytes", 422, &typed, other.clone().into()),
        ("other bytes, in chunks", 422, &typed, chunked(&other)),
        ("another type", 415, &[("content-type", "image/jpeg")], whole.clone().into()),
        ("no type", 415, &[], whole.clone().into()),
        ("no picture's type", 415, &[("content-type", "application/octet-stream")], whole.clone().into()),
        ("packed", 415, &[("content-type", PNG), ("content-encoding", "gzip")], whole.clone().into()),
    ];
    for (what, status, headers, body) in cases {
        let answer = put(&server, &url, headers, body).await;
        assert_eq!(answer.status, status, "{what}: {}", String::from_utf8_lossy(&answer.bytes));
        nothing_kept(&server, &host, &declared["photo"], what).await;
    }
    right_upload_works(&server, &host, &declared).await;
}

#[tokio::test]
async fn accepts_chunked_and_identity_encoding() {
    let (server, _, declared, url) = prepared().await;
    let headers = [("content-type", PNG), ("content-encoding", "identity")];
    put(&server, &url, &headers, chunked(&bytes())).await.expect(200);
    assert_kept(&server, &id(&declared["photo"]));
}

#[tokio::test]
async fn url_is_single_use() {
    let (server, host, declared, url) = prepared().await;
    right_upload_works(&server, &host, &declared).await;
    for body in [bytes().into(), chunked(&bytes())] {
        put(&server, &url, &[("content-type", PNG)], body).await.expect(409);
        assert_kept(&server, &id(&declared["photo"]));
    }
    assert_eq!(server.database.count("SELECT COUNT(*) FROM jobs WHERE kind = 'render_photo'").await, 1);
}

#[tokio::test]
async fn accepts_one_of_concurrent_uploads() {
    let (server, host, declared, _) = prepared().await;
    let answers = join_all((0..6).map(|_| host.put(&declared["upload"], bytes()))).await;
    let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409, 409, 409, 409, 409]);
    assert_kept(&server, &id(&declared["photo"]));
}

#[tokio::test]
async fn rejects_altered_or_expired_url() {
    let (server, host, declared, url) = prepared().await;
    let another = host.declare(&host.album("Another").await, PNG, b"more").await;
    let photo = id(&declared["photo"]);
    let piece = |from: &str| url.split(['?', '&']).find(|part| part.starts_with(from)).unwrap().to_owned();
    let (expires, signature, digest) = (piece("expires="), piece("signature="), piece("sha256="));
    let seconds: i64 = expires["expires=".len()..].parse().unwrap();
    let flipped = if signature.ends_with('A') { "E" } else { "A" };
    let path = url.strip_prefix(&server.url).unwrap().split("&expires=").next().unwrap();
    let signed =
        |method: &str, path: &str, at| format!("{}{}", server.url, server.app.storage.signer().sign(method, path, at));
    let (past, later) = (Utc::now() - TimeDelta::seconds(1), Utc::now() + TimeDelta::hours(1));
    let cases = [
        ("photo", url.replace(&photo, &id(&another["photo"]))),
        ("bytes", url.replace(&format!("bytes={}", bytes().len()), "bytes=1")),
        ("type", url.replace("content_type=image/png", "content_type=image/jpeg")),
        ("checksum", url.replace(&digest, &format!("sha256={}", sha256_hex(b"x")))),
        ("no checksum", url.replace(&format!("&{digest}"), "")),
        ("expiry", url.replace(&expires, &format!("expires={}", seconds + 1))),
        ("signature", url.replace(&signature, &format!("{}{flipped}", &signature[..signature.len() - 1]))),
        ("another's signature", format!("{}&signature={}", url.split("&signature=").next().unwrap(), "A".repeat(43))),
        ("no signature", url.replace(&format!("&{signature}"), "")),
        ("one more parameter", format!("{url}&x=1")),
        ("a parameter before", url.replace('?', "?bytes=1&")),
        ("nothing but the path", url.split('?').next().unwrap().to_owned()),
        ("another method's", signed("GET", path, later)),
        ("expired", signed("PUT", path, past)),
        ("expired long ago", signed("PUT", path, Utc::now() - TimeDelta::days(400))),
    ];
    for (what, altered) in &cases {
        assert_ne!(altered, &url, "{what}");
        let answer = put(&server, altered, &[("content-type", PNG)], bytes()).await;
        assert_eq!(answer.status, 401, "{what}");
        assert!(answer.header("www-authenticate").starts_with("Bearer"), "{what}");
        nothing_kept(&server, &host, &declared["photo"], what).await;
    }
    for method in [Method::GET, Method::POST, Method::PATCH, Method::DELETE] {
        host.send(host.request(method, &url).body(bytes())).await.expect(405);
    }
    // A correctly signed URL shows that the ones above failed for the intended reason.
    put(&server, &signed("PUT", path, later), &[("content-type", PNG)], bytes()).await.expect(200);
    assert_kept(&server, &photo);
}

#[tokio::test]
async fn rejects_upload_of_replaced_photo() {
    let (server, host, declared, url) = prepared().await;
    // The same checksum with another type invalidates the first URL.
    let album = declared["photo"]["album_id"].as_str().unwrap();
    let anew = host.declare(album, "image/webp", &bytes()).await;
    assert_eq!(id(&anew["photo"]), id(&declared["photo"]));
    put(&server, &url, &[("content-type", PNG)], bytes()).await.expect(409);
    nothing_kept(&server, &host, &anew["photo"], "declared anew").await;
    host.delete(&format!("/v1/photos/{}", id(&declared["photo"]))).await.expect(204);
    host.put(&anew["upload"], bytes()).await.expect(404);
    assert!(files(&server.photos()).is_empty());
}

/// Sends the head and a part of the body, and waits until the service has received some of it.
async fn begun(server: &TestServer, url: &str, framing: &str, part: &[u8]) -> TcpStream {
    let address = server.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let path = url.strip_prefix(&server.url).unwrap();
    let head = format!("PUT {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: {PNG}\r\n{framing}\r\n\r\n");
    stream.write_all(&[head.as_bytes(), part].concat()).await.unwrap();
    eventually("taken", async || {
        files(&server.photos()).iter().any(|path| path.starts_with("incoming/")).then_some(())
    })
    .await;
    stream
}

#[tokio::test]
async fn interrupted_upload_can_be_repeated() {
    let (server, host, declared, url) = prepared().await;
    let half = bytes()[..400].to_vec();
    let length = format!("content-length: {}", bytes().len());
    let chunk = [b"190\r\n", &half[..], b"\r\n"].concat();
    for (framing, part) in [(&*length, &half), ("transfer-encoding: chunked", &chunk)] {
        drop(begun(&server, &url, framing, part).await);
        nothing_kept(&server, &host, &declared["photo"], "the connection is gone").await;
        // Only the sending half is closed, so that the client can read the response.
        let mut stream = begun(&server, &url, framing, part).await;
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
        nothing_kept(&server, &host, &declared["photo"], "half closed").await;
    }
    right_upload_works(&server, &host, &declared).await;
}

#[tokio::test]
async fn restarted_upload_replaces_previous() {
    let (server, host, declared, url) = prepared().await;
    let mut older = begun(&server, &url, &format!("content-length: {}", bytes().len()), &bytes()[..400]).await;
    right_upload_works(&server, &host, &declared).await;
    let mut answer = Vec::new();
    let _ = older.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 409 ") && answer.contains("started again"), "{answer}");
}

#[tokio::test]
async fn times_out_stalled_upload() {
    let server = TestServer::start_with("worker.enabled = false\nuploads.idle_timeout = '200ms'").await;
    let host = server.user("alice");
    let declared = host.declare(&host.album("Slow").await, PNG, &bytes()).await;
    let url = declared["upload"]["url"].as_str().unwrap();
    let length = format!("content-length: {}", bytes().len());
    let mut stream = begun(&server, url, &length, &bytes()[..400]).await;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&answer));
    nothing_kept(&server, &host, &declared["photo"], "stalled").await;
    right_upload_works(&server, &host, &declared).await;
}
