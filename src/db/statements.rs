//! How a repository declares its SQL: every statement is a constant. `all_statements.rs` lists them.

use sqlx::{MySql, QueryBuilder, mysql::MySqlArguments};
use uuid::Uuid;

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
