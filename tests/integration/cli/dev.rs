//! `darkroom dev` starts everything, leaves nothing behind when it exits, and keeps its data.

use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{ChildStdout, Command, ExitStatus, Stdio},
};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{
    database::choice,
    eventually,
    process::{KillOnDrop, darkroom, free_address, run, send},
};

/// The variables that `dev` and its printed commands need.
fn environment() -> Vec<(String, String)> {
    ["PATH", "HOME", "DARKROOM_MYSQLD", "DARKROOM_MARIADBD"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)))
        .collect()
}

/// The arguments for a folder, with the database server of the tests.
fn arguments<'a>(listen: &'a str, folder: &'a Path, server: &'a str) -> [&'a str; 7] {
    ["dev", "--listen", listen, "--data", folder.to_str().expect("UTF-8"), "--server", server]
}

fn server() -> String {
    format!("{:?}", choice()).to_lowercase()
}

/// A running `darkroom dev`; killed when dropped.
struct Dev {
    child: KillOnDrop,
    stdout: BufReader<ChildStdout>,
    said: PathBuf,
    /// The base URL, from the `ready` line.
    url: String,
}

impl Dev {
    /// Starts it and waits for the `ready` line.
    async fn start(folder: &Path) -> Self {
        let said = folder.with_extension("said");
        let log = std::fs::File::create(&said).expect("a file");
        let mut command = darkroom(&arguments("127.0.0.1:0", folder, &server()), &environment());
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().expect("the program starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (stdout, line) = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            stdout.read_line(&mut line).expect("UTF-8");
            (stdout, line)
        })
        .await
        .expect("a line");
        let ready = line.trim_end().strip_prefix("ready ").map(str::to_owned);
        let url = ready.unwrap_or_else(|| panic!("{line:?}: {}", std::fs::read_to_string(&said).unwrap_or_default()));
        Self { child: KillOnDrop(child), stdout, said, url }
    }

    /// The lines of standard error.
    fn said(&self) -> Vec<String> {
        std::fs::read_to_string(&self.said).expect("UTF-8").lines().map(str::to_owned).collect()
    }

    /// Runs the n-th printed curl command and returns its output.
    async fn paste(&self, n: usize) -> String {
        let line = self.said().into_iter().filter(|line| line.starts_with("curl ")).nth(n).expect("a curl line");
        let mut shell = Command::new("sh");
        shell.args(["-c", &line]).env_clear().envs(environment()).stdin(Stdio::null());
        let (code, printed, complaint) = run(shell).await;
        assert!(code == 0 && complaint.is_empty(), "{line}\n{complaint}");
        printed
    }

    async fn paste_json(&self, n: usize) -> Value {
        let printed = self.paste(n).await;
        serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
    }

    /// Waits until all photos are ready, and returns them.
    async fn settled_photos(&self) -> Vec<Value> {
        eventually("ready", async || {
            let photos = self.paste_json(2).await["items"].as_array().expect("items").clone();
            photos.iter().all(|photo| photo["state"] == "ready").then_some(photos)
        })
        .await
    }

    /// Sends a signal and waits for the exit; returns the status and the rest of standard output.
    async fn end_by(mut self, signal: Signal) -> (ExitStatus, String) {
        send(self.child.id(), signal);
        let status = eventually("ended", async || self.child.try_wait().expect("a child")).await;
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).expect("UTF-8");
        (status, rest)
    }
}

/// The database servers that run on a data folder.
fn servers_on(folder: &Path) -> usize {
    let wanted = format!("--datadir={}/db/data", folder.canonicalize().expect("a folder").display());
    let lines = std::fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| line.split(|byte| *byte == 0).any(|word| word == wanted.as_bytes())).count()
}

fn ids(photos: &[Value]) -> Vec<&str> {
    photos.iter().map(|photo| photo["id"].as_str().expect("an id")).collect()
}

