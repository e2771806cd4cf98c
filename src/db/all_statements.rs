//! All SQL statements of the program, so that a test prepares each one on each supported server.

use super::{albums, edits, events, idempotency, invites, jobs, migrations, photos, read_model, reconciler, server};

/// Every statement with its name; of statements that are built at run time one for each shape.
#[must_use]
pub fn statements() -> Vec<(String, String)> {
    let constants = [
        ("albums", albums::STATEMENTS),
        ("edits", edits::STATEMENTS),
        ("events", events::STATEMENTS),
        ("idempotency", idempotency::STATEMENTS),
        ("invites", invites::STATEMENTS),
        ("jobs", jobs::STATEMENTS),
        ("migrations", migrations::STATEMENTS),
        ("photos", photos::STATEMENTS),
        ("read_model", read_model::STATEMENTS),
        ("reconciler", reconciler::STATEMENTS),
        ("server", server::STATEMENTS),
    ];
    let constants = constants.into_iter().flat_map(|(module, statements)| {
        statements.iter().map(move |(name, sql)| {
            let end = if sql.ends_with("IN (") { "?)" } else { "" };
            (format!("{module}::{name}"), format!("{sql}{end}"))
        })
    });
    let lists = photos::list_examples().into_iter().map(|sql| ("photos::list".to_owned(), sql));
    constants.chain(lists).collect()
}
