//! The sections of the configuration, a struct each. Defaults are the second argument of each `get`.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use url::Url;

use super::{source::Source, storage::Place};

/// `[operations]`: the listener of the operators.
#[derive(Debug, Clone)]
pub struct Operations {
    /// Address and port; not to be reached from outside.
    pub listen: SocketAddr,
}

impl Operations {
    pub(crate) fn read(s: &mut Source) -> Self {
        Self { listen: s.get("operations.listen", SocketAddr::from((Ipv4Addr::LOCALHOST, 9090))) }
    }
}

/// Where the keys that sign JWTs are published.
#[derive(Debug, Clone)]
pub enum Jwks {
    /// `https://` (or `http://` on a loopback address).
    Url(Url),
    /// A file.
    File(PathBuf),
    /// The set itself, for where neither can be reached: a private network, a function without files.
    Document(String),
}

/// `[identity]`: whose JWTs are believed.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The `iss` claim.
    pub issuer: String,
    /// The `aud` claim.
    pub audience: String,
    /// The key set.
    pub jwks: Jwks,
    /// Signature algorithms that are accepted, by their JWA names (RFC 7518).
    pub algorithms: Vec<jsonwebtoken::Algorithm>,
    /// How far clocks may differ.
    pub leeway: Duration,
    /// How often the key set is read again; an unknown key id brings it forward.
    pub refresh: Duration,
}

impl Identity {
    pub(crate) fn read(s: &mut Source) -> Self {
        use jsonwebtoken::Algorithm::{ES256, RS256};
        let place = s.require("identity.jwks", String::new());
        let jwks = match Url::parse(&place) {
            _ if place.trim_start().starts_with('{') => {
                let set = serde_json::from_str::<jsonwebtoken::jwk::JwkSet>(&place);
                s.check(set.is_ok(), "identity.jwks", "must be a JSON Web Key Set (RFC 7517), as it begins with `{`");
                Jwks::Document(place)
            }
            Ok(url) => {
                let loopback = match url.host() {
                    Some(url::Host::Domain(name)) => name == "localhost",
                    Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
                    Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
                    None => false,
                };
                let safe = url.scheme() == "https" || (url.scheme() == "http" && loopback);
                s.check(
                    safe,
                    "identity.jwks",
                    "must be a file, an https URL (http only on loopback), or the key set itself",
                );
                Jwks::Url(url)
            }
            Err(_) => Jwks::File(place.into()),
        };
        let algorithms = s.get("identity.algorithms", vec![RS256, ES256]);
        let asymmetric = algorithms.iter().all(|a| a.family() != jsonwebtoken::AlgorithmFamily::Hmac);
        s.check(
            !algorithms.is_empty() && asymmetric,
            "identity.algorithms",
            "must name at least one, and no HS algorithm: its keys can't be published",
        );
        Self {
            issuer: s.require("identity.issuer", String::new()),
            audience: s.require("identity.audience", String::new()),
            jwks,
            algorithms,
            leeway: s.duration("identity.leeway", "30s"),
            refresh: s.duration("identity.refresh", "10m"),
        }
    }
}

/// `[uploads]`: what may be uploaded.
#[derive(Debug, Clone)]
pub struct Uploads {
    /// Largest original, in bytes.
    pub max_bytes: u64,
    /// How long an upload URL is good for.
    pub url_ttl: Duration,
    /// An upload that sends nothing for so long is cut.
    pub idle_timeout: Duration,
}

impl Uploads {
    pub(crate) fn read(s: &mut Source) -> Self {
        Self {
            max_bytes: s.get("uploads.max_bytes", 52_428_800),
            url_ttl: s.duration("uploads.url_ttl", "15m"),
            idle_timeout: s.duration("uploads.idle_timeout", "30s"),
        }
    }
}

/// `[imaging]`: what is made of a photo, and within which limits.
#[derive(Debug, Clone)]
pub struct Imaging {
    /// `jpeg`, `webp` or both.
    pub formats: Vec<imaging::OutputFormat>,
    /// 1 to 100.
    pub jpeg_quality: u8,
    /// 1 to 100.
    pub webp_quality: u8,
    /// Largest picture, in megapixels.
    pub max_megapixels: u32,
    /// Pictures decoded at a time, each in a process of its own.
    pub processes: usize,
    /// Megapixels decoded at a time, over all processes.
    pub max_concurrent_megapixels: u32,
    /// Address space of one decoding process, in MiB.
    pub memory_mib: u64,
    /// Longest processor time for one picture.
    pub cpu_limit: Duration,
    /// Longest time for one picture.
    pub time_limit: Duration,
}

