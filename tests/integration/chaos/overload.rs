//! More requests than can be served: what is served in time stays the same, the rest is turned away at once.

use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::TaskTracker;

use crate::harness::{TestServer, process::Process};

/// Who waits for longer has gone away.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long each load lasts.
const LASTS: Duration = Duration::from_secs(4);
/// How often a load is tried until it is more than is served in time and the same as before: what else the machine does just then
/// has its clients give up before they are told so.
const LOADS: usize = 4;
/// Every album that is made takes the database so long, in seconds; with this many connections. So long that what turns the others
/// away, and asks, is not what the machine lacks time for.
const EACH: &str = "0.1";
const CONNECTIONS: u32 = 4;

/// What became of the requests of one load.
#[derive(Debug, Default)]
struct Tally {
    good: AtomicU64,
    shed: AtomicU64,
    late: AtomicU64,
    failed: AtomicU64,
}

impl Tally {
    fn read(&self) -> [u64; 4] {
        [&self.good, &self.shed, &self.late, &self.failed].map(|count| count.load(Ordering::Relaxed))
    }
}

/// A service whose database, not its processor, is the bottleneck, as where it is a network away.
async fn slow_service(more: &[(&str, &str)]) -> (TestServer, Process) {
    let server = TestServer::start_with("worker.enabled = false").await;
    let trigger = format!("CREATE TRIGGER slow BEFORE INSERT ON albums FOR EACH ROW DO SLEEP({EACH})");
    let trigger = sqlx::raw_sql(sqlx::AssertSqlSafe(trigger));
    trigger.execute(&mut server.database.connect().await).await.expect("a trigger");
    let connections = CONNECTIONS.to_string();
    let mut settings = vec![("DARKROOM_DATABASE_MAX_CONNECTIONS", connections.as_str())];
    settings.extend(more);
    let process = Process::start(&server, "serve", &settings).await;
    (server, process)
}

/// Makes an album, as a client that does not wait for long and does not come back.
async fn ask(client: &reqwest::Client, url: &str, token: &str, tally: &Tally) {
    let request = client.post(url).bearer_auth(token).header("content-type", "application/json");
    let count = match timeout(PATIENCE, request.body(r#"{"title":"crowd"}"#).send()).await {
        Err(_) => &tally.late,
        Ok(Ok(answer)) if answer.status() == 201 => &tally.good,
        Ok(Ok(answer)) if answer.status() == 503 && answer.headers().contains_key("retry-after") => &tally.shed,
        Ok(_) => &tally.failed,
    };
    count.fetch_add(1, Ordering::Relaxed);
}

/// So many requests a second, whether the ones before are answered or not.
async fn crowd(process: &Process, server: &TestServer, per_second: f64) -> Arc<Tally> {
    let (client, url) = (reqwest::Client::new(), format!("{}/v1/albums", process.url));
    let token = server.identity.token("alice").unwrap();
    let (tally, asking) = (Arc::<Tally>::default(), TaskTracker::new());
    let begun = Instant::now();
    let mut next = begun;
    while begun.elapsed() < LASTS {
        sleep_until(next).await;
        next += Duration::from_secs_f64(1.0 / per_second);
        let (client, url, token, tally) = (client.clone(), url.clone(), token.clone(), tally.clone());
        asking.spawn(async move { ask(&client, &url, &token, &tally).await });
    }
    asking.close();
    asking.wait().await;
    tally
}

/// As many clients as there are connections keep the database as busy as it can be: the peak.
async fn peak(process: &Process, server: &TestServer) -> f64 {
    let (client, url) = (reqwest::Client::new(), format!("{}/v1/albums", process.url));
    let token = server.identity.token("alice").unwrap();
    let tally = Tally::default();
    let begun = Instant::now();
    let one = || async {
        while begun.elapsed() < LASTS {
            ask(&client, &url, &token, &tally).await;
        }
    };
    futures_util::future::join_all((0..2 * CONNECTIONS).map(|_| one())).await;
    let [good, ..] = tally.read();
    rate(good, begun.elapsed())
}

#[expect(clippy::cast_precision_loss, reason = "a count for a table")]
fn rate(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// Once the peak, five times that, and the same without the limits: a table, and whether what is served stayed.
async fn compare() -> (String, bool) {
    let (server, process) = slow_service(&[]).await;
    let top = peak(&process, &server).await;
    let mut table = format!(
        "peak: {top:.0} albums a second\n| load | good a second | of the peak | turned away | too late | failed |\n|---|---|---|---|---|---|\n"
    );
    let mut line = |what: &str, [good, shed, late, failed]: [u64; 4]| {
        let good = rate(good, LASTS);
        let share = good / top;
        writeln!(table, "| {what} | {good:.0} | {share:.2} | {shed} | {late} | {failed} |").expect("a string");
        share
    };
    let tally = crowd(&process, &server, top).await;
    line("1 time the peak", tally.read());
    let tally = crowd(&process, &server, 5.0 * top).await;
    let share = line("5 times", tally.read());
    let [_, shed, _, failed] = tally.read();
    drop(process);
    // The same without the door, as far as that can be: everybody comes in, and may wait for as long as before.
    let open = [
        ("DARKROOM_LIMITS_MAX_CONCURRENT_REQUESTS", "100000"),
        ("DARKROOM_LIMITS_TARGET_QUEUE_DELAY", "1h"),
        ("DARKROOM_DATABASE_ACQUIRE_TIMEOUT", "10s"),
    ];
    let (server, process) = slow_service(&open).await;
    let without = line("5 times, no limit", crowd(&process, &server, 5.0 * top).await.read());
    assert_eq!(failed, 0, "{table}");
    (table, shed > 0 && share > without && share > 0.5)
}

#[tokio::test(flavor = "multi_thread")]
async fn sheds_five_times_its_capacity() {
    let mut tables = String::new();
    for _ in 0..LOADS {
        let (table, stayed) = compare().await;
        println!("{table}");
        // Figures belong to the machine. What may not be: a service that always does less the more is asked of it.
        if stayed {
            return;
        }
        tables += &table;
    }
    panic!("{tables}");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_health_checks_under_overload() {
    let (server, process) = slow_service(&[]).await;
    let mut tallies = Vec::new();
    for _ in 0..LOADS {
        // A balancer's own time for an answer is 6 s; what would be too much is to be turned away.
        let (crowd, client) = (crowd(&process, &server, 1000.0), reqwest::Client::new());
        let checks = async {
            let begun = Instant::now();
            let mut checks = 0;
            while begun.elapsed() < LASTS {
                for path in ["live", "ready"] {
                    let check = client.get(format!("{}/health/{path}", process.url)).timeout(Duration::from_secs(6));
                    assert_eq!(check.send().await.expect("an answer").status(), 200, "after {checks}");
                    checks += 1;
                }
            }
        };
        let (tally, ()) = tokio::join!(crowd, checks);
        let [_, shed, ..] = tally.read();
        if shed > 0 {
            return;
        }
        tallies.push(tally);
    }
    panic!("nobody was turned away: {tallies:?}");
}
