//! A lease: one credential for all new connections of a pool.
//!
//! - Whoever needs it while it is good gets it without waiting. It is renewed when two thirds of its time are over, so
//!   that an issuer that is down for minutes is noticed by operators and not by users.
//! - However many wait for a renewal, it happens once.
//! - A refused login brings a renewal, unless there is a newer credential already or the last refusal did so less than a
//!   second ago: a user that does not exist must not make us ask for credentials without end.
//! - A failed renewal changes nothing of what is still good. It is tried again with growing pauses, told in one log
//!   line at its beginning and one at its end, and shown in `/health` and in metrics.
//!
//! Time is the wall clock's, by which the issuers count, and which goes on while a machine is suspended.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use secrecy::SecretString;

use super::{Credential, iam, secrets_manager};
use crate::{
    db::{Error, Result, rand_below},
    telemetry::metrics,
};

/// A failed renewal is not tried again for so long, whoever asks.
const FAILURES: Duration = Duration::from_millis(500);
/// The background task looks at the wall clock so often: its own clock stands still while a machine is suspended.
const TURN: Duration = Duration::from_secs(30);
/// Refusals bring one renewal in this time.
const REFUSALS: Duration = Duration::from_secs(1);
/// The pause after a first failed renewal; it doubles up to the cap. A part of it is random.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_CAP: Duration = Duration::from_secs(30);

/// Who makes credentials.
pub(crate) enum Issuer {
    Iam(iam::Signer),
    Secret(secrets_manager::Reader),
    /// Counts who asks; stands in for AWS, which can't be made to fail at will.
    #[cfg(test)]
    Counting(tests::Counting),
}

/// A credential, new from its issuer.
pub(crate) struct Issued {
    pub(crate) user: String,
    pub(crate) secret: SecretString,
    pub(crate) is_token: bool,
    /// It may be used for new connections until then.
    pub(crate) good_until: SystemTime,
    /// Where it is from, for operators; nothing secret.
    pub(crate) origin: String,
}

/// How a lease stands; nothing of it is secret.
#[derive(Debug, Clone)]
pub struct LeaseState {
    /// `iam` or `secrets-manager`.
    pub kind: &'static str,
    /// Where the credential is from, once there is one.
    pub origin: Option<String>,
    /// The age of the credential.
    pub age: Option<Duration>,
    /// How long it will be used for new connections; zero when it is over.
    pub left: Option<Duration>,
    /// Why the last renewal failed, if it did.
    pub failing: Option<String>,
}

pub(crate) struct Lease {
    issuer: Issuer,
    pool: &'static str,
    held: Mutex<Held>,
    /// Whoever renews holds it.
    renewing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Held {
    current: Option<Current>,
    generation: u64,
    failing: Option<Failure>,
    /// When a refusal has last brought a renewal.
    refused: Option<Instant>,
}

struct Failure {
    why: String,
    at: Instant,
}

struct Current {
    credential: Arc<Credential>,
    issued_at: SystemTime,
    renew_at: SystemTime,
    good_until: SystemTime,
    origin: String,
}

impl Current {
    fn age(&self) -> Duration {
        self.issued_at.elapsed().unwrap_or_default()
    }

    fn left(&self) -> Duration {
        self.good_until.duration_since(SystemTime::now()).unwrap_or_default()
    }

    fn renewal_in(&self) -> Duration {
        self.renew_at.duration_since(SystemTime::now()).unwrap_or_default()
    }
}

/// When two thirds of its time are over, less up to a tenth at random, so that many instances do not renew at once.
fn renewal(issued_at: SystemTime, good_until: SystemTime) -> SystemTime {
    let life = good_until.duration_since(issued_at).unwrap_or_default();
    let tenth = u64::try_from(life.as_millis() / 10).unwrap_or(u64::MAX);
    issued_at + (life * 2 / 3).saturating_sub(Duration::from_millis(rand_below(tenth)))
}

impl Issuer {
    fn kind(&self) -> &'static str {
        match self {
            Self::Iam(_) => "iam",
            Self::Secret(_) => "secrets-manager",
            #[cfg(test)]
            Self::Counting(_) => "counting",
        }
    }

    async fn issue(&self) -> Result<Issued, String> {
        match self {
            Self::Iam(signer) => signer.sign().await,
            // Boxed: the SDK's calls are large and deep futures.
            Self::Secret(reader) => Box::pin(reader.read()).await,
            #[cfg(test)]
            Self::Counting(counting) => counting.issue().await,
        }
    }
}

