//! How many requests are worked on at a time, and what happens to the others.
//!
//! A service that takes on more than it can do does less: requests wait for a database connection until their clients
//! have given up, and are then answered for nobody. So requests wait at the door instead, not for long, and what does not
//! get its turn is turned away at once, which costs next to nothing.
//!
//! How many may come in is found by measuring the waits behind the door, those for a connection of the pool and those of
//! the runtime's tasks for a processor. As in CoDel (RFC 8289) the shortest wait of an interval tells: a burst leaves
//! somebody who did not wait, an overload does not. While that wait is over the target the number goes down, to half at
//! most in an interval; while it is not, and the number is what holds requests up, it grows by a tenth. It never goes below
//! what the pool's connections can take, so the database is never idle while somebody waits at the door.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout},
};

use crate::http::{error::HttpError, extract};
use crate::{
    app::AppState,
    config::Limits,
    telemetry::{Outcome, metrics},
};

/// How often the waits are looked at.
const INTERVAL: Duration = Duration::from_millis(100);
/// How often in it the runtime is tried.
const TRIES: u32 = 5;
/// A queue at the door that was never gone for so long is no burst any more.
const STANDS: Duration = Duration::from_secs(1);
/// The longest wait at the door in a burst: what a crowd that comes at once, or a database that has to be signed in to
/// first, may take.
const PATIENCE: Duration = Duration::from_millis(1500);
/// And in a queue that stands, in targets.
const SHORT_PATIENCE: u32 = 10;
/// The longest wait that a newcomer may expect, from the length of the queue and its pace: who would come too late is not
/// kept waiting for that.
const QUEUE: Duration = Duration::from_millis(500);

/// Places that can become more or fewer while some are taken.
#[derive(Debug)]
struct Places {
    free: Arc<Semaphore>,
    size: AtomicUsize,
    /// Places that go away when they are given back.
    surplus: AtomicUsize,
}

/// A place, until it is dropped.
#[derive(Debug)]
struct Place {
    permit: Option<OwnedSemaphorePermit>,
    places: Arc<Places>,
}

impl Places {
    fn new(size: usize) -> Arc<Self> {
        let free = Arc::new(Semaphore::new(size));
        Arc::new(Self { free, size: AtomicUsize::new(size), surplus: AtomicUsize::new(0) })
    }

    fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    /// Called by one task at a time.
    fn resize(&self, size: usize) {
        let old = self.size.swap(size, Ordering::Relaxed);
        if size > old {
            let more = size - old;
            let kept =
                self.surplus.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some(n.saturating_sub(more)));
            self.free.add_permits(more - kept.unwrap_or(0).min(more));
        } else {
            let gone = self.free.forget_permits(old - size);
            self.surplus.fetch_add(old - size - gone, Ordering::Relaxed);
        }
    }

    fn take(self: &Arc<Self>) -> Option<Place> {
        let permit = self.free.clone().try_acquire_owned().ok()?;
        Some(Place { permit: Some(permit), places: self.clone() })
    }

    async fn wait(self: &Arc<Self>, patience: Duration) -> Option<Place> {
        let permit = timeout(patience, self.free.clone().acquire_owned()).await.ok()?.ok()?;
        Some(Place { permit: Some(permit), places: self.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let surplus = &self.places.surplus;
        let goes = surplus.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok();
        if let Some(permit) = self.permit.take().filter(|_| goes) {
            permit.forget();
        }
    }
}

/// The door.
#[derive(Debug)]
pub struct Admission {
    requests: Arc<Places>,
    uploads: Arc<Places>,
    /// What can be worked on without a wait: the least number of requests at a time.
    unhurried: usize,
    seen: Mutex<Seen>,
    arrived: Notify,
}

/// What the door has seen.
#[derive(Debug)]
struct Seen {
    inside: usize,
    /// The most inside in this interval.
    peak: usize,
    waiting: usize,
    /// Those who left in this interval.
    left: u32,
    /// How many leave in a second while the door is full; none when that is not known.
    pace: Option<f64>,
    /// When somebody came in without a wait.
    open_at: Instant,
}

impl Seen {
    /// Begins another interval; answers the most who were inside in the last one, and those who are now.
    fn turn_over(&mut self, size: usize) -> (usize, usize) {
        let peak = std::mem::replace(&mut self.peak, self.inside);
        let pace = f64::from(std::mem::take(&mut self.left)) / INTERVAL.as_secs_f64();
        // Who leaves a half-empty house tells nothing of how many could; and while nobody leaves, as when a database has
        // to be signed in to first, nobody knows.
        self.pace = match self.pace {
            _ if peak < size => None,
            None => (pace > 0.0).then_some(pace),
            Some(known) => Some((known * 0.8 + pace * 0.2).max(1.0)),
        };
        (peak, self.inside)
    }
}

/// A request that has come in.
struct Inside<'a> {
    admission: &'a Admission,
    _place: Place,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let mut seen = self.admission.seen();
        seen.inside -= 1;
        seen.left += 1;
    }
}

/// One who waits at the door.
struct Waiting<'a>(&'a Admission);

