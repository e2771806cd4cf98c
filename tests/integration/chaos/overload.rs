//! More requests than the service can serve: the number that is served in time stays, the rest is answered 503 at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::harness::{DEADLINE, TestServer, process::Process};

/// A client waits this long for its response.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(1);
/// The duration of a load.
const LOAD_DURATION: Duration = Duration::from_secs(4);
/// The number of comparisons. One may be disturbed by other processes of the machine; the majority must hold.
const SAMPLES: usize = 3;
/// Each new album occupies a database connection for this many seconds, so that the database limits the service and
/// the processor has time to answer 503.
const SECONDS_PER_ALBUM: &str = "0.1";
const CONNECTIONS: u32 = 4;

/// The results of the requests of one load.
#[derive(Debug, Default)]
struct Tally {
    created: AtomicU64,
    /// Answered 503 with `retry-after`.
    shed: AtomicU64,
    timed_out: AtomicU64,
    failed: AtomicU64,
}

impl Tally {
    fn read(&self) -> [u64; 4] {
        [&self.created, &self.shed, &self.timed_out, &self.failed].map(|count| count.load(Ordering::Relaxed))
    }
}

/// A service that is limited by its database, as if that were remote.
async fn start_slow_service(more: &[(&str, &str)]) -> (TestServer, Process) {
    let server = TestServer::start_with("worker.enabled = false").await;
    let trigger = format!("CREATE TRIGGER slow BEFORE INSERT ON albums FOR EACH ROW DO SLEEP({SECONDS_PER_ALBUM})");
    let trigger = sqlx::raw_sql(sqlx::AssertSqlSafe(trigger));
    trigger.execute(&mut server.database.connect().await).await.expect("a trigger");
    let connections = CONNECTIONS.to_string();
    let mut settings = vec![("DARKROOM_DATABASE_MAX_CONNECTIONS", connections.as_str())];
    settings.extend(more);
    let process = Process::start(&server, "serve", &settings).await;
    (server, process)
}

/// Creates an album, without a retry.
async fn create_album(client: &reqwest::Client, url: &str, token: &str, tally: &Tally) {
    let request = client.post(url).bearer_auth(token).header("content-type", "application/json");
    let count = match timeout(CLIENT_TIMEOUT, request.body(r#"{"title":"crowd"}"#).send()).await {
        Err(_) => &tally.timed_out,
        Ok(Ok(answer)) if answer.status() == 201 => &tally.created,
        Ok(Ok(answer)) if answer.status() == 503 && answer.headers().contains_key("retry-after") => &tally.shed,
        Ok(_) => &tally.failed,
    };
    count.fetch_add(1, Ordering::Relaxed);
}

/// An open load: sends this many requests a second, whether earlier ones are answered or not.
async fn send_at_rate(process: &Process, server: &TestServer, per_second: f64) -> Arc<Tally> {
    let (client, url) = (reqwest::Client::new(), format!("{}/v1/albums", process.url));
    let token = server.identity.token("alice").unwrap();
    let (tally, requests) = (Arc::<Tally>::default(), TaskTracker::new());
    let started = Instant::now();
    let mut next = started;
    while started.elapsed() < LOAD_DURATION {
        sleep_until(next).await;
        next += Duration::from_secs_f64(1.0 / per_second);
        let (client, url, token, tally) = (client.clone(), url.clone(), token.clone(), tally.clone());
        requests.spawn(async move { create_album(&client, &url, &token, &tally).await });
    }
    requests.close();
    requests.wait().await;
    tally
}

/// A closed load of two clients for each connection keeps the database busy: the peak rate.
async fn measure_peak(process: &Process, server: &TestServer) -> f64 {
    let (client, url) = (reqwest::Client::new(), format!("{}/v1/albums", process.url));
    let token = server.identity.token("alice").unwrap();
    let tally = Tally::default();
    let started = Instant::now();
    let one = || async {
        while started.elapsed() < LOAD_DURATION {
            create_album(&client, &url, &token, &tally).await;
        }
    };
    futures_util::future::join_all((0..2 * CONNECTIONS).map(|_| one())).await;
    let [created, ..] = tally.read();
    rate(created, started.elapsed())
}

#[expect(clippy::cast_precision_loss, reason = "a count for a table")]
fn rate(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// Measures the peak, five times the peak, and five times the peak without limits; prints a table. Returns whether
/// five times the peak was more than the service serves, and did not reduce what it serves in time.
async fn limits_hold() -> bool {
    let (server, process) = start_slow_service(&[]).await;
    let peak = measure_peak(&process, &server).await;
    println!("peak: {peak:.0} albums a second");
    println!(
        "| load | created per second | of the peak | answered 503 | timed out | failed |\n|---|---|---|---|---|---|"
    );
    let row = |load: &str, [created, shed, timed_out, failed]: [u64; 4]| {
        let created = rate(created, LOAD_DURATION);
        let share = created / peak;
        println!("| {load} | {created:.0} | {share:.2} | {shed} | {timed_out} | {failed} |");
        share
    };
    let tally = send_at_rate(&process, &server, peak).await;
    row("1 time the peak", tally.read());
    let tally = send_at_rate(&process, &server, 5.0 * peak).await;
    let share = row("5 times", tally.read());
    let [_, shed, _, failed] = tally.read();
    assert_eq!(failed, 0, "each request is created, shed or timed out");
    drop(process);
    // The limits can't be turned off; these are beyond the load.
    let unlimited = [
        ("DARKROOM_LIMITS_MAX_CONCURRENT_REQUESTS", "100000"),
        ("DARKROOM_LIMITS_TARGET_QUEUE_DELAY", "1h"),
        ("DARKROOM_DATABASE_ACQUIRE_TIMEOUT", "10s"),
    ];
    let (server, process) = start_slow_service(&unlimited).await;
    let tally = send_at_rate(&process, &server, 5.0 * peak).await;
    let unlimited_share = row("5 times, no limit", tally.read());
    shed > 0 && share > unlimited_share && share > 0.5
}

#[tokio::test(flavor = "multi_thread")]
async fn sheds_five_times_its_capacity() {
    let mut held = Vec::new();
    for _ in 0..SAMPLES {
        held.push(limits_hold().await);
    }
    let holds = held.iter().filter(|held| **held).count();
    assert!(2 * holds > SAMPLES, "the limits held in {holds} of {SAMPLES} samples: see the tables");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_health_checks_under_overload() {
    let (server, process) = start_slow_service(&[]).await;
    let overloaded = CancellationToken::new();
    let load = async {
        let started = Instant::now();
        loop {
            let tally = send_at_rate(&process, &server, 1000.0).await;
            let [_, shed, ..] = tally.read();
            if shed > 0 {
                return overloaded.cancel();
            }
            assert!(started.elapsed() < DEADLINE, "no request was answered 503: {tally:?}");
        }
    };
    let checks = async {
        let (client, mut answered) = (reqwest::Client::new(), 0);
        while !overloaded.is_cancelled() {
            for path in ["live", "ready"] {
                // An NLB waits 6 s for the response of an HTTP health check by default.
                let check = client.get(format!("{}/health/{path}", process.url)).timeout(Duration::from_secs(6));
                assert_eq!(check.send().await.expect("an answer").status(), 200, "after {answered} checks");
                answered += 1;
            }
        }
    };
    tokio::join!(load, checks);
}