impl Lease {
    pub(crate) fn new(issuer: Issuer, pool: &'static str) -> Self {
        Self { issuer, pool, held: Mutex::default(), renewing: tokio::sync::Mutex::default() }
    }

    /// The credential, if it is good; else a fresh one.
    pub(crate) async fn current(&self) -> Result<Arc<Credential>> {
        match self.good() {
            Some(credential) => Ok(credential),
            None => self.renew(|held| held.current.as_ref().is_some_and(|current| !current.left().is_zero())).await,
        }
    }

    /// A fresh one after the server refused that of a generation.
    pub(crate) async fn after_refusal(&self, refused: u64) -> Option<Arc<Credential>> {
        metrics::ACCESS_DENIED.with(&[("pool", self.pool)]).increment(1);
        let _turn = self.renewing.lock().await;
        {
            let mut held = self.held();
            if held.generation > refused {
                return held.current.as_ref().map(|current| current.credential.clone());
            }
            if held.refused.is_some_and(|at| at.elapsed() < REFUSALS) {
                return None;
            }
            held.refused = Some(Instant::now());
        }
        self.issue().await.ok()
    }

    /// Renews ahead of time, for ever.
    pub(crate) async fn keep(&self) -> ! {
        let mut failures = 0;
        loop {
            let before = self.held().generation;
            let backoff = if failures == 0 { Duration::ZERO } else { pause(failures) };
            tokio::time::sleep(backoff).await;
            loop {
                let left = self.held().current.as_ref().map_or(Duration::ZERO, Current::renewal_in);
                if left.is_zero() {
                    break;
                }
                tokio::time::sleep(left.min(TURN)).await;
            }
            let renewed = self.renew(|held| held.generation > before).await;
            failures = if renewed.is_ok() { 0 } else { failures + 1 };
        }
    }

    pub(crate) fn state(&self) -> LeaseState {
        let held = self.held();
        let current = held.current.as_ref();
        LeaseState {
            kind: self.issuer.kind(),
            origin: current.map(|current| current.origin.clone()),
            age: current.map(Current::age),
            left: current.map(Current::left),
            failing: held.failing.as_ref().map(|failure| failure.why.clone()),
        }
    }

    pub(crate) async fn identity(&self) -> Option<Result<String, String>> {
        match &self.issuer {
            Issuer::Iam(signer) => Some(signer.identity().await),
            Issuer::Secret(_) => None,
            #[cfg(test)]
            Issuer::Counting(_) => None,
        }
    }

    fn good(&self) -> Option<Arc<Credential>> {
        let held = self.held();
        held.current.as_ref().filter(|current| !current.left().is_zero()).map(|current| current.credential.clone())
    }

    /// Asks the issuer, unless somebody else has just done so and what they got will do.
    async fn renew(&self, will_do: impl Fn(&Held) -> bool) -> Result<Arc<Credential>> {
        let _turn = self.renewing.lock().await;
        {
            let held = self.held();
            if let Some(current) = held.current.as_ref().filter(|_| will_do(&held)) {
                return Ok(current.credential.clone());
            }
            // Neither those who waited for a renewal that failed nor those who come just after it ask one after the other.
            if let Some(failure) = held.failing.as_ref().filter(|failure| failure.at.elapsed() < FAILURES) {
                return Err(Error::NoLogin(failure.why.clone()));
            }
        }
        self.issue().await
    }

    /// Asks the issuer; the caller has the turn.
    async fn issue(&self) -> Result<Arc<Credential>> {
        let issued_at = SystemTime::now();
        match self.issuer.issue().await {
            Ok(issued) => Ok(self.hold(issued, issued_at)),
            Err(why) => {
                self.note_failure(&why);
                Err(Error::NoLogin(why))
            }
        }
    }

    fn hold(&self, issued: Issued, issued_at: SystemTime) -> Arc<Credential> {
        metrics::TOKEN_RENEWALS.with(&[("pool", self.pool)]).increment(1);
        let mut held = self.held();
        held.generation += 1;
        let Issued { user, secret, is_token, good_until, origin } = issued;
        let credential = Arc::new(Credential { user, secret: Some(secret), is_token, generation: held.generation });
        let renew_at = renewal(issued_at, good_until);
        held.current = Some(Current { credential: credential.clone(), issued_at, renew_at, good_until, origin });
        if held.failing.take().is_some() {
            tracing::info!(pool = self.pool, auth = self.issuer.kind(), "the database login is renewed again");
        }
        credential
    }

