//! The database server: one for the whole test run, with a database for each test.

use std::path::Path;

use darkroom::dev::database::{DirLock, PrivateServer, ServerChoice};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, MySqlConnection, Row, SqlSafeStr,
    mysql::{MySqlConnectOptions, MySqlRow},
};
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::eventually;

/// Ends with this process, by its parent death signal.
static SERVER: OnceCell<(DirLock, PrivateServer)> = OnceCell::const_new();

/// The database server of `TEST_DB`.
pub fn choice() -> ServerChoice {
    let choice = std::env::var("TEST_DB").unwrap_or_default();
    if choice.is_empty() { ServerChoice::Auto } else { choice.parse().expect("TEST_DB") }
}

/// A locked folder for a shared server, which the next run uses again. Concurrent test runs have different folders.
pub fn lock_folder(name: &str) -> DirLock {
    let lock = (0..8).find_map(|n| {
        // Only the name is in lower case, not the path to it.
        let name = format!("{name}-{:?}-{n}", choice()).to_lowercase();
        DirLock::acquire(&Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)).ok()
    });
    lock.expect("fewer than 8 test runs at a time")
}

async fn server() -> &'static PrivateServer {
    let (_, server) = SERVER
        .get_or_init(|| async {
            let choice = choice();
            let lock = lock_folder("server");
            let server = PrivateServer::start(&lock, choice).await.expect("a database server starts");
            eprintln!("tests run on {} {}", server.flavour(), server.version());
            prepare(&server.options()).await.expect("the server can be prepared");
            (lock, server)
        })
        .await;
    server
}

/// Turns durability off, and drops the databases of earlier runs.
pub async fn prepare(options: &MySqlConnectOptions) -> sqlx::Result<()> {
    let mut root = options.connect().await?;
    sqlx::query("SET GLOBAL innodb_flush_log_at_trx_commit = 2").execute(&mut root).await?;
    sqlx::query("SET GLOBAL max_connections = 500").execute(&mut root).await?;
    let old: Vec<Vec<u8>> =
        sqlx::query_scalar("SELECT schema_name FROM information_schema.schemata WHERE schema_name LIKE 't\\_%'")
            .fetch_all(&mut root)
            .await?;
    root.close().await?;
    // On a thread of its own, because it takes many seconds and runtimes end with their tests.
    let options = options.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        // The next run drops the rest.
        let _left = runtime.block_on(forget(&options, old));
    });
    Ok(())
}

async fn forget(options: &MySqlConnectOptions, databases: Vec<Vec<u8>>) -> sqlx::Result<()> {
    let mut root = options.connect().await?;
    for name in databases {
        let statement = format!("DROP DATABASE {}", String::from_utf8_lossy(&name));
        sqlx::query(AssertSqlSafe(statement)).execute(&mut root).await?;
    }
    root.close().await
}

/// An empty database for one test.
pub struct Database {
    pub options: MySqlConnectOptions,
    pub name: String,
    pub socket: std::path::PathBuf,
}

impl Database {
    /// Creates a database on the shared server.
    pub async fn create() -> Self {
        Self::on(server().await).await
    }

    /// Creates a database on the test's own server, which it may stop or freeze.
    pub async fn on(server: &PrivateServer) -> Self {
        let name = format!("t_{}", Uuid::now_v7().simple());
        let mut root = server.options().connect().await.expect("the server answers");
        let statement = format!("CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin");
        sqlx::query(AssertSqlSafe(statement)).execute(&mut root).await.expect("a database can be made");
        root.close().await.expect("the connection closes");
        Self { options: server.options().database(&name), socket: server.socket().to_owned(), name }
    }

    /// A connection for the test.
    pub async fn connect(&self) -> MySqlConnection {
        self.options.connect().await.expect("the server answers")
    }

    /// The columns of all tables that contain these bytes.
    pub async fn columns_with(&self, needle: &[u8]) -> Vec<String> {
        let mut connection = self.connect().await;
        let columns: Vec<(Vec<u8>, Vec<u8>)> =
            sqlx::query_as("SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = ?")
                .bind(&self.name)
                .fetch_all(&mut connection)
                .await
                .expect("the columns");
        let mut found = Vec::new();
        for (table, column) in columns {
            let (table, column) = (String::from_utf8_lossy(&table), String::from_utf8_lossy(&column));
            let query = format!("SELECT COUNT(*) FROM `{table}` WHERE LOCATE(?, CAST(`{column}` AS BINARY)) > 0");
            let query = sqlx::query_scalar::<_, i64>(AssertSqlSafe(query)).bind(needle);
            if query.fetch_one(&mut connection).await.expect("a count") > 0 {
                found.push(format!("{table}.{column}"));
            }
        }
        found
    }

    /// The number that a query returns.
    pub async fn count(&self, query: impl SqlSafeStr) -> i64 {
        let query = query.into_sql_str();
        let shown = query.as_str().to_owned();
        sqlx::query_scalar(query).fetch_one(&mut self.connect().await).await.expect(&shown)
    }

    /// Runs a statement and returns the number of changed rows.
    pub async fn change(&self, statement: impl Into<String>) -> u64 {
        let statement = statement.into();
        let done = sqlx::query(AssertSqlSafe(statement.clone())).execute(&mut self.connect().await).await;
        done.expect(&statement).rows_affected()
    }

    /// Waits until a statement of the service with these words is running. The test's own statements must not contain
    /// them, because a server may list a statement slightly longer than it runs. Uses SHOW PROCESSLIST, because MySQL's
    /// statement tables fail on binary values.
    pub async fn wait_for_blocked_query(&self, words: &str) {
        self.wait_for_new_blocked_query(words, &[]).await;
    }

    /// Like [`Self::wait_for_blocked_query`], for a session that is not in `killed`. Returns its id, for KILL.
    pub async fn wait_for_new_blocked_query(&self, words: &str, killed: &[u64]) -> u64 {
        eventually(&format!("blocked in {words}"), async || {
            let shown = sqlx::raw_sql("SHOW FULL PROCESSLIST").fetch_all(&mut self.connect().await).await;
            let text = |row: &MySqlRow, column| {
                let bytes: Option<Vec<u8>> = row.get_unchecked(column);
                String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
            };
            let shown = shown.expect("a list");
            let held_up = shown.iter().filter(|row| text(row, "db") == self.name && text(row, "Info").contains(words));
            held_up.map(|row| text(row, "Id").parse().expect("a number")).find(|id| !killed.contains(id))
        })
        .await
    }
}

/// An id as an SQL literal.
pub fn literal(id: &str) -> String {
    format!("0x{}", id.replace('-', ""))
}
