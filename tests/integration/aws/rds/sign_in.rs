//! Signing in to the database: tokens, their lifetimes, changing credentials, rotated secrets.

use std::{io::Write, time::Duration};

use chrono::TimeDelta;
use futures_util::future::join_all;

use super::{CLIENTS, Service, granted, pairs, settings};
use crate::harness::{
    aws_api::AwsApi,
    eventually,
    iam::Key,
    instance_metadata::MetadataService,
    is_full_run,
    load::Load,
    numbered_photo,
    process::{darkroom, run},
    rds::Rds,
};

/// A short lifetime of connections, so that new ones sign in constantly.
const SHORT_LIVED: &[(&str, &str)] = &[("MAX_LIFETIME", "500ms")];
/// With the log of the libraries.
const TRACE: [&str; 2] = ["DARKROOM_LOG_LEVEL", "trace,aws_sigv4=trace"];
const RENEWALS: &str = r#"darkroom_db_token_renewals_total{pool="writer"}"#;
const REFUSALS: &str = r#"darkroom_db_access_denied_total{pool="writer"}"#;
const FAILURES: &str = r#"darkroom_db_token_renewal_failures_total{pool="writer"}"#;

/// Asserts that a log contains no secret and no part of a token.
#[track_caller]
fn expect_no_secret(text: &str, key: &Key) {
    // The middle part, which is the same in every encoding.
    let token = key.session_token.as_deref().map_or("X-Amz-Security-Token", |token| &token[20..60]);
    for secret in [key.secret.as_str(), token, "X-Amz-Signature"] {
        assert_eq!(text.lines().find(|line| line.contains(secret)), None, "{secret} is told");
    }
}

#[tokio::test]
async fn signs_in_with_plain_and_session_keys() {
    let rds = Rds::shared().await;
    for (user, key) in [("plain_key", Key::long_lived()), ("session_key", Key::temporary(2100))] {
        rds.iam().allow(&key, &[user]);
        let mut environment = key.environment();
        // With the log of the libraries on the way to the token.
        environment.push(TRACE.map(str::to_owned).into());
        let service = Service::start(rds, user, &environment).await;
        let host = service.user("alice");
        let album = host.album("wedding").await;
        let photo = host.upload(&album, "image/jpeg", &numbered_photo(1)).await;
        assert_eq!(host.settled(&photo).await["state"], "ready");
        assert!(rds.iam().login_results(user).iter().all(|verdict| verdict == "ok"), "{user}");
        let login = service.health("database_login").await;
        assert_eq!(login["status"], "ok", "{login}");
        let certificate = eventually("certificate checked", async || {
            let row = service.health("database_certificate").await;
            row.is_object().then_some(row)
        });
        let certificate = certificate.await;
        assert_eq!(certificate["status"], "ok", "{certificate}");
        let info = reqwest::get(format!("{}/info", service.process.operations)).await.unwrap().text().await.unwrap();
        let metrics =
            reqwest::get(format!("{}/metrics", service.process.operations)).await.unwrap().text().await.unwrap();
        for text in [info, metrics, login.to_string(), service.process.log()] {
            expect_no_secret(&text, &key);
        }
    }
}

#[tokio::test]
async fn keepalive_detects_vanished_host() {
    let (rds, key) = (Rds::shared().await, Key::long_lived());
    rds.iam().allow(&key, &["probed"]);
    let service = Service::start(rds, "probed", &key.environment()).await;
    service.user("alice").get("/v1/albums").await.expect(200);
    // See the kernel's networking/proc_net_tcp: peer, state, and the active timer, where 02 is keepalive.
    let probed = async || {
        let table = std::fs::read_to_string(format!("/proc/{}/net/tcp", service.process.id())).unwrap();
        let peer = format!(":{:04X}", rds.port());
        let mut timers = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        timers
            .any(|fields| fields[2].ends_with(&peer) && fields[3] == "01" && fields[5].starts_with("02:"))
            .then_some(())
    };
    eventually("a connection under keepalive", probed).await;
}

