//! `darkroom serve` as a process, and its figures in `/proc`.

use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::bench_server::BenchServer;

/// The signed-in user.
const HOST: &str = "host";
/// The poll interval of a starting process.
const POLL: Duration = Duration::from_micros(500);
/// The timeout of every wait.
const DEADLINE: Duration = Duration::from_mins(2);

/// The running process; killed when dropped.
pub struct Serve {
    child: Child,
    pub address: SocketAddr,
    /// From before the start to the first 200 of `/health/ready`.
    pub ready_after: Duration,
    /// From before the start to the first list that came from the database.
    pub answers_after: Duration,
    http: reqwest::Client,
    token: String,
}

impl Serve {
    /// Starts the process with more settings and waits until it responds.
    pub async fn start(bench: &BenchServer, more: &[(&str, &str)]) -> anyhow::Result<Self> {
        let (address, operations) = (free_address()?, free_address()?);
        let mut command = Command::new(env!("CARGO_BIN_EXE_darkroom"));
        command.arg("serve").env_clear().envs(bench.settings(&format!("http://{address}"))).envs(more.iter().copied());
        command.env("DARKROOM_HTTP_LISTEN", address.to_string());
        command.env("DARKROOM_OPERATIONS_LISTEN", operations.to_string());
        // Without a log, whose disk writes would be measured.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let token = bench.identity.token(HOST)?;
        let http = reqwest::Client::builder().no_proxy().build()?;
        let started = Instant::now();
        let child = command.spawn()?;
        let mut serve =
            Self { child, address, ready_after: Duration::ZERO, answers_after: Duration::ZERO, http, token };
        serve.answers("/health/ready").await?;
        serve.ready_after = started.elapsed();
        serve.answers("/v1/albums").await?;
        serve.answers_after = started.elapsed();
        Ok(serve)
    }

    /// Waits for a 200.
    async fn answers(&self, path: &str) -> anyhow::Result<()> {
        let begun = Instant::now();
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {}\r\nconnection: close\r\n\r\n",
            self.token
        );
        while begun.elapsed() < DEADLINE {
            if let Ok(mut stream) = TcpStream::connect(self.address).await {
                stream.write_all(request.as_bytes()).await?;
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).await?;
                if answer.starts_with(b"HTTP/1.1 200") {
                    return Ok(());
                }
            }
            tokio::time::sleep(POLL).await;
        }
        anyhow::bail!("{path} does not answer")
    }

    /// A request that must succeed.
    pub async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let request = self.http.request(method.parse()?, format!("http://{}{path}", self.address));
        let request = request.bearer_auth(&self.token);
        let request = if let Some(body) = body { request.json(body) } else { request };
        let response = request.send().await?;
        let status = response.status();
        let body = response.bytes().await?;
        anyhow::ensure!(status.is_success(), "{method} {path}: {status}: {}", String::from_utf8_lossy(&body));
        Ok(serde_json::from_slice(&body).unwrap_or_default())
    }

    /// Creates an album and returns its id.
    pub async fn album(&self) -> anyhow::Result<String> {
        let album = self.call("POST", "/v1/albums", Some(&json!({ "title": "bench" }))).await?;
        Ok(text(&album, "id"))
    }

    /// Declares a JPEG; returns its id and upload URL.
    pub async fn declare(&self, album: &str, bytes: usize) -> anyhow::Result<(String, String)> {
        let body = json!({ "content_type": "image/jpeg", "bytes": bytes });
        let added = self.call("POST", &format!("/v1/albums/{album}/photos"), Some(&body)).await?;
        Ok((text(&added["photo"], "id"), text(&added["upload"], "url")))
    }

    /// Sends typical requests, some repeatedly.
    pub async fn call_everything(&self) -> anyhow::Result<()> {
        let album = self.album().await?;
        for _ in 0..50 {
            self.declare(&album, 1000).await?;
            self.call("GET", "/v1/albums", None).await?;
            self.call("GET", &format!("/v1/albums/{album}/photos"), None).await?;
            self.call("GET", &format!("/v1/albums/{album}/events"), None).await?;
        }
        Ok(())
    }

    /// A field of its `/proc/PID/status` in MB.
    pub fn memory(&self, field: &str) -> f64 {
        memory(self.child.id(), field)
    }

    pub fn children(&self) -> Vec<u32> {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let processes = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        processes.filter(|process| parent(*process) == Some(self.child.id())).collect()
    }

    /// Sends SIGTERM and waits for the exit.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let status = tokio::task::spawn_blocking(move || self.child.wait()).await??;
        anyhow::ensure!(status.success(), "the service ended with {status}");
        Ok(())
    }
}

/// Peak memory of the process and its children in MB.
#[derive(Default)]
pub struct Peaks {
    own: f64,
    children: BTreeMap<u32, f64>,
    /// The largest sum at one time, with shared pages counted once.
    pub together: f64,
}

impl Peaks {
    /// Takes a sample.
    pub fn look(&mut self, serve: &Serve) {
        self.own = self.own.max(serve.memory("VmHWM"));
        let mut together = proportional(serve.child.id());
        for child in serve.children() {
            let peak = self.children.entry(child).or_default();
            *peak = peak.max(memory(child, "VmHWM"));
            together += proportional(child);
        }
        self.together = self.together.max(together);
    }

    /// The peak of the process itself.
    pub fn own(&self) -> f64 {
        self.own
    }

    /// The sum of the children's peaks.
    pub fn children(&self) -> f64 {
        self.children.values().sum()
    }
}

fn memory(process: u32, field: &str) -> f64 {
    kilobytes(&format!("/proc/{process}/status"), field) / 1e3
}

/// The proportional set size.
fn proportional(process: u32) -> f64 {
    kilobytes(&format!("/proc/{process}/smaps_rollup"), "Pss") / 1e3
}

/// `NAME: 123 kB` in a file of `/proc`; 0 if the process has exited.
fn kilobytes(file: &str, field: &str) -> f64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0.0)
}

fn parent(process: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
}

fn text(body: &Value, field: &str) -> String {
    body[field].as_str().unwrap_or_default().to_owned()
}

fn free_address() -> anyhow::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr().context("a free port")
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
