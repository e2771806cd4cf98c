//! Load on the service while something happens to its database.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::task::JoinHandle;

use crate::harness::{Client, database::Database};

/// Those who ask at a time.
pub const CLIENTS: usize = 6;
/// The pause of each between two requests.
const PAUSE: Duration = Duration::from_millis(15);

/// Clients that write and read in turn until they are told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<Request>>>,
}

/// One request.
pub struct Request {
    pub at: Instant,
    pub took: Duration,
    pub status: u16,
    /// The title of the album that it made, or asked to make.
    title: Option<String>,
}

/// What came of a load.
pub struct Outcome {
    pub requests: Vec<Request>,
}

impl Load {
    /// Begins.
    pub fn start(client: &Client) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..CLIENTS)
            .map(|number| {
                let (client, stop) = (client.clone(), stop.clone());
                tokio::spawn(async move {
                    let mut requests = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        requests.push(ask(&client, number, requests.len()).await);
                        tokio::time::sleep(PAUSE).await;
                    }
                    requests
                })
            })
            .collect();
        Self { stop, clients }
    }

    /// Stops, and collects what came of it.
    pub async fn stop(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let mut requests = Vec::new();
        for client in self.clients {
            requests.extend(client.await.expect("a client does not panic"));
        }
        requests.sort_by_key(|request| request.at);
        Outcome { requests }
    }
}

async fn ask(client: &Client, number: usize, turn: usize) -> Request {
    let at = Instant::now();
    let (answer, title) = if turn.is_multiple_of(2) {
        let title = format!("{number}-{turn}-{}", uuid::Uuid::now_v7().simple());
        (client.post("/v1/albums", &json!({ "title": title })).await, Some(title))
    } else {
        (client.get("/v1/albums?limit=5").await, None)
    };
    Request { at, took: at.elapsed(), status: answer.status.as_u16(), title }
}

impl Outcome {
    /// Requests that were not answered as on a good day.
    pub fn failed(&self) -> Vec<&Request> {
        self.requests.iter().filter(|request| !(200..300).contains(&request.status)).collect()
    }

    /// From a moment until the end of the last failure that began after it, or zero.
    pub fn recovered_after(&self, moment: Instant) -> Duration {
        let ends = self.failed().into_iter().map(|request| request.at + request.took);
        ends.max().map_or(Duration::ZERO, |last| last.saturating_duration_since(moment))
    }

    /// The longest time for a request that went well.
    pub fn slowest(&self) -> Duration {
        let good = self.requests.iter().filter(|request| (200..300).contains(&request.status));
        good.map(|request| request.took).max().unwrap_or_default()
    }

    /// Panics unless each write that was answered 2xx is in the database, once.
    pub async fn expect_kept(&self, database: &Database) {
        let mut connection = database.connect().await;
        let titles: Vec<String> =
            sqlx::query_scalar("SELECT title FROM albums").fetch_all(&mut connection).await.expect("the titles");
        let mut counts = std::collections::HashMap::<&str, usize>::new();
        for title in &titles {
            *counts.entry(title).or_default() += 1;
        }
        let written = self.requests.iter().filter(|request| request.status == 201);
        for title in written.filter_map(|request| request.title.as_deref()) {
            assert_eq!(counts.get(title), Some(&1), "{title} was answered 201");
        }
        // What was answered 503 may be there, but not twice either.
        assert!(counts.values().all(|count| *count == 1), "an album was made twice");
    }
}
