//! Every SQL statement of the program is known to the server under test.

use std::{fs, path::Path};

use sqlx::{AssertSqlSafe, Executor, SqlSafeStr};

use crate::harness::TestServer;

#[tokio::test]
async fn server_prepares_every_statement() {
    let server = TestServer::start_with("worker.enabled = false").await;
    let mut connection = server.database.connect().await;
    let statements = darkroom::db::statements();
    assert!(statements.len() > 80, "{}", statements.len());
    let mut failures = Vec::new();
    for (name, sql) in statements {
        if let Err(error) = (&mut connection).prepare(AssertSqlSafe(sql.clone()).into_sql_str()).await {
            failures.push(format!("{name}: {error}\n{sql}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// A statement outside of `statements!` would not be prepared by the test above.
#[test]
fn every_statement_is_listed() {
    let mut files = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let code = fs::read_to_string(&path).unwrap();
        let code = code.split("#[cfg(test)]").next().unwrap_or_default();
        if path.extension().is_none_or(|extension| extension != "rs") || path.ends_with("dev/database/tests.rs") {
            continue;
        }
        for call in ["query", "query_as", "query_scalar"] {
            let call = format!("sqlx::{call}");
            for rest in code.split(&call).skip(1).filter(|rest| !rest.starts_with('_')) {
                let argument = rest.split_once('(').map_or("", |(_, argument)| argument.trim_start());
                let is_listed = argument.starts_with(|c: char| c.is_ascii_uppercase())
                    || argument.starts_with("statement)")
                    || argument.starts_with("if ");
                assert!(is_listed, "{}: {}", path.display(), argument.chars().take(60).collect::<String>());
            }
        }
        let builders = code.matches("QueryBuilder::new(").count() + code.matches("QueryBuilder::<MySql>::new(").count();
        let expected = if path.ends_with("db/photos.rs") { 2 } else { 0 };
        assert_eq!(builders, expected, "{}: use `with_ids`, or add examples", path.display());
    }
}
