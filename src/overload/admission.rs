//! Admission control: how many requests run at a time, and what happens to the others.
//!
//! A service that accepts more requests than it can process does less: requests wait for a database connection until
//! their clients have given up, and are then answered for nothing. So requests queue here, briefly, and those that are
//! not admitted in time are refused at once, which costs next to nothing.
//!
//! The concurrency limit follows the queueing delays that requests meet once they are admitted: the wait for a pooled
//! database connection, and the scheduling delay of the runtime. As in `CoDel` (RFC 8289) the minimum delay of an
//! interval decides: in a burst some request does not wait, in an overload every request does. While the minimum is
//! above the target, the limit shrinks, at most to half per interval; while it is not, and the limit holds requests
//! back, the limit grows by a tenth. It never falls below what the database connections can serve, so the database is
//! never idle while requests are queued.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit, watch},
    time::{Instant, sleep, timeout},
};

use crate::{config::Limits, telemetry::metrics};

/// How often the limit is adapted.
const INTERVAL: Duration = Duration::from_millis(100);
/// How often per interval the scheduling delay is measured.
const SAMPLES: u32 = 5;
/// A queue that has not been empty for this long is an overload rather than a burst.
const LONGEST_BURST: Duration = Duration::from_secs(1);
/// Queue timeout in a burst: covers a crowd that arrives at once, and a database whose first login is slow.
const BURST_QUEUE_TIMEOUT: Duration = Duration::from_millis(1500);
/// Queue timeout in an overload, as a multiple of the queueing target.
const OVERLOAD_QUEUE_TIMEOUT: u32 = 10;
/// A request whose expected wait, from the queue's length and the completion rate, is longer is refused at once.
const MAX_EXPECTED_WAIT: Duration = Duration::from_millis(500);

/// A semaphore whose size can change while permits are held.
#[derive(Debug)]
struct ConcurrencyLimit {
    semaphore: Semaphore,
    size: AtomicUsize,
    /// Permits to discard when they are released, because the limit shrank while they were held.
    excess: AtomicUsize,
}

#[derive(Debug)]
pub(crate) struct Permit<'a> {
    permit: Option<SemaphorePermit<'a>>,
    limit: &'a ConcurrencyLimit,
}

impl ConcurrencyLimit {
    fn new(size: usize) -> Self {
        Self { semaphore: Semaphore::new(size), size: AtomicUsize::new(size), excess: AtomicUsize::new(0) }
    }

    fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    /// Must not be called concurrently.
    fn resize(&self, size: usize) {
        let old = self.size.swap(size, Ordering::Relaxed);
        if size > old {
            let added = size - old;
            let subtract = |excess: usize| Some(excess.saturating_sub(added));
            let excess = self.excess.fetch_update(Ordering::Relaxed, Ordering::Relaxed, subtract).unwrap_or(0);
            self.semaphore.add_permits(added - excess.min(added));
        } else {
            let removed = self.semaphore.forget_permits(old - size);
            self.excess.fetch_add(old - size - removed, Ordering::Relaxed);
        }
    }

    fn try_acquire(&self) -> Option<Permit<'_>> {
        Some(Permit { permit: Some(self.semaphore.try_acquire().ok()?), limit: self })
    }

    async fn acquire(&self, longest_wait: Duration) -> Option<Permit<'_>> {
        let permit = timeout(longest_wait, self.semaphore.acquire()).await.ok()?.ok()?;
        Some(Permit { permit: Some(permit), limit: self })
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let excess = &self.limit.excess;
        let is_excess = excess.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok();
        if let Some(permit) = self.permit.take().filter(|_| is_excess) {
            permit.forget();
        }
    }
}

/// The admission control of one process.
#[derive(Debug)]
pub struct Admission {
    requests: ConcurrencyLimit,
    uploads: ConcurrencyLimit,
    /// What the database connections and processors can serve without a queue.
    min_concurrency: usize,
    load: Mutex<Load>,
    admitted: Notify,
}

#[derive(Debug)]
struct Load {
    running: usize,
    /// The maximum of `running` in this interval.
    peak: usize,
    queued: usize,
    /// Requests that ended in this interval.
    completed: u32,
    /// Completed requests per second while the limit is reached, smoothed; none when it is not known.
    completion_rate: Option<f64>,
    last_admitted_without_wait: Instant,
}

impl Load {
    /// Ends an interval and returns its peak.
    fn end_interval(&mut self, limit: usize) -> usize {
        let peak = std::mem::replace(&mut self.peak, self.running);
        let rate = f64::from(std::mem::take(&mut self.completed)) / INTERVAL.as_secs_f64();
        // Below the limit the rate shows the demand, not the capacity. While no request completes, as during a slow
        // first login to the database, the capacity is unknown.
        self.completion_rate = match self.completion_rate {
            _ if peak < limit => None,
            None => (rate > 0.0).then_some(rate),
            Some(smoothed) => Some((smoothed * 0.8 + rate * 0.2).max(1.0)),
        };
        peak
    }
}

/// An admitted request; dropping it ends the request.
pub(crate) struct RunningRequest<'a> {
    admission: &'a Admission,
    _permit: Permit<'a>,
}

impl Drop for RunningRequest<'_> {
    fn drop(&mut self) {
        let mut load = self.admission.load();
        load.running -= 1;
        load.completed += 1;
    }
}

