//! `darkroom check` and `/health`.

use serde_json::Value;

use super::{
    TestServer,
    process::{darkroom, run},
};

/// Runs `darkroom check` with the server's settings and more variables; returns exit code and table.
pub async fn check(server: &TestServer, more: &[(&str, &str)]) -> (i32, String) {
    let mut environment = server.environment();
    environment.retain(|(name, _)| !more.iter().any(|(other, _)| other == name));
    environment.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    let (code, table, complaints) = run(darkroom(&["check"], &environment)).await;
    (code, table + &complaints)
}

/// The table from the row of a dependency on.
pub fn row<'a>(table: &'a str, part: &str) -> Option<&'a str> {
    let from = table.lines().find(|line| line.split_whitespace().next() == Some(part))?;
    Some(&table[table.find(from)?..])
}

/// The dependencies in `/health`.
pub async fn health(operations: &str) -> Value {
    let answer = reqwest::get(format!("{operations}/health")).await.expect("an answer");
    answer.json::<Value>().await.expect("JSON")["dependencies"].take()
}
