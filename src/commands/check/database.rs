//! The rows of the database: name and address, CA file, credentials, login with TLS, and what the user may do.

use std::{
    io,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use chrono::Utc;
use rustls::CertificateError;
use sqlx::{Connection, MySqlConnection};
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

use super::{Failure, Outcome, Table};
use crate::{
    config::database::{Auth, Database, Iam, Login, Place, TlsMode},
    db::{self, Db, ca_file::read_ca_file},
};

/// Time for each check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// A clock skew that is reported as a failure. AWS rejects signatures from 5 minutes on.
const MAX_CLOCK_SKEW: chrono::TimeDelta = chrono::TimeDelta::seconds(30);

/// Checks the writer, the login for migrations if there is one, and the read replica if there is one.
pub(crate) async fn check(config: &Database, table: &mut Table) {
    check_server(config, "database", table).await;
    if config.migrate_login.is_some() {
        let started = Instant::now();
        let migrations = config.for_migrations();
        let opened = Db::new(&migrations).connect().await;
        let outcome = opened.map(|_| migrations.described()).map_err(|error| login_failure(&migrations, &error));
        table.row("migrate.login", started, outcome);
    }
    if let Some(reader) = &config.reader {
        let replica = Database {
            place: reader.place.clone(),
            login: reader.login.clone(),
            migrate_login: None,
            master_login: None,
            reader: None,
            ..config.clone()
        };
        check_server(&replica, "reader", table).await;
    }
}

async fn check_server(config: &Database, server: &str, table: &mut Table) {
    let row = |step: &str| format!("{server}.{step}");
    let mut may_connect = check_address(&config.place, server, table).await;
    let verifies = config.tls.mode == TlsMode::VerifyIdentity;
    if let Some(path) = config.tls.ca.as_deref().filter(|_| verifies) {
        let started = Instant::now();
        may_connect &= table.row(&row("ca_file"), started, check_ca_file(path));
    }
    let db = Db::new(config);
    if !matches!(config.login.auth, Auth::Password(_)) {
        may_connect &= check_credentials(config, &db, &row("token"), table).await;
    }
    let opened = if may_connect { log_in(config, &db, server, table).await } else { None };
    let Some(mut connection) = opened else {
        let first = if may_connect { 2 } else { 0 };
        let steps = ["tls", "login", "version", "schema", "grants", "clock"];
        steps[first..].iter().for_each(|step| table.skip(&row(step)));
        return;
    };
    let started = Instant::now();
    table.row(&row("version"), started, in_time(db::server_version(&mut connection)).await);
    let started = Instant::now();
    table.row(&row("schema"), started, check_schema(&mut connection).await);
    let started = Instant::now();
    // A replica accepts no writes, whatever is granted.
    table.row(&row("grants"), started, check_grants(&mut connection, server == "database").await);
    let started = Instant::now();
    table.row(&row("clock"), started, check_clock(&mut connection).await);
    // A failed goodbye changes nothing.
    let _ = timeout(CHECK_TIMEOUT, connection.close()).await;
}

/// Resolves the host name and opens a TCP connection. Whether a login makes sense.
async fn check_address(address: &Place, server: &str, table: &mut Table) -> bool {
    let Place::Tcp(host, port) = address else { return true };
    let started = Instant::now();
    let resolved = match timeout(CHECK_TIMEOUT, lookup_host((host.as_str(), *port))).await {
        Ok(Ok(addresses)) => Ok(addresses.collect::<Vec<_>>()),
        Ok(Err(error)) => Err(format!("resolving {host} failed: {error}")),
        Err(_) => Err(format!("resolving {host} failed: no answer within {CHECK_TIMEOUT:?}")),
    };
    let addresses = resolved.as_deref().unwrap_or_default().to_vec();
    let outcome = resolved.map(|addresses| {
        let ips: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
        format!("{host} is {}", ips.join(", "))
    });
    let advice = "is the name right, and does this host use a resolver that knows it (in a VPC: its own)?";
    if !table.row(&format!("{server}.dns"), started, outcome.map_err(|error| Failure::with(error, advice))) {
        table.skip(&format!("{server}.tcp"));
        return false;
    }
    let started = Instant::now();
    let connected = connect_tcp(&addresses).await.map(|peer| format!("{peer} accepts connections"));
    let advice = "is the server up, is the port right, and does its security group let this host in?";
    table.row(&format!("{server}.tcp"), started, connected.map_err(|error| Failure::with(error, advice)))
}

/// Connects to the first address that accepts a connection.
async fn connect_tcp(addresses: &[SocketAddr]) -> Result<SocketAddr, String> {
    let mut failures = Vec::new();
    for address in addresses {
        let timed_out = |_| io::Error::other(format!("no answer within {CHECK_TIMEOUT:?}"));
        match timeout(CHECK_TIMEOUT, TcpStream::connect(address)).await.map_err(timed_out).flatten() {
            Ok(_) => return Ok(*address),
            Err(error) => failures.push(format!("{address}: {error}")),
        }
    }
    Err(failures.join("; "))
}

fn check_ca_file(path: &Path) -> Outcome {
    let certificates = read_ca_file(path).map_err(|error| Failure::from(error.to_string()))?;
    let first = certificates.iter().min_by_key(|certificate| certificate.not_after);
    let first = first.map_or_else(String::new, |certificate| {
        format!(", the first to expire is {} in {} days", certificate.subject, certificate.days_left(Utc::now()))
    });
    Ok(format!("{} certificates in {}{first}", certificates.len(), path.display()))
}

/// Logs in with the configured TLS mode: the rows `tls` and `login`.
async fn log_in(config: &Database, db: &Db, server: &str, table: &mut Table) -> Option<MySqlConnection> {
    let (tls_row, login_row) = (format!("{server}.tls"), format!("{server}.login"));
    let (is_tcp, started) = (matches!(config.place, Place::Tcp(..)), Instant::now());
    let mut opened = db.connect().await;
    if let Err(error) = &opened
        && error.is_tls_failure()
    {
        let told = format!("TLS handshake failed, and no credentials were sent: {error}");
        table.row(&tls_row, started, Err(Failure { told, advice: tls_advice(error) }));
        table.skip(&login_row);
        return None;
    }
    if opened.as_ref().is_err_and(|error| error.number().is_none()) {
        table.skip(&tls_row);
    } else if is_tcp {
        table.row(&tls_row, started, check_tls(config, opened.as_mut().ok()).await);
    }
    match opened {
        Ok(connection) => {
            table.row(&login_row, started, Ok(config.described()));
            Some(connection)
        }
        Err(error) => {
            table.row(&login_row, started, Err(login_failure(config, &error)));
            None
        }
    }
}

/// The TLS of a login; without a connection, of one that failed after the handshake.
async fn check_tls(config: &Database, connection: Option<&mut MySqlConnection>) -> Outcome {
    if config.tls.mode != TlsMode::VerifyIdentity {
        return Ok("not verified on loopback".to_owned());
    }
    let Some(connection) = connection else { return Ok("no TLS failure".to_owned()) };
    let status = timeout(CHECK_TIMEOUT, db::tls_status(connection)).await.map_err(|_| timed_out())?;
    let status = status.map_err(|error| Failure::from(error.to_string()))?;
    let days = status.not_after.map(|not_after| (not_after - Utc::now()).num_days());
    let days = days.map_or_else(String::new, |days| format!(", the certificate has {days} days left"));
    Ok(format!("{}, certificate verified for this host{days}", status.version))
}

fn tls_advice(error: &db::Error) -> Option<String> {
    use CertificateError as E;
    let advice = match error.certificate_error() {
        Some(E::UnknownIssuer | E::BadSignature) => {
            "no known CA issued the server's certificate: does the CA file (database.tls_ca) contain its CA?"
        }
        Some(E::NotValidForName | E::NotValidForNameContext { .. }) => {
            "database.host must be a name that the server's certificate is for"
        }
        Some(E::Expired | E::ExpiredContext { .. } | E::NotValidYet | E::NotValidYetContext { .. }) => {
            "renew the server's certificate, or correct this machine's clock"
        }
        Some(_) => return None,
        None => {
            "does the server have a certificate (ssl_cert, ssl_key), and is it a database server that answers at that \
             address?"
        }
    };
    Some(advice.to_owned())
}

fn login_failure(config: &Database, error: &db::Error) -> Failure {
    Failure { told: format!("{}: {error}", config.described()), advice: login_advice(error, &config.login) }
}

/// Checks that there are credentials: for what, by whom, for how long.
async fn check_credentials(config: &Database, db: &Db, row: &str, table: &mut Table) -> bool {
    let started = Instant::now();
    let credential = db.credentials().current().await;
    let outcome = match (credential, db.credentials().status()) {
        (Ok(_), Some(status)) => {
            let remaining = status.remaining.unwrap_or_default().as_secs();
            let mut detail = format!("{}, valid for {remaining} s", status.origin.unwrap_or_default());
            match db.credentials().identity().await {
                Some(Ok(arn)) => detail = format!("{detail}, by {arn}"),
                // Where STS can't be reached the token may still be valid.
                Some(Err(error)) => detail = format!("{detail}; asking STS for the identity failed: {error}"),
                None => {}
            }
            Ok(detail)
        }
        (Err(error), _) => {
            let advice = match &config.login.auth {
                Auth::Secret(_) => {
                    "may this role read the secret (secretsmanager:GetSecretValue, and kms:Decrypt for a customer \
                     managed key)?"
                }
                _ => {
                    "credentials come from AWS_* variables, the profile, web identity, the container or the instance's \
                     role: is there one?"
                }
            };
            Err(Failure::with(error, advice))
        }
        (Ok(_), None) => Ok("none needed".to_owned()),
    };
    table.row(row, started, outcome)
}

/// What to do about a failed login.
fn login_advice(error: &db::Error, login: &Login) -> Option<String> {
    let user = &login.user;
    let text = match (error.number(), &login.auth) {
        (Some(1045 | 1698), Auth::Iam(Iam { region, host, port, .. })) => format!(
            "RDS refused the token, without a reason. Check in this order: the role is allowed `rds-db:connect` on \
             arn:aws:rds-db:{region}:ACCOUNT:dbuser:RESOURCE/{user}; IAM authentication is on for the instance or \
             cluster; the user was created with `IDENTIFIED WITH AWSAuthenticationPlugin AS 'RDS'` in this very \
             spelling (deploy/sql/users.sql); {host}:{port} in {region} is this server's own name (iam_host, region); \
             the clock is right to 5 minutes. The log iam-db-auth-error of RDS has the reason"
        ),
        (Some(1045 | 1698), Auth::Secret(_)) => {
            "the server does not accept the secret's user and password: is a rotation incomplete?".to_owned()
        }
        (Some(1045 | 1698), Auth::Password(_)) => {
            format!("the password is wrong, or `{user}` may not connect from this host's address")
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

async fn check_schema(connection: &mut MySqlConnection) -> Outcome {
    let status = timeout(CHECK_TIMEOUT, db::migrations::schema_status(connection)).await;
    let status = status.map_err(|_| timed_out())?.map_err(|error| Failure::from(error.to_string()))?;
    if status.pending.is_empty() {
        return Ok(format!("{} migrations", status.applied));
    }
    Err(Failure::with(format!("{} migrations have not run", status.pending.len()), "run `darkroom migrate`"))
}

/// Tries each privilege on each table, with statements that match no row.
async fn check_grants(connection: &mut MySqlConnection, writes: bool) -> Outcome {
    let tried = timeout(CHECK_TIMEOUT, db::missing_privileges(connection, writes)).await;
    let (tables, missing) = tried.map_err(|_| timed_out())?.map_err(|error| Failure::from(error.to_string()))?;
    if missing.is_empty() {
        let privileges = if writes { "SELECT, INSERT, UPDATE and DELETE" } else { "SELECT" };
        return Ok(format!("{privileges} on {tables} tables"));
    }
    let read_only = missing.iter().any(|why| why.contains("read-only") || why.contains("read_only"));
    let advice = if read_only {
        "this server accepts no writes: is database.host the writer's name?"
    } else {
        "grant the user what deploy/sql/users.sql grants it"
    };
    Err(Failure::with(missing.join("; "), advice))
}

async fn check_clock(connection: &mut MySqlConnection) -> Outcome {
    let before = Utc::now();
    let server = timeout(CHECK_TIMEOUT, db::server_time(connection)).await.map_err(|_| timed_out())?;
    let server = server.map_err(|error| Failure::from(error.to_string()))?;
    // The server read its clock at some time in between.
    let skew = before + (Utc::now() - before) / 2 - server;
    let detail = format!("this host's clock is {:+} ms off the server's", skew.num_milliseconds());
    if skew.abs() > MAX_CLOCK_SKEW {
        return Err(Failure::with(detail, "is chronyd, or another NTP client, running?"));
    }
    Ok(detail)
}

fn timed_out() -> Failure {
    format!("no answer within {CHECK_TIMEOUT:?}").into()
}

async fn in_time(query: impl Future<Output = db::Result<String>>) -> Outcome {
    let result = timeout(CHECK_TIMEOUT, query).await.map_err(|_| timed_out())?;
    result.map_err(|error| error.to_string().into())
}