impl Imaging {
    pub(crate) fn read(s: &mut Source) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let this = Self {
            formats: s.get("imaging.formats", vec![imaging::OutputFormat::Jpeg]),
            jpeg_quality: s.get("imaging.jpeg_quality", 80),
            webp_quality: s.get("imaging.webp_quality", 78),
            max_megapixels: s.get("imaging.max_megapixels", 100),
            processes: s.optional("imaging.processes").unwrap_or(cores),
            max_concurrent_megapixels: s.get("imaging.max_concurrent_megapixels", 200),
            memory_mib: s.get("imaging.memory_mib", 1024),
            cpu_limit: s.duration("imaging.cpu_limit", "20s"),
            time_limit: s.duration("imaging.time_limit", "60s"),
        };
        s.check(!this.formats.is_empty(), "imaging.formats", "must name at least one of \"jpeg\" and \"webp\"");
        for (key, quality) in [("imaging.jpeg_quality", this.jpeg_quality), ("imaging.webp_quality", this.webp_quality)]
        {
            s.check((1..=100).contains(&quality), key, "must be 1 to 100");
        }
        s.check(this.max_megapixels >= 1, "imaging.max_megapixels", "must be at least 1");
        s.check(this.processes >= 1, "imaging.processes", "must be at least 1");
        s.check(this.max_concurrent_megapixels >= 1, "imaging.max_concurrent_megapixels", "must be at least 1");
        s.check(this.memory_mib >= 256, "imaging.memory_mib", "must be at least 256");
        s.check(this.cpu_limit >= Duration::from_secs(1), "imaging.cpu_limit", "must be at least 1s");
        this
    }
}

/// `[worker]`: the worker's loop.
#[derive(Debug, Clone)]
pub struct Worker {
    /// Whether `serve` works too; `work` always does.
    pub enabled: bool,
    /// Jobs at a time.
    pub concurrency: usize,
    /// How often an idle worker looks for jobs that other processes made.
    pub poll_interval: Duration,
    /// How long a job is claimed for; the claim is renewed while the work goes on.
    pub visibility_timeout: Duration,
    /// After so many tries a job is dead until an operator puts it back.
    pub max_attempts: u32,
    /// The wait after the first failure; it doubles each time.
    pub initial_backoff: Duration,
    /// The longest wait.
    pub max_backoff: Duration,
}

impl Worker {
    pub(crate) fn read(s: &mut Source) -> Self {
        let this = Self {
            enabled: s.get("worker.enabled", true),
            concurrency: s.get("worker.concurrency", 4),
            poll_interval: s.duration("worker.poll_interval", "1s"),
            visibility_timeout: s.duration("worker.visibility_timeout", "60s"),
            max_attempts: s.get("worker.max_attempts", 8),
            initial_backoff: s.duration("worker.initial_backoff", "2s"),
            max_backoff: s.duration("worker.max_backoff", "5m"),
        };
        s.check(this.concurrency >= 1, "worker.concurrency", "must be at least 1");
        s.check(this.max_attempts >= 1, "worker.max_attempts", "must be at least 1");
        s.check(!this.poll_interval.is_zero(), "worker.poll_interval", "must be more than 0");
        s.check(this.visibility_timeout >= Duration::from_secs(1), "worker.visibility_timeout", "must be at least 1s");
        this
    }
}

/// `[reconciler]`: the timer that leaves nothing behind.
#[derive(Debug, Clone)]
pub struct Reconciler {
    /// How often rows are looked over.
    pub interval: Duration,
    /// How often the whole of storage is held against the database.
    pub full_scan_interval: Duration,
    /// An object without a row is deleted when it is older.
    pub orphan_grace_period: Duration,
}

impl Reconciler {
    pub(crate) fn read(s: &mut Source, place: &Place) -> Self {
        // A list of all keys of a large bucket costs money.
        let scrub = if matches!(place, Place::S3(_)) { "24h" } else { "1h" };
        let this = Self {
            interval: s.duration("reconciler.interval", "1m"),
            full_scan_interval: s.duration("reconciler.full_scan_interval", scrub),
            orphan_grace_period: s.duration("reconciler.orphan_grace_period", "24h"),
        };
        s.check(
            !this.interval.is_zero() && !this.full_scan_interval.is_zero(),
            "reconciler.interval",
            "and reconciler.full_scan_interval must be more than 0",
        );
        this
    }
}

/// `[compat]`: what those knew who come from the Java service.
#[derive(Debug, Clone)]
pub struct Compat {
    /// Whether Spring Actuator's paths are answered on the operations listener.
    pub actuator: bool,
}

impl Compat {
    pub(crate) fn read(s: &mut Source) -> Self {
        Self { actuator: s.get("compat.actuator", false) }
    }
}
