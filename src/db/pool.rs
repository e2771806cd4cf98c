//! A pool of connections: deadpool's, because its manager has what sqlx's pool lacks, a say in how each connection is
//! opened (with the login of this very moment) and in whether it is used again.
//!
//! A connection is trusted while it is in use every few seconds. It is tried first, for a second at most, when it has
//! been idle for longer or when another one was lost since; and it is closed when it is old, or when another one has met
//! a server that takes no writes any more. A login that takes longer than anybody waits for it is not lost: the
//! connection is there for the next one who asks.

mod metrics;

use std::{
    ops::{Deref, DerefMut},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use deadpool::managed::{self, Metrics, Object, PoolConfig, QueueMode, RecycleError, RecycleResult};
use sqlx::{Connection, MySqlConnection};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot},
    time::{Instant, timeout, timeout_at},
};

use super::{
    Error, Result,
    connect::Connector,
    error::Verdict,
    rand_below,
    session::{Session, State},
};
use crate::{config::database as config, resilience::deadline, telemetry::scope};
pub use metrics::PoolState;
use metrics::{Meters, Timer};

/// A connection that was idle for longer is tried before use; a younger one is used at once, which saves a round trip
/// for each request under load.
const TRUST_IDLE: Duration = Duration::from_secs(5);
/// Longest time for a try of a connection.
const PING: Duration = Duration::from_secs(1);
/// How often connections are looked over that nobody uses.
const REAP: Duration = Duration::from_secs(15);
/// What stood in the way of a connection that came too late is told so long to those who wait in vain.
const STILL_TRUE: Duration = Duration::from_secs(10);
/// The wait between two tries to connect to a server that is not there: at least, and that much more at random.
const CONNECT_PAUSE: (u64, u64) = (50, 150);

/// An open connection with its history.
pub(crate) struct Live {
    pub(crate) connection: MySqlConnection,
    pub(crate) state: State,
    opened: Instant,
    expires: Instant,
    released: Instant,
    /// One of `max_connections`, from before it is opened until it is closed.
    place: OwnedSemaphorePermit,
}

/// deadpool's manager.
struct Manager(Arc<Shared>);

/// What opens connections and judges those that come back.
struct Shared {
    connector: Connector,
    /// Places for connections, open or being opened.
    places: Arc<Semaphore>,
    /// Opened for somebody who did not wait.
    spares: Mutex<Vec<Live>>,
    spared: Notify,
    /// Why connections could not be opened that nobody waited for to the end.
    late: Mutex<Option<(Instant, String)>>,
    max_lifetime: Duration,
    /// When the server was last heard of.
    heard: Mutex<Option<Instant>>,
    doubts: Mutex<Doubts>,
    creation: Timer,
}

/// Since when connections are not what they seem.
#[derive(Clone, Copy)]
struct Doubts {
    /// One was lost: those that were given back before are tried.
    lost: Option<Instant>,
    /// One met a server that takes no writes: those that were opened before are closed.
    demoted: Option<Instant>,
}

/// A connection on loan; gives itself back, or closes itself when it can't be used again.
pub(crate) struct Lent {
    object: Option<Object<Manager>>,
    since: Instant,
    usage: Timer,
}

/// A pool of connections to one server.
pub struct Pool {
    inner: managed::Pool<Manager>,
    limits: config::Pool,
    name: &'static str,
    meters: Meters,
    /// The shortest wait for a session since somebody asked, in microseconds.
    shortest: AtomicU64,
}

/// Nobody has asked for a session.
const NOBODY: u64 = u64::MAX;

impl Pool {
    /// A pool that connects when it is first used.
    pub(crate) fn new(name: &'static str, connector: Connector, limits: config::Pool) -> Self {
        let (size, meters) = (limits.max_connections, Meters::new(name));
        let manager = Manager(Arc::new(Shared {
            connector,
            places: Arc::new(Semaphore::new(size)),
            spares: Mutex::default(),
            spared: Notify::new(),
            late: Mutex::default(),
            max_lifetime: limits.max_lifetime,
            heard: Mutex::default(),
            doubts: Mutex::new(Doubts { lost: None, demoted: None }),
            creation: meters.creation.clone(),
        }));
        // The last one used comes first, so that those that a quiet time does not need grow idle and are closed.
        let config = PoolConfig { queue_mode: QueueMode::Lifo, ..PoolConfig::new(size) };
        let inner = managed::Pool::builder(manager).config(config).build().expect("no timeouts, so no runtime needed");
        Self { inner, limits, name, meters, shortest: AtomicU64::new(NOBODY) }
    }

