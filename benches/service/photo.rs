//! The time from the response to an upload until the photo is ready, compared with imaging alone.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context;
use imaging::{Limits, MediaType, Recipe, Renderer};
use serde_json::Value;

use super::{bench_server, bench_server::BenchServer, process::Serve, storm, table, table::Times};

/// Uploads of one photo.
const ROUNDS: usize = 15;
/// Uploads of one photo in a new process.
const FIRSTS: usize = 5;
/// The larger photos, as parts of file names.
const LARGER: [&str; 2] = ["Infinite-Sea", "Kleiber"];

/// Prints the table.
pub async fn overhead(bench: &BenchServer) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    let serve = Serve::start(bench, &[]).await?;
    let album = serve.album().await?;
    for path in photos() {
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        let mut renderer = Renderer::new()?;
        let [mut ready, mut pure, mut over, mut first] = std::array::from_fn(|_| Times::default());
        for round in 0..=ROUNDS {
            let alone = develop(&mut renderer, &bytes)?;
            let took = upload(&serve, &album, &bytes).await?;
            // The first round warms up the decoder.
            if round > 0 {
                pure.add(alone);
                ready.add(took);
                over.add(took.saturating_sub(alone));
            }
        }
        for _ in 0..FIRSTS {
            let fresh = Serve::start(bench, &[]).await?;
            first.add(upload(&fresh, &fresh.album().await?, &bytes).await?);
            fresh.stop().await?;
        }
        let ms = |time: f64| format!("{time:.0}");
        let probe = imaging::probe(&bytes, MediaType::Jpeg, &Limits::default()).map_err(anyhow::Error::from)?;
        rows.push(vec![
            path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            format!("{} x {}", probe.width, probe.height),
            ms(pure.median()),
            ms(ready.median()),
            ms(over.median()),
            ms(over.p99()),
            ms(first.median() - pure.median()),
        ]);
    }
    serve.stop().await?;
    let head = [
        "photo",
        "pixels",
        "imaging alone",
        "PUT answered to ready",
        "overhead",
        "worst overhead",
        "overhead of a process's first photo",
    ];
    table::print(
        &format!("Upload to ready on an idle server, ms (medians of {ROUNDS}; goal: an overhead of at most 50):"),
        &head,
        &rows,
    );
    Ok(())
}

fn photos() -> Vec<PathBuf> {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/camera.jpg");
    let folder =
        bench_server::option("--photos").map_or_else(|| PathBuf::from("target/bench-imaging/photos"), PathBuf::from);
    let files: Vec<PathBuf> = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    let larger = LARGER.iter().filter_map(|name| {
        let found = files.iter().find(|path| path.to_string_lossy().contains(name));
        if found.is_none() {
            eprintln!("skipped: no photo named {name} in {}", folder.display());
        }
        found.cloned()
    });
    [fixture].into_iter().chain(larger).collect()
}

fn develop(renderer: &mut Renderer, bytes: &[u8]) -> anyhow::Result<Duration> {
    let started = Instant::now();
    renderer.render(bytes, MediaType::Jpeg, &Recipe::default(), &Limits::default())?;
    Ok(started.elapsed())
}

/// From the response to the PUT until the event of a long poll.
async fn upload(serve: &Serve, album: &str, bytes: &[u8]) -> anyhow::Result<Duration> {
    let events = format!("/v1/albums/{album}/events");
    let mut last = 0;
    loop {
        let seen = serve.call("GET", &format!("{events}?after={last}"), None).await?;
        if seen["last"] == last {
            break;
        }
        last = seen["last"].as_u64().unwrap_or(0);
    }
    let (id, url) = serve.declare(album, bytes.len()).await?;
    let waits = async {
        let seen = serve.call("GET", &format!("{events}?after={last}&wait=25"), None).await?;
        anyhow::Ok((seen, Instant::now()))
    };
    let sends = async {
        // The poll must be waiting first.
        tokio::time::sleep(Duration::from_millis(50)).await;
        storm::put(serve.address, &url, bytes, &[]).await?;
        anyhow::Ok(Instant::now())
    };
    let ((seen, ready), sent) = tokio::try_join!(waits, sends)?;
    let is_ready = |event: &Value| event["photo_id"] == id && event["kind"] == "photo.ready";
    anyhow::ensure!(seen["items"].as_array().is_some_and(|items| items.iter().any(is_ready)), "not ready: {seen}");
    Ok(ready.saturating_duration_since(sent))
}
