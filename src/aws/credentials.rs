//! Credentials as values, for what the SDK's clients do not sign themselves: URLs, and logins to a database.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use aws_config::SdkConfig;
use aws_sdk_sts::config::{Credentials, ProvideCredentials, SharedCredentialsProvider};

use super::explained;

/// The longest a provider may take, of the chain's several.
const PROVIDING: Duration = Duration::from_secs(4);
/// Credentials are asked for anew when they end within this: those of an instance are renewed earlier than that, see
/// "Retrieve security credentials from instance metadata" of the IAM user guide, which promises five minutes.
const RENEW: Duration = Duration::from_mins(15);
/// A provider that still gives the old ones is asked again after this.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// A provider that gave none is asked again after this.
const FAIL_AGAIN: Duration = Duration::from_secs(2);

/// Asks the chain of providers.
///
/// # Errors
/// There are none, none in time, or they have expired.
pub async fn ask(sdk: &SdkConfig) -> Result<Credentials, String> {
    provided(&sdk.credentials_provider().ok_or("no credentials provider is configured")?).await
}

async fn provided(provider: &SharedCredentialsProvider) -> Result<Credentials, String> {
    let asked = tokio::time::timeout(PROVIDING, provider.provide_credentials()).await;
    let asked = asked.map_err(|_| format!("no AWS credentials within {PROVIDING:?}"))?;
    let credentials = asked.map_err(|error| explained(&error))?;
    if credentials.expiry().is_some_and(|end| end <= SystemTime::now()) {
        return Err(format!("the AWS credentials {} have expired", credentials.access_key_id()));
    }
    Ok(credentials)
}

/// Credentials that are kept while they are good: a provider may take seconds.
#[derive(Debug)]
pub struct Keys {
    provider: SharedCredentialsProvider,
    held: Mutex<Held>,
    /// Who asks the provider holds this; the others are content with what there is.
    asking: tokio::sync::Mutex<()>,
}

/// What there is.
#[derive(Debug, Default)]
struct Held {
    credentials: Option<Credentials>,
    asked: Option<Instant>,
    /// What the provider said when it gave none.
    failed: Option<String>,
}

impl Held {
    fn good_after(&self, time: SystemTime) -> Option<Credentials> {
        let ends_after = |credentials: &&Credentials| credentials.expiry().is_none_or(|end| end > time);
        self.credentials.as_ref().filter(ends_after).cloned()
    }

    fn asked_within(&self, time: Duration) -> bool {
        self.asked.is_some_and(|at| at.elapsed() < time)
    }
}

impl Keys {
    /// Those of the configuration's provider; none are fetched yet.
    ///
    /// # Errors
    /// It has none.
    pub fn of(sdk: &SdkConfig) -> Result<Self, String> {
        let provider = sdk.credentials_provider().ok_or("no credentials provider is configured")?;
        Ok(Self::new(provider))
    }

    fn new(provider: SharedCredentialsProvider) -> Self {
        Self { provider, held: Mutex::default(), asking: tokio::sync::Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What needs no question to the provider.
    fn settled(&self) -> Option<Result<Credentials, String>> {
        let (held, now) = (self.held(), SystemTime::now());
        if let Some(credentials) = held.good_after(now + RENEW) {
            return Some(Ok(credentials));
        }
        match held.good_after(now) {
            Some(credentials) if held.asked_within(ASK_AGAIN) => Some(Ok(credentials)),
            None if held.asked_within(FAIL_AGAIN) => held.failed.clone().map(Err),
            _ => None,
        }
    }

    /// Credentials that are good now, and unless the provider has no others for a while to come.
    ///
    /// # Errors
    /// As [`ask`], and those that are held have ended too.
    pub async fn current(&self) -> Result<Credentials, String> {
        if let Some(settled) = self.settled() {
            return settled;
        }
        // While one asks for others, those that are held do for the rest.
        let good = self.held().good_after(SystemTime::now());
        let _asking = match (self.asking.try_lock(), good) {
            (Ok(asking), _) => asking,
            (Err(_), Some(credentials)) => return Ok(credentials),
            (Err(_), None) => self.asking.lock().await,
        };
        if let Some(settled) = self.settled() {
            return settled;
        }
        let provided = provided(&self.provider).await;
        let mut held = self.held();
        held.asked = Some(Instant::now());
        match provided {
            Ok(fresh) => {
                (held.credentials, held.failed) = (Some(fresh.clone()), None);
                Ok(fresh)
            }
            Err(error) => {
                held.failed = Some(error.clone());
                let credentials = held.good_after(SystemTime::now()).ok_or_else(|| error.clone())?;
                tracing::warn!(error, "AWS credentials can't be renewed; those that are held are still good");
                Ok(credentials)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use aws_credential_types::provider::{self, error::CredentialsError, future};

    use super::*;

    /// Gives credentials that live for so long, each with a number; from the second time on it fails.
    #[derive(Debug, Clone)]
    struct Failing(Duration, Arc<AtomicU32>);

    impl ProvideCredentials for Failing {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            let count = self.1.fetch_add(1, Ordering::Relaxed);
            let ends = SystemTime::now() + self.0;
            let outcome: provider::Result = match count {
                0 => Ok(Credentials::new("AKID", "secret", None, Some(ends), "test")),
                _ => Err(CredentialsError::provider_error("the provider is down")),
            };
            future::ProvideCredentials::ready(outcome)
        }
    }

    async fn ask_twice(life: Duration) -> (u32, Result<Credentials, String>) {
        let provider = Failing(life, Arc::default());
        let keys = Keys::new(SharedCredentialsProvider::new(provider.clone()));
        keys.current().await.unwrap();
        let long_ago = Instant::now().checked_sub(ASK_AGAIN).unwrap();
        keys.held().asked = Some(long_ago);
        let second = keys.current().await;
        (provider.1.load(Ordering::Relaxed), second)
    }

    #[tokio::test]
    async fn caches_credentials_and_renews_early() {
        let (asked, second) = ask_twice(RENEW * 2).await;
        assert_eq!(asked, 1);
        assert!(second.is_ok());
        // Near their end, with a provider that is down: those that are held go on.
        let (asked, second) = ask_twice(RENEW / 2).await;
        assert_eq!(asked, 2);
        assert!(second.is_ok());
    }

    #[tokio::test]
    async fn does_not_hammer_failing_provider() {
        let provider = Failing(Duration::ZERO, Arc::new(AtomicU32::new(1)));
        let keys = Keys::new(SharedCredentialsProvider::new(provider.clone()));
        for _ in 0..5 {
            assert!(keys.current().await.unwrap_err().contains("the provider is down"));
        }
        assert_eq!(provider.1.load(Ordering::Relaxed), 2);
    }
}
