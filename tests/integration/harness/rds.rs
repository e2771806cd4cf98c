//! A database server like Amazon RDS: reachable over TCP with verified TLS only, with IAM authentication, a read
//! replica, and failures: it crashes, freezes and becomes read-only.
//!
//! It is a real MySQL or MariaDB server with a test plugin that lets `tests/scripts/rds-iam/verify.py` check each
//! token. Not compared with the real RDS.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use darkroom::dev::database::{DirLock, ExtraSettings, Flavour, PrivateServer};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Row,
    mysql::{MySqlConnectOptions, MySqlSslMode},
};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::{
    DEADLINE,
    certificates::{Authority, Issued, Validity},
    database::{Database, choice, lock_folder, prepare},
    iam::{Iam, REGION},
    process::{free_port, freeze, runs, send, write_program},
};

/// The host name of these servers.
pub const HOST: &str = "localhost";
/// The names in its certificate.
const NAMES: [&str; 3] = [HOST, "127.0.0.1", "db.darkroom.test"];
/// The replication user and its password.
const REPLICATION: (&str, &str) = ("replication", "a password of the tests");

/// Ends with this process, by its parent death signal.
static SHARED: OnceCell<Rds> = OnceCell::const_new();

/// The server; killed when dropped.
pub struct Rds {
    server: Option<PrivateServer>,
    flavour: Flavour,
    lock: DirLock,
    port: u16,
    role: Role,
    account: Arc<Account>,
    /// Declared last, so that it is removed last.
    _home: Option<TempDir>,
}

/// What the servers of one AWS account share: the certificate authority and IAM.
struct Account {
    ca: PathBuf,
    certificate: Issued,
    iam: Iam,
    /// Temporary files.
    _home: Option<TempDir>,
}

/// The role in a replication, with the server id.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Alone = 1,
    Source = 2,
    Replica = 3,
}

