//! What must hold for an album once its jobs have finished, whatever was killed before.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use darkroom::jobs::reconciler::{self, Report};
use sqlx::AssertSqlSafe;

use super::{Client, TestServer, database::literal, eventually};

/// Waits until every accepted photo is settled, then looks behind the service: each photo is ready or rejected exactly
/// once, the events are numbered without gap or repeat, the count is right, and after a full sweep storage holds what
/// the rows say and nothing else. The server's settings must have `reconciler.orphan_grace_period = "0s"`.
pub async fn check(server: &TestServer, host: &Client, album: &str, accepted: &[String]) {
    for photo in accepted {
        host.settled(photo).await;
    }
    settled_once(server, host, album, accepted).await;
    eventually("without render jobs", async || {
        (server.database.count("SELECT COUNT(*) FROM jobs WHERE kind = 'render_photo'").await == 0).then_some(())
    })
    .await;
    reconciler::run(&server.app, true).await.expect("a sweep");
    check_storage(server).await;
    assert_eq!(
        reconciler::run(&server.app, true).await.expect("a sweep"),
        Report::default(),
        "a second sweep finds nothing"
    );
}

async fn settled_once(server: &TestServer, host: &Client, album: &str, accepted: &[String]) {
    let query =
        format!("SELECT seq, kind, LOWER(HEX(photo_id)) FROM events WHERE album_id = {} ORDER BY seq", literal(album));
    let events: Vec<(u64, String, Option<String>)> =
        sqlx::query_as(AssertSqlSafe(query)).fetch_all(&mut server.database.connect().await).await.expect("events");
    let numbers: Vec<u64> = events.iter().map(|(seq, ..)| *seq).collect();
    assert_eq!(numbers, (1..=events.len() as u64).collect::<Vec<_>>(), "no gap and no repeat");
    let mut endings = BTreeMap::<String, Vec<&str>>::new();
    for (_, kind, photo) in &events {
        if matches!(kind.as_str(), "photo.ready" | "photo.rejected") {
            endings.entry(photo.clone().expect("a photo")).or_default().push(kind);
        }
    }
    let mut ready = 0;
    for photo in accepted {
        let endings = endings.remove(&photo.replace('-', "")).unwrap_or_default();
        assert_eq!(endings.len(), 1, "{photo} ended {endings:?}");
        ready += u64::from(endings == ["photo.ready"]);
    }
    assert!(endings.is_empty(), "events of photos that were not accepted: {endings:?}");
    let album = host.get(&format!("/v1/albums/{album}")).await.expect(200);
    assert_eq!(album["photo_count"], ready);
}

/// Checks that the storage has exactly the objects that the rows of all albums refer to.
pub async fn check_storage(server: &TestServer) {
    let rows: Vec<(uuid::Uuid, String, Option<String>)> = sqlx::query_as("SELECT id, state, renditions FROM photos")
        .fetch_all(&mut server.database.connect().await)
        .await
        .expect("photos");
    let mut wanted = BTreeSet::new();
    for (id, state, renditions) in rows {
        let id = id.to_string();
        let shard = &id[34..];
        if matches!(state.as_str(), "processing" | "ready" | "rejected") {
            wanted.insert(format!("originals/{shard}/{id}"));
        }
        let renditions: Vec<serde_json::Value> =
            renditions.map_or_else(Vec::new, |json| serde_json::from_str(&json).expect("JSON"));
        for rendition in renditions {
            wanted.insert(format!("renditions/{shard}/{id}/{}.jpg", rendition["name"].as_str().expect("a name")));
        }
    }
    assert_eq!(server.stored().await, wanted);
}

/// All files below a folder, as relative paths.
pub fn files(folder: &Path) -> BTreeSet<String> {
    fn walk(root: &Path, folder: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(root, &path, found);
            } else {
                found.insert(path.strip_prefix(root).expect("below the root").display().to_string());
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(folder, folder, &mut found);
    found
}
