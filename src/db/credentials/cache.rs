//! A cache of one credential for all new connections of a pool.
//!
//! - A valid credential is returned without waiting. It is renewed when two thirds of its lifetime have passed, so that
//!   operators notice an issuer that is down for minutes and users do not.
//! - Concurrent callers share one renewal.
//! - A refused login renews the credential, unless there is a newer one already or a refusal has renewed it within the
//!   last second: a user that does not exist must not cause requests to AWS without end.
//! - A failed renewal keeps a credential that is still valid. It is retried with backoff; the first failure and the
//!   recovery are logged, and `/health` and metrics show it.
//!
//! Times are wall clock times: issuers use them too, and they go on while a machine is suspended.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use super::issuer::{Credential, IssuedCredential, Issuer};
use crate::{
    db::error::{Error, Result},
    resilience::backoff::{delay, random_below},
    telemetry::metrics,
};

/// After a failed renewal callers get its error for this long, without another attempt.
const FAILURE_TTL: Duration = Duration::from_millis(500);
/// How often the background task compares the wall clock: timers stand still while a machine is suspended.
const CLOCK_CHECK: Duration = Duration::from_secs(30);
/// Refused logins cause at most one renewal in this time.
const REFUSAL_INTERVAL: Duration = Duration::from_secs(1);
/// The backoff of failed renewals: doubled with each failure, up to the maximum.
const MIN_BACKOFF: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// The state of a cache; contains no secret.
#[derive(Debug, Clone)]
pub struct CredentialStatus {
    /// `iam` or `secrets-manager`.
    pub kind: &'static str,
    /// Where the credential comes from, once there is one.
    pub origin: Option<String>,
    /// The age of the credential.
    pub age: Option<Duration>,
    /// How long new connections will use it; zero once it has expired.
    pub remaining: Option<Duration>,
    /// Why the last renewal failed, if it did.
    pub last_error: Option<String>,
}

/// See the module's documentation.
pub struct CredentialCache {
    issuer: Box<dyn Issuer>,
    pool: &'static str,
    state: Mutex<State>,
    /// Held during a renewal.
    renewing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    current: Option<Current>,
    generation: u64,
    failure: Option<Failure>,
    /// When a refused login last caused a renewal.
    refused_at: Option<Instant>,
}

struct Failure {
    error: String,
    at: Instant,
}

struct Current {
    credential: Arc<Credential>,
    issued_at: SystemTime,
    renew_at: SystemTime,
    valid_until: SystemTime,
    origin: String,
}

impl State {
    /// The current credential if it is valid.
    fn valid(&self) -> Option<Arc<Credential>> {
        self.current.as_ref().filter(|current| !time_until(current.valid_until).is_zero()).map(|c| c.credential.clone())
    }
}

/// The time from now until a moment; zero once it has passed.
fn time_until(moment: SystemTime) -> Duration {
    moment.duration_since(SystemTime::now()).unwrap_or_default()
}

/// Two thirds of the lifetime, less up to a tenth at random, so that many instances do not renew at the same time.
fn renewal_time(issued_at: SystemTime, valid_until: SystemTime) -> SystemTime {
    let lifetime = valid_until.duration_since(issued_at).unwrap_or_default();
    issued_at + (lifetime * 2 / 3).saturating_sub(random_below(lifetime / 10))
}

impl CredentialCache {
    pub(crate) fn new(issuer: Box<dyn Issuer>, pool: &'static str) -> Self {
        Self { issuer, pool, state: Mutex::default(), renewing: tokio::sync::Mutex::default() }
    }

    /// The current credential if it is valid, else a new one.
    pub(crate) async fn current(&self) -> Result<Arc<Credential>> {
        let valid = self.state().valid();
        match valid {
            Some(credential) => Ok(credential),
            None => self.renew(State::valid).await,
        }
    }

    /// A new credential after the server has refused one.
    pub(crate) async fn renew_refused(&self, refused: &Credential) -> Option<Arc<Credential>> {
        metrics::ACCESS_DENIED.with(&[("pool", self.pool)]).increment(1);
        let _renewing = self.renewing.lock().await;
        {
            let mut state = self.state();
            if state.generation > refused.generation {
                return state.current.as_ref().map(|current| current.credential.clone());
            }
            if state.refused_at.is_some_and(|at| at.elapsed() < REFUSAL_INTERVAL) {
                return None;
            }
            state.refused_at = Some(Instant::now());
        }
        self.issue().await.ok()
    }

