//! Rate limits per caller, behind the gateway's throttling. A caller is a user, an invite (shared by all of its guests)
//! or a client address.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    state::keyed::HashMapStateStore,
};
use tokio::sync::watch;

use crate::{
    config::{Limits, Rate},
    domain::{InviteToken, User},
    telemetry::metrics,
};

/// How often the state of callers that have been idle long enough is removed.
const CLEANUP_INTERVAL: Duration = Duration::from_secs(10);

/// One token bucket per caller, keyed by a salted hash: neither names nor tokens are stored.
type Buckets = RateLimiter<u64, HashMapStateStore<u64>, DefaultClock>;

/// The rate limits of all callers. A check fails with the time until the next request is allowed.
#[derive(Debug)]
pub struct RateLimits {
    hasher: RandomState,
    buckets: RwLock<Arc<BucketsByKind>>,
}

#[derive(Debug)]
struct BucketsByKind {
    user: Option<Buckets>,
    invite: Option<Buckets>,
    address: Option<Buckets>,
}

impl BucketsByKind {
    fn new(limits: &Limits) -> Arc<Self> {
        let buckets = |rate: Option<Rate>| {
            rate.map(|rate| RateLimiter::hashmap(Quota::per_second(rate.per_second).allow_burst(rate.burst)))
        };
        Arc::new(Self { user: buckets(limits.user), invite: buckets(limits.invite), address: buckets(limits.address) })
    }
}

impl RateLimits {
    pub fn new(limits: &Limits) -> Self {
        Self { hasher: RandomState::new(), buckets: RwLock::new(BucketsByKind::new(limits)) }
    }

    pub(crate) fn check_user(&self, user: &User) -> Result<(), Duration> {
        self.check(self.buckets().user.as_ref(), "user", &user.subject)
    }

    /// Called before the invite is looked up: it may not exist.
    pub(crate) fn check_invite(&self, invite: &InviteToken) -> Result<(), Duration> {
        self.check(self.buckets().invite.as_ref(), "invite", invite.reveal())
    }

    /// IPv6 addresses count by their /64 network, which one client usually has to itself.
    pub(crate) fn check_address(&self, address: IpAddr) -> Result<(), Duration> {
        let key = match address {
            IpAddr::V4(v4) => u128::from(v4.to_bits()),
            IpAddr::V6(v6) => v6.to_bits() >> 64 << 64,
        };
        self.check(self.buckets().address.as_ref(), "address", key)
    }

    fn check(&self, buckets: Option<&Buckets>, kind: &'static str, caller: impl Hash) -> Result<(), Duration> {
        let Some(buckets) = buckets else { return Ok(()) };
        buckets.check_key(&self.hasher.hash_one(caller)).map_err(|not_until| {
            metrics::HTTP_RATE_LIMITED.with(&[("key", kind)]).increment(1);
            not_until.wait_time_from(DefaultClock::default().now())
        })
    }

    fn buckets(&self) -> Arc<BucketsByKind> {
        self.buckets.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Removes the state of idle callers and applies changed limits, until the sender of `limits` is gone.
    pub async fn maintain(&self, mut limits: watch::Receiver<Limits>) {
        let rates = |limits: &Limits| [limits.user, limits.invite, limits.address];
        let mut applied = rates(&limits.borrow());
        loop {
            tokio::select! {
                changed = limits.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let limits = limits.borrow_and_update().clone();
                    // New buckets are full, so they are only made when a rate has changed.
                    if std::mem::replace(&mut applied, rates(&limits)) != rates(&limits) {
                        *self.buckets.write().unwrap_or_else(PoisonError::into_inner) = BucketsByKind::new(&limits);
                    }
                }
                () = tokio::time::sleep(CLEANUP_INTERVAL) => {
                    let kinds = self.buckets();
                    for buckets in [&kinds.user, &kinds.invite, &kinds.address].into_iter().flatten() {
                        buckets.retain_recent();
                        buckets.shrink_to_fit();
                    }
                }
            }
        }
    }
}
