//! Health checks of everything the service depends on: for operators, not for load balancers.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use futures_util::future::OptionFuture;
use serde::Serialize;
use tokio::{sync::Mutex, time::timeout};

use crate::{
    aws::{AwsError, step_functions::StateMachine},
    db::{self, Db, credentials::CredentialStatus},
    identity::Verifier,
    jobs::sqs::client::Sqs,
    notifications::Topic,
    read_model::ReadModel,
    server::Tls,
    storage::Storage,
};

const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// A database that has answered a statement this recently is not asked again for readiness.
const RECENT_ANSWER: Duration = Duration::from_secs(5);
/// How long results are reused, however many callers ask.
const CACHE_TTL: Duration = Duration::from_secs(1);

/// The detail to show, or what failed.
type Outcome = std::result::Result<String, String>;

/// The state of one dependency.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct DependencyHealth {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<u64>,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<LastError>,
}

#[derive(Debug, Clone, Serialize)]
struct LastError {
    at: DateTime<Utc>,
    detail: String,
}

impl DependencyHealth {
    pub(crate) fn is_ok(&self) -> bool {
        self.status == "ok"
    }

    /// From a check that has just ended.
    fn checked(started: Instant, outcome: Outcome) -> Self {
        let latency_ms = (started.elapsed().as_secs_f64() * 1e6).round() / 1e3;
        Self { latency_ms: Some(latency_ms), ..Self::known(Some(Duration::ZERO), outcome) }
    }

    /// From what was learned `age` ago.
    fn known(age: Option<Duration>, outcome: Outcome) -> Self {
        let (status, detail) = match outcome {
            Ok(detail) => ("ok", detail),
            Err(error) => ("failing", error),
        };
        Self { status, latency_ms: None, age_seconds: age.map(|age| age.as_secs()), detail, last_error: None }
    }

    fn older_by(mut self, elapsed: Duration) -> Self {
        self.age_seconds = self.age_seconds.map(|age| age + elapsed.as_secs());
        self
    }
}

/// The components whose dependencies are checked.
pub(crate) struct Components<'a> {
    pub(crate) db: &'a Db,
    pub(crate) storage: &'a Storage,
    pub(crate) storage_location: String,
    pub(crate) verifier: &'a Verifier,
    pub(crate) queue: Option<&'a Sqs>,
    pub(crate) state_machine: Option<&'a StateMachine>,
    pub(crate) topic: Option<&'a Topic>,
    pub(crate) read_model: Option<&'a ReadModel>,
    pub(crate) listener_tls: Option<&'a Tls>,
}

