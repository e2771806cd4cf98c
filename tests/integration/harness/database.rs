//! The database server: one for the whole test run, a database for each test.

use std::path::Path;

use darkroom::dev::database::{DirLock, PrivateServer, ServerChoice};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, MySqlConnection, Row, SqlSafeStr,
    mysql::{MySqlConnectOptions, MySqlRow},
};
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::eventually;

/// The server's life is the process's: it ends by its death signal.
static SERVER: OnceCell<(DirLock, PrivateServer)> = OnceCell::const_new();

/// Which server the tests are to run on.
pub fn choice() -> ServerChoice {
    let choice = std::env::var("TEST_DB").unwrap_or_default();
    if choice.is_empty() { ServerChoice::Auto } else { choice.parse().expect("TEST_DB") }
}

/// A folder for a server that all tests share, kept for the next run. Each of several test runs at a time has its own.
pub fn lock_folder(name: &str) -> DirLock {
    let lock = (0..8).find_map(|n| {
        // In lower case only the name of the choice, never the path to it.
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

/// Tests need no durability against power cuts, and earlier runs left their databases.
pub async fn prepare(options: &MySqlConnectOptions) -> sqlx::Result<()> {
    let mut root = options.connect().await?;
    sqlx::query("SET GLOBAL innodb_flush_log_at_trx_commit = 2").execute(&mut root).await?;
    sqlx::query("SET GLOBAL max_connections = 500").execute(&mut root).await?;
    let old: Vec<Vec<u8>> =
        sqlx::query_scalar("SELECT schema_name FROM information_schema.schemata WHERE schema_name LIKE 't\\_%'")
            .fetch_all(&mut root)
            .await?;
    root.close().await?;
    // Beside the tests, on a thread that outlives each test's own runtime: it takes many seconds.
    let options = options.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        // What is left is left to the next run.
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
    /// How to reach it.
    pub options: MySqlConnectOptions,
    /// Its name.
    pub name: String,
    /// The server's socket.
    pub socket: std::path::PathBuf,
}

impl Database {
    /// Makes one on the server that all tests share.
    pub async fn create() -> Self {
        Self::on(server().await).await
    }

    /// Makes one on a server of the test's own, to be ended or frozen.
    pub async fn on(server: &PrivateServer) -> Self {
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

    /// The columns of all tables in which some bytes occur.
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

    /// One number.
    pub async fn count(&self, query: impl SqlSafeStr) -> i64 {
        let query = query.into_sql_str();
        let shown = query.as_str().to_owned();
        sqlx::query_scalar(query).fetch_one(&mut self.connect().await).await.expect(&shown)
    }

    /// Changes something behind the service's back; answers how many rows.
    pub async fn change(&self, statement: impl Into<String>) -> u64 {
        let statement = statement.into();
        let done = sqlx::query(AssertSqlSafe(statement.clone())).execute(&mut self.connect().await).await;
        done.expect(&statement).rows_affected()
    }

    /// Waits until the service is held up in a statement with these words, which the test's own must not have: a
    /// server may show one for a moment longer than it runs. SHOW, because MySQL's tables of statements fail on those
    /// with binary values.
    pub async fn held_up_in(&self, words: &str) {
        self.held_up_anew_in(words, &[]).await;
    }

    /// Waits like [`Self::held_up_in`] for a session that is none of `killed`, which are shown until they have ended.
    ///
    /// Answers its number, for KILL.
    pub async fn held_up_anew_in(&self, words: &str, killed: &[u64]) -> u64 {
        eventually(&format!("held up in {words}"), async || {
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

/// An id as SQL writes it.
pub fn literal(id: &str) -> String {
    format!("0x{}", id.replace('-', ""))
}
