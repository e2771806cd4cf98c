//! The service as a process of its own, to be killed.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::{DEADLINE, server::TestServer};

/// A `darkroom` process; killed when dropped.
pub struct Process {
    child: Child,
    /// Where it listens, if it serves.
    pub url: String,
}

impl Process {
    /// `darkroom work` or `darkroom serve` on the database and files of a test server, with more variables.
    pub async fn start(server: &TestServer, verb: &str, more: &[(&str, &str)]) -> Self {
        let (listen, operations) = (free_address(), free_address());
        let mut command = Command::new(env!("CARGO_BIN_EXE_darkroom"));
        command
            .arg(verb)
            .env_clear()
            .envs(server.environment())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.env("DARKROOM_HTTP_LISTEN", &listen).env("DARKROOM_OPERATIONS_LISTEN", &operations);
        command.env("DARKROOM_HTTP_PUBLIC_URL", format!("http://{listen}"));
        let child = command.envs(more.iter().copied()).spawn().expect("the program starts");
        let process = Self { child, url: format!("http://{listen}") };
        let begun = std::time::Instant::now();
        while reqwest::get(format!("http://{operations}/health/live")).await.is_err() {
            assert!(begun.elapsed() < DEADLINE, "`darkroom {verb}` does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        process
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ends");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address that was free a moment ago.
fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").to_string()
}
