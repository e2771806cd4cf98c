//! What the tests stand on.

pub mod album_invariants;
pub mod api_gateway;
pub mod aws;
pub mod aws_account;
pub mod aws_api;
pub mod certificates;
pub mod client;
pub mod cloudfront;
pub mod database;
pub mod diagnostics;
pub mod fault_proxy;
pub mod haproxy;
pub mod iam;
pub mod images;
pub mod instance_metadata;
pub mod isolated_root;
pub mod lambda;
pub mod openapi;
pub mod process;
pub mod rds;
pub mod reachability;
pub mod read_model;
pub mod rogue_database;
pub mod server;
pub mod stacks;
pub mod tcp_proxy;
pub mod template;
pub mod template_resources;
mod tests;
pub mod tools;
pub mod webhook;

use std::{path::PathBuf, sync::LazyLock, time::Duration};

pub use client::{Answer, Client};
pub use server::TestServer;
pub use webhook::Webhook;

/// The longest that a test waits for anything.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// A photo from `tests/fixtures`.
pub fn fixture(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The same picture as other bytes for each number: a JPEG with a comment of its own.
pub fn numbered(number: u32) -> Vec<u8> {
    let mut jpeg = fixture("progressive.jpg");
    let comment = [&[0xff, 0xfe, 0, 6][..], &number.to_be_bytes()].concat();
    jpeg.splice(2..2, comment);
    jpeg
}

/// A picture of a few pixels that no other number has.
pub fn tiny(number: u32) -> Vec<u8> {
    png_of(8, 8, &[&number.to_be_bytes()[..], &[128; 8 * 8 * 3 - 4]].concat())
}

fn png_of(width: u32, height: u32, pixels: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::Fastest);
    let mut writer = encoder.write_header().expect("a header");
    writer.write_image_data(pixels).expect("pixels");
    writer.finish().expect("an end");
    bytes
}

/// A PNG of noise with 7.7 MB.
pub fn large_photo() -> Vec<u8> {
    const SIDE: u32 = 1600;
    png_of(SIDE, SIDE, &noise((SIDE * SIDE * 3) as usize))
}

/// A PNG that keeps a decoder busy for some 0.3 s of processor time: 16 megapixels of noise in black and white.
pub fn slow_photo() -> Vec<u8> {
    const SIDE: u32 = 4000;
    /// Rows of noise that repeat; together they are longer than what a PNG's compression looks back to.
    const ROWS: u32 = 16;
    static PHOTO: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut rows = noise((SIDE * ROWS * 3) as usize);
        for sample in &mut rows {
            *sample = if *sample < 128 { 0 } else { 255 };
        }
        png_of(SIDE, SIDE, &rows.repeat((SIDE / ROWS) as usize))
    });
    PHOTO.clone()
}

/// Noise that is the same in each run, by xorshift.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    })
    .take(length)
    .collect()
}

/// Whether load and failure cases run at full length: `make test-full`.
pub fn is_full_run() -> bool {
    std::env::var("TEST_FULL").is_ok_and(|value| value == "1")
}

/// Notes that this machine can't run a test, and why. With `REQUIRE_ALL=1`, as in CI, that is a failure.
///
/// # Panics
/// If all tests are required.
pub fn skip(reason: &str) {
    let required = std::env::var("REQUIRE_ALL").is_ok_and(|value| value == "1");
    assert!(!required, "skipped although all tests are required: {reason}");
    eprintln!("skipped: {reason}");
}

/// Asks again and again until there is an answer, or panics at the deadline.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = tokio::time::Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begun.elapsed() < DEADLINE, "after {DEADLINE:?}: not yet {what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// Settings of a service to which many come at once, and which serves each of them in the end: none is turned away for how long
/// that takes.
pub const PATIENT: &str = "worker.enabled = false\ndatabase.acquire_timeout = '1m'\ndatabase.transaction_timeout = '1m'\n\
                           http.request_timeout = '1m'\nlimits.target_queue_delay = '1m'\n";

/// SHA-256 as 64 hex digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    darkroom::domain::Sha256(digest.as_ref().try_into().expect("32 bytes")).to_string()
}