    fn note_failure(&self, why: &str) {
        metrics::TOKEN_RENEWAL_FAILURES.with(&[("pool", self.pool)]).increment(1);
        let mut held = self.held();
        if held.failing.replace(Failure { why: why.to_owned(), at: Instant::now() }).is_none() {
            let left = held.current.as_ref().map_or(Duration::ZERO, Current::left);
            tracing::warn!(
                pool = self.pool,
                auth = self.issuer.kind(),
                error = why,
                good_for_seconds = left.as_secs(),
                "the database login can't be renewed; it is tried on"
            );
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pause after so many failures: half of it fixed, half random.
fn pause(failures: u32) -> Duration {
    let whole = PAUSE.saturating_mul(1 << failures.min(10)).min(PAUSE_CAP) / 2;
    whole + Duration::from_millis(rand_below(u64::try_from(whole.as_millis()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use futures_util::{FutureExt, future::join_all};

    use super::*;

    /// An issuer that takes a moment, and fails when it is told to.
    pub(in crate::db::credentials) struct Counting {
        asked: Arc<AtomicUsize>,
        failing: Arc<AtomicBool>,
        life: Duration,
    }

    impl Counting {
        pub(crate) async fn issue(&self) -> Result<Issued, String> {
            let number = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
            if self.failing.load(Ordering::SeqCst) {
                return Err(format!("failure {number}"));
            }
            Ok(Issued {
                user: "app".to_owned(),
                secret: format!("token {number}").into(),
                is_token: true,
                good_until: SystemTime::now() + self.life,
                origin: "a test".to_owned(),
            })
        }
    }

    fn lease(life: Duration) -> (Lease, Arc<AtomicUsize>, Arc<AtomicBool>) {
        let (asked, failing) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let counting = Counting { asked: asked.clone(), failing: failing.clone(), life };
        (Lease::new(Issuer::Counting(counting), "test"), asked, failing)
    }

    #[tokio::test]
    async fn many_who_come_at_once_ask_once() {
        let (lease, asked, _) = lease(Duration::from_mins(1));
        let got = join_all((0..50).map(|_| lease.current())).await;
        assert!(got.iter().all(|got| got.as_ref().unwrap().generation == 1));
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn concurrent_refusals_renew_once() {
        let (lease, asked, _) = lease(Duration::from_mins(1));
        let first = lease.current().await.unwrap();
        let got = join_all((0..50).map(|_| lease.after_refusal(first.generation))).await;
        assert!(got.iter().all(|got| got.as_ref().unwrap().generation == 2));
        let again = join_all((0..50).map(|_| lease.after_refusal(2))).await;
        assert!(again.iter().all(Option::is_none), "no storm for a user whom nobody knows");
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn shares_failure_and_keeps_valid_token() {
        let (lease, asked, failing) = lease(Duration::from_mins(1));
        failing.store(true, Ordering::SeqCst);
        let got = join_all((0..50).map(|_| lease.current())).await;
        assert!(got.iter().all(|got| matches!(got, Err(Error::NoLogin(why)) if why == "failure 1")));
        assert!(lease.current().await.is_err());
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        assert_eq!(lease.state().failing.as_deref(), Some("failure 1"));

        failing.store(false, Ordering::SeqCst);
        tokio::time::sleep(FAILURES).await;
        let first = lease.current().await.unwrap();
        failing.store(true, Ordering::SeqCst);
        assert!(lease.after_refusal(first.generation).await.is_none());
        assert_eq!(lease.current().await.unwrap().generation, first.generation, "it is still good");
        assert!(lease.state().failing.is_some());
    }

    #[tokio::test]
    async fn cancelled_waiter_blocks_nobody() {
        let (lease, asked, _) = lease(Duration::from_mins(1));
        assert!(lease.current().now_or_never().is_none());
        assert!(lease.current().await.is_ok());
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn what_is_over_is_not_given_out() {
        let (lease, asked, _) = lease(Duration::ZERO);
        let generations = [lease.current().await.unwrap().generation, lease.current().await.unwrap().generation];
        assert_eq!((generations, asked.load(Ordering::SeqCst)), ([1, 2], 2));
    }

    #[test]
    fn renews_after_two_thirds_with_jitter() {
        let (start, life) = (SystemTime::now(), Duration::from_secs(870));
        for _ in 0..100 {
            let after = renewal(start, start + life).duration_since(start).unwrap();
            assert!((Duration::from_secs(493)..=Duration::from_secs(580)).contains(&after), "{after:?}");
        }
    }

    #[test]
    fn nothing_prints_the_secret() {
        let secret = Some("token 1".into());
        let credential = Credential { user: "app".to_owned(), secret, is_token: true, generation: 1 };
        assert_eq!(format!("{credential:?}"), r#"Credential { user: "app", generation: 1, .. }"#);
    }
}
