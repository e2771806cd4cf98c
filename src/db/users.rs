//! Creates the database and its two users with `deploy/sql/users.sql`, which is part of the binary.

use sqlx::AssertSqlSafe;

use super::{database::Db, error::Result};
use crate::config;

const SQL: &str = include_str!("../../deploy/sql/users.sql");

/// Creates what is missing, with the names of the configuration, and grants each user what it needs. `db` is signed in
/// as the master user. Existing users and databases stay as they are, so it may run again.
pub async fn create(db: &Db, config: &config::Database) -> Result<()> {
    let migrator = config.migrate_login.as_ref().unwrap_or(&config.login);
    let mut session = db.session().await?;
    for statement in statements(&config.name, &config.login.user, &migrator.user) {
        // The configuration accepts only names that need no escaping.
        sqlx::query(AssertSqlSafe(statement)).execute(&mut session).await?;
    }
    Ok(())
}

fn statements(name: &str, user: &str, migrator: &str) -> Vec<String> {
    let code = SQL.lines().filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join("\n");
    let code = code
        .replace("DATABASE IF NOT EXISTS darkroom", &format!("DATABASE IF NOT EXISTS `{name}`"))
        .replace("darkroom.*", &format!("`{name}`.*"))
        .replace("'darkroom_app'", &format!("'{user}'"))
        .replace("'darkroom_migrate'", &format!("'{migrator}'"));
    code.split(';').map(|statement| statement.trim().to_owned()).filter(|statement| !statement.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_use_configured_names() {
        let statements = statements("photos", "app", "ddl");
        assert_eq!(statements.len(), 5, "{statements:?}");
        assert!(statements[0].starts_with("CREATE DATABASE IF NOT EXISTS `photos` "), "{}", statements[0]);
        assert!(statements[2].starts_with("GRANT ") && statements[2].ends_with(" ON `photos`.* TO 'app'@'%'"));
        assert!(statements[4].starts_with("GRANT ") && statements[4].ends_with(" ON `photos`.* TO 'ddl'@'%'"));
        assert!(statements.iter().all(|statement| !statement.contains("darkroom")), "{statements:?}");
    }
}
