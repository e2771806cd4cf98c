//! The rows of the database: the way to the server first, then who signs in there, then what that user finds.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection};

use super::{Failure, Outcome, Table};
use crate::{
    config::database::{Auth, Database, Iam, Login, Place, Tls, TlsMode},
    db::{self, Db, probe},
};

/// The longest look at one thing.
const LOOK: Duration = Duration::from_secs(5);
/// Clocks that differ by more are wrong. AWS refuses signatures from 5 minutes on.
const SKEW: chrono::TimeDelta = chrono::TimeDelta::seconds(30);

/// All rows of the database, of the writer and of the reader if there is one.
pub(crate) async fn check(config: &Database, table: &mut Table) {
    let reachable = way(&config.place, &config.tls, "database", table).await;
    sign_in(config, "database", reachable, table).await;
    if config.migrate_login.is_some() {
        let started = Instant::now();
        let there = config.for_migrations();
        let opened = Db::new(&there).connect().await;
        let outcome = opened.map(|_| there.described()).map_err(|error| Failure {
            advice: advice(&error, &there.login),
            told: format!("{}: {error}", there.described()),
        });
        table.row("migrate.login", started, outcome);
    }
    if let Some(reader) = &config.reader {
        let there = Database {
            place: reader.place.clone(),
            login: reader.login.clone(),
            migrate_login: None,
            master_login: None,
            reader: None,
            ..config.clone()
        };
        let reachable = way(&there.place, &there.tls, "reader", table).await;
        sign_in(&there, "reader", reachable, table).await;
    }
}

/// Name, address, greeting and certificate; nothing secret is sent yet. Whether a login makes sense.
async fn way(place: &Place, tls: &Tls, server: &str, table: &mut Table) -> bool {
    let Place::Tcp(host, port) = place else { return true };
    let row = |step: &str| format!("{server}.{step}");
    let started = Instant::now();
    let found = probe::resolve(host, *port, LOOK).await;
    let addresses = found.as_deref().unwrap_or_default().to_vec();
    let shown: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
    let resolved = found.map(|_| format!("{host} is {}", shown.join(", ")));
    let advice = "is the name right, and does this host ask a resolver that knows it (in a VPC: its own)?";
    if !table.row(&row("dns"), started, resolved.map_err(|error| Failure::with(format!("{host}: {error}"), advice))) {
        for step in ["tcp", "tls"] {
            table.skip(&row(step));
        }
        return false;
    }
    let started = Instant::now();
    let reached = async {
        let mut stream = probe::connect(&addresses, LOOK).await.map_err(|error| {
            let advice = "is the server up, is the port right, and does its security group let this host in?";
            Failure::with(error, advice)
        })?;
        let greeting = probe::greet(&mut stream, LOOK).await.map_err(|error| Failure::from(error.to_string()))?;
        Ok((stream, greeting))
    };
    let (stream, greeting) = match reached.await {
        Ok((stream, greeting)) => {
            let peer = stream.peer_addr().map_or_else(|_| place.to_string(), |peer| peer.to_string());
            table.row(&row("tcp"), started, Ok(format!("{peer} greets as {}", greeting.version)));
            (stream, greeting)
        }
        Err(failure) => {
            table.row(&row("tcp"), started, Err(failure));
            table.skip(&row("tls"));
            return false;
        }
    };
    if tls.mode != TlsMode::VerifyIdentity {
        table.row(&row("tls"), Instant::now(), Ok("not verified on loopback".to_owned()));
        return true;
    }
    let started = Instant::now();
    let looked = probe::handshake(stream, &greeting, host, tls.ca.as_deref(), LOOK).await;
    let outcome = looked.map_err(|error| Failure::from(error.to_string())).and_then(|chain| {
        let leaf = chain.certificates.first();
        let names = leaf.map_or_else(String::new, |leaf| leaf.names.join(", "));
        let issuer = leaf.map_or("", |leaf| leaf.issuer.as_str());
        let days = leaf.map_or(0, |leaf| leaf.days_left(Utc::now()));
        chain.verdict.map_err(Failure::from)?;
        Ok(format!("{}, certificate for {names} by {issuer}, {days} days left", chain.protocol))
    });
    table.row(&row("tls"), started, outcome)
}

