//! Watches when the certificates on the way to a server end, so that nobody learns it from an outage.

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use chrono::Utc;
use tokio::time::Instant;

use super::{probe, tls};
use crate::{
    config::database::{Place, Tls, TlsMode},
    telemetry::metrics,
};

/// How often a look is taken; after a failed one sooner. A server counts each look as an aborted login.
const EACH: Duration = Duration::from_hours(1);
const SOONER: Duration = Duration::from_mins(5);
/// The longest for each step of a look.
const STEP: Duration = Duration::from_secs(5);
/// With fewer days left a certificate is `failing`.
pub const WARN_DAYS: i64 = 14;

/// The watch over one server's certificates.
pub(crate) struct Certificates {
    host: String,
    port: u16,
    ca: Option<PathBuf>,
    seen: Mutex<Option<(Instant, Result<Days, String>)>>,
}

/// Days until the first of some certificates ends; negative when it has.
#[derive(Debug, Clone, Copy)]
struct Days {
    /// Of those that the server shows.
    server: i64,
    /// Of those in the CA file.
    bundle: Option<i64>,
}

/// What the last look has found.
#[derive(Debug, Clone)]
pub struct CertificateState {
    /// How long ago the look was.
    pub age: Duration,
    /// All is well, or what is not, in words.
    pub outcome: Result<String, String>,
}

impl Certificates {
    /// None where no certificate is verified.
    pub(crate) fn new(place: &Place, config: &Tls) -> Option<Self> {
        let Place::Tcp(host, port) = place else { return None };
        (config.mode == TlsMode::VerifyIdentity).then(|| Self {
            host: host.clone(),
            port: *port,
            ca: config.ca.clone(),
            seen: Mutex::default(),
        })
    }

    /// Looks now and then, for ever. `pool` is the name in metrics.
    pub(crate) async fn keep(&self, pool: &'static str) -> ! {
        loop {
            let found = self.look().await;
            let pause = if found.is_ok() { EACH } else { SOONER };
            if let Ok(Days { server, bundle }) = found {
                for (of, days) in [("server", Some(server)), ("ca_bundle", bundle)] {
                    let Some(days) = days.and_then(|days| i32::try_from(days).ok()) else { continue };
                    metrics::CERTIFICATE_DAYS
                        .with(&[("pool", pool.to_owned()), ("of", of.to_owned())])
                        .set(f64::from(days));
                }
            }
            *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), found));
            tokio::time::sleep(pause).await;
        }
    }

    /// What the last look has found; none before the first.
    pub(crate) fn state(&self) -> Option<CertificateState> {
        let (at, found) = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let outcome = found.and_then(|Days { server, bundle }| {
            let of_bundle = bundle.map_or_else(String::new, |days| format!(", the first of the CA file in {days}"));
            let told = format!("the server's certificate ends in {server} days{of_bundle}");
            // One CA of many may end without anybody's harm: the server's own chain is what counts.
            if server < WARN_DAYS { Err(told) } else { Ok(told) }
        });
        Some(CertificateState { age: at.elapsed(), outcome })
    }

    async fn look(&self) -> Result<Days, String> {
        let now = Utc::now();
        let addresses = probe::resolve(&self.host, self.port, STEP).await.map_err(|error| error.to_string())?;
        let mut stream = probe::connect(&addresses, STEP).await.map_err(|error| error.to_string())?;
        let greeting = probe::greet(&mut stream, STEP).await.map_err(|error| error.to_string())?;
        let shown = probe::handshake(stream, &greeting, &self.host, self.ca.as_deref(), STEP).await;
        let chain = shown.map_err(|error| error.to_string())?;
        chain.verdict?;
        let first = |certificates: &[tls::Certificate]| certificates.iter().map(|one| one.days_left(now)).min();
        let bundle = match &self.ca {
            Some(path) => first(&tls::bundle(path).map_err(|error| error.to_string())?),
            None => None,
        };
        Ok(Days { server: first(&chain.certificates).unwrap_or_default(), bundle })
    }
}