    /// A session. While the server is not there it is tried again until the time for it is up.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when there is none in time, with what stood in the way.
    pub(crate) async fn session(&self) -> Result<Session> {
        let begun = Instant::now();
        let until = deadline::ends().into_iter().fold(begun + self.limits.acquire_timeout, Instant::min);
        let mut last = None;
        let outcome = loop {
            match timeout_at(until, self.inner.get()).await {
                Ok(Ok(object)) => break Ok(object),
                Ok(Err(managed::PoolError::Backend(error))) if error.is_of_connection() => last = Some(error),
                Ok(Err(managed::PoolError::Backend(error))) => break Err(error),
                Ok(Err(_)) => break Err(Error::Unavailable(sqlx::Error::PoolClosed)),
                Err(_) => break Err(self.too_late(last)),
            }
            let pause = Duration::from_millis(CONNECT_PAUSE.0 + rand_below(CONNECT_PAUSE.1));
            if Instant::now() + pause >= until {
                break Err(self.too_late(last));
            }
            tokio::time::sleep(pause).await;
        };
        let waited = begun.elapsed();
        self.meters.acquire.record(waited);
        self.shortest.fetch_min(u64::try_from(waited.as_micros()).unwrap_or(NOBODY), Ordering::Relaxed);
        scope::waited_for_database(waited);
        let object = outcome?;
        let lent = Lent { object: Some(object), since: Instant::now(), usage: self.meters.usage.clone() };
        Ok(Session::new(lent, self.limits.query_timeout))
    }

    fn too_late(&self, last: Option<Error>) -> Error {
        self.meters.timed_out();
        let late = || {
            let (at, why) = self.shared().late.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
            (at.elapsed() < STILL_TRUE).then(|| Error::Unavailable(Error::timed_out(why)))
        };
        last.or_else(late).unwrap_or(Error::Unavailable(sqlx::Error::PoolTimedOut))
    }