/// Runs the checks and keeps their last results.
#[derive(Debug, Default)]
pub struct HealthChecks {
    last: Mutex<LastResults>,
    /// A check of the storage folder is running. One that hangs occupies a thread, so there is never a second one.
    storage_check_running: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct LastResults {
    at: Option<Instant>,
    results: BTreeMap<&'static str, DependencyHealth>,
}

impl HealthChecks {
    /// The state of each dependency, at most [`CACHE_TTL`] old. Concurrent callers share one run of the checks.
    pub(crate) async fn results(&self, components: &Components<'_>) -> BTreeMap<&'static str, DependencyHealth> {
        let mut last = self.last.lock().await;
        if let Some(age) = last.at.map(|at| at.elapsed()).filter(|age| *age < CACHE_TTL) {
            return last.results.iter().map(|(name, health)| (*name, health.clone().older_by(age))).collect();
        }
        let mut results = self.check_all(components).await;
        for (name, health) in &mut results {
            health.last_error = if health.is_ok() {
                last.results.remove(name).and_then(|previous| previous.last_error)
            } else {
                Some(LastError { at: Utc::now(), detail: health.detail.clone() })
            };
        }
        *last = LastResults { at: Some(Instant::now()), results: results.clone() };
        results
    }

    async fn check_all(&self, components: &Components<'_>) -> BTreeMap<&'static str, DependencyHealth> {
        let (database, reader, storage, queue, state_machine, read_model) = tokio::join!(
            check_database(components.db),
            check_reader(components.db),
            self.check_storage(components.storage, &components.storage_location),
            OptionFuture::from(components.queue.map(check_queue)),
            OptionFuture::from(components.state_machine.map(check_state_machine)),
            OptionFuture::from(components.read_model.map(check_read_model)),
        );
        let all = [
            ("database", Some(database)),
            ("reader", reader),
            ("storage", Some(storage)),
            ("identity", Some(key_set_health(components.verifier))),
            ("queue", queue),
            ("step_functions", state_machine),
            ("sns", components.topic.map(topic_health)),
            ("dynamodb", read_model),
            ("listener_certificate", components.listener_tls.map(certificate_health)),
        ];
        let mut results = pool_health(components.db);
        results.extend(all.into_iter().filter_map(|(name, health)| Some((name, health?))));
        results
    }

    async fn check_storage(&self, storage: &Storage, location: &str) -> DependencyHealth {
        let started = Instant::now();
        let outcome = if storage.files().is_some() {
            self.check_folder(storage.clone()).await
        } else {
            check_aws(async { storage.probe().await.map_err(|error| AwsError::from(error).context(location)) }).await
        };
        DependencyHealth::checked(started, outcome.map(|()| location.to_owned()))
    }

    /// In a task of its own: file system calls may hang and can't be cancelled.
    async fn check_folder(&self, storage: Storage) -> Result<(), String> {
        let running = self.storage_check_running.clone();
        if running.swap(true, Ordering::Relaxed) {
            return Err("the previous check has not returned yet".to_owned());
        }
        let check = tokio::spawn(async move {
            let outcome = storage.probe().await;
            running.store(false, Ordering::Relaxed);
            outcome
        });
        match timeout(CHECK_TIMEOUT, check).await {
            Ok(Ok(outcome)) => outcome.map_err(|error| error.to_string()),
            Ok(Err(_)) => Err("the check panicked".to_owned()),
            Err(_) => Err(no_answer()),
        }
    }
}

/// Asks the database only when it has not answered recently: a busy service must not take itself for one without a
/// database.
pub(crate) async fn database_answers(db: &Db) -> bool {
    db.last_answer_age().is_some_and(|ago| ago < RECENT_ANSWER) || check_database(db).await.is_ok()
}

fn no_answer() -> String {
    format!("no answer within {CHECK_TIMEOUT:?}")
}

async fn check_database(db: &Db) -> DependencyHealth {
    let started = Instant::now();
    let count_jobs = async { db::jobs::depth(&mut db.session().await?).await };
    let outcome = match timeout(CHECK_TIMEOUT, count_jobs).await {
        Ok(Ok((live, dead, _))) => Ok(format!("{live} jobs, {dead} dead")),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(no_answer()),
    };
    DependencyHealth::checked(started, outcome)
}

async fn check_reader(db: &Db) -> Option<DependencyHealth> {
    let started = Instant::now();
    let outcome = match timeout(CHECK_TIMEOUT, db.check_replica()).await {
        Ok(answer) => answer?.map(|()| "answers".to_owned()).map_err(|error| error.to_string()),
        Err(_) => Err(no_answer()),
    };
    Some(DependencyHealth::checked(started, outcome))
}

/// Boxes the call at once, because the futures of the AWS SDK are large.
fn check_aws<T>(call: impl Future<Output = Result<T, AwsError>>) -> impl Future<Output = Result<T, String>> {
    let call = timeout(CHECK_TIMEOUT, Box::pin(call));
    async {
        call.await.unwrap_or_else(|_| Err(AwsError::timeout(CHECK_TIMEOUT))).map_err(|failure| failure.with_hint())
    }
}

async fn check_queue(queue: &Sqs) -> DependencyHealth {
    let started = Instant::now();
    let outcome = check_aws(queue.depth()).await;
    DependencyHealth::checked(started, outcome.map(|(waiting, dead)| format!("about {waiting} messages, {dead} dead")))
}

async fn check_read_model(read_model: &ReadModel) -> DependencyHealth {
    let started = Instant::now();
    DependencyHealth::checked(started, check_aws(read_model.check()).await.map(|()| "answers".to_owned()))
}

async fn check_state_machine(machine: &StateMachine) -> DependencyHealth {
    let started = Instant::now();
    DependencyHealth::checked(started, check_aws(machine.check()).await.map(|()| machine.arn().to_owned()))
}

/// The credentials of each pool, and its server's certificate.
fn pool_health(db: &Db) -> BTreeMap<&'static str, DependencyHealth> {
    let mut results = BTreeMap::new();
    for server in db.status() {
        let (login, certificate) = match server.name {
            "reader" => ("reader_login", "reader_certificate"),
            _ => ("database_login", "database_certificate"),
        };
        results.extend(server.credentials.map(|status| (login, credential_health(&status))));
        results.extend(server.certificate.map(|c| (certificate, DependencyHealth::known(Some(c.age), c.outcome))));
    }
    results
}

fn credential_health(status: &CredentialStatus) -> DependencyHealth {
    let (kind, seconds_left) = (status.kind, status.remaining.unwrap_or_default().as_secs());
    let origin = status.origin.as_deref().unwrap_or("none issued yet");
    let outcome = match &status.last_error {
        Some(error) => Err(format!("{kind}: renewal failed, valid for {seconds_left} s: {error}")),
        None => Ok(format!("{kind}: valid for {seconds_left} s, {origin}")),
    };
    DependencyHealth::known(Some(status.age.unwrap_or_default()), outcome)
}

/// A check of the topic would need a permission that publishing does not, so this is the result of the last
/// publication.
fn topic_health(topic: &Topic) -> DependencyHealth {
    let (age, outcome) = match topic.last_publication() {
        Some((age, Ok(()))) => (age, Ok("the last publication succeeded".to_owned())),
        Some((age, Err(failure))) => (age, Err(failure.with_hint())),
        None => (Duration::ZERO, Ok("this process has published nothing yet".to_owned())),
    };
    DependencyHealth::known(Some(age), outcome)
}

fn certificate_health(tls: &Tls) -> DependencyHealth {
    let days_left =
        db::ca_file::Certificate::parse(&tls.certificate()).map(|certificate| certificate.days_left(Utc::now()));
    let outcome = match days_left {
        Some(days) if days >= db::WARN_DAYS => Ok(format!("expires in {days} days")),
        Some(days) => Err(format!("expires in {days} days")),
        None => Err("cannot be parsed".to_owned()),
    };
    DependencyHealth::known(Some(Duration::ZERO), outcome)
}

fn key_set_health(verifier: &Verifier) -> DependencyHealth {
    let state = verifier.state();
    DependencyHealth::known(state.age, state.last_error.map_or_else(|| Ok(format!("{} keys", state.keys)), Err))
}
