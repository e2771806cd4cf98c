//! A private database server: a MySQL or MariaDB process with a data directory of its own, for `darkroom dev` and the
//! integration tests.
//!
//! It is separate from any other server of the machine: it has no network port (unless a test adds one with
//! [`ExtraSettings`]), no shared socket, and reads no system configuration.
//!
//! - The server ends with this process: by [`PrivateServer::stop`], by dropping, and (with `setpriv` of util-linux)
//!   even when this process is killed with SIGKILL. Ctrl-C on the terminal does not reach the server directly.
//! - A server left over from an earlier run is found by its data directory and ended before another one starts there.
//! - The data directory is created atomically: an interrupted first start leaves nothing that affects the second one.
//! - A commit that was answered survives SIGKILL of the server.
//! - [`DirLock`] gives one process at a time the directory.
//!
//! Files in the directory: `darkroom.lock`, `db.log` (the server's log since its last start), `db.log.old`, and `db/`
//! with `data/`, `tmp/`, `made-by`, `server.pid` and `server.sock`.

mod folder;
mod lock;
mod process;
mod programs;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use rustix::process::{Signal, geteuid};
use sqlx::mysql::{MySqlConnectOptions, MySqlSslMode};
use sqlx::{ConnectOptions, Connection};

use folder::Folder;
pub use lock::DirLock;
use process::Process;
use programs::Program;

/// Time for a server to answer after its start: usually 1 to 5 seconds, more for a recovery on a slow disk.
const START_DEADLINE: Duration = Duration::from_secs(90);
/// Time for the initialisation of a data directory: usually 2 to 6 seconds.
const INITIALISE_DEADLINE: Duration = Duration::from_mins(2);
/// Time for a server to stop after SIGTERM before it gets SIGKILL.
const STOP_DEADLINE: Duration = Duration::from_secs(20);
/// How often a connection to a starting server is attempted.
const POLL: Duration = Duration::from_millis(50);

/// Which server to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerChoice {
    /// The server that created the data directory; for a new one `mysqld` if installed, else `mariadbd`.
    #[default]
    Auto,
    /// MySQL; a MariaDB program named `mysqld` does not count.
    MySql,
    /// MariaDB.
    MariaDb,
}

impl FromStr for ServerChoice {
    type Err = String;

    /// Parses `auto`, `mysql` or `mariadb`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "mysql" => Ok(Self::MySql),
            "mariadb" => Ok(Self::MariaDb),
            other => Err(format!("`{other}` is not a database server: use auto, mysql or mariadb")),
        }
    }
}

/// The product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// MySQL, or a fork with the same data format (Percona Server).
    MySql,
    /// MariaDB.
    MariaDb,
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MySql => "MySQL",
            Self::MariaDb => "MariaDB",
        })
    }
}

/// Why a private server did not start. The messages are for the user at the terminal.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory can't be created, read or written, or has other content.
    #[error("directory {} is not usable", path.display())]
    Folder {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Another process holds the [`DirLock`].
    #[error(
        "another darkroom dev is running in {}{}",
        dir.display(),
        pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    Busy {
        /// The locked directory.
        dir: PathBuf,
        /// The process that holds the lock, if known.
        pid: Option<u32>,
    },
    /// No server program was found.
    #[error(
        "no {} server found: {} DARKROOM_MYSQLD or DARKROOM_MARIADBD",
        wanted.map_or_else(|| "MySQL or MariaDB".to_owned(), |flavour| flavour.to_string()),
        match wanted {
            Some(Flavour::MySql) => "set the path of its program in",
            _ => "install one (`apt-get install mariadb-server-core`) or set the path of its program in",
        }
    )]
    NoServer {
        /// The product, if a certain one is needed.
        wanted: Option<Flavour>,
    },
    /// The program is not a working database server.
    #[error("{} is not a working database server: {detail}", path.display())]
    Unusable {
        /// The program.
        path: PathBuf,
        /// The cause.
        detail: String,
    },
    /// The data directory was created by the other product.
    #[error(
        "{} was created by {made_by} and can't be opened by {wanted}: use {made_by}, or another directory",
        path.display()
    )]
    OtherFlavour {
        /// The directory of the database.
        path: PathBuf,
        /// The product that created it.
        made_by: Flavour,
        /// The product that was requested or found.
        wanted: Flavour,
    },
    /// The data directory was last opened by a newer server.
    #[error(
        "{} was last opened by {flavour} {last} and can't be opened by the older {found}: \
         use the newer server, or another directory",
        path.display()
    )]
    Newer {
        /// The directory of the database.
        path: PathBuf,
        /// The product.
        flavour: Flavour,
        /// The version that opened it last.
        last: String,
        /// The installed version.
        found: String,
    },
    /// The disk (or the quota) is full.
    #[error("no space left on the disk for the database in {}", path.display())]
    DiskFull {
        /// The directory of the database.
        path: PathBuf,
    },
    /// A server left over from an earlier run can't be ended.
    #[error("a database server left over from an earlier run does not end (pid {pid}): end it by hand")]
    Leftover {
        /// Its process.
        pid: u32,
    },
    /// The server ended, or did not answer in time.
    #[error("the database server {what}\nthe end of its log {}:\n{tail}", log.display())]
    Failed {
        /// What happened, as the predicate of a sentence.
        what: String,
        /// The log file.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
}