/// Who signs in, and what that user finds.
async fn sign_in(config: &Database, server: &str, reachable: bool, table: &mut Table) {
    let row = |step: &str| format!("{server}.{step}");
    let db = Db::new(config);
    let mut credentials = true;
    if !matches!(config.login.auth, Auth::Password(_)) {
        credentials = table_token(config, &db, &row("token"), table).await;
    }
    let skip = |table: &mut Table| {
        for step in ["version", "schema", "grants", "clock"] {
            table.skip(&row(step));
        }
    };
    if !(reachable && credentials) {
        table.skip(&row("login"));
        skip(table);
        return;
    }
    let started = Instant::now();
    let place = config.described();
    let mut connection = match db.connect().await {
        Ok(connection) => {
            table.row(&row("login"), started, Ok(place));
            connection
        }
        Err(error) => {
            let told = format!("{place}: {error}");
            table.row(&row("login"), started, Err(Failure { told, advice: advice(&error, &config.login) }));
            skip(table);
            return;
        }
    };
    let started = Instant::now();
    let version = within(db::server_version(&mut connection)).await;
    table.row(&row("version"), started, version);
    let started = Instant::now();
    let schema = schema(&mut connection).await;
    table.row(&row("schema"), started, schema);
    let started = Instant::now();
    // A reader takes no writes, whatever is granted.
    let grants = grants(&mut connection, server == "database").await;
    table.row(&row("grants"), started, grants);
    let started = Instant::now();
    let clock = clock(&mut connection).await;
    table.row(&row("clock"), started, clock);
    // Whether the farewell is heard changes nothing.
    let _ = tokio::time::timeout(LOOK, connection.close()).await;
}

/// The token or secret: for what, by whom, for how long.
async fn table_token(config: &Database, db: &Db, row: &str, table: &mut Table) -> bool {
    let started = Instant::now();
    let got = db.login().credential().await;
    let lease = db.login().lease();
    let outcome = match (got, lease) {
        (Ok(_), Some(lease)) => {
            let left = lease.left.unwrap_or_default().as_secs();
            let mut told = format!("{}, good for {left} s", lease.origin.unwrap_or_default());
            match db.login().identity().await {
                Some(Ok(arn)) => told = format!("{told}, by {arn}"),
                // Where STS can't be reached, the token may be as good as any.
                Some(Err(why)) => told = format!("{told}; who that is, STS did not tell: {why}"),
                None => {}
            }
            Ok(told)
        }
        (Err(error), _) => {
            let advice = match &config.login.auth {
                Auth::Secret(_) => {
                    "may this role read the secret (secretsmanager:GetSecretValue, and kms:Decrypt for a key of your own)?"
                }
                _ => {
                    "credentials come from AWS_* variables, the profile, web identity, the container or the instance's role: is one there?"
                }
            };
            Err(Failure::with(error, advice))
        }
        (Ok(_), None) => Ok("none needed".to_owned()),
    };
    table.row(row, started, outcome)
}

/// What to do about a refused login.
fn advice(error: &db::Error, login: &Login) -> Option<String> {
    let user = &login.user;
    let text = match (error.number(), &login.auth) {
        (Some(1045 | 1698), Auth::Iam(Iam { region, host, port, .. })) => format!(
            "RDS refused the token, and does not say why. Look in this order: the role is allowed `rds-db:connect` on \
             arn:aws:rds-db:{region}:ACCOUNT:dbuser:RESOURCE/{user}; IAM authentication is on for the instance or \
             cluster; the user was made with `IDENTIFIED WITH AWSAuthenticationPlugin AS 'RDS'` in this very spelling \
             (deploy/sql/users.sql); {host}:{port} in {region} is this server and no other name for it \
             (iam_host, region); the clock is right to 5 minutes. The log iam-db-auth-error of RDS tells more"
        ),
        (Some(1045 | 1698), Auth::Secret(_)) => {
            "the secret's user or password is not the server's: has a rotation stopped half-way?".to_owned()
        }
        (Some(1045 | 1698), Auth::Password(_)) => {
            format!("the password is wrong, or `{user}` may not come from this host's address")
        }
        (Some(1044), _) => format!("`{user}` has no rights on this database: see deploy/sql/users.sql"),
        (Some(1049), _) => "there is no such database: see deploy/sql/users.sql".to_owned(),
        (Some(1040 | 1203 | 1226), _) => {
            "the server has no connection left: raise its max_connections, or lower database.max_connections of all \
             instances together"
                .to_owned()
        }
        (None, Auth::Password(_)) if error.to_string().contains("clear") => {
            format!("`{user}` signs in by a token: set database.auth = \"iam\"")
        }
        _ => return None,
    };
    Some(text)
}

