//! The SQL of the program: every statement is a constant of its repository, and all of them are listed here, so that a
//! test prepares each one on each supported server.

use sqlx::{MySql, QueryBuilder, mysql::MySqlArguments};
use uuid::Uuid;

use super::{albums, edits, events, idempotency, invites, jobs, migrations, photos, read_model, reconciler, server};

/// Declares the statements of a repository as constants, each the concatenation of its parts, and lists them as
/// `STATEMENTS`.
///
/// A statement that ends in `IN (` is completed by [`with_ids`].
macro_rules! statements {
    ($($(#[$attribute:meta])* $name:ident = $($part:expr),+;)*) => {
        $($(#[$attribute])* const $name: &str = concat!($($part),+);)*

        pub(super) const STATEMENTS: &[(&str, &str)] = &[$((stringify!($name), $name)),*];
    };
}

/// A statement that ends in `IN (`, with its other arguments and a list of ids.
pub(super) fn with_ids(
    statement: &'static str,
    arguments: MySqlArguments,
    ids: impl IntoIterator<Item = Uuid>,
) -> QueryBuilder<MySql> {
    let mut query = QueryBuilder::with_arguments(statement, arguments);
    let mut list = query.separated(", ");
    for id in ids {
        list.push_bind(id);
    }
    query.push(")");
    query
}

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
