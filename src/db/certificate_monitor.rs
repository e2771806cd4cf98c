//! Monitors when the certificate of a server and those of the CA file expire, for `/health` and metrics.
//!
//! The server reports the expiry of its own certificate in the status variable `Ssl_server_not_after`; through RDS
//! Proxy it is that of the instance behind it.

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::ca_file::{days_until, read_ca_file};
use crate::telemetry::metrics;

/// With fewer days left a certificate is reported as failing.
pub const WARN_DAYS: i64 = 14;

/// Keeps the result of the last check of one server.
pub(crate) struct CertificateMonitor {
    ca_file: Option<PathBuf>,
    last: Mutex<Option<(Instant, Result<Expiry, String>)>>,
}

#[derive(Debug, Clone, Copy)]
struct Expiry {
    server: DateTime<Utc>,
    /// The earliest one of the CA file.
    ca_file: Option<DateTime<Utc>>,
}

/// The result of the last check.
#[derive(Debug, Clone)]
pub struct CertificateStatus {
    /// The time since the check.
    pub age: Duration,
    /// The days that are left; an error when they are few or could not be read.
    pub outcome: Result<String, String>,
}

impl CertificateMonitor {
    pub(crate) fn new(ca_file: Option<PathBuf>) -> Self {
        Self { ca_file, last: Mutex::default() }
    }

    /// Records the expiry that the server reports, and that of the CA file; whether both could be read.
    pub(crate) fn record(&self, pool: &'static str, server: Result<DateTime<Utc>, String>) -> bool {
        let result = server.and_then(|server| self.read_ca_file(server));
        if let Ok(Expiry { server, ca_file }) = result {
            for (certificate, expiry) in [("server", Some(server)), ("ca_bundle", ca_file)] {
                let Some(expiry) = expiry else { continue };
                #[expect(clippy::cast_precision_loss, reason = "seconds since the epoch")]
                metrics::CERTIFICATE_EXPIRY
                    .with(&[("pool", pool), ("certificate", certificate)])
                    .set(expiry.timestamp() as f64);
            }
        }
        let succeeded = result.is_ok();
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), result));
        succeeded
    }

    fn read_ca_file(&self, server: DateTime<Utc>) -> Result<Expiry, String> {
        let certificates = self.ca_file.as_deref().map(read_ca_file).transpose().map_err(|error| error.to_string())?;
        let ca_file = certificates.and_then(|all| all.iter().map(|certificate| certificate.not_after).min());
        Ok(Expiry { server, ca_file })
    }

    /// The result of the last check; `None` before the first.
    pub(crate) fn status(&self) -> Option<CertificateStatus> {
        let (at, result) = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let outcome = result.and_then(|Expiry { server, ca_file }| {
            let now = Utc::now();
            let of_ca_file = ca_file.map(|at| format!(", the first of the CA file in {}", days_until(at, now)));
            let (server, of_ca_file) = (days_until(server, now), of_ca_file.unwrap_or_default());
            let detail = format!("the server's certificate expires in {server} days{of_ca_file}");
            // An expiring CA may be unrelated to this server: only its own certificate counts.
            if server < WARN_DAYS { Err(detail) } else { Ok(detail) }
        });
        Some(CertificateStatus { age: at.elapsed(), outcome })
    }
}
