//! The service in this process, on its own port.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use darkroom::{
    app::{App, AppState},
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

/// The running service with access to its state; it ends when dropped.
pub struct TestServer {
    /// The main listener.
    pub url: String,
    /// The operations listener.
    pub operations: String,
    pub app: AppState,
    pub database: Database,
    /// The issuer of user tokens.
    pub identity: Arc<Identity>,
    folder: TempDir,
    environment: Vec<(String, String)>,
    bucket: Option<Bucket>,
    stop: CancellationToken,
    running: Option<JoinHandle<anyhow::Result<()>>>,
}

impl TestServer {
    /// API and worker with short intervals.
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// With more settings as TOML, such as `worker.enabled = false`.
    pub async fn start_with(settings: &str) -> Self {
        Self::start_on(Database::create().await, tempfile::tempdir().expect("a folder"), settings).await
    }

    /// On a prepared database and folder.
    pub async fn start_on(database: Database, folder: TempDir, settings: &str) -> Self {
        Self::begin(database, folder, settings, None).await
    }

    /// With some AWS services and the role of an instance.
    pub async fn start_in(cloud: &Cloud, parts: &[Part], settings: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self::begin(Database::create().await, folder, settings, Some((cloud, parts))).await
    }

    /// On a prepared database and folder.
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
        let config = Config::read(Source::parse(&text, []).expect("TOML")).expect("a valid configuration");
        let works = config.worker.enabled;
        let program = PathBuf::from(env!("CARGO_BIN_EXE_darkroom"));
        let sdk = cloud.map(|(cloud, _)| cloud.sdk(Role::Instance));
        let app = App::with(config, program, sdk.as_ref(), None).expect("an app");
        runtime::startup::migrate(&app.config.database).await.expect("migrations run");
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

    /// Stops the service like SIGTERM and waits for its end.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        match self.running.take() {
            Some(running) => running.await.expect("the service does not panic"),
            None => Ok(()),
        }
    }

    /// Restarts on the same database and files, with other settings.
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

    /// The paths or keys of all stored objects.
    pub async fn stored(&self) -> BTreeSet<String> {
        match &self.bucket {
            Some(bucket) if self.app.storage.files().is_none() => bucket.keys().await,
            _ => files(&self.photos()),
        }
    }

    /// The folder of the photos in file mode.
    pub fn photos(&self) -> PathBuf {
        self.folder.path().join("photos")
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A client that is signed in as a user.
    pub fn user(&self, subject: &str) -> Client {
        Client::new(&self.url, Some(self.identity.token(subject).expect("a token")))
    }

    /// A client with a bearer token, such as an invite.
    pub fn bearer(&self, token: &str) -> Client {
        Client::new(&self.url, Some(token.to_owned()))
    }

    /// A client without a token.
    pub fn anybody(&self) -> Client {
        Client::new(&self.url, None)
    }

    /// The settings of this server as `DARKROOM_*` variables.
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

/// The settings of every test server, as keys and values.
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
        // The longest window, so that compared responses have the same URLs.
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
