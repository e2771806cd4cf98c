//! A hundred concurrent uploads of 20 MB.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use super::{
    bench_server::{self, BenchServer},
    process::{Peaks, Serve},
    table,
};

/// Size of one upload.
const BYTES: usize = 20_000_000;
/// Two workers and two decoder processes.
const SETTINGS: [(&str, &str); 2] = [("DARKROOM_WORKER_CONCURRENCY", "2"), ("DARKROOM_IMAGING_PROCESSES", "2")];
/// The sampling interval of memory.
const LOOK: std::time::Duration = std::time::Duration::from_millis(20);

/// Prints the table: for bytes with only a JPEG header, and for a photo with appended data.
pub async fn run(bench: &BenchServer) -> anyhow::Result<()> {
    let uploads = bench_server::number("--uploads", 100) as usize;
    let photo = include_bytes!("../../tests/fixtures/camera.jpg");
    let mut rows = Vec::new();
    for (name, head) in [("random, rejected", &photo[..64]), ("a photo and padding, ready", &photo[..])] {
        let mut bytes = noise(BYTES);
        bytes[..head.len()].copy_from_slice(head);
        rows.push(storm(bench, name, Arc::new(bytes), uploads).await?);
    }
    let head = [
        "bytes",
        "answered 200",
        "seconds",
        "peak of serve, MB",
        "peaks of its children, MB",
        "sum, MB",
        "together at one moment, MB",
        "goal",
    ];
    table::print(&format!("{uploads} uploads of 20 MB at once, 2 workers:"), &head, &rows);
    Ok(())
}

async fn storm(bench: &BenchServer, name: &str, bytes: Arc<Vec<u8>>, uploads: usize) -> anyhow::Result<Vec<String>> {
    let serve = Serve::start(bench, &SETTINGS).await?;
    let album = serve.album().await?;
    let (mut urls, mut peaks) = (Vec::new(), Peaks::default());
    for _ in 0..uploads {
        urls.push(serve.declare(&album, BYTES).await?.1);
    }
    let (started, mut sending) = (Instant::now(), JoinSet::new());
    for (number, url) in urls.into_iter().enumerate() {
        let (bytes, address) = (bytes.clone(), serve.address);
        sending.spawn(async move { put(address, &url, &bytes[..BYTES - 8], &number.to_le_bytes()).await });
    }
    let mut answered = 0;
    while !sending.is_empty() {
        peaks.look(&serve);
        tokio::select! {
            Some(outcome) = sending.join_next() => {
                outcome??;
                answered += 1;
            }
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    let took = started.elapsed();
    while unsettled(&serve, &album).await? {
        peaks.look(&serve);
        tokio::time::sleep(LOOK).await;
    }
    let row = vec![
        name.to_owned(),
        format!("{answered} of {uploads}"),
        format!("{:.1}", took.as_secs_f64()),
        format!("{:.0}", peaks.own()),
        format!("{:.0}", peaks.children()),
        format!("{:.0}", peaks.own() + peaks.children()),
        format!("{:.0}", peaks.together),
        "under 250".to_owned(),
    ];
    serve.call("DELETE", &format!("/v1/albums/{album}"), None).await?;
    serve.stop().await?;
    Ok(row)
}

/// Whether a photo is still unprocessed.
async fn unsettled(serve: &Serve, album: &str) -> anyhow::Result<bool> {
    let list = serve.call("GET", &format!("/v1/albums/{album}/photos?state=processing&limit=1"), None).await?;
    Ok(list["items"].as_array().is_some_and(|items| !items.is_empty()))
}

/// Uploads a JPEG in two parts over its own connection; fails unless the response is 200.
pub async fn put(address: SocketAddr, url: &str, bytes: &[u8], rest: &[u8]) -> anyhow::Result<()> {
    let path = url::Url::parse(url)?;
    let path = format!("{}?{}", path.path(), path.query().unwrap_or_default());
    let length = bytes.len() + rest.len();
    let head = format!(
        "PUT {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: image/jpeg\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    for part in [head.as_bytes(), bytes, rest] {
        stream.write_all(part).await?;
    }
    // The status line suffices.
    let mut answer = [0; 512];
    let read = stream.read(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer[..read]);
    anyhow::ensure!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    Ok(())
}

/// Reproducible incompressible bytes (xorshift64).
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(length).collect()
}
