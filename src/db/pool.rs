//! A pool of connections. It is built on deadpool, because deadpool's manager, unlike sqlx's pool, decides how each
//! connection is opened (with the credentials of that moment) and whether it is used again.
//!
//! A connection is used without a check while it was used within the last seconds. After a longer idle time, or when
//! another connection has been lost since, it is pinged first. It is closed at the end of its lifetime, and when
//! another connection has since met a server that accepts no writes. A login that takes longer than its caller waits is
//! completed in the background, so that a slow server is reached in the end.

mod metrics;

use std::{
    ops::{Deref, DerefMut},
    pin::Pin,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use deadpool::{
    Runtime,
    managed::{self, Metrics, Object, PoolConfig, QueueMode, RecycleError, RecycleResult, Timeouts},
};
use futures_util::future::BoxFuture;
use sqlx::Connection as _;
use tokio::{
    runtime::Handle,
    time::{Instant, timeout, timeout_at},
};

use super::{
    connection::{Connection, ConnectionState},
    connector::Connector,
    error::{ConnectionHealth, Error, Result},
};
use crate::{
    config::database as config,
    resilience::{backoff::random_below, deadline},
    telemetry::scope,
};
pub use metrics::PoolState;
use metrics::{PoolMetrics, Timer};

/// A connection that was idle for longer is pinged before use. Below that the round trip is saved.
const MAX_UNCHECKED_IDLE: Duration = Duration::from_secs(5);
/// Time for a ping, and for the goodbye to the server when a connection is closed.
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// How often idle connections are inspected.
const REAP_INTERVAL: Duration = Duration::from_secs(15);
/// A failure to connect is reported for this long to callers that get no connection in time.
const FAILURE_TTL: Duration = Duration::from_secs(10);
/// The delay between two attempts to connect: the minimum, and the most that is added at random.
const RECONNECT_DELAY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(150));

/// A pool of connections to one server.
pub(crate) struct Pool {
    inner: managed::Pool<Manager>,
    limits: config::Pool,
    metrics: PoolMetrics,
    /// The shortest wait for a connection since it was last asked for, in microseconds; [`NO_WAIT`] when there was
    /// none.
    shortest_wait: AtomicU64,
}

const NO_WAIT: u64 = u64::MAX;

/// Opens connections, and decides which are used again.
struct Manager {
    connector: Connector,
    max_lifetime: Duration,
    last_answer: Mutex<Option<Instant>>,
    last_failure: Mutex<Option<(Instant, String)>>,
    staleness: Mutex<Staleness>,
    creation: Timer,
}

/// Which connections are not to be trusted because of what happened to another one.
#[derive(Clone, Copy, Default)]
struct Staleness {
    /// A connection was lost: those last used before are pinged.
    lost_at: Option<Instant>,
    /// A server accepted no writes: connections opened before are closed.
    read_only_at: Option<Instant>,
}

/// A connection in use. Dropping it returns it to the pool, or closes it when it can't be used again.
pub(crate) struct PooledConnection {
    object: Option<Object<Manager>>,
    acquired_at: Instant,
    usage: Timer,
}

impl Pool {
    /// A pool that connects on first use.
    pub(crate) fn new(name: &'static str, connector: Connector, limits: config::Pool) -> Self {
        let (size, metrics) = (limits.max_connections, PoolMetrics::new(name));
        let manager = Manager {
            connector,
            max_lifetime: limits.max_lifetime,
            last_answer: Mutex::default(),
            last_failure: Mutex::default(),
            staleness: Mutex::default(),
            creation: metrics.creation.clone(),
        };
        // LIFO, so that connections beyond the load of the moment become idle and are closed.
        let config = PoolConfig { queue_mode: QueueMode::Lifo, ..PoolConfig::new(size) };
        let builder = managed::Pool::builder(manager).config(config).runtime(Runtime::Tokio1);
        let inner = builder.build().expect("a runtime is given");
        Self { inner, limits, metrics, shortest_wait: AtomicU64::new(NO_WAIT) }
    }

