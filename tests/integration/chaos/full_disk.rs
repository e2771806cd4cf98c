//! The disk is full: uploads that do not fit are refused, and accepted photos wait until there is room again.

use std::{io::Write, path::Path, process::Command};

use darkroom::jobs::runner::{self, JobOutcome};
use tempfile::TempDir;

use crate::harness::{TestServer, album_invariants, client::id, database::Database, large_photo, numbered_photo, skip};

/// Fits one large photo, but not two.
const SIZE: &str = "size=32m";
const BY_HAND: &str = "worker.enabled = false\nreconciler.orphan_grace_period = \"0s\"\n";

/// A small tmpfs, unmounted when dropped.
struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// `None` if this machine does not allow mounts.
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let photos = folder.path().join("photos");
        std::fs::create_dir(&photos).expect("a folder");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", SIZE, "tmpfs"]).arg(&photos).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self { folder }),
            Ok(output) => {
                skip(&format!("a tmpfs can't be mounted: {}", String::from_utf8_lossy(&output.stderr)));
                None
            }
            Err(error) => {
                skip(&format!("`mount` can't be run: {error}"));
                None
            }
        }
    }
}

/// Unmounts the disk when dropped.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily, because the service may have open files.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

async fn server_on_a_small_disk() -> Option<(TestServer, Mounted)> {
    let disk = SmallDisk::mount()?;
    let mounted = Mounted(disk.folder.path().join("photos"));
    Some((TestServer::start_on(Database::create().await, disk.folder, BY_HAND).await, mounted))
}

/// Fills the disk up to `spare` bytes with one file.
fn fill(photos: &Path, spare: usize) -> std::path::PathBuf {
    let (filler, ballast) = (photos.join("filler"), photos.join("ballast"));
    std::fs::write(&ballast, vec![0; spare]).expect("space for the file");
    let mut file = std::fs::File::create(&filler).expect("a file");
    while file.write_all(&[0; 4096]).is_ok() {}
    std::fs::remove_file(ballast).expect("the ballast");
    filler
}

#[tokio::test]
async fn refuses_upload_on_full_disk() {
    let Some((server, _mounted)) = server_on_a_small_disk().await else { return };
    let host = server.user("alice");
    let (album, bytes) = (host.album("full").await, large_photo());
    let declared = host.declare(&album, "image/png", &bytes).await;
    let filler = fill(&server.photos(), bytes.len() / 2);
    let refused = host.put(&declared["upload"], bytes.clone()).await;
    assert_eq!(refused.status, 503);
    assert_eq!(refused.json()["detail"], "the photo cannot be stored");
    assert!(!refused.header("retry-after").is_empty());
    let photo = id(&declared["photo"]);
    assert_eq!(host.get(&format!("/v1/photos/{photo}")).await.expect(200)["state"], "awaiting_upload");
    assert_eq!(
        album_invariants::files(&server.photos()).into_iter().collect::<Vec<_>>(),
        ["filler"],
        "nothing is kept"
    );
    let health: serde_json::Value =
        reqwest::get(format!("{}/health", server.operations)).await.unwrap().json().await.unwrap();
    assert_eq!(health["dependencies"]["database"]["status"], "ok");

    std::fs::remove_file(filler).unwrap();
    host.put(&declared["upload"], bytes).await.expect(200);
    while runner::run_next(&server.app).await.unwrap() != JobOutcome::Idle {}
    album_invariants::check(&server, &host, &album, &[photo]).await;
}

#[tokio::test]
async fn retries_renditions_after_full_disk() {
    let Some((server, _mounted)) = server_on_a_small_disk().await else { return };
    let host = server.user("alice");
    let album = host.album("full").await;
    let photo = host.upload(&album, "image/jpeg", &numbered_photo(1)).await;
    let filler = fill(&server.photos(), 12 * 1024);
    for _ in 0..2 {
        let outcome = runner::run_next(&server.app).await.unwrap();
        assert!(matches!(outcome, JobOutcome::Failed(_)), "{outcome:?}");
        server.database.change("UPDATE jobs SET visible_at = UTC_TIMESTAMP(3)").await;
    }
    assert_eq!(host.get(&format!("/v1/photos/{photo}")).await.expect(200)["state"], "processing");
    assert_eq!(host.events(&album).await, []);
    assert!(
        !album_invariants::files(&server.photos()).iter().any(|path| path.starts_with("incoming")),
        "no part of a rendition"
    );

    std::fs::remove_file(filler).unwrap();
    while runner::run_next(&server.app).await.unwrap() != JobOutcome::Idle {}
    assert_eq!(host.settled(&photo).await["state"], "ready");
    album_invariants::check(&server, &host, &album, &[photo]).await;
}
