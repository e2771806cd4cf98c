//! Credentials as values, for what the SDK's clients do not sign themselves: URLs, and logins to a database.

use std::time::{Duration, Instant, SystemTime};

use aws_config::SdkConfig;
use aws_sdk_sts::config::{Credentials, ProvideCredentials, SharedCredentialsProvider};
use tokio::sync::Mutex;

use super::explained;

/// The longest a provider may take, of the chain's several.
const PROVIDING: Duration = Duration::from_secs(4);
/// Credentials are asked for anew when they end within this: those of an instance are renewed earlier than that, see
/// "Retrieve security credentials from instance metadata" of the IAM user guide, which promises five minutes.
const RENEW: Duration = Duration::from_mins(15);
/// A provider that still gives the old ones is asked again after this.
const ASK_AGAIN: Duration = Duration::from_secs(30);

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
    held: Mutex<Option<(Credentials, Instant)>>,
}

impl Keys {
    /// Those of the configuration's provider; none are fetched yet.
    ///
    /// # Errors
    /// It has none.
    pub fn of(sdk: &SdkConfig) -> Result<Self, String> {
        let provider = sdk.credentials_provider().ok_or("no credentials provider is configured")?;
        Ok(Self { provider, held: Mutex::default() })
    }

    /// Credentials that are good now, and unless the provider has no others for a while to come.
    ///
    /// # Errors
    /// As [`ask`], and those that are held have ended too.
    pub async fn current(&self) -> Result<Credentials, String> {
        let mut held = self.held.lock().await;
        let now = SystemTime::now();
        let ends_after = |credentials: &Credentials, time| credentials.expiry().is_none_or(|end| end > time);
        if let Some((credentials, asked)) = &*held
            && (ends_after(credentials, now + RENEW) || asked.elapsed() < ASK_AGAIN && ends_after(credentials, now))
        {
            return Ok(credentials.clone());
        }
        match provided(&self.provider).await {
            Ok(fresh) => {
                *held = Some((fresh.clone(), Instant::now()));
                Ok(fresh)
            }
            Err(error) => match &mut *held {
                Some((credentials, asked)) if ends_after(credentials, now) => {
                    tracing::warn!(error, "AWS credentials can't be renewed; those that are held are still good");
                    *asked = Instant::now();
                    Ok(credentials.clone())
                }
                _ => Err(error),
            },
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
        let keys = Keys { provider: SharedCredentialsProvider::new(provider.clone()), held: Mutex::default() };
        keys.current().await.unwrap();
        keys.held.lock().await.as_mut().unwrap().1 -= ASK_AGAIN;
        let second = keys.current().await;
        (provider.1.load(Ordering::Relaxed), second)
    }

    #[tokio::test]
    async fn they_are_kept_while_good_and_asked_for_ahead_of_their_end() {
        let (asked, second) = ask_twice(RENEW * 2).await;
        assert_eq!(asked, 1);
        assert!(second.is_ok());
        // Near their end, with a provider that is down: those that are held go on.
        let (asked, second) = ask_twice(RENEW / 2).await;
        assert_eq!(asked, 2);
        assert!(second.is_ok());
    }
}
