//! AWS services that respond too late: `check` and `/health` report it within their timeout, requests continue, and
//! after recovery nothing is lost or done twice. A call that timed out may still take effect later. `aws::read_model`
//! has the tests of a slow table.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    Client, TestServer, album_invariants,
    aws::{Cloud, Part},
    client::id,
    diagnostics::{check, health, row},
    eventually,
    fault_proxy::{Fault, FaultProxy},
    numbered_photo,
    process::Process,
    tiny_photo,
};

/// The advice for timeouts.
const ADVICE: &str = "is there a route to it (VPC endpoint or NAT";
/// The timeouts of a component check in `/health` and in `darkroom check`.
const LOOKS: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(10)];

/// A service, and a process with slow AWS.
pub struct Slow {
    pub server: TestServer,
    pub proxy: FaultProxy,
    pub process: Process,
}

impl Slow {
    /// Only the process has a worker.
    async fn start(cloud: &Cloud, parts: &[Part]) -> Self {
        let server =
            TestServer::start_in(cloud, parts, "worker.enabled = false\nreconciler.orphan_grace_period = \"0s\"\n")
                .await;
        Self::beside(cloud, server).await
    }

    /// Starts the process beside a service without a worker.
    pub async fn beside(cloud: &Cloud, server: TestServer) -> Self {
        let proxy = FaultProxy::start(&cloud.emulator.url).await;
        let process = Process::start(&server, "serve", &[("AWS_ENDPOINT_URL", &proxy.url)]).await;
        Self { server, proxy, process }
    }

    /// A host as client of the process.
    pub fn host(&self) -> Client {
        self.process.user(&self.server, "alice")
    }

    /// Waits until storage has no object of a photo.
    async fn purged(&self, photo: &str) {
        let left = async || self.server.stored().await.iter().any(|key| key.contains(photo));
        eventually("purged", async || (!left().await).then_some(())).await;
    }

    /// Asserts that `darkroom check` reports only this component as failing, with advice, within its timeout.
    pub async fn check_tells_of(&self, part: &str) {
        let (code, table) = check(&self.server, &[("AWS_ENDPOINT_URL", &self.proxy.url)]).await;
        let told = row(&table, part).unwrap_or_else(|| panic!("no row {part}: {table}"));
        let (first, advice) = told.split_once('\n').unwrap_or_default();
        let words: Vec<&str> = first.split_whitespace().collect();
        assert!(code == 1 && words[1] == "FAILED" && advice.contains(ADVICE), "{table}");
        assert_eq!(table.matches("FAILED").count(), 1, "{table}");
        within(LOOKS[1], Duration::from_secs_f64(words[2].parse::<f64>().expect("milliseconds") / 1e3));
    }

    /// Asserts that `/health` reports only this component as failing, with advice, within its timeout.
    pub async fn health_tells_of(&self, part: &str) {
        let told = eventually("reported in /health", async || {
            let told = health(&self.process.operations).await;
            let failing = told.as_object().expect("rows").values().filter(|row| row["status"] != "ok");
            (told[part]["status"] == "failing" && failing.count() == 1).then_some(told)
        })
        .await;
        assert!(told[part]["detail"].as_str().expect("a text").contains(ADVICE), "{told}");
        if let Some(ms) = told[part]["latency_ms"].as_f64() {
            within(LOOKS[0], Duration::from_secs_f64(ms / 1e3));
        }
    }
}

/// Timers are accurate to the millisecond; the rest is load on the machine.
#[track_caller]
fn within(budget: Duration, took: Duration) {
    assert!(took < budget + Duration::from_secs(2), "{took:?} of {budget:?}");
}

