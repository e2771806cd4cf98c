//! Start-up steps that the commands and the Lambda functions share.

use std::path::Path;

use anyhow::Context;

use crate::{
    aws,
    config::{Config, Database, Mistakes, Source, Told},
    db::{self, Db, migrations::SchemaStatus},
    telemetry::{self, LogLevel, LogStream},
};

/// Reads the configuration and starts logging.
pub async fn configure(file: Option<&Path>, stream: LogStream) -> anyhow::Result<(Config, LogLevel)> {
    let config = load_config(file, &[]).await?;
    let level = telemetry::start_logging(&config.log, stream)?;
    config.log_deprecations();
    Ok((config, level))
}

/// Reads the file, if one is named, the variables, and those secrets in Secrets Manager that were not fetched before.
pub async fn load_config(file: Option<&Path>, fetched: &[Told]) -> Result<Config, Mistakes> {
    let mut source = Source::load(file, std::env::vars_os())?;
    // Boxed: the SDK's credentials chain is a large future.
    Box::pin(aws::secrets::fetch(&mut source, fetched)).await;
    Config::read(source)
}

/// Creates the database and its users, if a master user is configured, and applies pending migrations. Safe to repeat
/// after a failure.
pub async fn migrate(settings: &Database) -> anyhow::Result<SchemaStatus> {
    if let Some(master) = settings.for_users() {
        let db = Db::new(&master);
        let result = db::users::create(&db, settings).await;
        db.close().await;
        result.with_context(|| master.described())?;
    }
    let settings = settings.for_migrations();
    let db = Db::new(&settings);
    let level = db::migrations::run(&db).await;
    db.close().await;
    level.with_context(|| settings.described())
}
