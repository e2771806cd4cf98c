//! The service under test, in this process, on a port of its own.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use darkroom::{
    app::{App, AppState},
    commands,
    config::{Config, Source},
    dev::identity::{AUDIENCE, ISSUER, Identity},
    runtime, server,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    album_invariants::files,
    aws::{Bucket, Cloud, Part, Role},
    client::Client,
    database::Database,
};

/// The running service, with what a test needs to look behind it. It ends when dropped.
pub struct TestServer {
    /// The main listener.
    pub url: String,
    /// The operations listener.
    pub operations: String,
    /// The service's own state.
    pub app: AppState,
    /// Its database.
    pub database: Database,
    /// Who may sign in.
    pub identity: Arc<Identity>,
    folder: TempDir,
    environment: Vec<(String, String)>,
    bucket: Option<Bucket>,
    stop: CancellationToken,
    running: Option<JoinHandle<anyhow::Result<()>>>,
}

impl TestServer {
    /// API and worker, with quick timers.
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// The same with more settings, as TOML, e.g. `worker.enabled = false`.
    pub async fn start_with(settings: &str) -> Self {
        Self::start_on(Database::create().await, tempfile::tempdir().expect("a folder"), settings).await
    }

    /// The same on a database and in a folder that the test has prepared.
    pub async fn start_on(database: Database, folder: TempDir, settings: &str) -> Self {
        Self::begin(database, folder, settings, None).await
    }

    /// One for which AWS does some parts, with the rights of an instance that serves and works.
    pub async fn start_in(cloud: &Cloud, parts: &[Part], settings: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self::begin(Database::create().await, folder, settings, Some((cloud, parts))).await
    }

    /// The same on a database and in a folder that the test has prepared.
    pub async fn begin(database: Database, folder: TempDir, more: &str, cloud: Option<(&Cloud, &[Part])>) -> Self {
        let listener = server::bind(([127, 0, 0, 1], 0).into()).await.expect("a free port");
        let operations = server::bind(([127, 0, 0, 1], 0).into()).await.expect("a free port");
        let (url, operations_url) =
            [&listener, &operations].map(|l| format!("http://{}", l.local_addr().unwrap())).into();
        let identity = Arc::new(Identity::open(&folder.path().join("identity")).expect("an identity"));
        let mut settings = common(folder.path(), &url, &identity, &database);
        let mut environment = Vec::new();
        if let Some((cloud, parts)) = cloud {
            settings.retain(|(key, _)| *key != "storage.directory" || !parts.contains(&Part::Storage));
            settings.extend(cloud.settings(parts));
            environment = cloud.environment(Role::Instance);
        }
        environment.extend(settings.iter().map(|(key, value)| variable(key, value)));
        let text = settings_text(settings, more);
        let config = Config::read(Source::parse(&text, []).expect("TOML")).expect("a good configuration");
        let works = config.worker.enabled;
        let program = PathBuf::from(env!("CARGO_BIN_EXE_darkroom"));
        let sdk = cloud.map(|(cloud, _)| cloud.sdk(Role::Instance));
        let app = App::with(config, program, sdk.as_ref(), None).expect("an app");
        commands::bring_up(&app.config.database).await.expect("migrations run");
        let stop = CancellationToken::new();
        let running = tokio::spawn(runtime::run(app.clone(), Some(listener), operations, works, stop.clone()));
        Self {
            url,
            operations: operations_url,
            app,
            database,
            identity,
            folder,
            environment,
            bucket: cloud.map(|(cloud, _)| cloud.objects()),
            stop,
            running: Some(running),
        }
    }

    /// Stops the service, as SIGTERM does, and waits for its end.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        match self.running.take() {
            Some(running) => running.await.expect("the service does not panic"),
            None => Ok(()),
        }
    }

    /// Stops it and starts another on the same database and files.
    pub async fn restart_with(mut self, settings: &str) -> Self {
        self.stop().await.expect("a clean stop");
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().expect("a folder"));
        let database = Database {
            options: self.database.options.clone(),
            name: self.database.name.clone(),
            socket: self.database.socket.clone(),
        };
        Self::start_on(database, folder, settings).await
    }

    /// The paths or keys of all that is in its storage.
    pub async fn stored(&self) -> BTreeSet<String> {
        match &self.bucket {
            Some(bucket) if self.app.storage.files().is_none() => bucket.keys().await,
            _ => files(&self.photos()),
        }
    }

    /// Where its photos are, if they are in files.
    pub fn photos(&self) -> PathBuf {
        self.folder.path().join("photos")
    }

    /// Where everything of it is.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A client that is signed in as a user.
    pub fn user(&self, subject: &str) -> Client {
        Client::new(&self.url, Some(self.identity.token(subject).expect("a token")))
    }

    /// A client that holds an invite, or any other token.
    pub fn bearer(&self, token: &str) -> Client {
        Client::new(&self.url, Some(token.to_owned()))
    }

    /// A client without identity.
    pub fn anybody(&self) -> Client {
        Client::new(&self.url, None)
    }

    /// The settings of this server as `DARKROOM_*` variables, for processes beside it.
    pub fn environment(&self) -> Vec<(String, String)> {
        self.environment.clone()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop.cancel();
        self.app.draining.cancel();
        self.app.closing.cancel();
    }
}

/// The settings that every test server has, as pairs of key and value.
fn common(folder: &Path, url: &str, identity: &Identity, database: &Database) -> Vec<(&'static str, String)> {
    vec![
        ("http.public_url", url.to_owned()),
        ("http.shutdown_delay", "0s".to_owned()),
        ("http.drain_timeout", "10s".to_owned()),
        ("limits.user_per_second", "0".to_owned()),
        ("limits.invite_per_second", "0".to_owned()),
        ("identity.issuer", ISSUER.to_owned()),
        ("identity.audience", AUDIENCE.to_owned()),
        ("identity.jwks", identity.jwks_path().display().to_string()),
        ("database.user", "root".to_owned()),
        ("database.name", database.name.clone()),
        ("database.socket", database.socket.display().to_string()),
        ("storage.directory", folder.join("photos").display().to_string()),
        ("storage.signing_keys", identity.signing_secret().to_owned()),
        // Answers that are compared have the same URLs, unless the window ends between them: the longest one.
        ("storage.url_window", "84h".to_owned()),
        ("worker.poll_interval", "50ms".to_owned()),
        ("worker.visibility_timeout", "2s".to_owned()),
        ("worker.initial_backoff", "50ms".to_owned()),
        ("worker.max_backoff", "200ms".to_owned()),
    ]
}

fn settings_text(settings: Vec<(&str, String)>, more: &str) -> String {
    let overridden = |key: &str| more.lines().any(|line| line.trim_start().starts_with(key));
    let kept = settings.into_iter().filter(|(key, _)| !overridden(key));
    let literal = |text: String| text.parse().map_or(toml::Value::String(text), toml::Value::Integer);
    let lines: Vec<String> = kept.map(|(key, value)| format!("{key} = {}\n", literal(value))).collect();
    lines.concat() + more
}

/// A setting as a variable.
fn variable(key: &str, value: &str) -> (String, String) {
    (format!("DARKROOM_{}", key.replace('.', "_").to_uppercase()), value.to_owned())
}