/// Longer than the attempt timeout of S3, 10 s.
#[tokio::test]
async fn slow_s3_delays_only_photos() {
    let cloud = Cloud::start().await;
    let slow = Slow::start(&cloud, &[Part::Storage, Part::Queue]).await;
    let (host, straight) = (slow.host(), slow.server.user("alice"));
    let album = host.album("Wedding").await;
    let before = host.settled(&straight.upload(&album, "image/jpeg", &numbered_photo(1)).await).await;
    let gone = straight.upload(&host.album("gone").await, "image/jpeg", &numbered_photo(1)).await;
    host.settled(&gone).await;
    slow.proxy.every_of("s3", 1, Fault::Delay(Duration::from_secs(12)));
    // Signing URLs needs no call to S3.
    let declared = host.declare(&album, "image/jpeg", &numbered_photo(2)).await;
    let photo = format!("/v1/photos/{}", id(&before));
    assert_eq!(host.get(&photo).await.expect(200), before);
    assert_eq!(host.get(&format!("{photo}/original")).await.status, 303);
    let upload = straight.declare(&album, "image/jpeg", &numbered_photo(2)).await;
    assert_eq!(id(&upload["photo"]), id(&declared["photo"]));
    straight.put(&upload["upload"], numbered_photo(2)).await.expect(200);
    host.delete(&format!("/v1/photos/{gone}")).await.expect(204);
    assert_eq!(host.get(&format!("/v1/photos/{gone}")).await.status, 404);
    tokio::join!(slow.check_tells_of("storage"), slow.health_tells_of("storage"));
    let waits = format!("/v1/photos/{}", id(&declared["photo"]));
    assert_ne!(host.get(&waits).await.expect(200)["state"], "ready");
    slow.proxy.clear_faults();
    slow.purged(&gone).await;
    album_invariants::check(&slow.server, &straight, &album, &[id(&before), id(&declared["photo"])]).await;
}

/// Longer than the timeout of a long poll, 10 s.
#[tokio::test]
async fn slow_sqs_keeps_jobs_in_database() {
    let cloud = Cloud::start().await;
    let slow = Slow::start(&cloud, &[Part::Storage, Part::Queue]).await;
    let host = slow.host();
    let album = host.album("Wedding").await;
    let gone = host.upload(&album, "image/jpeg", &numbered_photo(1)).await;
    host.settled(&gone).await;
    slow.proxy.every_of("sqs", 1, Fault::Delay(Duration::from_secs(12)));
    host.delete(&format!("/v1/photos/{gone}")).await.expect(204);
    let photo = host.upload(&album, "image/jpeg", &numbered_photo(2)).await;
    tokio::join!(slow.check_tells_of("sqs"), slow.health_tells_of("queue"));
    assert_eq!(slow.server.database.count("SELECT COUNT(*) FROM jobs WHERE kind = 'purge_photo'").await, 1);
    slow.proxy.clear_faults();
    host.settled(&photo).await;
    slow.purged(&gone).await;
    assert_eq!(host.events(&album).await.len(), 3, "two photos, each once, and one that is gone");
}

/// Longer than the attempt timeout, 3 s: each event is published several times and received once.
#[tokio::test]
async fn slow_sns_keeps_event_order() {
    let cloud = Cloud::start().await;
    let slow = Slow::start(&cloud, &[Part::Announce]).await;
    let host = slow.host();
    let album = host.album("Wedding").await;
    slow.proxy.every_of("sns", 1, Fault::Delay(Duration::from_secs(4)));
    for number in 0..3 {
        host.settled(&host.upload(&album, "image/png", &tiny_photo(number)).await).await;
    }
    assert_eq!(host.events(&album).await.len(), 3);
    tokio::join!(slow.check_tells_of("sns"), slow.health_tells_of("sns"));
    let waits =
        "SELECT COUNT(*) FROM jobs WHERE kind = 'publish_events' AND dead = FALSE AND last_error LIKE '%VPC endpoint%'";
    eventually("notified by the job", async || (slow.server.database.count(waits).await == 1).then_some(())).await;
    slow.proxy.clear_faults();
    let mut heard = Vec::new();
    while heard.len() < 3 {
        let told = cloud.received(&cloud.fifo_subscriber).await;
        let told: Value = serde_json::from_str(told.body().expect("a body")).expect("JSON");
        heard.push(told["data"]["seq"].clone());
    }
    assert_eq!(json!(heard), json!([1, 2, 3]));
}
