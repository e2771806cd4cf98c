//! Watches when the certificates on the way to a server end, so that nobody learns it from an outage.

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
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
    seen: Mutex<Option<(Instant, Result<Expiry, String>)>>,
}

/// The earliest expiry among some certificates.
#[derive(Debug, Clone, Copy)]
struct Expiry {
    /// Of those that the server sends.
    server: DateTime<Utc>,
    /// Of those in the CA file.
    bundle: Option<DateTime<Utc>>,
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
            if let Ok(Expiry { server, bundle }) = found {
                for (certificate, expiry) in [("server", Some(server)), ("ca_bundle", bundle)] {
                    let Some(expiry) = expiry else { continue };
                    #[expect(clippy::cast_precision_loss, reason = "seconds since the epoch")]
                    metrics::CERTIFICATE_EXPIRY
                        .with(&[("pool", pool), ("certificate", certificate)])
                        .set(expiry.timestamp() as f64);
                }
            }
            *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), found));
            tokio::time::sleep(pause).await;
        }
    }

    /// What the last look has found; none before the first.
    pub(crate) fn state(&self) -> Option<CertificateState> {
        let (at, found) = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let outcome = found.and_then(|Expiry { server, bundle }| {
            let now = Utc::now();
            let of_bundle = bundle.map(|at| format!(", the first of the CA file in {}", tls::days_until(at, now)));
            let (server, of_bundle) = (tls::days_until(server, now), of_bundle.unwrap_or_default());
            let told = format!("the server's certificate ends in {server} days{of_bundle}");
            // One CA of many may end without anybody's harm: the server's own chain is what counts.
            if server < WARN_DAYS { Err(told) } else { Ok(told) }
        });
        Some(CertificateState { age: at.elapsed(), outcome })
    }

    async fn look(&self) -> Result<Expiry, String> {
        let addresses = probe::resolve(&self.host, self.port, STEP).await.map_err(|error| error.to_string())?;
        let mut stream = probe::connect(&addresses, STEP).await.map_err(|error| error.to_string())?;
        let greeting = probe::greet(&mut stream, STEP).await.map_err(|error| error.to_string())?;
        let shown = probe::handshake(stream, &greeting, &self.host, self.ca.as_deref(), STEP).await;
        let chain = shown.map_err(|error| error.to_string())?;
        chain.verdict?;
        let first = |certificates: &[tls::Certificate]| certificates.iter().map(|one| one.not_after).min();
        let bundle = match &self.ca {
            Some(path) => first(&tls::bundle(path).map_err(|error| error.to_string())?),
            None => None,
        };
        let server = first(&chain.certificates).ok_or("the server sends no certificate")?;
        Ok(Expiry { server, bundle })
    }
}
