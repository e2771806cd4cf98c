//! `[http]`: the main listener.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use url::Url;

use super::{front::Front, source::Source};

/// `[http]`: the main listener.
#[derive(Debug, Clone)]
pub struct Http {
    /// Address and port.
    pub listen: SocketAddr,
    /// How clients reach the service from outside; signed URLs and invite links start with it.
    pub public_url: Url,
    /// Longest time for a request that neither uploads nor waits.
    pub request_timeout: Duration,
    /// Largest JSON body, in bytes.
    pub max_body_bytes: usize,
    /// Origins of web pages that may call the API; `*` for any.
    pub cors_origins: Vec<String>,
    /// After the stop signal: how long requests are still taken, so that balancers learn of it first.
    pub shutdown_delay: Duration,
    /// Whether `/health/ready` turns red at the stop signal rather than at the end of that time.
    pub fail_readiness_on_shutdown: bool,
    /// Then: the longest time for what is under way.
    pub drain_timeout: Duration,
    /// Whether `/health/ready` says no when the database does not answer.
    pub readiness_checks_database: bool,
    /// What stands in front of the listener.
    pub front: Front,
    /// What the listener shows who it is with; none: clear text, behind something that ends TLS.
    pub tls: Option<Tls>,
}

impl Http {
    pub(crate) fn read(s: &mut Source) -> Self {
        let stand_in = Url::parse("http://localhost").expect("a constant");
        let public_url: Url = s.require("http.public_url", stand_in);
        let plain = matches!(public_url.scheme(), "http" | "https")
            && public_url.query().is_none()
            && public_url.fragment().is_none();
        s.check(plain, "http.public_url", "must be an http or https URL without query or fragment");
        let this = Self {
            listen: s.get("http.listen", SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080))),
            public_url,
            request_timeout: s.duration("http.request_timeout", "10s"),
            max_body_bytes: s.get("http.max_body_bytes", 65_536),
            cors_origins: s.get("http.cors_origins", Vec::new()),
            shutdown_delay: s.duration("http.shutdown_delay", "5s"),
            fail_readiness_on_shutdown: s.get("http.fail_readiness_on_shutdown", false),
            drain_timeout: s.duration("http.drain_timeout", "25s"),
            readiness_checks_database: s.get("http.readiness_checks_database", false),
            front: Front::read(s),
            tls: Tls::read(s),
        };
        let origins = this
            .cors_origins
            .iter()
            .all(|o| o == "*" || Url::parse(o).is_ok_and(|u| u.origin().ascii_serialization() == *o));
        s.check(origins, "http.cors_origins", "each must be `*` or an origin such as \"https://photos.example\"");
        this
    }

    /// An address under the public URL.
    #[must_use]
    pub fn public(&self, path: &str) -> String {
        format!("{}{path}", self.public_url.as_str().trim_end_matches('/'))
    }
}

/// The certificate of a listener, and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The chain, PEM, its own certificate first.
    pub certificate: PathBuf,
    /// The private key, PEM.
    pub key: PathBuf,
}

impl Tls {
    fn read(s: &mut Source) -> Option<Self> {
        let certificate: Option<PathBuf> = s.optional("http.tls_certificate");
        let key: Option<PathBuf> = s.optional("http.tls_key");
        s.check(certificate.is_some() == key.is_some(), "http.tls_certificate", "and http.tls_key go together");
        certificate.zip(key).map(|(certificate, key)| Self { certificate, key })
    }
}
