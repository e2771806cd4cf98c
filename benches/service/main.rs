//! The program as a process: start-up time, memory, and time to process a photo.
//!
//!     cargo bench --bench service -- [--photos DIR] [--server auto|mysql|mariadb] [--cache DIR] [--uploads 100]
//!
//! `--photos` is a folder of larger photos from `benches/imaging/fetch.sh`; without it only the fixture is rendered.
//! Memory is read from `/proc`, so this runs on Linux only.

#[path = "../api/bench_server.rs"]
mod bench_server;
mod photo;
mod process;
mod storm;
#[path = "../api/table.rs"]
mod table;

use std::time::Duration;

use bench_server::BenchServer;
use darkroom::db::{Db, migrations};
use process::Serve;
use table::Times;

/// The number of starts.
const STARTS: u32 = 10;
/// A started process is idle after this time.
const CALM: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let bench = BenchServer::start("service").await?;
    migrate(&bench).await?;
    start_and_rest(&bench).await?;
    photo::overhead(&bench).await?;
    storm::run(&bench).await?;
    table::print_load();
    bench.server.stop().await;
    Ok(())
}

/// Creates an empty database and photo folder.
async fn migrate(bench: &BenchServer) -> anyhow::Result<()> {
    bench.create_anew().await?;
    let settings = bench.settings("http://localhost").into_iter().map(|(key, value)| (key.into(), value.into()));
    let config = darkroom::config::Config::read(darkroom::config::Source::parse("", settings)?)?;
    if let darkroom::config::Place::Files(folder) = &config.storage.place
        && folder.exists()
    {
        std::fs::remove_dir_all(folder)?;
    }
    let db = Db::new(&config.database);
    migrations::run(&db).await?;
    db.close().await;
    Ok(())
}

async fn start_and_rest(bench: &BenchServer) -> anyhow::Result<()> {
    let [mut ready, mut answers] = [Times::default(), Times::default()];
    let (mut fresh, mut anonymous, mut used) = (0.0, 0.0, 0.0);
    for turn in 0..=STARTS {
        let serve = Serve::start(bench, &[]).await?;
        // The first start fills the page cache.
        if turn > 0 {
            ready.add(serve.ready_after);
            answers.add(serve.answers_after);
        }
        if turn == STARTS {
            tokio::time::sleep(CALM).await;
            (fresh, anonymous) = (serve.memory("VmRSS"), serve.memory("RssAnon"));
            serve.call_everything().await?;
            tokio::time::sleep(CALM).await;
            used = serve.memory("VmRSS");
        }
        serve.stop().await?;
    }
    let ms = |times: &Times| format!("{:.0}", times.median());
    let row = |what: &str, figure: String, goal: &str| vec![what.to_owned(), figure, goal.to_owned()];
    table::print(
        &format!("Start (median of {STARTS}) and rest:"),
        &["what", "measured", "goal"],
        &[
            row("start to ready, ms", ms(&ready), "under 100"),
            row("start to the first answer from the database, ms", ms(&answers), "-"),
            row("resident when idle after the start, MB", format!("{fresh:.1}"), "under 40"),
            row("of it not the program's own file, MB", format!("{anonymous:.1}"), "-"),
            row("resident when idle after 200 requests, MB", format!("{used:.1}"), "under 40"),
        ],
    );
    Ok(())
}
