//! Concurrent clients that send requests while a test stops, kills or replaces a part of the service.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Client, database::Database, eventually};

/// The number of further requests that shows that the load continues.
const CONTINUES: usize = 100;

/// Running clients. A failed request is not repeated, neither by the client nor by the HTTP library: the library only
/// takes another connection when it finds its own closed before it has sent a byte.
#[derive(Default)]
pub struct Load {
    stop: CancellationToken,
    recorder: Recorder,
    clients: Vec<JoinHandle<Vec<String>>>,
}

/// The requests so far.
#[derive(Clone, Default)]
pub struct Recorder(Arc<Mutex<Vec<Request>>>);

#[derive(Clone)]
pub struct Request {
    pub started: Instant,
    pub duration: Duration,
    /// `None` without a response.
    pub status: Option<u16>,
    /// Why the request failed.
    pub failure: Option<String>,
    /// A long poll may take long.
    pub long_poll: bool,
}

/// The result of a load.
pub struct Outcome {
    pub requests: Vec<Request>,
    /// What each client returned, in the order of their start.
    pub results: Vec<Vec<String>>,
}

impl Load {
    /// Starts a client, which ends when the token is cancelled.
    pub fn spawn<F>(&mut self, client: impl FnOnce(Recorder, CancellationToken) -> F)
    where
        F: Future<Output = Vec<String>> + Send + 'static,
    {
        self.clients.push(tokio::spawn(client(self.recorder.clone(), self.stop.clone())));
    }

    /// Starts clients that alternately create an album and list albums. Each returns the titles of the albums whose
    /// creation was answered 201.
    pub fn of_albums(client: &Client, clients: usize) -> Self {
        let mut load = Self::default();
        for _ in 0..clients {
            load.spawn(|recorder, stop| create_and_list_albums(client.clone(), recorder, stop));
        }
        load
    }

    /// Waits for further requests.
    pub async fn continues(&self) {
        let count = || self.recorder.0.lock().unwrap().len();
        let before = count();
        eventually("further requests", async || (count() >= before + CONTINUES).then_some(())).await;
    }

    /// Stops all clients and waits for them.
    pub async fn stop(self) -> Outcome {
        self.stop.cancel();
        let mut results = Vec::new();
        for client in self.clients {
            results.push(client.await.expect("the client does not panic"));
        }
        let requests = self.recorder.0.lock().unwrap().clone();
        Outcome { requests, results }
    }
}

impl Recorder {
    /// Sends a request; returns the body of a successful response.
    pub async fn send(&self, client: &Client, request: RequestBuilder, long_poll: bool) -> Option<Value> {
        let started = Instant::now();
        let (status, failure, body) = match client.try_send(request).await {
            Ok(answer) if answer.status.is_success() => (Some(answer.status.as_u16()), None, Some(answer.json())),
            Ok(answer) => (Some(answer.status.as_u16()), Some(format!("{}: {}", answer.status, answer.json())), None),
            Err(error) => (None, Some(format!("{error:?}")), None),
        };
        self.0.lock().unwrap().push(Request { started, duration: started.elapsed(), status, failure, long_poll });
        body
    }
}

impl Outcome {
    /// Requests without a successful response.
    pub fn failed(&self) -> Vec<&Request> {
        self.requests.iter().filter(|request| request.failure.is_some()).collect()
    }

    /// From `moment` to the end of the last failed request; zero if all ended earlier.
    pub fn recovered_after(&self, moment: Instant) -> Duration {
        let ends = self.failed().into_iter().map(|request| request.started + request.duration);
        ends.max().map_or(Duration::ZERO, |last| last.saturating_duration_since(moment))
    }

    /// The longest duration of a successful request, without long polls.
    pub fn slowest(&self) -> Duration {
        let successful = self.requests.iter().filter(|request| !request.long_poll && request.failure.is_none());
        successful.map(|request| request.duration).max().unwrap_or_default()
    }

    /// Asserts that the database has each album of [`Load::of_albums`] that was answered 201, and none twice.
    pub async fn assert_albums_kept(&self, database: &Database) {
        let mut connection = database.connect().await;
        let titles: Vec<String> =
            sqlx::query_scalar("SELECT title FROM albums").fetch_all(&mut connection).await.expect("the titles");
        let mut counts = std::collections::HashMap::<&str, usize>::new();
        for title in &titles {
            *counts.entry(title).or_default() += 1;
        }
        for title in self.results.iter().flatten() {
            assert_eq!(counts.get(title.as_str()), Some(&1), "{title} was answered 201");
        }
        // An album that was answered 503 may exist, but only once.
        assert!(counts.values().all(|count| *count == 1), "an album was created twice");
    }
}

async fn create_and_list_albums(client: Client, recorder: Recorder, stop: CancellationToken) -> Vec<String> {
    /// Between two requests.
    const PAUSE: Duration = Duration::from_millis(15);
    let mut created = Vec::new();
    while !stop.is_cancelled() {
        let title = uuid::Uuid::now_v7().to_string();
        let create = client.request(Method::POST, "/v1/albums").json(&json!({ "title": title }));
        created.extend(recorder.send(&client, create, false).await.map(|_| title));
        tokio::time::sleep(PAUSE).await;
        recorder.send(&client, client.request(Method::GET, "/v1/albums?limit=5"), false).await;
        tokio::time::sleep(PAUSE).await;
    }
    created
}