    /// Renews the credential ahead of its end, forever.
    pub(crate) async fn keep_renewed(&self) -> ! {
        let mut failures = 0;
        loop {
            let generation = self.state().generation;
            if failures > 0 {
                tokio::time::sleep(delay(MIN_BACKOFF, MAX_BACKOFF, failures)).await;
            }
            loop {
                let wait = self.state().current.as_ref().map_or(Duration::ZERO, |c| time_until(c.renew_at));
                if wait.is_zero() {
                    break;
                }
                tokio::time::sleep(wait.min(CLOCK_CHECK)).await;
            }
            let newer = |state: &State| {
                state.current.as_ref().filter(|_| state.generation > generation).map(|c| c.credential.clone())
            };
            failures = if self.renew(newer).await.is_ok() { 0 } else { failures + 1 };
        }
    }

    pub(crate) fn status(&self) -> CredentialStatus {
        let state = self.state();
        let current = state.current.as_ref();
        CredentialStatus {
            kind: self.issuer.kind(),
            origin: current.map(|current| current.origin.clone()),
            age: current.map(|current| current.issued_at.elapsed().unwrap_or_default()),
            remaining: current.map(|current| time_until(current.valid_until)),
            last_error: state.failure.as_ref().map(|failure| failure.error.clone()),
        }
    }

    pub(crate) async fn identity(&self) -> Option<Result<String, String>> {
        self.issuer.identity().await
    }

    /// Requests a credential, unless a concurrent caller has just got one that is `acceptable`.
    async fn renew(&self, acceptable: impl Fn(&State) -> Option<Arc<Credential>>) -> Result<Arc<Credential>> {
        let _renewing = self.renewing.lock().await;
        {
            let state = self.state();
            if let Some(credential) = acceptable(&state) {
                return Ok(credential);
            }
            // Callers that waited for a renewal that failed, or come right after it, do not retry one by one.
            if let Some(failure) = state.failure.as_ref().filter(|failure| failure.at.elapsed() < FAILURE_TTL) {
                return Err(Error::NoCredentials(failure.error.clone()));
            }
        }
        self.issue().await
    }

    /// Requests a credential from the issuer; the caller holds `renewing`.
    async fn issue(&self) -> Result<Arc<Credential>> {
        let issued_at = SystemTime::now();
        match self.issuer.issue().await {
            Ok(issued) => Ok(self.store(issued, issued_at)),
            Err(error) => {
                self.note_failure(&error);
                Err(Error::NoCredentials(error))
            }
        }
    }

    fn store(&self, issued: IssuedCredential, issued_at: SystemTime) -> Arc<Credential> {
        metrics::TOKEN_RENEWALS.with(&[("pool", self.pool)]).increment(1);
        let mut state = self.state();
        state.generation += 1;
        let IssuedCredential { user, secret, is_token, valid_until, origin } = issued;
        let credential = Arc::new(Credential { user, secret: Some(secret), is_token, generation: state.generation });
        let renew_at = renewal_time(issued_at, valid_until);
        state.current = Some(Current { credential: credential.clone(), issued_at, renew_at, valid_until, origin });
        if state.failure.take().is_some() {
            tracing::info!(pool = self.pool, auth = self.issuer.kind(), "database credentials renewed again");
        }
        credential
    }

    fn note_failure(&self, error: &str) {
        metrics::TOKEN_RENEWAL_FAILURES.with(&[("pool", self.pool)]).increment(1);
        let mut state = self.state();
        if state.failure.replace(Failure { error: error.to_owned(), at: Instant::now() }).is_none() {
            let remaining = state.current.as_ref().map_or(Duration::ZERO, |current| time_until(current.valid_until));
            tracing::warn!(
                pool = self.pool,
                auth = self.issuer.kind(),
                error,
                valid_for_seconds = remaining.as_secs(),
                "renewing database credentials failed; retrying"
            );
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use futures_util::{
        FutureExt,
        future::{BoxFuture, join_all},
    };

    use super::*;

    /// Counts requests, takes 20 ms for each, and fails on demand.
    struct CountingIssuer {
        requests: Arc<AtomicUsize>,
        failing: Arc<AtomicBool>,
        lifetime: Duration,
    }

    impl Issuer for CountingIssuer {
        fn kind(&self) -> &'static str {
            "counting"
        }

        fn issue(&self) -> BoxFuture<'_, Result<IssuedCredential, String>> {
            Box::pin(async {
                let number = self.requests.fetch_add(1, Ordering::SeqCst) + 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
                if self.failing.load(Ordering::SeqCst) {
                    return Err(format!("failure {number}"));
                }
                Ok(IssuedCredential {
                    user: "app".to_owned(),
                    secret: format!("token {number}").into(),
                    is_token: true,
                    valid_until: SystemTime::now() + self.lifetime,
                    origin: "a test".to_owned(),
                })
            })
        }
    }