    /// Acquires a connection. Attempts to connect are repeated until `acquire_timeout` or the deadline of the request.
    pub(crate) async fn acquire(&self) -> Result<PooledConnection> {
        let started = Instant::now();
        let until = deadline::current().into_iter().fold(started + self.limits.acquire_timeout, Instant::min);
        let result = self.acquire_until(until).await;
        let waited = started.elapsed();
        self.metrics.acquire.record(waited);
        self.shortest_wait.fetch_min(u64::try_from(waited.as_micros()).unwrap_or(NO_WAIT), Ordering::Relaxed);
        scope::add_database_wait(waited);
        let mut object = result?;
        object.state.acquired();
        Ok(PooledConnection { object: Some(object), acquired_at: Instant::now(), usage: self.metrics.usage.clone() })
    }

    async fn acquire_until(&self, until: Instant) -> Result<Object<Manager>> {
        let mut last_error = None;
        loop {
            let wait = Some(until.saturating_duration_since(Instant::now()));
            let pool = self.inner.clone();
            let acquisition =
                RunToEnd::new(async move { pool.timeout_get(&Timeouts { wait, ..Timeouts::default() }).await });
            match timeout_at(until, acquisition).await {
                Ok(Ok(object)) => return Ok(object),
                Ok(Err(managed::PoolError::Backend(error))) if error.is_connection_failure() => {
                    last_error = Some(error);
                }
                Ok(Err(managed::PoolError::Backend(error))) => return Err(error),
                Ok(Err(managed::PoolError::Timeout(_))) | Err(_) => return Err(self.acquire_timed_out(last_error)),
                Ok(Err(_)) => return Err(Error::Unavailable(sqlx::Error::PoolClosed)),
            }
            let delay = RECONNECT_DELAY.0 + random_below(RECONNECT_DELAY.1);
            if Instant::now() + delay >= until {
                return Err(self.acquire_timed_out(last_error));
            }
            tokio::time::sleep(delay).await;
        }
    }

    fn acquire_timed_out(&self, last_error: Option<Error>) -> Error {
        self.metrics.timed_out();
        let recent = || {
            let (at, error) = lock(&self.inner.manager().last_failure).clone()?;
            (at.elapsed() < FAILURE_TTL).then(|| Error::Unavailable(Error::timed_out(error)))
        };
        last_error.or_else(recent).unwrap_or(Error::Unavailable(sqlx::Error::PoolTimedOut))
    }

    /// The shortest wait for a connection since the last call; `None` when there was none.
    pub(crate) fn take_shortest_wait(&self) -> Option<Duration> {
        let micros = self.shortest_wait.swap(NO_WAIT, Ordering::Relaxed);
        (micros != NO_WAIT).then(|| Duration::from_micros(micros))
    }

    /// The time since the server last answered a statement.
    pub(crate) fn last_answer_age(&self) -> Option<Duration> {
        lock(&self.inner.manager().last_answer).map(|at| at.elapsed())
    }

    pub(crate) fn connector(&self) -> &Connector {
        &self.inner.manager().connector
    }

    pub(crate) fn query_timeout(&self) -> Duration {
        self.limits.query_timeout
    }

    pub(crate) fn state(&self) -> PoolState {
        let status = self.inner.status();
        let active = status.size.saturating_sub(status.available);
        PoolState { active, idle: status.available, pending: status.waiting, max: status.max_size }
    }

    /// The server was found to accept no writes at this time: connections opened before are closed.
    pub(crate) fn note_read_only(&self, at: Instant) {
        lock(&self.inner.manager().staleness).read_only_at = Some(at);
    }

    /// Closes idle and expired connections, forever.
    pub(crate) async fn reap(&self) -> ! {
        loop {
            tokio::time::sleep(REAP_INTERVAL).await;
            let (now, idle) = (Instant::now(), self.limits.idle_timeout);
            let kept = |connection: &Connection| connection.used_at + idle > now && connection.expires_at > now;
            close_all(self.inner.retain(|connection, _| kept(connection)).removed).await;
        }
    }

