//! What the tests stand on.

pub mod bed;
pub mod client;
pub mod contract;
pub mod process;
pub mod server;

use std::{path::PathBuf, time::Duration};

pub use client::{Answer, Client};
pub use server::TestServer;

/// The longest that a test waits for anything.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A photo from `tests/fixtures`.
pub fn fixture(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
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

/// SHA-256 as 64 hex digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
