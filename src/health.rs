//! How what the service depends on is doing: looked at for operators, not for balancers.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::sync::Mutex;

use crate::{
    app::App,
    aws::Failure,
    db::{self, credentials::LeaseState},
    notifications::Topic,
    server::Tls,
};

/// The longest look at one dependency.
const LOOK: Duration = Duration::from_secs(2);
/// A database that has answered so lately is there.
const LATELY: Duration = Duration::from_secs(5);
/// A look is good for so long, however many ask.
const FRESH: Duration = Duration::from_secs(1);

/// What is known of one dependency.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Dependency {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ms: Option<f64>,
    /// How long ago what is known was learnt.
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// What was wrong when something was last.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<Trouble>,
}

/// Something that was wrong.
#[derive(Debug, Clone, Serialize)]
struct Trouble {
    at: DateTime<Utc>,
    detail: String,
}

impl Dependency {
    /// Whether nothing is wrong with it.
    pub(crate) fn is_well(&self) -> bool {
        self.status == "ok"
    }

    /// The same, told this much later.
    fn aged(mut self, by: Duration) -> Self {
        self.age_seconds = self.age_seconds.map(|age| age + by.as_secs());
        self
    }

    fn looked(started: Instant, outcome: std::result::Result<String, String>) -> Self {
        let latency_ms = Some((started.elapsed().as_secs_f64() * 1e6).round() / 1e3);
        let (status, detail) = match outcome {
            Ok(detail) => ("ok", detail),
            Err(error) => ("failing", error),
        };
        Self { status, latency_ms, age_seconds: Some(0), detail: Some(detail), last_error: None }
    }

    /// What was learnt a while ago.
    fn known(age: Duration, outcome: std::result::Result<String, String>) -> Self {
        let (status, detail) = match outcome {
            Ok(detail) => ("ok", detail),
            Err(error) => ("failing", error),
        };
        Self { status, latency_ms: None, age_seconds: Some(age.as_secs()), detail: Some(detail), last_error: None }
    }

    /// A token or secret that new database connections sign in with.
    fn leased(lease: &LeaseState) -> Self {
        let left = lease.left.unwrap_or_default().as_secs();
        let origin = lease.origin.as_deref().unwrap_or("none yet");
        let outcome = match &lease.failing {
            Some(why) => Err(format!("{}: can't be renewed, good for {left} s: {why}", lease.kind)),
            None => Ok(format!("{}: good for {left} s, {origin}", lease.kind)),
        };
        Self::known(lease.age.unwrap_or_default(), outcome)
    }
}

/// The last look, and what was wrong before it.
#[derive(Debug, Default)]
pub struct Dependencies {
    seen: Mutex<Seen>,
    /// A look at the folder is under way; one that hangs has a thread to itself, and is not to get more.
    probing: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Seen {
    at: Option<Instant>,
    rows: BTreeMap<&'static str, Dependency>,
}

impl Dependencies {
    /// Each dependency, as of a moment ago: who asks while a look is taken waits for it rather than taking another.
    pub(crate) async fn now(&self, app: &App) -> BTreeMap<&'static str, Dependency> {
        let mut seen = self.seen.lock().await;
        match seen.at.map(|at| at.elapsed()) {
            Some(age) if age < FRESH => seen.rows.iter().map(|(name, row)| (*name, row.clone().aged(age))).collect(),
            _ => {
                let mut rows = look(app).await;
                for (name, row) in &mut rows {
                    row.last_error = match &row.detail {
                        Some(detail) if !row.is_well() => Some(Trouble { at: Utc::now(), detail: detail.clone() }),
                        _ => seen.rows.remove(name).and_then(|before| before.last_error),
                    };
                }
                *seen = Seen { at: Some(Instant::now()), rows: rows.clone() };
                rows
            }
        }
    }
}

/// Whether the database answers: it is asked only when it was not heard of lately, so that a service that is merely busy
/// does not take itself for one without a database.
pub(crate) async fn database_answers(app: &App) -> bool {
    app.db.heard().is_some_and(|ago| ago < LATELY) || look_at_database(app).await.is_well()
}

async fn look(app: &App) -> BTreeMap<&'static str, Dependency> {
    let (database, storage, queue, machine, read_model) = tokio::join!(
        look_at_database(app),
        look_at_storage(app),
        look_at_queue(app),
        look_at_machine(app),
        look_at_read_model(app)
    );
    let mut dependencies =
        BTreeMap::from([("database", database), ("storage", storage), ("identity", look_at_keys(app))]);
    dependencies.extend(queue.map(|queue| ("queue", queue)));
    dependencies.extend(machine.map(|machine| ("step_functions", machine)));
    dependencies.extend(look_at_pools(app).await);
    dependencies.extend(app.announcer.topic().map(|topic| ("sns", last_of_topic(topic))));
    dependencies.extend(read_model.map(|looked| ("dynamodb", looked)));
    dependencies.extend(app.tls.as_ref().map(|tls| ("listener_certificate", look_at_certificate(tls))));
    dependencies
}

async fn look_at_database(app: &App) -> Dependency {
    let started = Instant::now();
    let look = async {
        let mut session = app.db.session().await?;
        db::jobs::depth(&mut session).await
    };
    let outcome = match tokio::time::timeout(LOOK, look).await {
        Ok(Ok((live, dead, _))) => Ok(format!("{live} jobs, {dead} dead")),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {LOOK:?}")),
    };
    Dependency::looked(started, outcome)
}

