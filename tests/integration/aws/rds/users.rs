//! The master user creates the database, its users and its schema on an empty server.

use serde_json::json;

use super::{pairs, settings};
use crate::harness::{
    TestServer,
    aws_api::AwsApi,
    iam::Key,
    lambda::Function,
    process::{darkroom, run},
    rds::Rds,
};

const NAMES: [(&str, &str); 3] = [("NAME", "made"), ("USER", "made_app"), ("MIGRATE_USER", "made_ddl")];
/// Variables of every function that this one does not use.
const REST: [(&str, &str); 6] = [
    ("DARKROOM_STORAGE_KIND", "s3"),
    ("DARKROOM_STORAGE_BUCKET", "photos"),
    ("DARKROOM_QUEUE_KIND", "sqs"),
    ("DARKROOM_QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com/123456789012/jobs"),
    ("DARKROOM_QUEUE_DEAD_LETTER_URL", "https://sqs.eu-west-1.amazonaws.com/123456789012/dead"),
    ("DARKROOM_AWS_REGION", "eu-west-1"),
];

#[tokio::test]
async fn master_user_creates_database_and_users() {
    let (rds, key, aws) = (Rds::start().await, Key::temporary(500), AwsApi::start().await);
    if !rds.has_plugin_of_rds() {
        return eprintln!("skipped: the stand-in for RDS on MariaDB has no plugin of that name; MySQL's has");
    }
    aws.allow(&key);
    rds.iam().allow(&key, &["made_app", "made_ddl"]);
    // On RDS the master user has no SUPER privilege, but may create users and grant its own privileges.
    rds.create_password_user("admin", "kept-by-rds", "ALL ON *.*").await;
    rds.run("GRANT CREATE USER ON *.* TO 'admin'@'%' WITH GRANT OPTION").await;
    let idle = TestServer::start_with("worker.enabled = false").await;
    let environment = |more: &[(&str, &str)]| {
        let settings =
            settings(&rds, "made_app", &[key.environment(), aws.environment(), pairs(&NAMES), pairs(more)].concat());
        let mut all = idle.environment();
        all.retain(|(name, _)| {
            !settings.iter().any(|(other, _)| other == name) && name != "DARKROOM_STORAGE_DIRECTORY"
        });
        all.extend(settings.into_iter().filter(|(_, value)| !value.is_empty()));
        all.extend(REST.map(|(name, value)| (name.to_owned(), value.to_owned())));
        all
    };
    let with_master = environment(&[("MASTER_SECRET_ID", "rds!db-1")]);

    let function = Function::start("migrate", &with_master).await;
    let refused = function.invoke(json!({})).await.unwrap_err().to_string();
    assert!(refused.contains("rds!db-1") && refused.contains("Darkroom.migrate"), "no secret yet: {refused}");
    aws.put_secret("rds!db-1", r#"{"username":"admin","password":"kept-by-rds"}"#);
    let made = function.invoke(json!({})).await.unwrap();
    assert!(made["applied"].as_u64() > Some(10) && made["pending"] == 0, "{made}");
    assert_eq!(function.invoke(json!({})).await.unwrap(), made, "the second run changes nothing");
    assert!(!function.log().contains("kept-by-rds"));

    // The command does the same, and afterwards both users exist with exactly the required privileges.
    let (code, said, complaints) = run(darkroom(&["migrate"], &with_master)).await;
    assert!(code == 0 && said.contains(" 0 pending"), "{said}{complaints}");
    let (_, table, _) = run(darkroom(&["check"], &environment(&[]))).await;
    for row in ["database.login", "database.schema", "database.grants", "migrate.login"] {
        let line = table.lines().find(|line| line.starts_with(row)).unwrap_or_else(|| panic!("no {row}: {table}"));
        assert!(line.contains(" ok "), "{table}");
    }
    let (code, _, complaints) = run(darkroom(&["migrate"], &environment(&[("NAME", "other")]))).await;
    assert!(code == 1 && complaints.contains("denied"), "only this database: {complaints}");
}
