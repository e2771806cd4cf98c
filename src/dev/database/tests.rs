//! Tests with real servers: MySQL or MariaDB as set in `TEST_DB` (`mysql`, `mariadb`), else the installed one.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sqlx::{ConnectOptions, Connection, Row};

use super::*;

/// The directory that the test binary uses when it runs as the owner of a server.
const OWNER_DIR: &str = "DARKROOM_TEST_OWNER_DIR";

fn choice() -> ServerChoice {
    match std::env::var("TEST_DB") {
        Ok(name) if !name.is_empty() => name.parse().unwrap(),
        _ => ServerChoice::Auto,
    }
}

async fn write(server: &PrivateServer, word: &str) {
    let mut connection = server.options().connect().await.unwrap();
    for statement in ["CREATE DATABASE IF NOT EXISTS d", "CREATE TABLE IF NOT EXISTS d.t (word VARCHAR(99))"] {
        sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
    }
    sqlx::query("INSERT INTO d.t VALUES (?)").bind(word).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

async fn words(server: &PrivateServer) -> Vec<String> {
    let mut connection = server.options().connect().await.unwrap();
    let rows = sqlx::query("SELECT word FROM d.t ORDER BY word").fetch_all(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Whether the process runs (a zombie does not).
fn runs(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

async fn assert_ends(pid: u32) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while runs(pid) {
        assert!(Instant::now() < deadline, "server {pid} still runs");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn data_survives_kill_stop_and_leftover() {
    let parent = tempfile::tempdir().unwrap();
    let lock = DirLock::acquire(&parent.path().join("a folder with 'spaces' & $signs")).unwrap();
    // Left by a first start that was killed.
    std::fs::create_dir_all(lock.dir().join("db.new/data/mysql")).unwrap();

    let server = PrivateServer::start(&lock, choice()).await.unwrap();
    assert!(server.version().split('.').count() == 3 && runs(server.pid()));
    write(&server, "before a kill").await;
    server.kill().await;

    let server = PrivateServer::start(&lock, choice()).await.unwrap();
    write(&server, "before a stop").await;
    assert_eq!(server.stop().await, Stopped::Gracefully);

    let server = PrivateServer::start(&lock, ServerChoice::Auto).await.unwrap();
    write(&server, "before forgetting 📷").await;
    let forgotten = server.pid();
    std::mem::forget(server);

    let server = PrivateServer::start(&lock, choice()).await.unwrap();
    assert!(!runs(forgotten));
    assert_eq!(words(&server).await, ["before a kill", "before a stop", "before forgetting 📷"]);
    let dropped = server.pid();
    drop(server);
    assert_ends(dropped).await;
}

#[tokio::test]
async fn servers_run_in_parallel_with_long_paths() {
    let (near, far) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let far = far.path().join("long/".repeat(40));
    let (near, far) = (DirLock::acquire(near.path()).unwrap(), DirLock::acquire(&far).unwrap());
    let (a, b) = tokio::join!(PrivateServer::start(&near, choice()), PrivateServer::start(&far, choice()));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert!(a.socket().starts_with(near.dir()) && !b.socket().starts_with(far.dir()));
    write(&a, "near").await;
    write(&b, "far").await;
    assert_eq!((words(&a).await, words(&b).await), (vec!["near".to_owned()], vec!["far".to_owned()]));
    let private = b.socket().parent().unwrap().to_owned();
    tokio::join!(a.stop(), b.stop());
    assert!(!private.exists());
}

#[tokio::test]
async fn server_ends_with_a_killed_owner() {
    let dir = tempfile::tempdir().unwrap();
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "dev::database::tests::own_a_server"])
        .env(OWNER_DIR, dir.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let told = dir.path().join("pid");
    let deadline = Instant::now() + Duration::from_mins(2);
    while !told.exists() {
        assert!(Instant::now() < deadline && owner.try_wait().unwrap().is_none(), "the owner started no server");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let pid = std::fs::read_to_string(told).unwrap().parse().unwrap();
    assert!(runs(pid));
    owner.kill().unwrap();
    owner.wait().unwrap();
    if programs::in_path("setpriv").is_some() {
        assert_ends(pid).await;
    } else {
        process::end_all_on(&dir.path().canonicalize().unwrap().join("db/data")).await.unwrap();
    }
}

#[tokio::test]
#[ignore = "not a test: the owner in `server_ends_with_a_killed_owner`"]
async fn own_a_server() {
    let Some(dir) = std::env::var_os(OWNER_DIR).map(PathBuf::from) else { return };
    let lock = DirLock::acquire(&dir).unwrap();
    let server = PrivateServer::start(&lock, choice()).await.unwrap();
    std::fs::write(dir.join("pid.new"), server.pid().to_string()).unwrap();
    std::fs::rename(dir.join("pid.new"), dir.join("pid")).unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn refuses_and_keeps_foreign_data() {
    let dir = tempfile::tempdir().unwrap();
    let lock = DirLock::acquire(dir.path()).unwrap();
    std::fs::create_dir(lock.dir().join("db")).unwrap();
    let refusal = async |made_by: &str, choice| {
        std::fs::write(lock.dir().join("db/made-by"), made_by).unwrap();
        PrivateServer::start(&lock, choice).await.unwrap_err()
    };
    let found = programs::find(None).unwrap();
    let (name, same, other, other_choice) = match found.flavour {
        Flavour::MySql => ("mysql", Flavour::MySql, Flavour::MariaDb, ServerChoice::MariaDb),
        Flavour::MariaDb => ("mariadb", Flavour::MariaDb, Flavour::MySql, ServerChoice::MySql),
    };
    let newer = refusal(&format!("{name} 999.0.0\n"), ServerChoice::Auto).await;
    assert!(matches!(&newer, StartError::Newer { flavour, .. } if *flavour == same), "{newer}");
    let foreign = refusal(&format!("{name} 5.5.5\n"), other_choice).await;
    assert!(matches!(foreign, StartError::OtherFlavour { made_by, wanted, .. } if (made_by, wanted) == (same, other)));
    let unknown = refusal("postgres 18\n", ServerChoice::Auto).await;
    assert!(matches!(unknown, StartError::Folder { .. }), "{unknown}");
    assert!(!lock.dir().join("db/data").exists());
}

#[tokio::test]
async fn failed_start_shows_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let lock = DirLock::acquire(dir.path()).unwrap();
    let found = programs::find(None).unwrap();
    let name = if found.flavour == Flavour::MySql { "mysql" } else { "mariadb" };
    std::fs::create_dir(lock.dir().join("db")).unwrap();
    std::fs::write(lock.dir().join("db/made-by"), format!("{name} {}\n", found.version)).unwrap();
    let started = Instant::now();
    let failure = PrivateServer::start(&lock, ServerChoice::Auto).await.unwrap_err();
    assert!(started.elapsed() < START_DEADLINE, "it waited for a server that had ended");
    let StartError::Failed { what, tail, log } = &failure else { panic!("{failure}") };
    assert!(what.starts_with("ended while starting") && tail.contains("ERROR") && log.exists(), "{failure}");
}