/// Additional settings of a server, for tests that need a network port, TLS, plugins or replication.
#[derive(Clone, Debug, Default)]
pub struct ExtraSettings {
    /// Command-line options, which override those of every private server.
    pub options: Vec<OsString>,
    /// Environment variables.
    pub environment: Vec<(OsString, OsString)>,
}

/// How a server was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It ended after SIGTERM, or before.
    Gracefully,
    /// By SIGKILL after the deadline.
    Forcibly,
}

/// A running private server. Dropping it sends SIGTERM and does not wait.
#[derive(Debug)]
pub struct PrivateServer {
    process: Process,
    folder: Folder,
    flavour: Flavour,
    version: String,
}

impl PrivateServer {
    /// Starts a server in the locked directory and returns when it answers. Creates the data directory if there is
    /// none, and ends a server that still uses it. After an error no process and no partial data directory is left.
    pub async fn start(dir: &DirLock, choice: ServerChoice) -> Result<Self, StartError> {
        Self::start_with(dir, choice, |_| ExtraSettings::default()).await
    }

    /// As [`PrivateServer::start`], with additional settings, which may depend on the product and apply to this start
    /// only.
    pub async fn start_with(
        dir: &DirLock,
        choice: ServerChoice,
        extra: impl FnOnce(Flavour) -> ExtraSettings,
    ) -> Result<Self, StartError> {
        let folder = Folder::new(dir)?;
        process::end_all_on(&folder.data()).await?;
        let program = folder.choose_program(choice).await?;
        if !folder.exists() {
            initialise(&folder, &program).await?;
        }
        folder.prepare()?;
        let log = folder.new_log()?;
        let mut command = process::command(&program.path, &log).map_err(|e| folder.error(e))?;
        let extra = extra(program.flavour);
        command.args(settings(&folder, program.flavour)).args(extra.options).envs(extra.environment);
        let process = Process::spawn(command, Signal::TERM).await.map_err(|e| program.unusable(&e))?;
        let mut server = Self { process, folder, flavour: program.flavour, version: program.version.to_string() };
        if let Err(error) = server.wait_until_ready().await {
            server.stop().await;
            return Err(error);
        }
        server.folder.record_program(&program)?;
        Ok(server)
    }

    /// Options to connect as root over the unix socket, without a password and without a database.
    #[must_use]
    pub fn options(&self) -> MySqlConnectOptions {
        MySqlConnectOptions::new().socket(self.folder.socket()).username("root").ssl_mode(MySqlSslMode::Disabled)
    }

    /// The absolute path of the unix socket, which only the user of this process can access.
    #[must_use]
    pub fn socket(&self) -> &Path {
        self.folder.socket()
    }

    /// MySQL or MariaDB.
    #[must_use]
    pub fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// The server's version, such as `9.7.4` or `10.11.19`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The server's process id, which is also that of its process group.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits until the server has ended for any reason.
    pub async fn ended(&mut self) {
        self.process.ended().await;
    }

    /// Stops the server: SIGTERM, and SIGKILL after 20 seconds. Returns when the process is gone.
    pub async fn stop(mut self) -> Stopped {
        let stopped = self.process.stop(STOP_DEADLINE).await;
        self.folder.remove_socket();
        stopped
    }

    /// Ends the server with SIGKILL and returns when the process is gone: a crash, for fault tests.
    pub async fn kill(mut self) {
        self.process.signal(Signal::KILL);
        self.process.ended().await;
    }