impl Rds {
    /// The shared server, for tests that do not disturb it: each test has its own user names and keys, and leaves
    /// global rules alone.
    pub async fn shared() -> &'static Self {
        SHARED
            .get_or_init(|| async {
                let lock = lock_folder("rds");
                let account = Account::new(&own_folder(&lock), None);
                let rds = Self::begin(lock, None, Role::Alone, Arc::new(account)).await;
                prepare(&rds.root()).await.expect("the server can be prepared");
                let old = sqlx::query_scalar::<_, Vec<u8>>("SELECT user FROM mysql.user WHERE host = '%'");
                let old = old.fetch_all(&mut rds.root().connect().await.expect("the server answers")).await;
                for user in old.expect("users") {
                    rds.run(&format!("DROP USER '{}'@'%'", String::from_utf8_lossy(&user))).await;
                }
                rds
            })
            .await
    }

    /// A server that the test may disturb.
    pub async fn start() -> Self {
        Self::begin_new(Role::Alone, Account::of_a_test()).await
    }

    /// A server with a binary log, which can have a [`Rds::replica`].
    pub async fn start_source() -> Self {
        Self::begin_new(Role::Source, Account::of_a_test()).await
    }

    /// A read-only replica with the same users, certificate and IAM.
    pub async fn replica(&self) -> Self {
        assert!(self.role == Role::Source, "this server keeps no binary log");
        let mut replica = Self::begin_new(Role::Replica, Arc::clone(&self.account)).await;
        let (user, password) = REPLICATION;
        self.create_password_user(user, password, "REPLICATION SLAVE ON *.*").await;
        let follow = match replica.flavour {
            Flavour::MySql => format!(
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {}, SOURCE_USER = '{user}', \
                 SOURCE_PASSWORD = '{password}', SOURCE_SSL = 1, SOURCE_AUTO_POSITION = 1, \
                 SOURCE_CONNECT_RETRY = 1, SOURCE_RETRY_COUNT = 86400",
                self.port()
            ),
            Flavour::MariaDb => format!(
                "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {}, MASTER_USER = '{user}', \
                 MASTER_PASSWORD = '{password}', MASTER_SSL = 1, MASTER_SSL_CA = '{}', \
                 MASTER_USE_GTID = slave_pos, MASTER_CONNECT_RETRY = 1",
                self.port(),
                self.ca().display()
            ),
        };
        replica.run(&follow).await;
        replica.run("START REPLICA").await;
        replica.read_only(true).await;
        replica
    }

    async fn begin_new(role: Role, account: Arc<Account>) -> Self {
        let home = tempfile::tempdir().expect("a folder");
        let lock = DirLock::acquire(home.path()).expect("a new folder");
        Self::begin(lock, Some(home), role, account).await
    }

    async fn begin(lock: DirLock, home: Option<TempDir>, role: Role, account: Arc<Account>) -> Self {
        let port = free_port();
        account.iam.add_hosts(&NAMES.map(|name| format!("{name}:{port}")));
        let server = start(&lock, port, role, &account).await;
        Self { flavour: server.flavour(), server: Some(server), lock, port, role, account, _home: home }
    }

    /// Whether users have `AWSAuthenticationPlugin` as on RDS; MariaDB uses PAM instead.
    pub fn has_plugin_of_rds(&self) -> bool {
        self.flavour == Flavour::MySql
    }

    /// The port, which restarts keep.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `HOST:PORT`, for tokens.
    pub fn endpoint(&self) -> String {
        format!("{}:{}", HOST, self.port())
    }

    /// The CA certificate.
    pub fn ca(&self) -> &Path {
        &self.account.ca
    }

    pub fn iam(&self) -> &Iam {
        &self.account.iam
    }

    /// Connection options of the tests: root over the unix socket, without TLS and IAM.
    pub fn root(&self) -> MySqlConnectOptions {
        self.server().options()
    }

    /// Connection options as on RDS, without the token as password.
    pub fn options(&self, user: &str) -> MySqlConnectOptions {
        MySqlConnectOptions::new()
            .host(HOST)
            .port(self.port())
            .username(user)
            .ssl_mode(MySqlSslMode::VerifyIdentity)
            .ssl_ca(self.ca())
            .enable_cleartext_plugin(true)
    }

    /// The environment variables with which the service connects as an IAM user.
    pub fn settings(&self, user: &str, database: &str) -> Vec<(String, String)> {
        let ca = self.ca().display().to_string();
        let port = self.port().to_string();
        let all = [
            ("HOST", HOST),
            ("PORT", &port),
            ("USER", user),
            ("NAME", database),
            ("TLS_CA", &ca),
            ("AUTH", "iam"),
            ("REGION", REGION),
        ];
        all.map(|(name, value)| (format!("DARKROOM_DATABASE_{name}"), value.to_owned())).into()
    }

    /// Creates an empty database.
    pub async fn database(&self) -> Database {
        Database::on(self.server()).await
    }

    /// Creates an IAM user with a privilege such as `ALL ON name.*`.
    pub async fn create_user(&self, name: &str, privilege: &str) {
        let identified = match self.flavour {
            Flavour::MySql => "WITH AWSAuthenticationPlugin AS 'RDS'",
            Flavour::MariaDb => "VIA pam USING 'rdsiam'",
        };
        self.run(&format!("CREATE USER '{name}'@'%' IDENTIFIED {identified} REQUIRE SSL")).await;
        self.run(&format!("GRANT {privilege} TO '{name}'@'%'")).await;
    }

    pub async fn create_password_user(&self, name: &str, password: &str, privilege: &str) {
        self.run(&format!("CREATE USER '{name}'@'%' IDENTIFIED BY '{password}' REQUIRE SSL")).await;
        self.run(&format!("GRANT {privilege} TO '{name}'@'%'")).await;
    }

    /// Clears the cache of verified passwords: MySQL's default plugin otherwise accepted an old one.
    pub async fn forget_verified_passwords(&self, name: &str, password: &str) {
        if self.flavour == Flavour::MySql {
            self.run(&format!("ALTER USER '{name}'@'%' IDENTIFIED WITH sha256_password BY '{password}'")).await;
        }
    }

    pub async fn run(&self, statement: &str) {
        let mut root = self.root().connect().await.expect("the server answers");
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut root).await.expect(statement);
        root.close().await.expect("the connection closes");
    }

    /// Kills the server, like a crash.
    pub async fn kill(&mut self) {
        self.server.take().expect("a running server").kill().await;
    }

    /// Stops the server cleanly.
    pub async fn stop(&mut self) {
        self.server.take().expect("a running server").stop().await;
    }

    /// Restarts the server on the same data and port.
    pub async fn restart(&mut self) {
        assert!(self.server.is_none(), "the server runs");
        self.server = Some(start(&self.lock, self.port, self.role, &self.account).await);
    }

    /// Freezes the server: connections stay open and new ones are accepted, without any response.
    pub async fn freeze(&mut self) {
        freeze(self.server().pid()).await;
    }

    /// Continues after [`Rds::freeze`].
    pub fn thaw(&mut self) {
        send(self.server().pid(), Signal::CONT);
    }

    /// Sets read-only mode, as on the old primary after a failover: error 1290.
    pub async fn read_only(&mut self, read_only: bool) {
        let variables: &[&str] = match (self.flavour, read_only) {
            (Flavour::MariaDb, _) => &["read_only"],
            // Each of these implies the other, in this direction only.
            (Flavour::MySql, true) => &["super_read_only"],
            (Flavour::MySql, false) => &["super_read_only", "read_only"],
        };
        for variable in variables {
            self.run(&format!("SET GLOBAL {variable} = {}", u8::from(read_only))).await;
        }
    }

    /// Stops applying changes: the replica falls behind.
    pub async fn pause_replication(&mut self) {
        self.run("STOP REPLICA SQL_THREAD").await;
    }

    /// Continues after [`Rds::pause_replication`].
    pub async fn resume_replication(&mut self) {
        self.run("START REPLICA SQL_THREAD").await;
    }

    /// Whether the replica has fetched all current changes of its source.
    pub async fn has_fetched_all_of(&self, source: &Self) -> bool {
        self.is_level_with(source, [5, 6]).await
    }

    /// Whether the replica has applied all current changes of its source.
    pub async fn has_made_all_of(&self, source: &Self) -> bool {
        self.is_level_with(source, [9, 21]).await
    }

    /// Whether the log position in two columns of the replica status is the end of the source's log.
    async fn is_level_with(&self, source: &Self, columns: [usize; 2]) -> bool {
        let place = async |rds: &Self, statement: &'static str, [file, position]: [usize; 2]| {
            let mut root = rds.root().connect().await.expect("the server answers");
            let row = sqlx::raw_sql(statement).fetch_one(&mut root).await.ok()?;
            Some((row.get_unchecked::<String, _>(file), row.get_unchecked::<u64, _>(position)))
        };
        // MySQL 8.2 renamed the statement, MariaDB did not; the columns are the same.
        let end = match place(source, "SHOW BINARY LOG STATUS", [0, 1]).await {
            Some(end) => Some(end),
            None => place(source, "SHOW MASTER STATUS", [0, 1]).await,
        };
        let reached = place(self, "SHOW REPLICA STATUS", columns).await.expect("a replica");
        reached >= end.expect("a binary log")
    }

    /// Promotes the replica to a writable server, as a failover does.
    pub async fn promote(&mut self) {
        self.run("STOP REPLICA").await;
        self.run("RESET REPLICA ALL").await;
        self.read_only(false).await;
    }

    fn server(&self) -> &PrivateServer {
        self.server.as_ref().expect("the server was killed")
    }
}

