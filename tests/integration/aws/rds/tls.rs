//! A server whose certificate does not verify receives no credentials, and operators learn why.

use super::pairs;
use crate::harness::{
    TestServer,
    certificates::{Authority, Validity},
    iam::{Key, REGION},
    process::{darkroom, run},
    rogue_database::{Asks, RogueDatabase},
};

const PASSWORD: &str = "a-password-that-nobody-may-hear";

#[tokio::test]
async fn rogue_server_receives_no_credentials() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Authority::new(folder.path(), "ours"), Authority::new(folder.path(), "theirs"));
    let issued = [
        (
            "good for another name",
            ours.issue(&["another.example"], Validity::Good),
            "not valid for name",
            "must be a name",
        ),
        ("expired", ours.issue(&["localhost", "expired.example"], Validity::Expired), "expired", "renew the server's"),
        ("of another CA", theirs.issue(&["localhost"], Validity::Good), "UnknownIssuer", "contain its CA"),
    ];
    let idle = TestServer::start_with("worker.enabled = false").await;
    let key = Key::temporary(700);
    for asks in [Asks::AtOnce, Asks::Later] {
        let mut impostors =
            vec![("without TLS", RogueDatabase::without_tls(asks).await, "does not support TLS", "ssl_cert")];
        for (what, certificate, error, advice) in &issued {
            impostors.push((what, RogueDatabase::with_tls(certificate, asks).await, error, advice));
        }
        for (what, rogue, error, advice) in impostors {
            let port = rogue.port().to_string();
            let ca = ours.path().display().to_string();
            let common = [("HOST", "localhost"), ("PORT", &port), ("USER", "somebody"), ("TLS_CA", &ca)];
            let mut with_token = pairs(&common);
            with_token.extend(pairs(&[("AUTH", "iam"), ("REGION", REGION)]));
            with_token.extend(key.environment());
            let mut with_password = pairs(&common);
            with_password.extend(pairs(&[("PASSWORD", PASSWORD)]));
            for login in [with_token, with_password] {
                let mut environment = idle.environment();
                environment.retain(|(name, _)| name != "DARKROOM_DATABASE_SOCKET" && name != "DARKROOM_DATABASE_USER");
                environment.extend(login);
                let (code, table, _) = run(darkroom(&["check"], &environment)).await;
                let mut lines = table.lines().skip_while(|line| !line.starts_with("database.tls"));
                let (row, below) = (lines.next().expect("a row"), lines.next().expect("its advice"));
                assert!(code == 1 && row.contains("FAILED") && row.contains(error), "{what}: {table}");
                assert!(below.contains(advice), "{what}: {table}");
                let (code, _, complaints) = run(darkroom(&["migrate", "--check"], &environment)).await;
                assert!(code == 1 && complaints.contains(error), "{what}: {complaints}");
                rogue.settled().await;
                for secret in [PASSWORD, "somebody", "X-Amz", &key.secret] {
                    assert!(!rogue.received(secret), "{what} heard {secret}");
                }
            }
        }
    }
}

#[tokio::test]
async fn requires_verified_tls_off_loopback() {
    let idle = TestServer::start_with("worker.enabled = false").await;
    for mode in ["disabled", "preferred", "required", "verify-ca"] {
        let mut environment = idle.environment();
        environment.retain(|(name, _)| name != "DARKROOM_DATABASE_SOCKET");
        environment.extend(pairs(&[("HOST", "db.internal"), ("PASSWORD", PASSWORD), ("TLS_MODE", mode)]));
        for verb in ["serve", "worker", "migrate", "check"] {
            let (code, _, complaints) = run(darkroom(&[verb], &environment)).await;
            assert!(code == 64 && complaints.contains("database.tls_mode"), "{verb} {mode}: {complaints}");
            assert!(complaints.contains("in clear") && !complaints.contains(PASSWORD), "{complaints}");
        }
    }
}
