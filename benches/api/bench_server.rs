//! The database server of the service benches in a folder outside the clone, an identity, and the settings of a
//! service. Kept between runs.

use std::{env, path::PathBuf};

use darkroom::{
    db,
    dev::{
        database::{DirLock, PrivateServer, ServerChoice},
        identity::{AUDIENCE, ISSUER, Identity},
    },
};
use sqlx::{AssertSqlSafe, ConnectOptions, MySqlConnection};

/// The database of the benches.
pub const DATABASE: &str = "bench";

/// The value after an option of the command line.
pub fn option(name: &str) -> Option<String> {
    let mut arguments = env::args().skip_while(|argument| argument != name);
    arguments.nth(1)
}

/// The value after an option as a number.
pub fn number(name: &str, default: u32) -> u32 {
    option(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} takes a number")))
}

/// A running database server and its folder.
pub struct BenchServer {
    pub server: PrivateServer,
    pub identity: Identity,
    pub folder: PathBuf,
    _lock: DirLock,
}

impl BenchServer {
    /// Starts the server in `--cache DIR/AREA-SERVER`, by default in the cache folder of the Makefile.
    pub async fn start(area: &str) -> anyhow::Result<Self> {
        let choice = option("--server").unwrap_or_else(|| "auto".to_owned());
        let choice: ServerChoice = choice.parse().map_err(anyhow::Error::msg)?;
        let cache = option("--cache").map_or_else(cache, PathBuf::from);
        let lock = DirLock::acquire(&cache.join(format!("{area}-{choice:?}").to_lowercase()))?;
        let server = PrivateServer::start(&lock, choice).await?;
        println!("{} {}, buffer pool 128 MB.\n", server.flavour(), server.version());
        let folder = lock.dir().to_owned();
        Ok(Self { server, identity: Identity::open(&folder.join("identity"))?, folder, _lock: lock })
    }

    /// A root connection without a database.
    pub async fn root(&self) -> sqlx::Result<MySqlConnection> {
        self.server.options().connect().await
    }

    /// Creates the database; drops an existing one.
    pub async fn create_anew(&self) -> anyhow::Result<()> {
        let statement = format!("DROP DATABASE IF EXISTS {DATABASE}");
        sqlx::query(AssertSqlSafe(statement)).execute(&mut self.root().await?).await?;
        Ok(db::create_database(&self.server.options(), DATABASE).await?)
    }

    /// The settings as `DARKROOM_*` variables.
    pub fn settings(&self, url: &str) -> Vec<(String, String)> {
        let path = |path: PathBuf| path.to_string_lossy().into_owned();
        let settings = [
            ("LIMITS_USER_PER_SECOND", "0".to_owned()),
            ("LIMITS_INVITE_PER_SECOND", "0".to_owned()),
            ("HTTP_SHUTDOWN_DELAY", "0s".to_owned()),
            ("HTTP_PUBLIC_URL", url.to_owned()),
            ("IDENTITY_ISSUER", ISSUER.to_owned()),
            ("IDENTITY_AUDIENCE", AUDIENCE.to_owned()),
            ("IDENTITY_JWKS", path(self.identity.jwks_path())),
            ("DATABASE_USER", "root".to_owned()),
            ("DATABASE_NAME", DATABASE.to_owned()),
            ("DATABASE_SOCKET", path(self.server.socket().to_owned())),
            ("STORAGE_DIRECTORY", path(self.folder.join("photos"))),
            ("STORAGE_SIGNING_KEYS", self.identity.signing_secret().to_owned()),
        ];
        settings.into_iter().map(|(key, value)| (format!("DARKROOM_{key}"), value)).collect()
    }
}

fn cache() -> PathBuf {
    let home = || PathBuf::from(env::var_os("HOME").expect("a home folder")).join(".cache");
    env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("darkroom/benches")
}
