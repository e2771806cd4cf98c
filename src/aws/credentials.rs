//! Credentials as values, for what the SDK's clients do not sign: presigned URLs and database logins.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use aws_config::SdkConfig;
use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials, SharedCredentialsProvider},
};

use super::error_chain;

const PROVIDER_TIMEOUT: Duration = Duration::from_secs(4);
/// Credentials are renewed when they expire within this time. "Retrieve security credentials from instance metadata" of
/// the EC2 user guide promises new ones at least five minutes before the old ones expire.
const RENEW_BEFORE: Duration = Duration::from_mins(15);
/// The pause after the provider returned the old credentials.
const RENEW_INTERVAL: Duration = Duration::from_secs(30);
/// The pause after the provider failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// Fetches unexpired credentials from the provider chain.
pub async fn fetch(sdk: &SdkConfig) -> Result<Credentials, String> {
    provide(&sdk.credentials_provider().ok_or("no credentials provider is configured")?).await
}

async fn provide(provider: &SharedCredentialsProvider) -> Result<Credentials, String> {
    let result = tokio::time::timeout(PROVIDER_TIMEOUT, provider.provide_credentials()).await;
    let result = result.map_err(|_| format!("no AWS credentials within {PROVIDER_TIMEOUT:?}"))?;
    let credentials = result.map_err(|error| error_chain(&error))?;
    if credentials.expiry().is_some_and(|end| end <= SystemTime::now()) {
        return Err(format!("the AWS credentials {} have expired", credentials.access_key_id()));
    }
    Ok(credentials)
}

/// Caches credentials until they expire, because a provider may take seconds.
#[derive(Debug)]
pub struct CredentialCache {
    provider: SharedCredentialsProvider,
    cached: Mutex<Cached>,
    /// Held while the provider is called; other callers use the cached credentials meanwhile.
    renewing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Cached {
    credentials: Option<Credentials>,
    renewed: Option<Instant>,
    /// The provider's last error.
    error: Option<String>,
}

impl Cached {
    fn valid_after(&self, time: SystemTime) -> Option<Credentials> {
        let valid = |credentials: &&Credentials| credentials.expiry().is_none_or(|end| end > time);
        self.credentials.as_ref().filter(valid).cloned()
    }

    fn renewed_within(&self, time: Duration) -> bool {
        self.renewed.is_some_and(|at| at.elapsed() < time)
    }
}

impl CredentialCache {
    /// An empty cache; fails without a credentials provider.
    pub fn new(sdk: &SdkConfig) -> Result<Self, String> {
        let provider = sdk.credentials_provider().ok_or("no credentials provider is configured")?;
        Ok(Self::with_provider(provider))
    }

    fn with_provider(provider: SharedCredentialsProvider) -> Self {
        Self { provider, cached: Mutex::default(), renewing: tokio::sync::Mutex::default() }
    }

    fn cached(&self) -> MutexGuard<'_, Cached> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer, if the provider need not be called.
    fn lookup(&self) -> Option<Result<Credentials, String>> {
        let (cached, now) = (self.cached(), SystemTime::now());
        if let Some(credentials) = cached.valid_after(now + RENEW_BEFORE) {
            return Some(Ok(credentials));
        }
        match cached.valid_after(now) {
            Some(credentials) if cached.renewed_within(RENEW_INTERVAL) => Some(Ok(credentials)),
            None if cached.renewed_within(RETRY_INTERVAL) => cached.error.clone().map(Err),
            _ => None,
        }
    }

    /// Unexpired credentials, renewed ahead of their expiry if the provider has new ones.
    pub async fn get(&self) -> Result<Credentials, String> {
        if let Some(answer) = self.lookup() {
            return answer;
        }
        let valid = self.cached().valid_after(SystemTime::now());
        let _renewing = match (self.renewing.try_lock(), valid) {
            (Ok(renewing), _) => renewing,
            (Err(_), Some(credentials)) => return Ok(credentials),
            (Err(_), None) => self.renewing.lock().await,
        };
        if let Some(answer) = self.lookup() {
            return answer;
        }
        let provided = provide(&self.provider).await;
        let mut cached = self.cached();
        cached.renewed = Some(Instant::now());
        match provided {
            Ok(credentials) => {
                (cached.credentials, cached.error) = (Some(credentials.clone()), None);
                Ok(credentials)
            }
            Err(error) => {
                cached.error = Some(error.clone());
                let credentials = cached.valid_after(SystemTime::now()).ok_or_else(|| error.clone())?;
                tracing::warn!(error, "AWS credentials can't be renewed; the cached ones are still valid");
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

    /// Provides credentials with this lifetime once, then fails; counts calls.
    #[derive(Debug, Clone)]
    struct FailingProvider(Duration, Arc<AtomicU32>);

    impl ProvideCredentials for FailingProvider {
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

    /// Calls the cache twice, the second time after the renewal interval: calls of the provider and the second answer.
    async fn get_twice(lifetime: Duration) -> (u32, Result<Credentials, String>) {
        let provider = FailingProvider(lifetime, Arc::default());
        let cache = CredentialCache::with_provider(SharedCredentialsProvider::new(provider.clone()));
        cache.get().await.unwrap();
        cache.cached().renewed = Some(Instant::now().checked_sub(RENEW_INTERVAL).unwrap());
        let second = cache.get().await;
        (provider.1.load(Ordering::Relaxed), second)
    }

    #[tokio::test]
    async fn renews_credentials_before_expiry() {
        let (calls, second) = get_twice(RENEW_BEFORE * 2).await;
        assert_eq!(calls, 1);
        assert!(second.is_ok());
        // Close to expiry, with a failing provider: the cached ones are returned.
        let (calls, second) = get_twice(RENEW_BEFORE / 2).await;
        assert_eq!(calls, 2);
        assert!(second.is_ok());
    }

    #[tokio::test]
    async fn failing_provider_is_not_called_at_once() {
        let provider = FailingProvider(Duration::ZERO, Arc::new(AtomicU32::new(1)));
        let cache = CredentialCache::with_provider(SharedCredentialsProvider::new(provider.clone()));
        for _ in 0..5 {
            assert!(cache.get().await.unwrap_err().contains("the provider is down"));
        }
        assert_eq!(provider.1.load(Ordering::Relaxed), 2);
    }
}
