//! The client against a small server that fails in the ways that networks and servers do.

mod server;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::server::{Fault, Server};
use super::{Failure, Options, Policy, Screen, Summary, api, run, source};

const QUICK: Policy = Policy {
    tries: 4,
    base: Duration::from_millis(2),
    cap: Duration::from_millis(8),
    longest: Duration::from_secs(2),
    patience: Duration::from_millis(600),
};

/// A folder with so many pictures, each with bytes of its own.
struct Folder(PathBuf);

impl Folder {
    fn with(pictures: usize, bytes: usize) -> Self {
        let folder = Self(std::env::temp_dir().join(format!("darkroom-client-{}", Uuid::now_v7())));
        fs::create_dir_all(&folder.0).unwrap();
        for index in 0..pictures {
            let head = [&b"\xff\xd8\xff\xe0"[..], &index.to_le_bytes()].concat();
            let body = [&head[..], &vec![b'x'; bytes.saturating_sub(head.len())]].concat();
            fs::write(folder.0.join(format!("{index:04}.jpg")), body).unwrap();
        }
        folder
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn options(server: &Server, files: &[&Path]) -> Options {
    Options {
        server: server.url.clone(),
        token: "dki_secret".into(),
        album: Uuid::from_u128(7),
        files: files.iter().map(|path| (*path).to_owned()).collect(),
        guest_name: Some("Mira".into()),
        parallel: 4,
        wait: false,
    }
}

async fn upload(options: &Options) -> anyhow::Result<Summary> {
    run(options, QUICK, Screen::none(), CancellationToken::new()).await
}

#[tokio::test]
async fn uploads_new_and_skips_known_files() {
    let (server, folder) = (Server::start().await, Folder::with(3, 300_000));
    fs::copy(folder.0.join("0000.jpg"), folder.0.join("copy.jpg")).unwrap();
    fs::write(folder.0.join("notes.txt"), "hello").unwrap();
    let missing = folder.0.join("missing.jpg");
    let options = options(&server, &[&folder.0, &missing]);
    let first = upload(&options).await.unwrap();
    assert_eq!((first.added, first.twins, first.already, first.ignored), (3, 1, 0, 1), "{first}");
    assert_eq!(first.failed, [(missing, "does not exist".to_owned())]);
    assert!(!first.is_success());
    let second = upload(&options).await.unwrap();
    assert_eq!((second.added, second.twins, second.already), (0, 1, 3), "{second}");
    server.seen(|seen| {
        assert_eq!(seen.puts.len(), 3);
        for put in &seen.puts {
            assert_eq!(put.length.as_deref(), Some("300000"), "a length and no chunks");
            assert!(!put.chunked && !put.authorization, "the token is not the storage's to see");
        }
        assert!(seen.names.iter().all(|name| name == "Mira"));
    });
}

#[tokio::test]
async fn retries_until_photo_is_accepted() {
    for (faults, puts) in [
        (vec![Fault::Declare(503), Fault::Declare(429)], 1),
        (vec![Fault::Put(503), Fault::Put(401)], 3),
        (vec![Fault::CutPut, Fault::CutPut], 3),
        // It came after all: declared again, there is nothing left to send.
        (vec![Fault::LoseAnswer], 1),
    ] {
        let (server, folder) = (Server::start().await, Folder::with(1, 2_000_000));
        let what = format!("{faults:?}");
        server.will(faults);
        let summary = upload(&options(&server, &[&folder.0])).await.unwrap();
        assert_eq!((summary.added, summary.is_success()), (1, true), "{what}: {summary}");
        server.seen(|seen| assert_eq!((seen.puts.len(), seen.kept), (puts, 1), "{what}"));
    }
}

#[tokio::test]
async fn keeps_idempotency_key_per_declaration() {
    let (server, folder) = (Server::start().await, Folder::with(1, 1000));
    server.will(vec![Fault::Declare(500), Fault::Put(500)]);
    assert!(upload(&options(&server, &[&folder.0])).await.unwrap().is_success());
    server.seen(|seen| {
        assert_eq!(seen.keys.len(), 3);
        assert_eq!(seen.keys[0], seen.keys[1]);
        assert_ne!(seen.keys[1], seen.keys[2]);
    });
}

#[tokio::test]
async fn waits_as_long_as_the_server_asks_for() {
    let (server, folder) = (Server::start().await, Folder::with(1, 1000));
    server.will(vec![Fault::Busy]);
    let begin = Instant::now();
    assert!(upload(&options(&server, &[&folder.0])).await.unwrap().is_success());
    assert!(begin.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn common_error_stops_upload_early() {
    for (fault, why) in [(Fault::Declare(401), "no (401)"), (Fault::Close, "the album is closed")] {
        let (server, folder) = (Server::start().await, Folder::with(50, 1000));
        server.will(vec![fault]);
        let summary = upload(&options(&server, &[&folder.0])).await.unwrap();
        assert_eq!(summary.stopped.as_deref(), Some(why));
        assert_eq!(summary.failed.len(), 0, "{summary}");
        assert!(summary.unsent > 40 && summary.unsent + summary.added == 50, "{summary}");
        server.seen(|seen| assert!(seen.keys.len() < 10, "{}", seen.keys.len()));
    }
}

#[tokio::test]
async fn single_failures_show_server_detail() {
    let (server, folder) = (Server::start().await, Folder::with(6, 1000));
    server.will(vec![Fault::Declare(409), Fault::Declare(413)]);
    let summary = upload(&options(&server, &[&folder.0])).await.unwrap();
    assert_eq!((summary.added, summary.failed.len(), summary.unsent), (4, 2, 0), "{summary}");
    assert!(summary.failed.iter().all(|(_, why)| why == "no"), "{summary}");
}

#[tokio::test]
async fn gives_up_on_unreachable_server() {
    let (server, folder) = (Server::start().await, Folder::with(200, 1000));
    server.will(vec![Fault::Declare(503); 2000]);
    let summary = upload(&options(&server, &[&folder.0])).await.unwrap();
    assert!(summary.failed.len() < 12 && summary.unsent > 180, "{summary}");
    assert_eq!(summary.stopped.as_deref(), Some("no"));

    let mut nowhere = options(&server, &[&folder.0]);
    nowhere.server = "http://127.0.0.1:1".parse().unwrap();
    let error = upload(&nowhere).await.unwrap_err().to_string();
    assert!(error.starts_with("nothing was uploaded: the server can't be reached: "), "{error}");
}

#[tokio::test]
async fn many_files_go_a_few_at_a_time() {
    let (server, folder) = (Server::start().await, Folder::with(400, 2000));
    let mut options = options(&server, &[&folder.0]);
    options.parallel = 3;
    assert_eq!(upload(&options).await.unwrap().added, 400);
    server.seen(|seen| assert!(seen.most_at_once <= 3, "{}", seen.most_at_once));
}

#[tokio::test]
async fn resumes_after_interruption() {
    let (server, folder) = (Server::start().await, Folder::with(30, 1000));
    let options = options(&server, &[&folder.0]);
    let stop = CancellationToken::new();
    server.stop_after(10, stop.clone());
    let first = run(&options, QUICK, Screen::none(), stop).await.unwrap();
    assert_eq!(first.stopped.as_deref(), Some("interrupted"));
    assert!(first.added >= 6 && first.unsent >= 15 && first.failed.is_empty(), "{first}");
    let second = upload(&options).await.unwrap();
    assert!(second.is_success() && second.added + second.already == 30, "{second}");
    server.seen(|seen| assert_eq!(seen.kept, 30));
}

#[tokio::test]
async fn wait_reports_rejected_and_unready() {
    for (fault, why) in
        [(Fault::Reject, "this picture is cut off"), (Fault::Sleep, "was uploaded, but was not ready after 0 s")]
    {
        let (server, folder) = (Server::start().await, Folder::with(2, 1000));
        let mut options = options(&server, &[&folder.0]);
        options.wait = true;
        assert!(upload(&options).await.unwrap().is_success());
        fs::write(folder.0.join("bad.jpg"), b"\xff\xd8\xff and no more").unwrap();
        server.will(vec![fault]);
        let summary = upload(&options).await.unwrap();
        assert_eq!((summary.added, summary.already), (0, 2), "{summary}");
        assert_eq!(summary.failed, [(folder.0.join("bad.jpg"), why.to_owned())]);
    }
}

#[tokio::test]
async fn reports_file_changed_during_upload() {
    let (server, folder) = (Server::start().await, Folder::with(1, 100_000));
    let (path, stop) = (folder.0.join("0000.jpg"), CancellationToken::new());
    let mut picture = source::examine(&path, &stop).await.unwrap();
    picture.bytes += 10;
    let api = api::Api::new(&server.url, "t".into(), Uuid::nil()).unwrap();
    let declared = api.declare(&api::NewPhoto::new(&picture, None), Uuid::now_v7()).await.unwrap();
    let end = api.put(&declared.upload.unwrap(), &path, picture.bytes, &Screen::none().sending()).await;
    assert_eq!(end, Err(Failure::Refused("it changed while it was sent".into())));
}
