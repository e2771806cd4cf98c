//! What the service says of itself to operators: `darkroom check`, and `/health`.

use serde_json::Value;

use super::{
    TestServer,
    process::{darkroom, run},
};

/// The table that `darkroom check` prints for these variables, over those of the server; and its exit code.
pub async fn check(server: &TestServer, more: &[(&str, &str)]) -> (i32, String) {
    let mut environment = server.environment();
    environment.retain(|(name, _)| !more.iter().any(|(other, _)| other == name));
    environment.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    let (code, table, complaints) = run(darkroom(&["check"], &environment)).await;
    (code, table + &complaints)
}

/// A part's row and what follows it.
pub fn row<'a>(table: &'a str, part: &str) -> Option<&'a str> {
    let from = table.lines().find(|line| line.split_whitespace().next() == Some(part))?;
    Some(&table[table.find(from)?..])
}

/// What `/health` says of each dependency.
pub async fn health(operations: &str) -> Value {
    let answer = reqwest::get(format!("{operations}/health")).await.expect("an answer");
    answer.json::<Value>().await.expect("JSON")["dependencies"].take()
}
