//! Compares the read model with the database: one process without the read model, and one without a database.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Client, TestServer, eventually, process::Process};

/// A variable that points to no database.
pub const NOWHERE: (&str, &str) = ("DARKROOM_DATABASE_SOCKET", "/nowhere/mysqld.sock");
/// A variable that turns the worker off.
pub const NO_WORKER: (&str, &str) = ("DARKROOM_WORKER_ENABLED", "false");

/// Two processes beside a server.
pub struct ReadModelComparison {
    /// Without a read model.
    pub plain: Process,
    /// Without a database.
    pub model: Process,
}

impl ReadModelComparison {
    /// Starts both beside a server.
    pub async fn start(server: &TestServer) -> Self {
        // With the same public URL, so that signed URLs are equal.
        let address = ("DARKROOM_HTTP_PUBLIC_URL", &*server.url);
        let off = [("DARKROOM_READ_MODEL_KIND", "none"), ("DARKROOM_READ_MODEL_TABLE", "")];
        let plain = Process::start(server, "serve", &[address, NO_WORKER, off[0], off[1]]).await;
        let waits = ("DARKROOM_DATABASE_ACQUIRE_TIMEOUT", "200ms");
        let model = Process::start(server, "serve", &[address, NO_WORKER, NOWHERE, waits]).await;
        Self { plain, model }
    }

    /// Waits until a viewer's pages are equal in both processes; returns their photos.
    pub async fn same(&self, what: &str, token: &str, album: &str) -> Vec<Value> {
        let [plain, model] =
            [&self.plain, &self.model].map(|process| Client::new(&process.url, Some(token.to_owned())));
        let both = async |path: &str| {
            [plain.get(path).await, model.get(path).await].map(|answer| (answer.status, answer.bytes))
        };
        // Path by path, so that a slow table only repeats one of them.
        for path in pages(&plain, album).await.keys() {
            eventually(&format!("{what}: {path}"), async || {
                let [wanted, shown] = both(path).await;
                assert_eq!(wanted.0, 200, "{path}");
                (shown == wanted).then_some(())
            })
            .await;
        }
        plain.all(&format!("/v1/albums/{album}/photos?limit=2")).await
    }
}

/// Status and body of an album's pages in both orders, by path.
pub async fn pages(viewer: &Client, album: &str) -> BTreeMap<String, (u16, String)> {
    let mut pages = BTreeMap::new();
    let mut keep = async |path: &str| {
        let answer = viewer.get(path).await;
        let next = answer.json()["next_cursor"].as_str().map(str::to_owned);
        pages.insert(path.to_owned(), (answer.status.as_u16(), String::from_utf8(answer.bytes).expect("text")));
        next
    };
    let path = format!("/v1/albums/{album}");
    keep(&path).await;
    for query in ["limit=2", "limit=2&order=oldest", "state=ready", "visibility=visible&order=newest"] {
        let mut next = keep(&format!("{path}/photos?{query}")).await;
        while let Some(cursor) = next {
            next = keep(&format!("{path}/photos?{query}&cursor={cursor}")).await;
        }
    }
    pages
}