async fn schema(connection: &mut MySqlConnection) -> Outcome {
    let looked = tokio::time::timeout(LOOK, db::migrations::level(connection)).await;
    let level = looked.map_err(|_| late())?.map_err(|error| Failure::from(error.to_string()))?;
    if level.pending.is_empty() {
        return Ok(format!("{} migrations", level.applied));
    }
    Err(Failure::with(format!("{} migrations have not run", level.pending.len()), "run `darkroom migrate`"))
}

/// Tries each right on each table, without touching a row.
async fn grants(connection: &mut MySqlConnection, writes: bool) -> Outcome {
    let tried = tokio::time::timeout(LOOK, lacking(connection, writes)).await;
    let (tables, lacking) = tried.map_err(|_| late())?.map_err(|error| Failure::from(error.to_string()))?;
    if lacking.is_empty() {
        let rights = if writes { "SELECT, INSERT, UPDATE and DELETE" } else { "SELECT" };
        return Ok(format!("{rights} on {tables} tables"));
    }
    let read_only = lacking.iter().any(|why| why.contains("read-only") || why.contains("read_only"));
    let advice = if read_only {
        "this server takes no writes: is database.host the writer's name?"
    } else {
        "grant the user what deploy/sql/users.sql grants it"
    };
    Err(Failure::with(lacking.join("; "), advice))
}

/// How many tables there are, and what the server says to what it does not allow.
async fn lacking(connection: &mut MySqlConnection, writes: bool) -> sqlx::Result<(usize, Vec<String>)> {
    // As bytes: MySQL and MariaDB give these columns different types.
    let tables: Vec<(Vec<u8>, Vec<u8>)> = sqlx::query_as(
        "SELECT table_name, column_name FROM information_schema.columns
         WHERE table_schema = DATABASE() AND ordinal_position = 1",
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut lacking = Vec::new();
    for (table, column) in &tables {
        let (table, column) = (String::from_utf8_lossy(table), String::from_utf8_lossy(column));
        // What has run is `darkroom migrate`'s to write.
        let writes = writes && table != "_sqlx_migrations";
        let mut statements = vec![format!("SELECT 1 FROM `{table}` WHERE FALSE")];
        if writes {
            statements.extend([
                format!("INSERT INTO `{table}` (`{column}`) SELECT `{column}` FROM `{table}` WHERE FALSE"),
                format!("UPDATE `{table}` SET `{column}` = `{column}` WHERE FALSE"),
                format!("DELETE FROM `{table}` WHERE FALSE"),
            ]);
        }
        for statement in statements {
            match (&mut *connection).execute(AssertSqlSafe(statement)).await {
                Ok(_) => {}
                Err(sqlx::Error::Database(error)) if ALLOWED.contains(&number(error.as_ref())) => {}
                Err(sqlx::Error::Database(error)) => lacking.push(error.message().to_owned()),
                Err(error) => return Err(error),
            }
        }
    }
    lacking.dedup();
    Ok((tables.len(), lacking))
}

/// What comes after the rights were looked at: a column without a default, one that may not be null, one that is generated.
const ALLOWED: [u16; 4] = [1048, 1364, 1906, 3105];

fn number(error: &dyn sqlx::error::DatabaseError) -> u16 {
    error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>().map_or(0, sqlx::mysql::MySqlDatabaseError::number)
}

async fn clock(connection: &mut MySqlConnection) -> Outcome {
    let before = Utc::now();
    let asked = sqlx::query_scalar::<_, DateTime<Utc>>("SELECT UTC_TIMESTAMP(6)").fetch_one(connection);
    let theirs = tokio::time::timeout(LOOK, asked).await.map_err(|_| late())?;
    let theirs = theirs.map_err(|error| Failure::from(error.to_string()))?;
    // The server read its clock some time in between.
    let ours = before + (Utc::now() - before) / 2;
    let skew = ours - theirs;
    let told = format!("this host's clock is {:+} ms off the server's", skew.num_milliseconds());
    if skew.abs() > SKEW { Err(Failure::with(told, "is chronyd, or another NTP client, at work?")) } else { Ok(told) }
}

fn late() -> Failure {
    format!("no answer within {LOOK:?}").into()
}

async fn within(look: impl Future<Output = db::Result<String>>) -> Outcome {
    let looked = tokio::time::timeout(LOOK, look).await.map_err(|_| late())?;
    looked.map_err(|error| error.to_string().into())
}
