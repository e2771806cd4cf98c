//! Failures of the database server under load: how many requests fail, how soon the service recovers, and that no
//! answered write is lost.

use std::{
    fmt::Write as _,
    io::Write as _,
    time::{Duration, Instant},
};

use super::{CLIENTS, Service, granted, pairs, settings};
use crate::harness::{
    Client, eventually,
    iam::Key,
    load::{Load, Outcome},
    rds::{HOST, Rds},
    tcp_proxy::TcpProxy,
};

/// The duration of the load before and after a failure.
const STEADY: Duration = Duration::from_secs(1);

/// The service must recover within this time.
const RECOVERY: Duration = Duration::from_secs(10);

/// The table of results.
struct Table {
    text: String,
}

impl Table {
    /// Adds a row; panics unless the service recovered in time, and failed requests were answered 503.
    fn row(&mut self, what: &str, outcome: &Outcome, begun: Instant, over: Instant) {
        let (all, failed) = (outcome.requests.len(), outcome.failed().len());
        let lasted = over.duration_since(begun);
        let (after, slowest) = (outcome.recovered_after(over), outcome.slowest());
        assert!(after < RECOVERY, "{what}: not well before {after:?}");
        assert!(outcome.failed().iter().all(|request| request.status == Some(503)), "{what}: a broken answer");
        writeln!(
            self.text,
            "| {what} | {:.1} | {all} | {failed} | {:.1} | {:.1} |",
            lasted.as_secs_f64(),
            after.as_secs_f64(),
            slowest.as_secs_f64()
        )
        .unwrap();
    }
}

/// Waits for ten successful responses in a row.
async fn good_again(client: &Client) {
    let mut good = 0;
    eventually("healthy again", async || {
        good = if client.get("/v1/albums").await.status == 200 { good + 1 } else { 0 };
        (good == 10).then_some(())
    })
    .await;
}

#[tokio::test]
async fn keeps_answered_writes_through_failures() {
    let (mut writer, key) = (Rds::start_source().await, Key::long_lived());
    let mut standby = writer.replica().await;
    let switch = TcpProxy::start(&format!("127.0.0.1:{}", writer.port())).await;
    writer.iam().add_hosts(&[format!("{HOST}:{}", switch.port())]);
    writer.iam().allow(&key, &["tested"]);
    let database = writer.database().await;
    writer.create_user("tested", &granted("darkroom_app", &database.name)).await;
    let mut more = key.environment();
    more.extend(pairs(&[("PORT", &switch.port().to_string()), ("ACQUIRE_TIMEOUT", "4s")]));
    let service = Service::start_on(database, &settings(&writer, "tested", &more)).await;
    let host = service.user("alice");
    let mut table = Table { text: String::new() };
    let run_in = async || {
        let load = Load::of_albums(&host, CLIENTS);
        tokio::time::sleep(STEADY).await;
        (load, Instant::now())
    };
    let run_out = async |load: Load| {
        good_again(&host).await;
        tokio::time::sleep(STEADY).await;
        load.stop().await
    };

    let (load, begun) = run_in().await;
    writer.stop().await;
    writer.restart().await;
    let over = Instant::now();
    let restarted = run_out(load).await;
    table.row("restart", &restarted, begun, over);
    restarted.assert_albums_kept(&service.beside.database).await;

    let (load, begun) = run_in().await;
    writer.kill().await;
    writer.restart().await;
    let over = Instant::now();
    let killed = run_out(load).await;
    table.row("SIGKILL and restart", &killed, begun, over);
    killed.assert_albums_kept(&service.beside.database).await;

    let (load, begun) = run_in().await;
    writer.freeze().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    writer.thaw();
    let over = Instant::now();
    let frozen = run_out(load).await;
    table.row("SIGSTOP for 10 s", &frozen, begun, over);
    frozen.assert_albums_kept(&service.beside.database).await;

    let (load, begun) = run_in().await;
    writer.read_only(true).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    writer.read_only(false).await;
    let over = Instant::now();
    let read_only = run_out(load).await;
    table.row("read_only for 5 s", &read_only, begun, over);
    read_only.assert_albums_kept(&service.beside.database).await;

    let (load, begun) = run_in().await;
    switch.cut();
    let over = Instant::now();
    let cut = run_out(load).await;
    table.row("all connections cut", &cut, begun, over);
    cut.assert_albums_kept(&service.beside.database).await;

    // Like an Aurora failover: the old writer becomes read-only, the new one has all changes, and then the name points
    // to it. Connections to the old one stay open.
    let (load, begun) = run_in().await;
    writer.read_only(true).await;
    eventually("standby caught up", async || standby.has_made_all_of(&writer).await.then_some(())).await;
    standby.promote().await;
    switch.point_to(&format!("127.0.0.1:{}", standby.port()));
    let over = Instant::now();
    let failover = run_out(load).await;
    table.row("failover, old writer read-only", &failover, begun, over);
    let after = crate::harness::database::Database {
        options: standby.root().database(&service.beside.database.name),
        name: service.beside.database.name.clone(),
        socket: service.beside.database.socket.clone(),
    };
    failover.assert_albums_kept(&after).await;

    let head =
        "| what | lasted s | requests | failed | all well after s | slowest good one s |\n|---|---|---|---|---|---|\n";
    // Written directly, because the test runner hides the output of successful tests.
    let _ = write!(std::io::stderr(), "\n{head}{}\n", table.text);
    // In these cases only requests with a COMMIT in flight may fail.
    for (what, outcome) in [("read-only", &read_only), ("cut", &cut), ("failover", &failover)] {
        let failed = outcome.failed().len();
        assert!(failed <= CLIENTS, "{what}: {failed} of {} failed", outcome.requests.len());
    }
}
