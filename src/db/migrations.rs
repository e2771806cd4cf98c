//! The schema: `migrations/`, in the binary.

use std::collections::HashSet;

use sqlx::{
    MySqlConnection,
    migrate::{Migrate, MigrateError, Migrator},
};

use super::{Db, Result};

static MIGRATOR: Migrator = sqlx::migrate!();

/// Seconds to wait for another process that migrates.
const LOCK_SECONDS: i64 = 60;

/// Where the schema stands.
#[derive(Debug, PartialEq, Eq)]
pub struct Level {
    /// Migrations that have run.
    pub applied: usize,
    /// Versions of this binary that have not.
    pub pending: Vec<i64>,
}

/// Runs what has not run yet; of two processes at once one does it and the other waits.
///
/// # Errors
/// A migration failed, or one that ran earlier is not what this binary has.
pub async fn run(db: &Db) -> anyhow::Result<Level> {
    let mut session = db.session().await?;
    // sqlx's own lock waits for ever on MySQL and not at all on MariaDB.
    let got: Option<i64> = sqlx::query_scalar("SELECT GET_LOCK('darkroom.migrations', ?)")
        .bind(LOCK_SECONDS)
        .fetch_one(&mut session)
        .await?;
    anyhow::ensure!(got == Some(1), "another process has been migrating for over {LOCK_SECONDS} s");
    let mut migrator = Migrator { migrations: MIGRATOR.migrations.clone(), ..Migrator::DEFAULT };
    migrator.set_locking(false);
    // Whatever becomes of it, nobody uses this connection again.
    session.condemn();
    migrator.run_direct(None, session.connection(), false).await?;
    // Closing the connection would do it too, some time later.
    sqlx::query("DO RELEASE_LOCK('darkroom.migrations')").execute(session.connection()).await?;
    Ok(level(session.connection()).await?)
}

/// Where the schema stands; nothing is changed.
///
/// # Errors
/// The database's.
pub async fn check(db: &Db) -> Result<Level> {
    level(db.session().await?.connection()).await
}

/// Where the schema stands, by a connection; nothing is changed.
///
/// # Errors
/// The database's.
pub async fn level(connection: &mut MySqlConnection) -> Result<Level> {
    let applied: HashSet<i64> = match connection.list_applied_migrations("_sqlx_migrations").await {
        Ok(applied) => applied.into_iter().map(|migration| migration.version).collect(),
        // 1146: no such table, nothing has run.
        Err(MigrateError::Execute(error)) if super::error::number(&error) == Some(1146) => HashSet::new(),
        Err(MigrateError::Execute(error)) => return Err(error.into()),
        Err(_) => return Err(super::Error::Corrupt("_sqlx_migrations")),
    };
    let pending =
        MIGRATOR.iter().map(|migration| migration.version).filter(|version| !applied.contains(version)).collect();
    Ok(Level { applied: applied.len(), pending })
}
