//! The test harness: servers, clients, fake services and images.

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
pub mod load;
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

/// The timeout of every wait.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// A file of `tests/fixtures`.
pub fn fixture(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A JPEG of the same image with different bytes for each number: the number is in a comment.
pub fn numbered_photo(number: u32) -> Vec<u8> {
    let mut jpeg = fixture("progressive.jpg");
    let comment = [&[0xff, 0xfe, 0, 6][..], &number.to_be_bytes()].concat();
    jpeg.splice(2..2, comment);
    jpeg
}

/// A PNG of 8x8 pixels, different for each number.
pub fn tiny_photo(number: u32) -> Vec<u8> {
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

/// A PNG of noise, 7.7 MB.
pub fn large_photo() -> Vec<u8> {
    const SIDE: u32 = 1600;
    png_of(SIDE, SIDE, &noise((SIDE * SIDE * 3) as usize))
}

/// A PNG of 16 megapixels of black and white noise, which takes about 0.3 s of processor time to decode.
pub fn slow_photo() -> Vec<u8> {
    const SIDE: u32 = 4000;
    /// The noise repeats after this many rows, which is beyond the window of PNG's compression.
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

/// Reproducible noise, by xorshift.
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

/// Whether load and failure tests run at full length: `make test-full`.
pub fn is_full_run() -> bool {
    std::env::var("TEST_FULL").is_ok_and(|value| value == "1")
}

/// Reports that this machine can't run a test. With `REQUIRE_ALL=1`, as in CI, it panics.
pub fn skip(reason: &str) {
    let required = std::env::var("REQUIRE_ALL").is_ok_and(|value| value == "1");
    assert!(!required, "skipped although all tests are required: {reason}");
    eprintln!("skipped: {reason}");
}

/// Polls `ask` until it returns a value; panics at the deadline.
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

/// Settings with long timeouts, for tests that send many concurrent requests and expect all of them to succeed.
pub const LONG_TIMEOUTS: &str = "worker.enabled = false\ndatabase.acquire_timeout = '1m'\ndatabase.transaction_timeout = '1m'\n\
                           http.request_timeout = '1m'\nlimits.target_queue_delay = '1m'\n";

/// SHA-256 as 64 hex digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    darkroom::domain::Sha256(digest.as_ref().try_into().expect("32 bytes")).to_string()
}
