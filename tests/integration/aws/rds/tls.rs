//! Servers that are not who they should be are told nothing, and operators are told why.

use super::pairs;
use crate::harness::{
    TestServer,
    certificates::{Authority, Validity},
    iam::{Key, REGION},
    process::{darkroom, run},
    rogue_database::{Asks, Impostor},
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
            "another.example",
            "not valid for name",
        ),
        ("expired", ours.issue(&["localhost", "expired.example"], Validity::Expired), "expired", "expired"),
        ("of another CA", theirs.issue(&["localhost"], Validity::Good), "CA", "UnknownIssuer"),
    ];
    let idle = TestServer::start_with("worker.enabled = false").await;
    let key = Key::temporary(700);
    for asks in [Asks::AtOnce, Asks::Later] {
        let mut impostors = vec![("without TLS", Impostor::without_tls(asks).await, "no TLS", "does not support TLS")];
        for (what, certificate, words, error) in &issued {
            impostors.push((what, Impostor::with_tls(certificate, asks).await, words, error));
        }
        for (what, impostor, words, error) in impostors {
            let port = impostor.port().to_string();
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
                // The doctor stops at the certificate; what else signs in has to stop there by itself.
                let (code, table, _) = run(darkroom(&["check"], &environment)).await;
                let row = table.lines().find(|line| line.starts_with("database.tls")).expect("a row");
                assert!(code == 1 && row.contains("FAILED") && row.contains(words), "{what}: {table}");
                let (code, _, complaints) = run(darkroom(&["migrate", "--check"], &environment)).await;
                assert!(code == 1 && complaints.contains(error), "{what}: {complaints}");
                impostor.settled().await;
                for secret in [PASSWORD, "somebody", "X-Amz", &key.secret] {
                    assert!(!impostor.heard(secret), "{what} heard {secret}");
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
        for verb in ["serve", "work", "migrate", "check"] {
            let (code, _, complaints) = run(darkroom(&[verb], &environment)).await;
            assert!(code == 64 && complaints.contains("database.tls_mode"), "{verb} {mode}: {complaints}");
            assert!(complaints.contains("in clear") && !complaints.contains(PASSWORD), "{complaints}");
        }
    }
}