struct QueuedRequest<'a>(&'a Admission);

impl<'a> QueuedRequest<'a> {
    /// None when the expected wait is too long.
    fn enqueue(admission: &'a Admission) -> Option<Self> {
        let mut load = admission.load();
        #[expect(clippy::cast_precision_loss, reason = "a queue's length is far below 2^52")]
        if load.completion_rate.is_some_and(|rate| load.queued as f64 > rate * MAX_EXPECTED_WAIT.as_secs_f64()) {
            return None;
        }
        load.queued += 1;
        Some(Self(admission))
    }
}

impl Drop for QueuedRequest<'_> {
    fn drop(&mut self) {
        self.0.load().queued -= 1;
    }
}

impl Admission {
    /// Starts at the configured maximum; `max_connections` is the size of the database pool.
    pub fn new(limits: &Limits, max_connections: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            requests: ConcurrencyLimit::new(limits.max_concurrent_requests),
            uploads: ConcurrencyLimit::new(limits.max_concurrent_uploads),
            min_concurrency: max_connections.max(2 * cores),
            load: Mutex::new(Load {
                running: 0,
                peak: 0,
                queued: 0,
                completed: 0,
                completion_rate: None,
                last_admitted_without_wait: Instant::now(),
            }),
            admitted: Notify::new(),
        }
    }

    fn load(&self) -> MutexGuard<'_, Load> {
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits in the queue if necessary; none when the request must be refused.
    pub(crate) async fn admit(&self, target_queue_delay: Duration) -> Option<RunningRequest<'_>> {
        let permit = if let Some(permit) = self.requests.try_acquire() {
            self.load().last_admitted_without_wait = Instant::now();
            permit
        } else {
            let _queued = QueuedRequest::enqueue(self)?;
            let is_overload = self.load().last_admitted_without_wait.elapsed() > LONGEST_BURST;
            let overload_timeout = OVERLOAD_QUEUE_TIMEOUT * target_queue_delay;
            self.requests.acquire(if is_overload { overload_timeout } else { BURST_QUEUE_TIMEOUT }).await?
        };
        let mut load = self.load();
        load.running += 1;
        load.peak = load.peak.max(load.running);
        drop(load);
        self.admitted.notify_one();
        Some(RunningRequest { admission: self, _permit: permit })
    }

    /// Uploads are never queued.
    pub(crate) fn try_admit_upload(&self) -> Option<Permit<'_>> {
        self.uploads.try_acquire()
    }

    /// Adapts the limits for ever. `database_wait` returns the shortest wait for a database connection since its last
    /// call, if there was one. Pauses while no request runs.
    pub async fn adapt(&self, mut limits: watch::Receiver<Limits>, database_wait: impl Fn() -> Option<Duration>) {
        loop {
            let mut min_delay = Duration::MAX;
            for _ in 0..SAMPLES {
                let due = Instant::now() + INTERVAL / SAMPLES;
                sleep(INTERVAL / SAMPLES).await;
                min_delay = min_delay.min(due.elapsed());
            }
            let min_delay = database_wait().map_or(min_delay, |wait| wait.max(min_delay));
            let current = limits.borrow().clone();
            let peak = self.load().end_interval(self.requests.size());
            let limit = self.next_limit(peak, min_delay, &current);
            self.requests.resize(limit);
            self.uploads.resize(current.max_concurrent_uploads);
            #[expect(clippy::cast_precision_loss, reason = "a gauge")]
            metrics::HTTP_CONCURRENCY_LIMIT.set(limit as f64);
            if self.load().running == 0 {
                tokio::select! {
                    () = self.admitted.notified() => {}
                    _ = limits.changed() => {}
                }
            }
        }
    }

    /// The limit for the next interval, after one with this peak and minimum delay.
    fn next_limit(&self, peak: usize, min_delay: Duration, limits: &Limits) -> usize {
        let (current, max) = (self.requests.size(), limits.max_concurrent_requests);
        let min = self.min_concurrency.min(max);
        if min_delay > limits.target_queue_delay && peak > min {
            let factor = limits.target_queue_delay.div_duration_f64(min_delay).clamp(0.5, 0.9);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_precision_loss,
                clippy::cast_sign_loss,
                reason = "a positive number no larger than the limit"
            )]
            let reduced = (peak.min(current) as f64 * factor) as usize;
            reduced.clamp(min, max)
        } else if peak >= current {
            (current + current / 10 + 1).min(max)
        } else {
            current.min(max)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shrinks_while_permits_are_held() {
        let limit = ConcurrencyLimit::new(3);
        let mut held: Vec<Permit<'_>> = (0..3).map(|_| limit.try_acquire().unwrap()).collect();
        limit.resize(1);
        assert!(limit.try_acquire().is_none());
        held.truncate(1);
        assert!(limit.try_acquire().is_none(), "the two released permits were excess");
        limit.resize(2);
        held.push(limit.try_acquire().unwrap());
        assert!(limit.try_acquire().is_none());
        limit.resize(1);
        limit.resize(4);
        held.clear();
        let all: Vec<Permit<'_>> = std::iter::from_fn(|| limit.try_acquire()).collect();
        assert_eq!(all.len(), 4);
    }
}