    fn cache(lifetime: Duration) -> (CredentialCache, Arc<AtomicUsize>, Arc<AtomicBool>) {
        let (requests, failing) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let issuer = CountingIssuer { requests: requests.clone(), failing: failing.clone(), lifetime };
        (CredentialCache::new(Box::new(issuer), "test"), requests, failing)
    }

    #[tokio::test]
    async fn concurrent_callers_share_a_request() {
        let (cache, requests, _) = cache(Duration::from_mins(1));
        let results = join_all((0..50).map(|_| cache.current())).await;
        assert!(results.iter().all(|result| result.as_ref().unwrap().generation == 1));
        assert_eq!(requests.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn refused_logins_renew_once_per_second() {
        let (cache, requests, _) = cache(Duration::from_mins(1));
        let first = cache.current().await.unwrap();
        let renewed = join_all((0..50).map(|_| cache.renew_refused(&first))).await;
        assert!(renewed.iter().all(|result| result.as_ref().unwrap().generation == 2));
        let second = renewed[0].clone().unwrap();
        let again = join_all((0..50).map(|_| cache.renew_refused(&second))).await;
        assert!(again.iter().all(Option::is_none), "no request storm for an unknown user");
        assert_eq!(requests.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn failure_is_shared_and_keeps_valid_one() {
        let (cache, requests, failing) = cache(Duration::from_mins(1));
        failing.store(true, Ordering::SeqCst);
        let results = join_all((0..50).map(|_| cache.current())).await;
        assert!(results.iter().all(|result| matches!(result, Err(Error::NoCredentials(why)) if why == "failure 1")));
        assert!(cache.current().await.is_err());
        assert_eq!(requests.load(Ordering::SeqCst), 1);
        assert_eq!(cache.status().last_error.as_deref(), Some("failure 1"));

        failing.store(false, Ordering::SeqCst);
        tokio::time::sleep(FAILURE_TTL).await;
        let first = cache.current().await.unwrap();
        failing.store(true, Ordering::SeqCst);
        assert!(cache.renew_refused(&first).await.is_none());
        assert_eq!(cache.current().await.unwrap().generation, first.generation, "still valid");
        assert!(cache.status().last_error.is_some());
    }

    #[tokio::test]
    async fn cancelled_caller_blocks_nobody() {
        let (cache, requests, _) = cache(Duration::from_mins(1));
        assert!(cache.current().now_or_never().is_none());
        assert!(cache.current().await.is_ok());
        assert_eq!(requests.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn expired_credential_is_not_returned() {
        let (cache, requests, _) = cache(Duration::ZERO);
        let generations = [cache.current().await.unwrap().generation, cache.current().await.unwrap().generation];
        assert_eq!((generations, requests.load(Ordering::SeqCst)), ([1, 2], 2));
    }

    #[test]
    fn renews_within_a_tenth_before_two_thirds() {
        let (start, lifetime) = (SystemTime::now(), Duration::from_secs(870));
        for _ in 0..100 {
            let after = renewal_time(start, start + lifetime).duration_since(start).unwrap();
            assert!((Duration::from_secs(493)..=Duration::from_secs(580)).contains(&after), "{after:?}");
        }
    }

    #[test]
    fn debug_output_hides_the_secret() {
        let secret = Some("token 1".into());
        let credential = Credential { user: "app".to_owned(), secret, is_token: true, generation: 1 };
        assert_eq!(format!("{credential:?}"), r#"Credential { user: "app", generation: 1, .. }"#);
    }
}