#[tokio::test]
async fn keeps_data_after_every_kind_of_exit() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("it's a folder");
    let dev = Dev::start(&folder).await;
    let (album, link) = {
        let albums = dev.paste_json(0).await;
        let link = dev.said().into_iter().find(|line| line.contains("/join#")).expect("an invite link");
        (albums["items"][0]["id"].as_str().expect("an album").to_owned(), link)
    };
    assert!(link.contains(&dev.url), "{link}");
    assert_eq!(dev.paste(1).await.trim(), "200");
    let photos = dev.settled_photos().await;
    assert_eq!((photos.len(), &photos[0]["uploader"]["name"]), (1, &"Ada".into()));
    let thumb = reqwest::get(photos[0]["renditions"][0]["url"].as_str().unwrap()).await.unwrap();
    assert_eq!((thumb.status().as_u16(), thumb.headers()["content-type"].to_str().unwrap()), (200, "image/jpeg"));

    // A second process on the same folder is refused.
    let (code, said, complaint) = run(darkroom(&arguments("127.0.0.1:0", &folder, "auto"), &environment())).await;
    let pid = dev.child.id().to_string();
    assert!(code == 1 && said.is_empty() && complaint.contains("another darkroom dev"), "{complaint}");
    assert!(complaint.contains(&pid), "{complaint}");
    assert_eq!(servers_on(&folder), 1);

    let mut dev = dev;
    for signal in [Signal::INT, Signal::KILL, Signal::TERM] {
        let (status, rest) = dev.end_by(signal).await;
        assert_eq!(rest, "", "the ready line is all that goes to standard output");
        if signal != Signal::KILL {
            assert!(status.success(), "{signal:?}: {status}");
            assert_eq!(servers_on(&folder), 0, "{signal:?}");
        }
        dev = Dev::start(&folder).await;
        assert_eq!(dev.paste_json(0).await["items"][0]["id"], album.as_str(), "the same album after {signal:?}");
        assert_eq!(ids(&dev.settled_photos().await), ids(&photos), "the same photo after {signal:?}");
        assert_eq!(servers_on(&folder), 1);
    }
    assert!(dev.end_by(Signal::INT).await.0.success());
    assert_eq!(servers_on(&folder), 0);
}

#[tokio::test]
async fn runs_twice_in_two_folders() {
    let parent = tempfile::tempdir().unwrap();
    let (one, other) = (parent.path().join("one"), parent.path().join("other"));
    let (first, second) = tokio::join!(Dev::start(&one), Dev::start(&other));
    assert_ne!(first.url, second.url);
    assert_eq!(first.paste(1).await.trim(), "200");
    assert_eq!(first.settled_photos().await.len(), 1);
    assert_eq!(second.settled_photos().await.len(), 0);
    let token = run(darkroom(&["token", "--data", one.to_str().unwrap(), "--subject", "host"], &[])).await.1;
    let albums = async |dev: &Dev| {
        let request = reqwest::Client::new().get(format!("{}/v1/albums", dev.url)).bearer_auth(token.trim());
        request.send().await.expect("an answer").status().as_u16()
    };
    assert_eq!((albums(&first).await, albums(&second).await), (200, 401), "each has an identity of its own");
    for (dev, folder) in [(first, &one), (second, &other)] {
        assert!(dev.end_by(Signal::TERM).await.0.success());
        assert_eq!(servers_on(folder), 0);
    }
}

#[tokio::test]
async fn reports_obstacles_and_leaves_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let (fresh, file) = (parent.path().join("fresh"), parent.path().join("a-file"));
    std::fs::write(&file, "in the way").unwrap();
    let address = free_address();
    let _taken = std::net::TcpListener::bind(&address).unwrap();
    let free = free_address();
    let no_server =
        [("PATH", "/nowhere"), ("DARKROOM_MYSQLD", "/nowhere/mysqld"), ("DARKROOM_MARIADBD", "/nowhere/mariadbd")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let below = file.join("data");
    for (listen, folder, environment, words) in [
        (&address, &fresh, &environment()[..], &[address.as_str(), "already in use"][..]),
        (&free, &file, &environment(), &[file.to_str().unwrap(), "not usable"]),
        (&free, &below, &environment(), &[below.to_str().unwrap(), "not usable"]),
        (&free, &fresh, &no_server, &["/nowhere/m", "not a working database server"]),
    ] {
        let (code, said, complaint) = run(darkroom(&arguments(listen, folder, &server()), environment)).await;
        assert!(code == 1 && said.is_empty(), "{words:?}: {code}: {said}{complaint}");
        assert!(words.iter().all(|word| complaint.contains(word)), "{words:?}: {complaint}");
        assert_eq!(complaint.lines().count(), 1, "one line: {complaint}");
    }
}
