//! The schema: the files of `migrations/`, which are part of the binary.

use std::{collections::HashSet, sync::LazyLock};

use sqlx::{
    MySqlConnection, SqlSafeStr,
    migrate::{Migrate, MigrateError, Migration, MigrationType, Migrator},
};

use super::{database::Db, error::Result};

/// A file of `migrations/` by its name without `.sql`: `VERSION_DESCRIPTION`.
macro_rules! migration {
    ($name:literal) => {
        ($name, include_str!(concat!("../../migrations/", $name, ".sql")))
    };
}

/// Every migration, oldest first. Listed rather than collected by `sqlx::migrate!`; see `from_row!`.
const MIGRATIONS: &[(&str, &str)] = &[
    migration!("20261122000001_albums"),
    migration!("20261122000002_invites"),
    migration!("20261122000003_photos"),
    migration!("20261122000004_events"),
    migration!("20261122000005_jobs"),
    migration!("20261122000006_idempotency"),
    migration!("20261122000007_invites_wrote_at"),
    migration!("20261122000008_jobs_traceparent"),
    migration!("20261122000009_events_traceparent"),
    migration!("20261123000010_jobs_sends"),
    migration!("20261123000011_edits"),
    migration!("20261123000012_events_edit_id"),
    migration!("20261123000013_projection"),
    migration!("20261123000014_invites_projected"),
    migration!("20261123000015_jobs_lane_project"),
    migration!("20261123000016_edits_task_token"),
    migration!("20261130000017_jobs_queue"),
];

static MIGRATOR: LazyLock<Migrator> = LazyLock::new(|| {
    let migrations = MIGRATIONS.iter().map(|(name, sql)| {
        let (version, description) = name.split_once('_').expect("VERSION_DESCRIPTION");
        let version = version.parse().expect("a number");
        Migration::new(version, description.replace('_', " ").into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(migrations.collect())
});

statements! {
    GET_LOCK = "SELECT GET_LOCK('darkroom.migrations', ?)";
    RELEASE_LOCK = "DO RELEASE_LOCK('darkroom.migrations')";
}

/// Seconds to wait for another process that migrates.
const LOCK_SECONDS: i64 = 60;

/// The state of the schema.
#[derive(Debug, PartialEq, Eq)]
pub struct SchemaStatus {
    /// The number of migrations that have run.
    pub applied: usize,
    /// The versions of those that have not.
    pub pending: Vec<i64>,
}

/// Runs the migrations that have not run yet. Concurrent processes wait for each other.
pub async fn run(db: &Db) -> anyhow::Result<SchemaStatus> {
    let mut session = db.session().await?;
    // sqlx's own lock waits forever on MySQL and not at all on MariaDB.
    let locked: Option<i64> = sqlx::query_scalar(GET_LOCK).bind(LOCK_SECONDS).fetch_one(&mut session).await?;
    anyhow::ensure!(locked == Some(1), "another process has been migrating for over {LOCK_SECONDS} s");
    let mut migrator = Migrator { migrations: MIGRATOR.migrations.clone(), ..Migrator::DEFAULT };
    migrator.set_locking(false);
    // Not reused, whatever happens.
    session.mark_broken();
    migrator.run_direct(None, session.connection(), false).await?;
    // Closing the connection would release it too, but later.
    sqlx::query(RELEASE_LOCK).execute(session.connection()).await?;
    Ok(schema_status(session.connection()).await?)
}

/// The state of the schema; changes nothing.
pub async fn check(db: &Db) -> Result<SchemaStatus> {
    schema_status(db.session().await?.connection()).await
}

/// As [`check`], over a connection.
pub async fn schema_status(connection: &mut MySqlConnection) -> Result<SchemaStatus> {
    let applied: HashSet<i64> = match connection.list_applied_migrations("_sqlx_migrations").await {
        Ok(applied) => applied.into_iter().map(|migration| migration.version).collect(),
        // 1146: no such table, so none has run.
        Err(MigrateError::Execute(error)) if super::error::error_number(&error) == Some(1146) => HashSet::new(),
        Err(MigrateError::Execute(error)) => return Err(error.into()),
        Err(_) => return Err(super::error::Error::Corrupt("_sqlx_migrations")),
    };
    let pending =
        MIGRATOR.iter().map(|migration| migration.version).filter(|version| !applied.contains(version)).collect();
    Ok(SchemaStatus { applied: applied.len(), pending })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_every_migration_file() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
        let names = std::fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").file_name());
        let mut files: Vec<String> =
            names.filter_map(|name| name.to_str()?.strip_suffix(".sql").map(str::to_owned)).collect();
        files.sort();
        assert_eq!(MIGRATIONS.iter().map(|(name, _)| *name).collect::<Vec<_>>(), files);
    }
}
