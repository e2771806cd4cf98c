//! The service on a database as on RDS: IAM authentication over verified TLS, and a server that crashes, freezes and
//! is replaced.

mod check_command;
mod failures;
mod read_replica;
mod sign_in;
mod tls;
mod users;

use crate::harness::{Client, TestServer, database::Database, process::Process, rds::Rds};

/// The number of clients of a load.
const CLIENTS: usize = 6;

/// The privileges that `deploy/sql/users.sql` grants a user, for another database.
pub(crate) fn granted(user: &str, database: &str) -> String {
    let sql = include_str!("../../../deploy/sql/users.sql");
    let line = sql.lines().find(|line| line.starts_with("GRANT ") && line.contains(&format!("'{user}'")));
    let (privileges, _) = line.and_then(|line| line.split_once(" ON darkroom.*")).expect("a grant for that user");
    format!("{} ON {database}.*", privileges.trim_start_matches("GRANT "))
}

/// A `darkroom serve` process beside an idle server that has created the schema and the identity.
pub(crate) struct Service {
    pub(crate) process: Process,
    beside: TestServer,
}

impl Service {
    /// Signs in as a new user, whom IAM must allow.
    pub(crate) async fn start(rds: &Rds, user: &str, more: &[(String, String)]) -> Self {
        let database = rds.database().await;
        rds.create_user(user, &granted("darkroom_app", &database.name)).await;
        Self::start_on(database, &settings(rds, user, more)).await
    }

    async fn start_on(database: Database, settings: &[(String, String)]) -> Self {
        let name = ("DARKROOM_DATABASE_NAME".to_owned(), database.name.clone());
        let folder = tempfile::tempdir().expect("a folder");
        let beside = TestServer::start_on(database, folder, "worker.enabled = false").await;
        let all: Vec<(&str, &str)> =
            settings.iter().chain([&name]).map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let process = Process::start(&beside, "serve", &all).await;
        Self { process, beside }
    }

    pub(crate) fn user(&self, subject: &str) -> Client {
        self.process.user(&self.beside, subject)
    }

    /// The value of a metric; 0 if it is missing.
    async fn metric(&self, name: &str) -> f64 {
        let text = reqwest::get(format!("{}/metrics", self.process.operations)).await.unwrap().text().await.unwrap();
        text.lines().filter_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok()).sum()
    }

    /// A component of `/health`.
    async fn health(&self, row: &str) -> serde_json::Value {
        let answer = reqwest::get(format!("{}/health", self.process.operations)).await.unwrap();
        answer.json::<serde_json::Value>().await.unwrap()["dependencies"][row].take()
    }
}

/// The settings for a user, without the database name. A login starts a process, which is slow on a busy machine, so
/// the timeout for a connection is long.
pub(crate) fn settings(rds: &Rds, user: &str, more: &[(String, String)]) -> Vec<(String, String)> {
    let mut all = vec![("DARKROOM_DATABASE_SOCKET".to_owned(), String::new())];
    all.extend(rds.settings(user, ""));
    all.retain(|(name, _)| name != "DARKROOM_DATABASE_NAME");
    all.extend(pairs(&[("ACQUIRE_TIMEOUT", "8s")]));
    all.extend_from_slice(more);
    all
}

/// Database settings as environment variables.
pub(crate) fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(name, value)| (format!("DARKROOM_DATABASE_{name}"), (*value).to_owned())).collect()
}
