//! Invalid and unusual images: rejected with a reason that the guest can read, or ready in the right size.

use serde_json::{Value, json};

use crate::harness::{Client, TestServer, client::id, fixture, images};

/// The result for a file.
enum End {
    /// Ready, in these dimensions.
    Ready(u64, u64),
    /// Rejected, with these words in the reason.
    Rejected(&'static str),
}
use End::{Ready, Rejected};

const JPEG: &str = "image/jpeg";
const PNG: &str = "image/png";
/// Must not occur in any rendition.
const PAYLOAD: &[u8] = b"<script>alert('payload')</script>";

/// A JPEG whose frame header states another size.
fn claiming(name: &str, width: u16, height: u16) -> Vec<u8> {
    let mut jpeg = fixture(name);
    let frame = (0..jpeg.len()).find(|&at| jpeg[at] == 0xFF && matches!(jpeg[at + 1], 0xC0 | 0xC2)).expect("a frame");
    jpeg[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
    jpeg[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
    jpeg
}

/// Reproducible noise.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 7_u32;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    })
    .take(length)
    .collect()
}

/// Name, declared type, bytes and expected result.
fn files() -> Vec<(&'static str, &'static str, Vec<u8>, End)> {
    let photo = fixture("orientation-1.jpg");
    let truncated = photo[..photo.len() / 2].to_vec();
    let zip = [&b"PK\x03\x04\x14\0\0\0\0\0"[..], PAYLOAD].concat();
    let mut png_bomb = fixture("alpha.png");
    png_bomb[16..24].copy_from_slice(&[0, 0, 0xFF, 0xFF, 0, 0, 0xFF, 0xFF]);
    vec![
        ("a photo", JPEG, photo.clone(), Ready(600, 400)),
        ("one byte", JPEG, b"x".to_vec(), Rejected("not a photo")),
        ("a PDF named .jpg", JPEG, b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n".to_vec(), Rejected("PDF")),
        ("a HEIC named .jpg", JPEG, fixture("head.heic"), Rejected("HEIC pictures are not supported yet")),
        ("a web page", JPEG, [b"<!doctype html>", PAYLOAD].concat(), Rejected("not a photo")),
        ("a PNG named .jpg", JPEG, fixture("alpha.png"), Rejected("announced as")),
        ("a JPEG named .png", PNG, fixture("orientation-2.jpg"), Rejected("announced as")),
        ("random bytes", JPEG, noise(20_000), Rejected("not a photo")),
        ("a JPEG's head and random bytes", JPEG, [&photo[..20], &noise(20_000)].concat(), Rejected("this picture")),
        ("a truncated JPEG", JPEG, truncated.clone(), Rejected("cut off")),
        ("a truncated JPEG with an end", JPEG, [&truncated[..], &[0xFF, 0xD9]].concat(), Rejected("this picture is")),
        ("a truncated PNG", PNG, fixture("alpha.png")[..9000].to_vec(), Rejected("cut off")),
        ("a JPEG bomb", JPEG, claiming("progressive.jpg", 65_000, 65_000), Rejected("too many pixels")),
        ("a hollow JPEG", JPEG, claiming("progressive.jpg", 9_000, 9_000), Rejected("cut off")),
        ("a PNG bomb", PNG, png_bomb, Rejected("too many pixels")),
        ("a JPEG without pixels", JPEG, claiming("progressive.jpg", 0, 0), Rejected("damaged")),
        ("a JPEG and an archive", JPEG, [&photo[..], &zip].concat(), Ready(600, 400)),
        ("a JPEG and a web page", JPEG, [&photo[..], b"<html>", PAYLOAD].concat(), Ready(600, 400)),
        ("one pixel", PNG, images::png(1, 1, 9), Ready(1, 1)),
        ("a thin line", PNG, images::png(1, 30_000, 9), Ready(1, 30_000)),
        ("a flat line", PNG, images::png(30_000, 1, 9), Ready(30_000, 1)),
    ]
}

#[tokio::test]
async fn classifies_unusual_files() {
    let server = TestServer::start().await;
    let host = server.user("alice");
    let album = host.album("Strange things").await;
    let guest = async |role: &str| server.bearer(&host.invite(&album, &json!({ "role": role })).await);
    let (uploader, viewer) = (guest("contribute").await, guest("view").await);
    let mut ends = Vec::new();
    for (name, content_type, bytes, end) in files() {
        ends.push((name, uploader.upload(&album, content_type, &bytes).await, end));
    }
    for (name, photo, end) in &ends {
        let photo = uploader.settled(photo).await;
        let seen = viewer.get(&format!("/v1/photos/{}", id(&photo))).await;
        match end {
            Ready(width, height) => {
                assert_eq!(photo["reject_reason"], Value::Null, "{name}");
                assert_eq!(
                    (photo["width"].as_u64(), photo["height"].as_u64()),
                    (Some(*width), Some(*height)),
                    "{name}"
                );
                check_renditions(&server, name, &photo).await;
                assert_eq!(seen.expect(200), photo);
            }
            Rejected(words) => {
                assert_eq!(photo["state"], "rejected", "{name}");
                let reason = photo["reject_reason"].as_str().unwrap();
                assert!(reason.contains(words), "{name}: {reason}");
                for unreadable in ["Error", "error:", "::", "panicked", "/", "None"] {
                    assert!(!reason.contains(unreadable), "{name}: {reason}");
                }
                let made = (&photo["renditions"], &photo["width"], &photo["placeholder"], &photo["ready_at"]);
                assert_eq!(made, (&json!([]), &Value::Null, &Value::Null, &Value::Null), "{name}");
                seen.expect(404);
            }
        }
    }
    check_events(&album, &host, &uploader, &viewer, &ends).await;
}

/// Host and uploader see all events, viewers none of rejected photos; numbers advance for all.
async fn check_events(album: &str, host: &Client, uploader: &Client, viewer: &Client, ends: &[(&str, String, End)]) {
    let mut wanted: Vec<(String, &str)> = ends
        .iter()
        .map(|(_, photo, end)| (photo.clone(), if matches!(end, Ready(..)) { "photo.ready" } else { "photo.rejected" }))
        .collect();
    wanted.sort();
    let list = format!("/v1/albums/{album}/events");
    for (who, all) in [(host, true), (uploader, true), (viewer, false)] {
        let events = who.get(&list).await.expect(200);
        assert_eq!(events["last"], ends.len());
        let text = |event: &Value, field: &str| event[field].as_str().unwrap().to_owned();
        let events = events["items"].as_array().unwrap().iter();
        let mut seen: Vec<(String, String)> =
            events.map(|event| (text(event, "photo_id"), text(event, "kind"))).collect();
        seen.sort();
        let wanted = wanted.iter().filter(|(_, kind)| all || *kind == "photo.ready");
        let wanted: Vec<_> = wanted.map(|(photo, kind)| (photo.clone(), (*kind).to_owned())).collect();
        assert_eq!(seen, wanted);
    }
}

/// Never enlarged, with the specified long edge, and without appended data.
async fn check_renditions(server: &TestServer, name: &str, photo: &Value) {
    let (width, height) = (photo["width"].as_u64().unwrap(), photo["height"].as_u64().unwrap());
    let long = width.max(height);
    let renditions = photo["renditions"].as_array().unwrap();
    assert_eq!(renditions.len(), 3, "{name}");
    for (rendition, (size, edge)) in renditions.iter().zip([("thumb", 320), ("small", 1024), ("large", 2048)]) {
        assert_eq!(rendition["name"], size);
        let told = (rendition["width"].as_u64().unwrap(), rendition["height"].as_u64().unwrap());
        assert_eq!(told.0.max(told.1), edge.min(long), "{name} {size}");
        assert!(told.0 >= 1 && told.1 >= 1 && told.0 <= width && told.1 <= height, "{name} {size} {told:?}");
        let jpeg = server.anybody().get(rendition["url"].as_str().unwrap()).await.bytes;
        assert_eq!(images::jpeg_size(&jpeg), told, "{name} {size}");
        assert!(jpeg.ends_with(&[0xFF, 0xD9]), "{name} {size}");
        for part in [PAYLOAD, b"PK\x03\x04", b"<html>"] {
            assert!(memchr::memmem::find(&jpeg, part).is_none(), "{name} {size}");
        }
    }
}

#[tokio::test]
async fn rejects_empty_and_heic_declarations() {
    let server = TestServer::start_with("worker.enabled = false").await;
    let host = server.user("alice");
    let photos = format!("/v1/albums/{}/photos", host.album("Refused").await);
    assert_eq!(host.post(&photos, &json!({ "content_type": JPEG, "bytes": 0 })).await.fields(), ["bytes"]);
    let heic = host.post(&photos, &json!({ "content_type": "image/heic", "bytes": 9 })).await.expect(415);
    assert!(heic["detail"].as_str().unwrap().contains("HEIC and AVIF are not supported yet, send JPEG"), "{heic}");
    assert_eq!(host.all(&photos).await, [Value::Null; 0]);
}