/// The reader, if there is one; and of each pool what it signs in with and the server's certificate.
async fn look_at_pools(app: &App) -> Vec<(&'static str, Dependency)> {
    let mut rows = Vec::new();
    let started = Instant::now();
    let looked = tokio::time::timeout(LOOK, app.db.look_at_reader()).await;
    let outcome = match looked {
        Ok(None) => None,
        Ok(Some(answer)) => Some(answer.map(|()| "answers".to_owned()).map_err(|error| error.to_string())),
        Err(_) => Some(Err(format!("no answer within {LOOK:?}"))),
    };
    rows.extend(outcome.map(|outcome| ("reader", Dependency::looked(started, outcome))));
    for report in app.db.report() {
        let names = if report.name == "reader" {
            ("reader_login", "reader_certificate")
        } else {
            ("database_login", "database_certificate")
        };
        rows.extend(report.lease.map(|lease| (names.0, Dependency::leased(&lease))));
        rows.extend(report.certificate.map(|state| (names.1, Dependency::known(state.age, state.outcome))));
    }
    rows
}

async fn look_at_storage(app: &App) -> Dependency {
    let (started, place) = (Instant::now(), app.config.storage.place.to_string());
    let outcome = if app.storage.files().is_some() {
        look_at_folder(app).await.map(|()| place)
    } else {
        let named = |error| Failure::from(error).of(&place);
        in_time(async { app.storage.probe().await.map_err(named) }).await.map(|()| place.clone())
    };
    Dependency::looked(started, outcome)
}

/// A disk may hang, and can't be told that nobody waits any more.
async fn look_at_folder(app: &App) -> std::result::Result<(), String> {
    let (storage, probing) = (app.storage.clone(), app.dependencies.probing.clone());
    if probing.swap(true, Ordering::Relaxed) {
        return Err("the look before has not come back yet".to_owned());
    }
    let probe = tokio::spawn(async move {
        let outcome = storage.probe().await;
        probing.store(false, Ordering::Relaxed);
        outcome
    });
    match tokio::time::timeout(LOOK, probe).await {
        Ok(Ok(outcome)) => outcome.map_err(|error| error.to_string()),
        Ok(Err(_)) => Err("the look failed".to_owned()),
        Err(_) => Err(format!("no answer within {LOOK:?}")),
    }
}

/// A look at what AWS does for us, for as long as one may take; a failure with what to do about it. Such futures are large:
/// this one holds a pointer to it.
fn in_time<T>(
    look: impl Future<Output = std::result::Result<T, Failure>>,
) -> impl Future<Output = std::result::Result<T, String>> {
    let looked = tokio::time::timeout(LOOK, Box::pin(look));
    async { looked.await.unwrap_or_else(|_| Err(Failure::no_answer(LOOK))).map_err(|failure| failure.advised()) }
}

/// The queue, if there is one.
async fn look_at_queue(app: &App) -> Option<Dependency> {
    let (queue, started) = (app.queue.as_ref()?, Instant::now());
    let outcome = in_time(queue.depth()).await;
    let outcome = outcome.map(|(waiting, dead)| format!("about {waiting} messages, {dead} dead"));
    Some(Dependency::looked(started, outcome))
}

/// The table of the read model, if it is on.
async fn look_at_read_model(app: &App) -> Option<Dependency> {
    let (model, started) = (app.read_model.as_ref()?, Instant::now());
    let outcome = in_time(model.look()).await;
    Some(Dependency::looked(started, outcome.map(|()| "answers".to_owned())))
}

/// A look at the topic would take a right that publishing does not: what is known is how that went last.
fn last_of_topic(topic: &Topic) -> Dependency {
    match topic.last() {
        Some((age, Ok(()))) => Dependency::known(age, Ok("took what was published last".to_owned())),
        Some((age, Err(failure))) => Dependency::known(age, Err(failure.advised())),
        None => Dependency::known(Duration::ZERO, Ok("this process has published nothing yet".to_owned())),
    }
}

/// The state machine of edits, if there is one.
async fn look_at_machine(app: &App) -> Option<Dependency> {
    let (machine, started) = (app.machine.as_ref()?, Instant::now());
    let outcome = in_time(machine.look()).await;
    Some(Dependency::looked(started, outcome.map(|()| machine.arn().to_owned())))
}

/// The certificate that clients are shown.
fn look_at_certificate(tls: &Tls) -> Dependency {
    let left = db::tls::Certificate::parse(&tls.certificate()).map(|shown| shown.days_left(Utc::now()));
    let outcome = match left {
        Some(days) if days >= db::certificates::WARN_DAYS => Ok(format!("it ends in {days} days")),
        Some(days) => Err(format!("it ends in {days} days")),
        None => Err("it can't be read".to_owned()),
    };
    Dependency::known(Duration::ZERO, outcome)
}

fn look_at_keys(app: &App) -> Dependency {
    let state = app.verifier.state();
    let status = if state.last_error.is_some() { "failing" } else { "ok" };
    let detail = Some(state.last_error.unwrap_or_else(|| format!("{} keys", state.keys)));
    Dependency { status, latency_ms: None, age_seconds: state.age.map(|age| age.as_secs()), detail, last_error: None }
}