impl<'a> Waiting<'a> {
    /// None when the queue is so long that its end is too far.
    fn begin(admission: &'a Admission) -> Option<Self> {
        let mut seen = admission.seen();
        #[expect(clippy::cast_precision_loss, reason = "a queue")]
        if seen.pace.is_some_and(|pace| seen.waiting as f64 > pace * QUEUE.as_secs_f64()) {
            return None;
        }
        seen.waiting += 1;
        Some(Self(admission))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.seen().waiting -= 1;
    }
}

impl Admission {
    /// A door that begins with all that `limits` allows; `connections` is the most of the database's.
    #[must_use]
    pub fn new(limits: &Limits, connections: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            requests: Places::new(limits.requests),
            uploads: Places::new(limits.uploads),
            unhurried: connections.max(2 * cores),
            seen: Mutex::new(Seen { inside: 0, peak: 0, waiting: 0, left: 0, pace: None, open_at: Instant::now() }),
            arrived: Notify::new(),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn enter(&self, target: Duration) -> Option<Inside<'_>> {
        let place = if let Some(place) = self.requests.take() {
            self.seen().open_at = Instant::now();
            place
        } else {
            let _waiting = Waiting::begin(self)?;
            let stands = self.seen().open_at.elapsed() > STANDS;
            self.requests.wait(if stands { SHORT_PATIENCE * target } else { PATIENCE }).await?
        };
        let mut seen = self.seen();
        seen.inside += 1;
        seen.peak = seen.peak.max(seen.inside);
        drop(seen);
        self.arrived.notify_one();
        Some(Inside { admission: self, _place: place })
    }

    /// The next number of requests at a time, after an interval with this shortest wait.
    fn next_size(&self, peak: usize, shortest: Duration, limits: &Limits) -> usize {
        let size = self.requests.size();
        let most = limits.requests;
        let least = self.unhurried.min(most);
        if shortest > limits.queueing_target && peak > least {
            let less = limits.queueing_target.div_duration_f64(shortest).clamp(0.5, 0.9);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_precision_loss,
                clippy::cast_sign_loss,
                reason = "a count"
            )]
            let fewer = (peak.min(size) as f64 * less) as usize;
            fewer.clamp(least, most)
        } else if peak >= size {
            (size + size / 10 + 1).min(most)
        } else {
            size.min(most)
        }
    }
}

/// Looks at the waits and moves the limits, for ever. Nothing is looked at while nobody is inside.
pub async fn adapt(app: AppState) {
    let (admission, mut changed) = (&app.admission, app.limits.subscribe());
    loop {
        let mut shortest = Duration::MAX;
        for _ in 0..TRIES {
            let due = Instant::now() + INTERVAL / TRIES;
            sleep(INTERVAL / TRIES).await;
            shortest = shortest.min(due.elapsed());
        }
        if let Some(waited) = app.db.shortest_wait() {
            shortest = shortest.max(waited);
        }
        let limits = app.limits.borrow().clone();
        let (peak, inside) = admission.seen().turn_over(admission.requests.size());
        let size = admission.next_size(peak, shortest, &limits);
        if size != admission.requests.size() {
            admission.requests.resize(size);
        }
        if limits.uploads != admission.uploads.size() {
            admission.uploads.resize(limits.uploads);
        }
        #[expect(clippy::cast_precision_loss, reason = "a count for a graph")]
        metrics::HTTP_LIMIT.set(size as f64);
        if inside == 0 {
            tokio::select! {
                () = admission.arrived.notified() => {}
                _ = changed.changed() => {}
            }
        }
    }
}

/// Lets a request in once all of it is there, or turns it away.
pub async fn admit(State(app): State<AppState>, request: Request, next: Next) -> Response {
    let target = app.limits.borrow().queueing_target;
    let request = match extract::whole(request, app.config.http.max_body_bytes).await {
        Ok(request) => request,
        Err(error) => return error.into_response(),
    };
    match app.admission.enter(target).await {
        Some(_inside) => next.run(request).await,
        None => turned_away(),
    }
}

/// Lets a look at an album's events in, or turns it away; who is ready to wait for them is not kept out.
pub async fn admit_look(State(app): State<AppState>, request: Request, next: Next) -> Response {
    let query = request.uri().query().unwrap_or_default();
    let waits = url::form_urlencoded::parse(query.as_bytes()).any(|(key, value)| key == "wait" && value != "0");
    if waits { next.run(request).await } else { admit(State(app), request, next).await }
}

/// Lets an upload in, or turns it away. Uploads take long and little: they wait for their clients.
pub async fn admit_upload(State(app): State<AppState>, request: Request, next: Next) -> Response {
    match app.admission.uploads.take() {
        Some(_place) => next.run(request).await,
        None => turned_away(),
    }
}

fn turned_away() -> Response {
    let mut response = HttpError::Overloaded.into_response();
    response.extensions_mut().insert(Outcome::Shed);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_become_fewer_while_they_are_taken() {
        let places = Places::new(3);
        let mut taken: Vec<Place> = (0..3).map(|_| places.take().unwrap()).collect();
        places.resize(1);
        assert!(places.take().is_none());
        taken.truncate(1);
        assert!(places.take().is_none(), "two were given back, and two were too many");
        places.resize(2);
        taken.push(places.take().unwrap());
        assert!(places.take().is_none());
        places.resize(1);
        places.resize(4);
        taken.clear();
        let all: Vec<Place> = std::iter::from_fn(|| places.take()).collect();
        assert_eq!(all.len(), 4);
    }
}
