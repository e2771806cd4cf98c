//! HAProxy in TCP mode as a Network Load Balancer: it sends PROXY protocol version 2, checks health by HTTP, and
//! distributes connections.

use std::{
    fs::File,
    process::{Command, Stdio},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::{eventually, process::KillOnDrop};

/// Health checks are more frequent than an NLB's, so that tests are fast; two results change the state, as there. A
/// refused connection is not retried on another target, because an NLB doesn't either.
const CONFIGURATION: &str = "
global
    stats socket FOLDER/socket mode 600 level admin
    nbthread 1
    maxconn 500

defaults
    mode tcp
    timeout connect 5s
    timeout client 350s
    timeout server 350s
    timeout check 2s
    retries 0

listen service
    bind ADDRESS
    balance roundrobin
    option httpchk
    http-check send meth GET uri /health/ready ver HTTP/1.1 hdr host 10.0.3.4
    http-check expect status 200
    default-server send-proxy-v2 check check-send-proxy inter 200ms fall 2 rise 2
";

/// The balancer; killed when dropped.
pub struct Haproxy {
    child: KillOnDrop,
    folder: TempDir,
}

impl Haproxy {
    /// Listens on `address` and forwards to `targets`.
    pub async fn start(address: &str, targets: &[String]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let lines: Vec<String> =
            targets.iter().enumerate().map(|(nth, target)| format!("    server {} {target}\n", name(nth))).collect();
        let place = folder.path().display().to_string();
        let configuration = CONFIGURATION.replace("FOLDER", &place).replace("ADDRESS", address) + &lines.concat();
        let path = folder.path().join("haproxy.cfg");
        std::fs::write(&path, configuration).expect("a configuration");
        let log = File::create(folder.path().join("log")).expect("a log");
        let mut command = Command::new("haproxy");
        // HAProxy is in `sbin`, which may be missing in PATH.
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.arg("-db").arg("-f").arg(&path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = KillOnDrop(command.spawn().expect("HAProxy is installed: tests/scripts/install-packages test"));
        let mut this = Self { child, folder };
        eventually("listening", async || {
            let ended = this.child.try_wait().expect("a child");
            assert!(ended.is_none(), "{}", std::fs::read_to_string(this.folder.path().join("log")).expect("a log"));
            this.ask("show info").await
        })
        .await;
        this
    }

    /// Stops new connections to a target, as deregistration does. Open connections stay.
    pub async fn drain(&self, target: usize) {
        self.tell(&format!("set server service/{} state drain", name(target))).await;
    }

    /// Allows connections again, as registration does.
    pub async fn admit(&self, target: usize) {
        self.tell(&format!("set server service/{} state ready", name(target))).await;
    }

    /// Waits until a target is healthy.
    pub async fn up(&self, target: usize) {
        // HAProxy reports an unchecked target as up.
        let up = async || self.is(target, "UP").await && self.of(target, "check_status").await == "L7OK";
        eventually("up", async || up().await.then_some(())).await;
    }

    /// Waits until a target is unhealthy.
    pub async fn down(&self, target: usize) {
        eventually("down", async || self.is(target, "DOWN").await.then_some(())).await;
    }

    /// The number of open connections to a target.
    pub async fn open(&self, target: usize) -> u64 {
        self.of(target, "scur").await.parse().expect("a number")
    }

    /// The number of failed connections to a target.
    pub async fn refused(&self, target: usize) -> u64 {
        self.of(target, "econ").await.parse().expect("a number")
    }

    async fn is(&self, target: usize, status: &str) -> bool {
        self.of(target, "status").await == status
    }

    async fn tell(&self, command: &str) {
        let answer = self.ask(command).await.expect("HAProxy runs");
        assert_eq!(answer.trim(), "", "{command}");
    }

    /// A field of a target's line of `show stat`.
    async fn of(&self, target: usize, field: &str) -> String {
        let table = self.ask("show stat").await.expect("HAProxy runs");
        let mut lines = table.trim_start_matches("# ").lines().map(|line| line.split(',').collect::<Vec<_>>());
        let nth = lines.next().expect("a head").iter().position(|name| *name == field).expect("a field");
        let line = lines.find(|line| line.get(1) == Some(&name(target).as_str())).expect("a target");
        line[nth].to_owned()
    }

    async fn ask(&self, command: &str) -> Option<String> {
        let mut stream = UnixStream::connect(self.folder.path().join("socket")).await.ok()?;
        stream.write_all(format!("{command}\n").as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    }
}

fn name(target: usize) -> String {
    format!("target-{target}")
}
