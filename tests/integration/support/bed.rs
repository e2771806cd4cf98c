//! The database server: one for the whole test run, a database for each test.

use std::path::Path;

use darkroom::dev::database::{DirLock, PrivateServer, ServerChoice};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, MySqlConnection, mysql::MySqlConnectOptions};
use tokio::sync::OnceCell;
use uuid::Uuid;

/// The server's life is the process's: it ends by its death signal.
static SERVER: OnceCell<(DirLock, PrivateServer)> = OnceCell::const_new();

async fn server() -> &'static PrivateServer {
    let (_, server) = SERVER
        .get_or_init(|| async {
            let choice = std::env::var("TEST_DB").unwrap_or_default();
            let choice: ServerChoice =
                if choice.is_empty() { ServerChoice::Auto } else { choice.parse().expect("TEST_DB") };
            let folder = format!("{}/server-{choice:?}", env!("CARGO_TARGET_TMPDIR")).to_lowercase();
            let lock = DirLock::acquire(Path::new(&folder)).expect("no other test run uses this folder");
            let server = PrivateServer::start(&lock, choice).await.expect("a database server starts");
            eprintln!("tests run on {} {}", server.flavour(), server.version());
            prepare(&server.options()).await.expect("the server can be prepared");
            (lock, server)
        })
        .await;
    server
}

/// Tests need no durability against power cuts, and earlier runs left their databases.
async fn prepare(options: &MySqlConnectOptions) -> sqlx::Result<()> {
    let mut root = options.connect().await?;
    sqlx::query("SET GLOBAL innodb_flush_log_at_trx_commit = 2").execute(&mut root).await?;
    sqlx::query("SET GLOBAL max_connections = 500").execute(&mut root).await?;
    let old: Vec<Vec<u8>> =
        sqlx::query_scalar("SELECT schema_name FROM information_schema.schemata WHERE schema_name LIKE 't\\_%'")
            .fetch_all(&mut root)
            .await?;
    for name in old {
        let statement = format!("DROP DATABASE {}", String::from_utf8_lossy(&name));
        sqlx::query(AssertSqlSafe(statement)).execute(&mut root).await?;
    }
    root.close().await
}

/// An empty database for one test.
pub struct Database {
    /// How to reach it.
    pub options: MySqlConnectOptions,
    /// Its name.
    pub name: String,
    /// The server's socket.
    pub socket: std::path::PathBuf,
}

impl Database {
    /// Makes one.
    pub async fn create() -> Self {
        let server = server().await;
        let name = format!("t_{}", Uuid::now_v7().simple());
        let mut root = server.options().connect().await.expect("the server answers");
        let statement = format!("CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin");
        sqlx::query(AssertSqlSafe(statement)).execute(&mut root).await.expect("a database can be made");
        root.close().await.expect("the connection closes");
        Self { options: server.options().database(&name), socket: server.socket().to_owned(), name }
    }

    /// A connection of the test's own, to look behind the service.
    pub async fn connect(&self) -> MySqlConnection {
        self.options.connect().await.expect("the server answers")
    }

    /// One number.
    pub async fn count(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&mut self.connect().await).await.expect(query)
    }
}