    /// Waits until the server answers, ends or exceeds its time.
    async fn wait_until_ready(&mut self) -> Result<(), StartError> {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            tokio::select! {
                status = self.process.ended() => {
                    return Err(self.folder.failure(&format!("ended while starting ({status})")));
                }
                () = tokio::time::sleep(POLL) => {}
            }
            if self.answers().await {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(self.folder.failure(&format!("did not answer within {} s", START_DEADLINE.as_secs())));
            }
        }
    }

    /// Whether a connection opens and answers. The cause of a failure is in the log.
    async fn answers(&self) -> bool {
        let attempt = async {
            let mut connection = self.options().connect().await?;
            connection.ping().await?;
            connection.close().await
        };
        matches!(tokio::time::timeout(Duration::from_secs(5), attempt).await, Ok(Ok(())))
    }
}

/// Creates the data directory beside its final path, and renames it when it is complete.
async fn initialise(folder: &Folder, program: &Program) -> Result<(), StartError> {
    let draft = folder.draft();
    // Left over from an interrupted attempt.
    process::end_all_on(&draft.data()).await?;
    draft.remove()?;
    draft.prepare()?;
    let made = fill(&draft, program).await;
    // No process may write to it while it is renamed or removed.
    process::end_all_on(&draft.data()).await?;
    if made.is_err() {
        // The first error is the relevant one, and the next attempt removes the rest.
        let _left = draft.remove();
        return made;
    }
    draft.record_program(program)?;
    folder.adopt(&draft)
}

/// Fills an empty data directory with the system tables and a root user without a password.
async fn fill(draft: &Folder, program: &Program) -> Result<(), StartError> {
    let log = draft.new_log()?;
    let mut command = process::command(&program.path, &log).map_err(|e| draft.error(e))?;
    command.arg("--no-defaults").arg(folder::option("--datadir", &draft.data()));
    command.arg(folder::option("--tmpdir", &draft.tmp())).args(["--skip-log-bin", "--performance-schema=OFF"]);
    match program.flavour {
        Flavour::MySql => command.arg("--initialize-insecure").args(MYSQL_ONLY),
        Flavour::MariaDb => {
            let statements = draft.write_statements(&program.system_tables()?)?;
            command.stdin(statements).args(["--bootstrap", "--log-warnings=0", "--max-allowed-packet=8M"])
        }
    };
    if geteuid().is_root() {
        command.arg("--user=root");
    }
    let mut process = Process::spawn(command, Signal::KILL).await.map_err(|e| program.unusable(&e))?;
    match tokio::time::timeout(INITIALISE_DEADLINE, process.ended()).await {
        Ok(ended) if ended.is_success() => Ok(()),
        Ok(ended) => Err(draft.failure(&format!("failed to create its data directory ({ended})"))),
        Err(_) => {
            let seconds = INITIALISE_DEADLINE.as_secs();
            Err(draft.failure(&format!("did not create its data directory within {seconds} s")))
        }
    }
}

/// Options that MariaDB does not have. No X plugin (it opens a port), no certificates and keys (there is no network,
/// and creating them slows the first start down), no import directory (the default one may not exist).
const MYSQL_ONLY: [&str; 4] = [
    "--mysqlx=OFF",
    "--auto-generate-certs=OFF",
    "--caching-sha2-password-auto-generate-rsa-keys=OFF",
    "--secure-file-priv=NULL",
];

/// The complete configuration of the server, which reads no configuration file.
fn settings(folder: &Folder, flavour: Flavour) -> Vec<OsString> {
    let mut all: Vec<OsString> = vec![
        // Only recognised as the first option.
        "--no-defaults".into(),
        folder::option("--datadir", &folder.data()),
        folder::option("--tmpdir", &folder.tmp()),
        folder::option("--socket", folder.socket()),
        folder::option("--pid-file", &folder.pid_file()),
    ];
    let fixed = [
        "--skip-networking",
        "--skip-name-resolve",
        "--skip-log-bin",
        "--performance-schema=OFF",
        "--innodb-buffer-pool-size=128M",
        // Each commit is on the disk before it is answered, as on RDS.
        "--innodb-flush-log-at-trx-commit=1",
        "--character-set-server=utf8mb4",
        "--default-time-zone=+00:00",
        // Enough for a test process with a database and a pool for each test.
        "--max-connections=400",
    ];
    all.extend(fixed.map(Into::into));
    if flavour == Flavour::MySql {
        all.extend(MYSQL_ONLY.map(Into::into));
    }
    if geteuid().is_root() {
        all.push("--user=root".into());
    }
    all
}