impl Drop for Rds {
    fn drop(&mut self) {
        let Some(server) = &self.server else { return };
        let pid = server.pid();
        // SIGKILL, because a frozen server does not handle SIGTERM.
        let killed = i32::try_from(pid).ok().and_then(Pid::from_raw).map(|pid| kill_process(pid, Signal::KILL));
        let begun = std::time::Instant::now();
        // The folder is removed next, and the server must not write to it then.
        while matches!(killed, Some(Ok(()))) && runs(pid) && begun.elapsed() < DEADLINE {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

impl Account {
    fn of_a_test() -> Arc<Self> {
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path().to_owned();
        Arc::new(Self::new(&folder, Some(home)))
    }

    fn new(folder: &Path, home: Option<TempDir>) -> Self {
        let authority = Authority::new(folder, "ca");
        let certificate = authority.issue(&NAMES, Validity::Good);
        Self { ca: authority.path().to_owned(), certificate, iam: Iam::new(folder), _home: home }
    }
}

async fn start(lock: &DirLock, port: u16, role: Role, account: &Account) -> PrivateServer {
    let plugins = own_folder(lock).join("plugins");
    let more = |flavour| ExtraSettings {
        options: options(flavour, port, role, account, &plugins),
        environment: vec![
            ("RDS_IAM_VERIFIER".into(), verifier().into_os_string()),
            ("RDS_IAM_CONFIG".into(), account.iam.config().into()),
        ],
    };
    PrivateServer::start_with(lock, choice(), more).await.expect("a server as on RDS")
}

/// The options that make a private server behave like RDS. Also builds the plugin.
fn options(flavour: Flavour, port: u16, role: Role, account: &Account, plugins: &Path) -> Vec<OsString> {
    let mut options: Vec<OsString> = vec![
        "--skip-networking=OFF".into(),
        "--bind-address=127.0.0.1".into(),
        format!("--port={port}").into(),
        option("--ssl-ca", &account.ca),
        option("--ssl-cert", &account.certificate.certificate),
        option("--ssl-key", &account.certificate.key),
        "--require-secure-transport=ON".into(),
        option("--plugin-dir", plugins),
        format!("--server-id={}", role as u8).into(),
    ];
    if role == Role::Source {
        options.push("--log-bin=binlog".into());
    }
    match flavour {
        Flavour::MySql => {
            make_mysql_plugin(plugins);
            options.push("--plugin-load-add=aws_auth.so".into());
            if role != Role::Alone {
                options.extend(["--gtid-mode=ON".into(), "--enforce-gtid-consistency=ON".into()]);
            }
        }
        Flavour::MariaDb => {
            make_mariadb_plugin(plugins, account.iam.config());
            options.extend(["--plugin-load-add=auth_pam", "--pam-use-cleartext-plugin=ON"].map(Into::into));
        }
    }
    options
}

/// The folder of files beside those of the private server.
fn own_folder(lock: &DirLock) -> PathBuf {
    let folder = lock.dir().join("rds");
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// A file of `tests/scripts`.
fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts").join(name)
}

fn verifier() -> PathBuf {
    script("rds-iam/verify.py")
}

/// Compiles the plugin for MySQL, in 0.1 s for each server.
fn make_mysql_plugin(folder: &Path) {
    fs::create_dir_all(folder).expect("a folder");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(folder.join("aws_auth.so")).arg(script("rds-iam/aws_auth.c"));
    output("cc", &mut compiler);
}

/// MariaDB's PAM plugin, with the verifier in place of its helper program.
fn make_mariadb_plugin(folder: &Path, config: &Path) {
    let helper = folder.join("auth_pam_tool_dir/auth_pam_tool");
    fs::create_dir_all(folder.join("auth_pam_tool_dir")).expect("a folder");
    let plugin = output("get-auth-pam.sh", &mut Command::new(script("get-auth-pam.sh")));
    fs::copy(plugin.trim(), folder.join("auth_pam.so")).expect("the plugin");
    // The plugin starts it without arguments and environment.
    let script = format!("#!/bin/sh\nexec '{}' tool '{}'\n", verifier().display(), config.display());
    write_program(&helper, &script);
}

/// The output of a command; panics if it fails.
fn output(name: &str, command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn option(name: &str, path: &Path) -> OsString {
    let mut word = OsString::from(name);
    word.push("=");
    word.push(path);
    word
}
