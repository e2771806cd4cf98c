//! Cold start of the program as an AWS Lambda function: from process start to the first response.
//!
//!     cargo bench --bench lambda -- [--starts 20] [--server auto|mysql|mariadb] [--cache DIR]
//!
//! A fake runtime API has the first event ready. The time in which Lambda allocates a sandbox and downloads the
//! package is not included.

#[path = "api/bench_server.rs"]
mod bench_server;
#[path = "api/table.rs"]
mod table;

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use anyhow::ensure;
use axum::{
    Router,
    body::Bytes,
    http::StatusCode,
    routing::{get, post},
};
use bench_server::BenchServer;
use darkroom::db::{Db, migrations};
use serde_json::{Value, json};
use table::Times;
use tokio::{net::TcpListener, sync::mpsc};

/// The timeout of a start.
const DEADLINE: Duration = Duration::from_secs(10);
/// Headers of an event.
const ID: &str = "lambda-runtime-aws-request-id";
const ENDS: &str = "lambda-runtime-deadline-ms";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let bench = BenchServer::start("lambda").await?;
    bench.create_anew().await?;
    let settings = bench.settings("http://localhost").into_iter().map(|(key, value)| (key.into(), value.into()));
    let db = Db::new(&darkroom::config::Config::read(darkroom::config::Source::parse("", settings)?)?.database);
    migrations::run(&db).await?;
    db.close().await;

    let starts = bench_server::number("--starts", 20);
    let [mut page, mut list] = [Times::default(), Times::default()];
    // The first start fills the page cache.
    for turn in 0..=starts {
        let (without, with) = (start(&bench, "/join").await?, start(&bench, "/v1/albums").await?);
        if turn > 0 {
            page.add(without);
            list.add(with);
        }
    }
    let row = |what: &str, times: &Times| {
        vec![what.to_owned(), format!("{:.0}", times.median()), format!("{:.0}", times.p99())]
    };
    table::print(
        &format!("Cold start to the first answer, ms, {starts} starts:"),
        &["request", "median", "longest"],
        &[row("a page that needs nothing", &page), row("a list from the database", &list)],
    );
    table::print_load();
    bench.server.stop().await;
    Ok(())
}

/// Starts the function `api` and measures the time to its response.
async fn start(bench: &BenchServer, path: &str) -> anyhow::Result<Duration> {
    let event = event(path, &bench.identity.token("host")?);
    let (tell, mut told) = mpsc::unbounded_channel();
    let next = async move || {
        let ends = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default() + DEADLINE;
        ([(ID, "1".to_owned()), (ENDS, ends.as_millis().to_string())], event.to_string())
    };
    let answered = async move |answer: Bytes| {
        let _unheard = tell.send((Instant::now(), answer));
        StatusCode::ACCEPTED
    };
    let router = Router::new()
        .route("/2018-06-01/runtime/invocation/next", get(next))
        .route("/2018-06-01/runtime/invocation/1/response", post(answered));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let api = tokio::spawn(async move { axum::serve(listener, router).await });

    let mut command = Command::new(env!("CARGO_BIN_EXE_darkroom"));
    command.env_clear().envs(bench.settings("http://localhost")).env_remove("DARKROOM_STORAGE_DIRECTORY");
    command.env("DARKROOM_STORAGE_KIND", "s3").env("DARKROOM_STORAGE_BUCKET", "photos");
    let queue = "https://sqs.eu-west-1.amazonaws.com/123456789012/darkroom";
    command.env("DARKROOM_QUEUE_KIND", "sqs").env("DARKROOM_QUEUE_URL", queue);
    command.env("DARKROOM_QUEUE_DEAD_LETTER_URL", format!("{queue}-dead"));
    command.env("AWS_REGION", "eu-west-1").env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", "secret");
    command.env("AWS_LAMBDA_RUNTIME_API", address).env("_HANDLER", "api").env("AWS_LAMBDA_FUNCTION_NAME", "darkroom");
    command.env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST").env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "1024");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let begun = Instant::now();
    let mut child = command.spawn()?;
    let first = tokio::time::timeout(DEADLINE, told.recv()).await;
    child.kill()?;
    child.wait()?;
    api.abort();
    let (at, answer) = first?.ok_or_else(|| anyhow::anyhow!("no answer"))?;
    let answer: Value = serde_json::from_slice(&answer)?;
    ensure!(answer["statusCode"] == 200, "{answer}");
    Ok(at - begun)
}

/// An event of a function URL.
fn event(path: &str, token: &str) -> Value {
    json!({
        "version": "2.0",
        "rawPath": path,
        "rawQueryString": "",
        "headers": { "authorization": format!("Bearer {token}") },
        "requestContext": {
            "domainName": "id.lambda-url.eu-west-1.on.aws",
            "stage": "$default",
            "requestId": "id",
            "http": { "method": "GET", "sourceIp": "192.0.2.1" },
        },
        "isBase64Encoded": false,
    })
}