#[tokio::test]
async fn concurrent_logins_share_one_token() {
    let (rds, key) = (Rds::shared().await, Key::long_lived());
    rds.iam().allow(&key, &["many"]);
    let service = Service::start(rds, "many", &key.environment()).await;
    let host = service.user("alice");
    let answers = join_all((0..40).map(|_| host.get("/v1/albums"))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert!(rds.iam().login_results("many").len() > 1, "several connections");
    assert!(service.metric(RENEWALS).await < 1.5, "one token");
}

#[tokio::test]
async fn expiring_tokens_fail_no_request() {
    // Half the lifetime of a token, so that a token at the end of its lease can still be verified on a busy machine.
    const LEASE: Duration = Duration::from_millis(2500);
    let (rds, key) = (Rds::start().await, Key::long_lived());
    rds.iam().allow(&key, &["steady"]);
    rds.iam().max_age(5);
    let mut more = key.environment();
    more.extend(pairs(&[("IAM_TOKEN_TTL", "2500ms"), ("MAX_LIFETIME", "1500ms"), ("MAX_CONNECTIONS", "6")]));
    let service = Service::start(&rds, "steady", &more).await;
    let load = Load::of_albums(&service.user("alice"), CLIENTS);
    // Several token lifetimes.
    let time = Duration::from_secs(if is_full_run() { 30 } else { 12 });
    tokio::time::sleep(time).await;
    let outcome = load.stop().await;
    let failed: Vec<_> = outcome.failed().iter().map(|request| &request.failure).collect();
    assert!(failed.is_empty(), "{} of {} requests failed: {failed:?}", failed.len(), outcome.requests.len());
    outcome.assert_albums_kept(&service.beside.database).await;
    let (tokens, logins) = (service.metric(RENEWALS).await, rds.iam().login_results("steady"));
    assert!(logins.iter().all(|verdict| verdict == "ok"), "{logins:?}");
    // A token is renewed after 17/30 to 20/30 of its lease.
    let most = time.as_secs_f64() / (LEASE.as_secs_f64() * 17.0 / 30.0) + 2.0;
    assert!(tokens <= most, "{tokens} tokens");
    let signed_in = f64::from(u32::try_from(logins.len()).unwrap());
    assert!(signed_in > 1.5 * tokens, "{} logins with {tokens} tokens show nothing", logins.len());
    eprintln!("{} requests, {} logins, {tokens} tokens", outcome.requests.len(), logins.len());
}

#[tokio::test]
async fn renews_credentials_after_refusal() {
    let (rds, first, second) = (Rds::shared().await, Key::temporary(700), Key::temporary(900));
    rds.iam().allow(&first, &["rotated"]);
    let metadata = MetadataService::start(&first, TimeDelta::hours(6)).await;
    let mut more = metadata.environment();
    more.extend(pairs(SHORT_LIVED));
    more.push(TRACE.map(str::to_owned).into());
    let service = Service::start(rds, "rotated", &more).await;
    let load = Load::of_albums(&service.user("alice"), CLIENTS);
    eventually("signed in", async || (rds.iam().login_results("rotated").len() > 3).then_some(())).await;
    // The leased token would have been valid for minutes.
    metadata.replace(&second, TimeDelta::hours(6));
    rds.iam().allow(&second, &["rotated"]);
    rds.iam().forget(&first);
    eventually("refused and renewed", async || (service.metric(REFUSALS).await >= 1.0).then_some(())).await;
    let before = rds.iam().login_results("rotated").len();
    eventually("signed in again", async || (rds.iam().login_results("rotated").len() > before + 3).then_some(())).await;
    let outcome = load.stop().await;
    assert_eq!(outcome.failed().len(), 0, "of {} requests", outcome.requests.len());
    let tokens = service.metric(RENEWALS).await;
    assert!((2.0..=3.0).contains(&tokens), "{tokens} tokens");
    expect_no_secret(&service.process.log(), &first);
    expect_no_secret(&service.process.log(), &second);
}

#[tokio::test]
async fn serves_with_last_token_and_warns_once() {
    let (rds, key) = (Rds::shared().await, Key::temporary(300));
    rds.iam().allow(&key, &["stuck"]);
    let metadata = MetadataService::start(&key, TimeDelta::hours(6)).await;
    let mut more = metadata.environment();
    more.extend(pairs(SHORT_LIVED));
    more.push(TRACE.map(str::to_owned).into());
    more.extend(pairs(&[("IAM_TOKEN_TTL", "30s")]));
    let service = Service::start(rds, "stuck", &more).await;
    let host = service.user("alice");
    host.get("/v1/albums").await.expect(200);
    metadata.fail(true);
    let login = eventually("failing", async || {
        let row = service.health("database_login").await;
        (row["status"] == "failing").then_some(row)
    })
    .await;
    assert!(login["detail"].as_str().unwrap().contains("renewal failed"), "{login}");
    host.get("/v1/albums").await.expect(200);
    eventually("retried", async || (service.metric(FAILURES).await >= 2.0).then_some(())).await;
    metadata.fail(false);
    let healed = async || (service.health("database_login").await["status"] == "ok").then_some(());
    eventually("renewed", healed).await;
    host.get("/v1/albums").await.expect(200);
    let log = service.process.log();
    for words in ["renewing database credentials failed", "database credentials renewed again"] {
        assert_eq!(log.matches(words).count(), 1, "{words}: {log}");
    }
    expect_no_secret(&log, &key);
}

#[tokio::test]
async fn token_expires_before_its_credentials() {
    let (rds, key) = (Rds::shared().await, Key::temporary(300));
    rds.iam().allow(&key, &["ending"]);
    let metadata = MetadataService::start(&key, TimeDelta::seconds(45)).await;
    let service = Service::start(rds, "ending", &metadata.environment()).await;
    service.user("alice").get("/v1/albums").await.expect(200);
    let expiry = service.metric(r#"darkroom_db_token_expiry_timestamp_seconds{pool="writer"}"#).await;
    let left = expiry - std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!((1.0..=35.0).contains(&left), "{left} s, of a token whose credentials end in 45 s");
}

#[tokio::test]
async fn finds_credentials_like_aws_sdk() {
    let (rds, key) = (Rds::shared().await, Key::temporary(400));
    rds.iam().allow(&key, &["found"]);
    let database = rds.database().await;
    rds.create_user("found", &granted("darkroom_app", &database.name)).await;
    let service = Service::start_on(database, &settings(rds, "found", &key.environment())).await;
    let metadata = MetadataService::start(&key, TimeDelta::hours(6)).await;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let (id, secret, token) = (&key.id, &key.secret, key.session_token.as_deref().unwrap());
    writeln!(file, "[photos]\naws_access_key_id={id}\naws_secret_access_key={secret}\naws_session_token={token}\n")
        .unwrap();
    let profile = vec![
        ("AWS_SHARED_CREDENTIALS_FILE".to_owned(), file.path().display().to_string()),
        ("AWS_PROFILE".to_owned(), "photos".to_owned()),
    ];
    for (place, environment) in [
        ("environment", key.environment()),
        ("profile", profile),
        ("instance", metadata.environment()),
        ("container", metadata.container_environment()),
    ] {
        let mut all = service.beside.environment();
        all.retain(|(name, _)| name != "DARKROOM_DATABASE_SOCKET" && name != "DARKROOM_DATABASE_USER");
        let name = all.iter().position(|(name, _)| name == "DARKROOM_DATABASE_NAME").unwrap();
        let name = all.remove(name);
        all.extend(settings(rds, "found", &environment).into_iter().filter(|(_, value)| !value.is_empty()));
        all.push(name);
        let (code, table, complaints) = run(darkroom(&["check"], &all)).await;
        assert_eq!(code, 0, "{place}: {table}{complaints}");
        assert!(table.contains(&format!("with {id}")), "{place}: {table}");
        expect_no_secret(&table, &key);
    }
}

#[tokio::test]
async fn rereads_rotated_secret_after_refusal() {
    let (rds, key, aws) = (Rds::shared().await, Key::long_lived(), AwsApi::start().await);
    aws.allow(&key);
    let database = rds.database().await;
    rds.create_password_user("rotating", "first-password", &granted("darkroom_app", &database.name)).await;
    rds.forget_verified_passwords("rotating", "first-password").await;
    let secret = |password: &str| format!(r#"{{"engine":"mysql","username":"rotating","password":"{password}"}}"#);
    aws.put_secret("darkroom/db", &secret("first-password"));
    let mut more = key.environment();
    more.extend(aws.environment());
    more.extend(pairs(SHORT_LIVED));
    more.push(TRACE.map(str::to_owned).into());
    more.extend(pairs(&[("AUTH", "secrets-manager"), ("SECRET_ID", "darkroom/db"), ("USER", "")]));
    let service = Service::start_on(database, &settings(rds, "", &more)).await;
    let load = Load::of_albums(&service.user("alice"), CLIENTS);
    eventually("signed in", async || (service.metric(RENEWALS).await >= 1.0).then_some(())).await;
    // Like a rotation: both changes in turn; the old password becomes invalid.
    aws.put_secret("darkroom/db", &secret("second-password"));
    rds.run("ALTER USER 'rotating'@'%' IDENTIFIED BY 'second-password'").await;
    eventually("refused, and read again", async || (service.metric(RENEWALS).await >= 2.0).then_some(())).await;
    let outcome = load.stop().await;
    assert_eq!(outcome.failed().len(), 0, "of {} requests", outcome.requests.len());
    assert_eq!(aws.calls().iter().filter(|call| *call == "GetSecretValue").count(), 2);
    for password in ["first-password", "second-password"] {
        assert!(!service.process.log().contains(password));
    }
}
