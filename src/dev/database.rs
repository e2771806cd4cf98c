//! A private database server: a real MySQL or MariaDB of our own, in a folder of its own.
//!
//! For `darkroom dev` and for the integration tests, which use the very same code; nothing else may call it. It never
//! touches a server that somebody else runs: no network port (unless a test asks for one with [`More`]), no shared
//! socket, no system configuration.
//!
//! Promises:
//! - The server ends with us: by [`PrivateServer::stop`], by dropping, and (where `setpriv` of util-linux is there)
//!   even when this process is killed with SIGKILL. A Ctrl-C on the terminal reaches only us, never the server.
//! - What survived in spite of all is found by its data folder and ended before another starts on that folder.
//! - A folder is made whole or not at all: an interrupted first start leaves nothing that a second one stumbles over.
//! - A commit that was answered survives SIGKILL of the server.
//!
//! One data folder has one user at a time; [`DirLock`] sees to that.
//!
//! What lies in DIR: `darkroom.lock`, `db.log` (what the server said since its last start; before that `db.log.old`)
//! and `db/` with `data/`, `tmp/`, `made-by`, `server.pid` and `server.sock`.

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

/// How long a server may take until it answers. Recovery after a kill on a slow disk takes most of it; a usual start
/// takes 1 to 5 seconds.
const START_DEADLINE: Duration = Duration::from_secs(90);
/// How long the first initialisation of a data folder may take (usually 2 to 6 seconds).
const INITIALISE_DEADLINE: Duration = Duration::from_mins(2);
/// How long a server may take to stop after SIGTERM before it gets SIGKILL.
const STOP_DEADLINE: Duration = Duration::from_secs(20);
/// How often a starting server is asked whether it answers.
const POLL: Duration = Duration::from_millis(50);

/// Which server to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerChoice {
    /// What made the data folder; for a new one `mysqld` if there is one, else `mariadbd`.
    #[default]
    Auto,
    /// MySQL, and no MariaDB that calls itself `mysqld`.
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
            other => Err(format!("`{other}` is no database server: use auto, mysql or mariadb")),
        }
    }
}

/// Whose server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// Oracle's MySQL, or one of its descendants that keeps its data format (Percona Server).
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

/// Why there is no private server. Every message can be shown to the person at the terminal as it is.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The folder can't be made, read or written, or what is in it isn't ours.
    #[error("the folder {} can't be used: {source}", path.display())]
    Folder {
        /// The file or folder that refused.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process holds the [`DirLock`].
    #[error("another darkroom dev runs in {}{}", dir.display(), pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Busy {
        /// The locked folder.
        dir: PathBuf,
        /// The holder, when it had written its number yet.
        pid: Option<u32>,
    },
    /// No server program was found.
    #[error(
        "no {} server found: {} DARKROOM_MYSQLD or DARKROOM_MARIADBD",
        wanted.map_or_else(|| "MySQL or MariaDB".to_owned(), |flavour| flavour.to_string()),
        match wanted {
            Some(Flavour::MySql) => "name its program in",
            _ => "install one (`apt-get install mariadb-server-core`) or name its program in",
        }
    )]
    NoServer {
        /// The flavour, if only one would do.
        wanted: Option<Flavour>,
    },
    /// A program that was named or found doesn't behave like a database server.
    #[error("{} is no usable database server: {detail}", path.display())]
    Unusable {
        /// The program.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The data folder belongs to the other kind of server, which isn't installed or was not asked for.
    #[error(
        "{} was made by {made_by} and can't be opened by {wanted}: use {made_by}, or another folder",
        path.display()
    )]
    OtherFlavour {
        /// The database folder.
        path: PathBuf,
        /// What made it.
        made_by: Flavour,
        /// What was to open it.
        wanted: Flavour,
    },
    /// The data folder was last opened by a newer server than the one found.
    #[error(
        "{} was last opened by {flavour} {last} and can't be opened by the older {found}: \
         use the newer server, or another folder",
        path.display()
    )]
    Newer {
        /// The database folder.
        path: PathBuf,
        /// MySQL or MariaDB.
        flavour: Flavour,
        /// The version that opened it last.
        last: String,
        /// The version that was found.
        found: String,
    },
    /// The disk (or the quota) is full.
    #[error("no space is left on the disk for the database in {}", path.display())]
    DiskFull {
        /// The database folder.
        path: PathBuf,
    },
    /// A server left over from an earlier run doesn't end.
    #[error("a database server left over from an earlier run doesn't end (pid {pid}): end it by hand")]
    Leftover {
        /// The server.
        pid: u32,
    },
    /// The server ended, or didn't answer in time.
    #[error("the database server {}\nits last words, from {}:\n{tail}", what, log.display())]
    Failed {
        /// What happened, as the end of a sentence.
        what: String,
        /// The whole log.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
}

/// What a server gets beyond the settings that every private server has: for tests that need a network port, TLS,
/// plugins or replication.
#[derive(Clone, Debug, Default)]
pub struct More {
    /// Options of its command line. They come last, and of an option that is there twice the last one counts.
    pub options: Vec<OsString>,
    /// Variables of its environment.
    pub environment: Vec<(OsString, OsString)>,
}

/// How a server came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// By itself, after SIGTERM (or before).
    Gracefully,
    /// By SIGKILL, the deadline having passed.
    Forcibly,
}

