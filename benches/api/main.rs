//! Reads over HTTP on albums of 10^3 to 10^6 photos: latency, database cost and indexes.
//!
//!     cargo bench --bench api -- [--server auto|mysql|mariadb] [--rounds 300] [--cache DIR]
//!
//! The service runs in this process on its own port, without a worker; requests are sent one after another over a kept
//! connection. Every round requests every size in turn, so that changes of the load affect all sizes alike. Exits with
//! 1 if a list sorts, or reads more rows than a page needs.

mod bench_server;
mod cases;
mod cost;
mod plans;
mod seed;
mod table;

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use darkroom::{
    app::{App, AppState},
    config::{Config, Source},
    db::photos::Page,
    domain::{Access, PhotoId},
    runtime, server,
};
use sqlx::{Connection, MySqlConnection};
use tokio_util::sync::CancellationToken;

use bench_server::BenchServer;
use cases::{Case, Target};
use table::Times;

/// The time limit of a case over all sizes.
const PATIENCE: Duration = Duration::from_secs(20);
/// The minimum number of rounds.
const LEAST_ROUNDS: usize = 3;

#[global_allocator]
static ALLOCATOR: cost::Counting = cost::Counting;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    match runtime.block_on(bench()) {
        Ok(faults) if faults.is_empty() => ExitCode::SUCCESS,
        Ok(faults) => {
            for fault in &faults {
                eprintln!("FAULT: {fault}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns violations.
async fn bench() -> anyhow::Result<Vec<String>> {
    let bench = BenchServer::start("api").await?;
    let listener = server::bind(([127, 0, 0, 1], 0).into()).await?;
    let operations = server::bind(([127, 0, 0, 1], 0).into()).await?;
    let client = Client {
        http: reqwest::Client::builder().no_proxy().build()?,
        url: format!("http://{}", listener.local_addr()?),
    };
    let settings = bench.settings(&client.url).into_iter().map(|(key, value)| (key.into(), value.into()));
    let config = Config::read(Source::parse("worker.enabled = false\ndatabase.query_timeout = \"0s\"", settings)?)?;
    let app = App::with(config, PathBuf::from("nothing is decoded here"), None, None)?;
    seed::fill(&bench, &app.db).await?;
    let stop = CancellationToken::new();
    let running = tokio::spawn(runtime::run(app.clone(), Some(listener), operations, false, stop.clone()));
    let cases = cases::all(&app, &bench).await?;
    let mut root = bench.root().await?;
    let mut faults = latency(&client, &cases).await?;
    faults.extend(costs(&client, &cases, &mut root).await?);
    faults.extend(plans::print(&mut app.db.connect().await?).await?);
    peers(&app, &client, &cases).await?;
    table::print_load();
    root.close().await?;
    stop.cancel();
    running.await??;
    bench.server.stop().await;
    Ok(faults)
}

/// A client with a kept connection.
struct Client {
    http: reqwest::Client,
    url: String,
}

impl Client {
    /// The time until the response is read, and its size.
    async fn get(&self, target: &Target, turn: usize) -> anyhow::Result<(Duration, usize)> {
        let path = &target.paths[turn % target.paths.len()];
        let request = self.http.get(format!("{}{path}", self.url)).bearer_auth(&target.token).build()?;
        let started = Instant::now();
        let response = self.http.execute(request).await?;
        let status = response.status();
        let body = response.bytes().await?;
        let took = started.elapsed();
        anyhow::ensure!(status == 200, "{path}: {status}: {}", String::from_utf8_lossy(&body));
        Ok((took, body.len()))
    }
}

/// Prints the latency of each case at each size; returns failures.
async fn latency(client: &Client, cases: &[Case]) -> anyhow::Result<Vec<String>> {
    let rounds = bench_server::number("--rounds", 300) as usize;
    let (mut rows, mut faults) = (Vec::new(), Vec::new());
    for case in cases {
        let mut times: Vec<Option<Times>> = case.targets.iter().map(|_| Some(Times::default())).collect();
        let started = Instant::now();
        let (mut warm, mut turn) = (2 * cases::PLACES, 0);
        while turn < warm + rounds && (started.elapsed() < PATIENCE || turn < warm + LEAST_ROUNDS) {
            // Slow cases need no long warm-up.
            if started.elapsed() > PATIENCE / 2 {
                warm = warm.min(turn);
            }
            for (target, times) in case.targets.iter().zip(&mut times) {
                let Some(taken) = times else { continue };
                match client.get(target, turn).await {
                    Ok((took, _)) if turn >= warm => taken.add(took),
                    Ok(_) => {}
                    Err(error) => {
                        faults.push(format!("{}: {error:#}", case.name));
                        *times = None;
                    }
                }
            }
            turn += 1;
        }
        rows.push(latency_row(case.name, &times));
        eprintln!("{}", rows.last().map(|row| row.join(" | ")).unwrap_or_default());
    }
    let sizes = seed::PHOTOS.map(seed::power);
    let sizes = sizes.iter().map(String::as_str);
    let head: Vec<&str> = ["request"].into_iter().chain(sizes).chain(["largest to 10^3"]).collect();
    table::print("Milliseconds by the size of the album (median / p99 of each):", &head, &rows);
    Ok(faults)
}

fn latency_row(name: &str, times: &[Option<Times>]) -> Vec<String> {
    let median = |times: Option<&Option<Times>>| times.and_then(Option::as_ref).map_or(f64::NAN, Times::median);
    let mut row = vec![name.to_owned()];
    row.extend(times.iter().map(|times| match times {
        Some(times) => format!("{:.2} / {:.2}", times.median(), times.p99()),
        None => "failed".to_owned(),
    }));
    row.resize(1 + seed::PHOTOS.len(), "-".to_owned());
    row.push(format!("{:.2}", median(times.last()) / median(times.first())));
    row
}

/// Prints the cost of each case for database and heap at the smallest and the largest size.
async fn costs(client: &Client, cases: &[Case], root: &mut MySqlConnection) -> anyhow::Result<Vec<String>> {
    let (mut rows, mut faults) = (Vec::new(), Vec::new());
    for case in cases {
        let (small, large) = (case.targets.first().expect("a size"), case.targets.last().expect("a size"));
        let both = async { anyhow::Ok((cost::of(client, small, root).await?, cost::of(client, large, root).await?)) };
        let (small, large) = match both.await {
            Ok(costs) => costs,
            Err(error) => {
                faults.push(format!("{}: {error:#}", case.name));
                continue;
            }
        };
        let per = |count: f64| format!("{count:.1}");
        rows.push(vec![
            case.name.to_owned(),
            per(large.statements),
            per(large.prepares),
            per(large.pings),
            format!("{:.0}", small.rows_read),
            format!("{:.0}", large.rows_read),
            format!("{:.0}", large.rows_sorted),
            format!("{:.0}", small.kilobytes),
            format!("{:.0}", large.kilobytes),
        ]);
        if case.most_statements.is_some_and(|most| large.statements + large.prepares > most) {
            faults.push(format!("{}: {:.1} round trips", case.name, large.statements + large.prepares));
        }
        if large.rows_read > cost::MOST_ROWS {
            faults.push(format!("{}: {:.0} rows read for one page", case.name, large.rows_read));
        }
    }
    let head = [
        "request",
        "statements",
        "prepares",
        "pings after the answer",
        "index entries read, 10^3",
        "largest",
        "rows sorted, largest",
        "kB allocated, 10^3",
        "largest",
    ];
    table::print(
        "Per request on warm connections, by the server's own counters; allocation is the client's and the service's:",
        &head,
        &rows,
    );
    Ok(faults)
}

/// Prints the same page by OFFSET, and the share of signing in a list's time.
async fn peers(app: &AppState, client: &Client, cases: &[Case]) -> anyhow::Result<()> {
    let mut connection = app.db.connect().await?;
    let mut rows = Vec::new();
    for photos in seed::PHOTOS {
        let after: PhotoId = seed::photo(&mut connection, photos, photos / 2).await?.into();
        let [mut keyset, mut offset] = [Times::default(), Times::default()];
        for turn in 0..30 {
            let page = Page { state: None, visibility: None, oldest_first: false, after: Some(after), limit: 51 };
            let started = Instant::now();
            let by_key =
                darkroom::db::photos::list(&mut connection, &Access::Host, seed::album(photos).into(), &page).await?;
            let took = started.elapsed();
            let started = Instant::now();
            let by_offset = plans::by_offset(&mut connection, photos, photos / 2).await?;
            if turn > 0 {
                keyset.add(took);
                offset.add(started.elapsed());
            }
            anyhow::ensure!(by_key.len() == by_offset, "two ways to one page");
        }
        let (keyset, offset) = (keyset.median(), offset.median());
        rows.push(vec![
            seed::power(photos),
            format!("{keyset:.2}"),
            format!("{offset:.2}"),
            format!("{:.3}", keyset / offset),
        ]);
    }
    table::print("The statement of the middle page alone, in ms:", &["photos", "keyset", "OFFSET", "ratio"], &rows);
    signing(app, client, &mut connection, &cases[cases::FIRST_PAGE].targets[0]).await
}

async fn signing(
    app: &AppState,
    client: &Client,
    connection: &mut MySqlConnection,
    list: &Target,
) -> anyhow::Result<()> {
    let page = Page { state: None, visibility: None, oldest_first: false, after: None, limit: 50 };
    let photos =
        darkroom::db::photos::list(connection, &Access::Host, seed::album(seed::PHOTOS[0]).into(), &page).await?;
    let (mut signing, mut request, mut urls) = (Times::default(), Times::default(), 0);
    for turn in 0..300 {
        let started = Instant::now();
        let links = app.storage.rendition_urls(darkroom::db::now()).await?;
        let signed: Vec<String> = photos
            .iter()
            .flat_map(|photo| photo.renditions.iter().map(move |rendition| (photo.id, rendition)))
            .map(|(id, rendition)| links.url(id, &rendition.file_name()))
            .collect();
        signing.add(started.elapsed());
        urls = std::hint::black_box(signed).len();
        request.add(client.get(list, turn).await?.0);
    }
    let (signing, request) = (signing.median(), request.median());
    let row = vec![
        urls.to_string(),
        format!("{signing:.3}"),
        format!("{request:.2}"),
        format!("{:.0} %", 100.0 * signing / request),
    ];
    table::print(
        "Signing, beside the request for the page that holds the URLs:",
        &["URLs", "signing ms", "request ms", "share"],
        &[row],
    );
    Ok(())
}
