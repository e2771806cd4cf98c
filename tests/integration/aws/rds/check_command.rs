//! `darkroom check` explains what is wrong with a database on RDS, and what to do.

use super::{granted, pairs, settings};
use crate::harness::{
    TestServer,
    aws_api::AwsApi,
    iam::Key,
    process::{darkroom, free_address, run},
    rds::Rds,
};

/// The row of a table that starts with a word, and its advice.
#[track_caller]
fn row<'t>(table: &'t str, what: &str) -> (&'t str, &'t str) {
    let mut lines = table.lines().skip_while(|line| !line.starts_with(what));
    let line = lines.next().unwrap_or_else(|| panic!("no {what} in {table}"));
    let advice = lines.next().filter(|line| line.trim_start().starts_with("->"));
    (line, advice.unwrap_or_default())
}

#[tokio::test]
async fn check_advises_on_each_connection_step() {
    let (rds, key, aws) = (Rds::shared().await, Key::temporary(500), AwsApi::start().await);
    aws.allow(&key);
    rds.iam().allow(&key, &["doctor", "nobody", "poor"]);
    let database = rds.database().await;
    let name = database.name.clone();
    rds.create_user("doctor", &granted("darkroom_app", &name)).await;
    rds.create_user("poor", &format!("SELECT, INSERT ON {name}.*")).await;
    let idle = TestServer::start_on(database, tempfile::tempdir().unwrap(), "worker.enabled = false").await;
    let environment = |user: &str, more: &[(&str, &str)]| {
        let more = [key.environment(), aws.environment(), pairs(more)].concat();
        let mut all = idle.environment();
        let settings = settings(rds, user, &more);
        all.retain(|(name, _)| !settings.iter().any(|(other, _)| other == name));
        all.extend(settings.into_iter().filter(|(_, value)| !value.is_empty()));
        all
    };
    let (code, table, complaints) = run(darkroom(&["check"], &environment("doctor", &[]))).await;
    assert_eq!(code, 0, "{table}{complaints}");
    for (what, words) in [
        ("database.dns", "127.0.0.1"),
        ("database.tcp", "accepts connections"),
        ("database.ca_file", "1 certificates in"),
        ("database.token", "in eu-west-1"),
        ("database.tls", "days left"),
        ("database.login", "user `doctor`"),
        ("database.version", "."),
        ("database.schema", "migrations"),
        ("database.grants", "SELECT, INSERT, UPDATE and DELETE on"),
        ("database.clock", "ms off"),
    ] {
        let (line, _) = row(&table, what);
        assert!(line.contains(" ok ") && line.contains(words), "{line}");
    }
    let (token, _) = row(&table, "database.token");
    assert!(token.contains("assumed-role/darkroom-api") && token.contains(&key.id), "{token}");

    let closed = free_address();
    let (closed_host, closed_port) = closed.rsplit_once(':').unwrap();
    for (user, more, what, words, advice) in [
        ("doctor", &[("HOST", "no-such-host.invalid")][..], "database.dns", "no-such-host.invalid", "resolver"),
        ("doctor", &[("HOST", closed_host), ("PORT", closed_port)], "database.tcp", "refused", "security group"),
        ("doctor", &[("REGION", "eu-central-1")], "database.login", "denied", "rds-db:connect"),
        ("nobody", &[], "database.login", "denied", "AWSAuthenticationPlugin"),
        ("Doctor", &[], "database.login", "denied", "this very spelling"),
        ("doctor", &[("NAME", "no_such_database")], "database.login", "no_such_database", "users.sql"),
        ("poor", &[], "database.grants", "UPDATE command denied", "users.sql"),
    ] {
        let (code, table, _) = run(darkroom(&["check"], &environment(user, more))).await;
        let (line, told) = row(&table, what);
        assert!(code == 1 && line.contains("FAILED") && line.contains(words), "{more:?}: {table}");
        assert!(told.contains(advice), "{more:?}: {advice}: {table}");
    }
    let mut without = environment("doctor", &[]);
    without.retain(|(name, _)| !name.starts_with("AWS_"));
    without.push(("AWS_EC2_METADATA_DISABLED".into(), "true".into()));
    let (code, table, _) = run(darkroom(&["check"], &without)).await;
    let (line, told) = row(&table, "database.token");
    assert!(code == 1 && line.contains("FAILED") && told.contains("instance's role"), "{table}");
    assert!(row(&table, "database.login").0.contains("skipped"), "{table}");
}

#[tokio::test]
async fn separate_users_migrate_and_serve() {
    let (rds, key) = (Rds::shared().await, Key::long_lived());
    rds.iam().allow(&key, &["app_dml", "app_ddl"]);
    let (idle, empty) = (TestServer::start_with("worker.enabled = false").await, rds.database().await);
    rds.create_user("app_dml", &granted("darkroom_app", &empty.name)).await;
    rds.create_user("app_ddl", &granted("darkroom_migrate", &empty.name)).await;
    let environment = |more: &[(&str, &str)]| {
        let more = [key.environment(), pairs(&[("NAME", &empty.name)]), pairs(more)].concat();
        let settings = settings(rds, "app_dml", &more);
        let mut all = idle.environment();
        all.retain(|(name, _)| !settings.iter().any(|(other, _)| other == name));
        all.extend(settings.into_iter().filter(|(_, value)| !value.is_empty()));
        all
    };
    let (code, _, complaints) = run(darkroom(&["migrate"], &environment(&[]))).await;
    assert!(code == 1 && complaints.contains("CREATE command denied"), "{complaints}");
    let both = environment(&[("MIGRATE_USER", "app_ddl")]);
    let (code, said, complaints) = run(darkroom(&["migrate"], &both)).await;
    assert!(code == 0 && said.contains(" 0 pending"), "{said}{complaints}");
    let (code, table, complaints) = run(darkroom(&["check"], &both)).await;
    assert_eq!(code, 0, "{table}{complaints}");
    let (line, _) = row(&table, "migrate.login");
    assert!(line.contains(" ok ") && line.contains("user `app_ddl`"), "{line}");
}