/// A running private server. Dropping it sends SIGTERM and doesn't wait.
#[derive(Debug)]
pub struct PrivateServer {
    process: Process,
    folder: Folder,
    flavour: Flavour,
    version: String,
}

impl PrivateServer {
    /// Starts a server on the locked folder and returns when it answers; makes its data folder first if there is none.
    /// A server that still runs on the folder is ended before.
    ///
    /// # Errors
    /// See [`StartError`]. No process of ours is left then, and no half-made data folder.
    pub async fn start(dir: &DirLock, choice: ServerChoice) -> Result<Self, StartError> {
        Self::start_with(dir, choice, |_| More::default()).await
    }

    /// The same with more options and variables, which may depend on the server that was found. They are not
    /// remembered: each start on a folder names them anew.
    ///
    /// # Errors
    /// As [`PrivateServer::start`]; a server ends while starting when it doesn't know an option.
    pub async fn start_with(
        dir: &DirLock,
        choice: ServerChoice,
        more: impl FnOnce(Flavour) -> More,
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
        let more = more(program.flavour);
        command.args(settings(&folder, program.flavour)).args(more.options).envs(more.environment);
        let process = Process::spawn(command, Signal::TERM).await.map_err(|e| program.unusable(&e))?;
        let mut server = Self { process, folder, flavour: program.flavour, version: program.version.to_string() };
        if let Err(error) = server.wait_until_ready().await {
            server.stop().await;
            return Err(error);
        }
        server.folder.note_maker(&program)?;
        Ok(server)
    }

    /// How to connect: as root, over the unix socket, without a password and with no database chosen.
    #[must_use]
    pub fn options(&self) -> MySqlConnectOptions {
        MySqlConnectOptions::new().socket(self.folder.socket()).username("root").ssl_mode(MySqlSslMode::Disabled)
    }

    /// The unix socket; absolute. Only our own user can reach it.
    #[must_use]
    pub fn socket(&self) -> &Path {
        self.folder.socket()
    }

    /// MySQL or MariaDB.
    #[must_use]
    pub fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// The server's version, as in `9.7.4` or `10.11.19`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The number of the server's process, which leads a process group of its own.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits until the server ends, whoever ends it: for a caller that must not go on without one.
    pub async fn ended(&mut self) {
        self.process.ended().await;
    }

    /// Stops the server: SIGTERM, and SIGKILL after 20 seconds. Returns when the process is gone.
    pub async fn stop(mut self) -> Stopped {
        let stopped = self.process.stop(STOP_DEADLINE).await;
        self.folder.remove_socket();
        stopped
    }

    /// Ends the server with SIGKILL and returns when it is gone: a crash, for fault tests. Start again on the same
    /// folder to see it recover.
    pub async fn kill(mut self) {
        self.process.signal(Signal::KILL);
        self.process.ended().await;
    }

    /// Asks until the server answers, ends or has had its time.
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
                return Err(self.folder.failure(&format!("didn't answer within {} s", START_DEADLINE.as_secs())));
            }
        }
    }

    /// Whether a session opens and answers. Why it didn't isn't asked: the log has it, and another try follows.
    async fn answers(&self) -> bool {
        let attempt = async {
            let mut connection = self.options().connect().await?;
            connection.ping().await?;
            connection.close().await
        };
        matches!(tokio::time::timeout(Duration::from_secs(5), attempt).await, Ok(Ok(())))
    }
}

/// Makes the data folder, beside its final place, and moves it there when it is whole.
async fn initialise(folder: &Folder, program: &Program) -> Result<(), StartError> {
    let draft = folder.draft();
    // What an attempt that was interrupted left behind.
    process::end_all_on(&draft.data()).await?;
    draft.remove()?;
    draft.prepare()?;
    let made = fill(&draft, program).await;
    // Nothing may write there any more when it is moved or removed.
    process::end_all_on(&draft.data()).await?;
    if made.is_err() {
        // The first failure tells more than a second would, and the next attempt removes what is left.
        let _left = draft.remove();
        return made;
    }
    draft.note_maker(program)?;
    folder.adopt(&draft)
}

/// Fills an empty data folder with the server's own tables and a root who needs no password.
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
        Ok(ended) => Err(draft.failure(&format!("couldn't make its data folder ({ended})"))),
        Err(_) => {
            Err(draft.failure(&format!("didn't make its data folder within {} s", INITIALISE_DEADLINE.as_secs())))
        }
    }
}

/// Options that MariaDB doesn't know. No X plugin (it opens a port), no certificates and keys (nobody comes over a
/// network, and making them takes a good part of the first start), no import folder (its built-in one may not exist).
const MYSQL_ONLY: [&str; 4] = [
    "--mysqlx=OFF",
    "--auto-generate-certs=OFF",
    "--caching-sha2-password-auto-generate-rsa-keys=OFF",
    "--secure-file-priv=NULL",
];

/// The server's whole configuration; no file is read.
fn settings(folder: &Folder, flavour: Flavour) -> Vec<OsString> {
    let mut all: Vec<OsString> = vec![
        // Must come first, or it is not understood.
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
        // Every commit reaches the disk before it is answered, as on RDS.
        "--innodb-flush-log-at-trx-commit=1",
        "--character-set-server=utf8mb4",
        "--default-time-zone=+00:00",
        // Enough for a test binary with a database and a pool per test.
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
