//! How often one caller may ask: a second line behind the gateway's throttling. A caller is a user, an invite (all of
//! whose guests share it), or a client's address.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    state::keyed::HashMapStateStore,
};

use crate::http::error::{HttpError, Result};
use crate::{
    app::AppState,
    config::{Limits, Rate},
    domain::{InviteToken, User},
    server::Peer,
    telemetry::metrics,
};

/// How often callers are forgotten who have been quiet for long enough.
const FORGET: Duration = Duration::from_secs(10);

/// A bucket for each caller, by a number that stands for it: neither names nor tokens are kept.
type Buckets = RateLimiter<u64, HashMapStateStore<u64>, DefaultClock>;

/// Everybody's buckets.
#[derive(Debug)]
pub struct Rates {
    /// Makes the numbers.
    keys: RandomState,
    kinds: RwLock<Arc<Kinds>>,
}

#[derive(Debug)]
struct Kinds {
    user: Option<Buckets>,
    invite: Option<Buckets>,
    address: Option<Buckets>,
}

impl Kinds {
    fn new(limits: &Limits) -> Self {
        let buckets = |rate: Option<Rate>| {
            rate.map(|rate| RateLimiter::hashmap(Quota::per_second(rate.per_second).allow_burst(rate.burst)))
        };
        Self { user: buckets(limits.user), invite: buckets(limits.invite), address: buckets(limits.address) }
    }
}

impl Rates {
    /// Full buckets.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self { keys: RandomState::new(), kinds: RwLock::new(Arc::new(Kinds::new(limits))) }
    }

    fn kinds(&self) -> Arc<Kinds> {
        self.kinds.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One request of a user.
    pub(crate) fn user(&self, user: &User) -> Result<()> {
        take(self.kinds().user.as_ref(), "user", self.keys.hash_one(&user.subject))
    }

    /// One request by an invite, before it is looked up.
    pub(crate) fn invite(&self, invite: &InviteToken) -> Result<()> {
        take(self.kinds().invite.as_ref(), "invite", self.keys.hash_one(invite.reveal()))
    }

    /// One request from an address; of IPv6 the network of 64 bits, which is what one client has.
    fn address(&self, address: IpAddr) -> Result<()> {
        let whose = match address {
            IpAddr::V4(v4) => u128::from(v4.to_bits()),
            IpAddr::V6(v6) => v6.to_bits() >> 64 << 64,
        };
        take(self.kinds().address.as_ref(), "address", self.keys.hash_one(whose))
    }
}

fn take(buckets: Option<&Buckets>, by: &'static str, key: u64) -> Result<()> {
    let Some(buckets) = buckets else { return Ok(()) };
    buckets.check_key(&key).map_err(|until| {
        metrics::HTTP_LIMITED.with(&[("by", by.to_owned())]).increment(1);
        HttpError::TooMany(until.wait_time_from(DefaultClock::default().now()))
    })
}

/// Forgets who has been quiet, and takes changed limits over, for ever.
pub async fn keep(app: AppState) {
    let mut limits = app.limits.subscribe();
    let mut known = [app.config.limits.user, app.config.limits.invite, app.config.limits.address];
    loop {
        tokio::select! {
            changed = limits.changed() => {
                if changed.is_err() {
                    return;
                }
                let limits = limits.borrow_and_update().clone();
                let now = [limits.user, limits.invite, limits.address];
                // Full buckets are a present: only those get them whose limits have changed.
                if std::mem::replace(&mut known, now) == now {
                    continue;
                }
                let fresh = Arc::new(Kinds::new(&limits));
                *app.rates.kinds.write().unwrap_or_else(PoisonError::into_inner) = fresh;
            }
            () = tokio::time::sleep(FORGET) => {
                let kinds = app.rates.kinds();
                for buckets in [&kinds.user, &kinds.invite, &kinds.address].into_iter().flatten() {
                    buckets.retain_recent();
                    buckets.shrink_to_fit();
                }
            }
        }
    }
}

/// Counts requests by their clients' addresses, before anything is done for them; health checks are everybody's.
pub async fn by_address(State(app): State<AppState>, request: Request, next: Next) -> Response {
    if request.uri().path().starts_with("/health/") {
        return next.run(request).await;
    }
    let client = request.extensions().get::<Peer>().map(|peer| peer.client(request.headers()));
    match client.map_or(Ok(()), |address| app.rates.address(address)) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}