    /// Closes idle connections now, and those in use when they are returned.
    pub(crate) async fn close(&self) {
        let idle = self.inner.retain(|_, _| false).removed;
        self.inner.close();
        close_all(idle).await;
    }
}

/// Closes connections with MySQL's goodbye, so that the server does not count them as aborted.
async fn close_all(connections: Vec<Connection>) {
    for connection in connections {
        // A server that does not answer loses the connection anyway.
        let _ = timeout(PING_TIMEOUT, connection.inner.close()).await;
    }
}

impl Manager {
    async fn open(&self) -> Result<Connection> {
        let started = Instant::now();
        let inner = self.connector.connect().await?;
        self.creation.record(started.elapsed());
        let opened_at = Instant::now();
        // Lifetimes differ by up to a tenth, so that connections that were opened together are not all closed together.
        let expires_at = opened_at + self.max_lifetime - random_below(self.max_lifetime / 10);
        Ok(Connection { inner, state: ConnectionState::new(), opened_at, expires_at, used_at: opened_at })
    }
}

impl managed::Manager for Manager {
    type Type = Connection;
    type Error = Error;

    async fn create(&self) -> Result<Connection> {
        let result = self.open().await;
        if let Err(error) = &result {
            *lock(&self.last_failure) = Some((Instant::now(), error.to_string()));
        }
        result
    }

    /// Decides whether an idle connection is used again; pings the server when in doubt.
    async fn recycle(&self, connection: &mut Connection, _: &Metrics) -> RecycleResult<Error> {
        let (now, staleness) = (Instant::now(), *lock(&self.staleness));
        if connection.expires_at <= now || staleness.read_only_at.is_some_and(|at| connection.opened_at <= at) {
            return Err(RecycleError::message("expired"));
        }
        let suspect = staleness.lost_at.is_some_and(|at| connection.used_at <= at);
        if !suspect && now.duration_since(connection.used_at) <= MAX_UNCHECKED_IDLE {
            return Ok(());
        }
        match timeout(PING_TIMEOUT, connection.inner.ping()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(RecycleError::Backend(error.into())),
            Err(_) => Err(RecycleError::message("no answer to a ping")),
        }
    }
}

impl Deref for PooledConnection {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.object.as_ref().expect("taken only when dropped")
    }
}

impl DerefMut for PooledConnection {
    fn deref_mut(&mut self) -> &mut Connection {
        self.object.as_mut().expect("taken only when dropped")
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        self.usage.record(self.acquired_at.elapsed());
        let Some(mut object) = self.object.take() else { return };
        let (now, pool) = (Instant::now(), Object::pool(&object));
        let manager = pool.as_ref().map(managed::Pool::manager);
        if object.state.was_answered() {
            if let Some(manager) = manager {
                *lock(&manager.last_answer) = Some(now);
            }
            object.used_at = now;
        }
        let health = object.state.health();
        if health == ConnectionHealth::Usable {
            return;
        }
        if let (false, Some(manager)) = (object.state.was_interrupted(), manager) {
            let mut staleness = lock(&manager.staleness);
            match health {
                ConnectionHealth::ReadOnly => staleness.read_only_at = Some(now),
                _ => staleness.lost_at = Some(now),
            }
        }
        // Closes the socket without MySQL's goodbye: the server may not answer.
        drop(Object::take(object));
    }
}

/// A future that runs to its end in a task of its own when it is dropped before.
struct RunToEnd<T: Send + 'static>(Option<BoxFuture<'static, T>>);

impl<T: Send + 'static> RunToEnd<T> {
    fn new(future: impl Future<Output = T> + Send + 'static) -> Self {
        Self(Some(Box::pin(future)))
    }
}

impl<T: Send + 'static> Future for RunToEnd<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let future = self.0.as_mut().expect("not polled after its end");
        let output = ready!(future.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(output)
    }
}

impl<T: Send + 'static> Drop for RunToEnd<T> {
    fn drop(&mut self) {
        if let (Some(future), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(future);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