    /// The shortest wait for a session since the last call; none when nobody has had one to wait for.
    pub(crate) fn shortest_wait(&self) -> Option<Duration> {
        match self.shortest.swap(NOBODY, Ordering::Relaxed) {
            NOBODY => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }

    /// How long ago the server answered a statement.
    pub(crate) fn heard(&self) -> Option<Duration> {
        let heard = *self.shared().heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.map(|at| at.elapsed())
    }

    /// What opens its connections.
    pub(crate) fn connector(&self) -> &Connector {
        &self.shared().connector
    }

    fn shared(&self) -> &Shared {
        &self.inner.manager().0
    }

    /// Its name in metrics: `writer` or `reader`.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Its numbers now.
    pub(crate) fn state(&self) -> PoolState {
        let status = self.inner.status();
        let active = status.size.saturating_sub(status.available);
        let idle = status.available + self.shared().spares().len();
        PoolState { active, idle, pending: status.waiting, max: status.max_size }
    }

    /// Sets the metrics that are levels.
    pub(crate) fn measure(&self) {
        metrics::levels(self.name, self.state());
    }

    /// Has older connections closed if the server takes no writes (any more): one that only reads would not notice. For
    /// a pool whose server is to take them.
    pub(crate) async fn doubt_if_read_only(&self) {
        let asked = Instant::now();
        let look = async {
            let mut session = self.session().await?;
            let query = "SELECT CAST(@@global.read_only OR @@global.innodb_read_only AS SIGNED)";
            Ok::<i64, Error>(sqlx::query_scalar(query).fetch_one(&mut session).await?)
        };
        // Where nobody answers there is nothing to doubt.
        if matches!(look.await, Ok(1)) {
            self.shared().doubts().demoted = Some(asked);
        }
    }

    /// Closes what nobody uses, for ever.
    pub(crate) async fn reap(&self) -> ! {
        loop {
            tokio::time::sleep(REAP).await;
            let now = Instant::now();
            let idle = self.limits.idle_timeout;
            let old = self.inner.retain(|live, _| live.released + idle > now && live.expires > now).removed;
            let spares: Vec<Live> =
                self.shared().spares().extract_if(.., |live| live.released + TRUST_IDLE <= now).collect();
            part_from(old.into_iter().chain(spares)).await;
        }
    }

    /// Closes the pool: what is idle at once, what is in use when it is given back.
    pub(crate) async fn close(&self) {
        let idle = self.inner.retain(|_, _| false).removed;
        self.inner.close();
        let spares = std::mem::take(&mut *self.shared().spares());
        part_from(idle.into_iter().chain(spares)).await;
    }
}

/// Closes connections with a word of goodbye, so that the server counts no aborted clients.
async fn part_from(connections: impl Iterator<Item = Live>) {
    for live in connections {
        // One that does not hear it is closed all the same.
        let _ = timeout(PING, live.connection.close()).await;
    }
}

impl Shared {
    fn spares(&self) -> MutexGuard<'_, Vec<Live>> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn doubts(&self) -> MutexGuard<'_, Doubts> {
        self.doubts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next spare, as soon as there is one.
    async fn spare(&self) -> Live {
        loop {
            let spared = self.spared.notified();
            if let Some(live) = self.spares().pop() {
                return live;
            }
            spared.await;
        }
    }

    async fn open(&self, place: OwnedSemaphorePermit) -> Result<Live> {
        let begun = Instant::now();
        let connection = self.connector.connect().await?;
        self.creation.record(begun.elapsed());
        let opened = Instant::now();
        // Lives are told apart by a tenth, so that a pool that was filled at once is not emptied at once.
        let tenth = u64::try_from(self.max_lifetime.as_millis() / 10).unwrap_or(u64::MAX);
        let expires = opened + self.max_lifetime - Duration::from_millis(rand_below(tenth));
        Ok(Live { connection, state: State::fresh(), opened, expires, released: opened, place })
    }

    /// Opens a connection for somebody, unless they have gone before it begins; once it has begun it comes to its end.
    async fn open_for(&self, mut tell: oneshot::Sender<Result<Live>>) {
        let mut spare = None;
        let place = tokio::select! {
            biased;
            () = tell.closed() => return,
            live = self.spare() => {
                spare = Some(live);
                None
            }
            place = self.places.clone().acquire_owned() => place.ok(),
        };
        let outcome = match (spare, place) {
            (Some(mut live), _) => match self.trust(&mut live).await {
                Ok(()) => Ok(live),
                // In its own place.
                Err(_) => self.open(live.place).await,
            },
            (None, Some(place)) => self.open(place).await,
            (None, None) => Err(Error::Unavailable(sqlx::Error::PoolClosed)),
        };
        match tell.send(outcome) {
            Ok(()) => {}
            Err(Ok(live)) => {
                self.spares().push(live);
                self.spared.notify_one();
            }
            Err(Err(error)) => {
                *self.late.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), error.to_string()));
            }
        }
    }

    /// Whether a connection may be used again; asks the server where that isn't plain.
    async fn trust(&self, live: &mut Live) -> Result<(), RecycleError<Error>> {
        let (now, doubts) = (Instant::now(), *self.doubts());
        if live.expires <= now || doubts.demoted.is_some_and(|since| live.opened <= since) {
            return Err(RecycleError::message("its time is over"));
        }
        let doubtful = doubts.lost.is_some_and(|since| live.released <= since);
        if !doubtful && now.duration_since(live.released) <= TRUST_IDLE {
            return Ok(());
        }
        match timeout(PING, live.connection.ping()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(RecycleError::Backend(error.into())),
            Err(_) => Err(RecycleError::message("it does not answer")),
        }
    }
}

impl managed::Manager for Manager {
    type Type = Live;
    type Error = Error;

    /// In a task of its own, so that a login that takes long comes to its end although nobody waits for it any more.
    async fn create(&self) -> Result<Live> {
        let (tell, told) = oneshot::channel();
        let shared = self.0.clone();
        tokio::spawn(async move { shared.open_for(tell).await });
        told.await.unwrap_or(Err(Error::Unavailable(sqlx::Error::WorkerCrashed)))
    }

    async fn recycle(&self, live: &mut Live, _: &Metrics) -> RecycleResult<Error> {
        self.0.trust(live).await
    }
}

impl Deref for Lent {
    type Target = Live;

    fn deref(&self) -> &Live {
        self.object.as_ref().expect("given back when dropped, not before")
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Live {
        self.object.as_mut().expect("given back when dropped, not before")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.usage.record(self.since.elapsed());
        let Some(mut object) = self.object.take() else { return };
        let now = Instant::now();
        if object.state.was_answered()
            && let Some(pool) = Object::pool(&object)
        {
            *pool.manager().0.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        }
        let (verdict, interrupted) = (object.state.verdict(), object.state.was_interrupted());
        if verdict == Verdict::Sound {
            // One that was borrowed and not used is no younger for that.
            if object.state.was_answered() {
                object.released = now;
            }
            return;
        }
        // A request whose client has gone says nothing about the server.
        if let (false, Some(pool)) = (interrupted, Object::pool(&object)) {
            let mut doubts = pool.manager().0.doubts();
            match verdict {
                Verdict::Demoted => doubts.demoted = Some(now),
                _ => doubts.lost = Some(now),
            }
        }
        // Dropping the connection closes its socket, and says nothing: nobody may be there to listen.
        drop(Object::take(object));
    }
}
