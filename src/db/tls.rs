//! Certificates: those of a CA file, and those that a server shows.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use rustls::{
    RootCertStore,
    pki_types::{
        CertificateDer,
        pem::{self, PemObject},
    },
};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, time::ASN1Time};

/// Seconds of a day.
const DAY: i64 = 24 * 60 * 60;

/// What an operator wants to know of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Whom it is for, as `C=US, O=Example, CN=db.example.com`.
    pub subject: String,
    /// Who signed it, in the same form.
    pub issuer: String,
    /// DNS names and IP addresses that it is good for (subject alternative names; nobody looks at the subject's CN).
    pub names: Vec<String>,
    /// The time from which on it is good.
    pub not_before: DateTime<Utc>,
    /// The time until which it is good.
    pub not_after: DateTime<Utc>,
}

/// Whole days until `end`, rounded down: 0 on the last day, negative once it has passed.
pub(crate) fn days_until(end: DateTime<Utc>, now: DateTime<Utc>) -> i64 {
    (end - now).num_seconds().div_euclid(DAY)
}

impl Certificate {
    /// Whole days that are left, rounded down: 0 on the last day, negative once it has expired.
    #[must_use]
    pub fn days_left(&self, now: DateTime<Utc>) -> i64 {
        days_until(self.not_after, now)
    }

    /// Reads one from its DER form; `None` when it isn't one.
    pub fn parse(der: &[u8]) -> Option<Self> {
        let (rest, certificate) = X509Certificate::from_der(der).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let names = certificate.subject_alternative_name().ok().flatten();
        let names = names.map(|names| names.value.general_names.iter().filter_map(name).collect());
        Some(Self {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            names: names.unwrap_or_default(),
            not_before: time(certificate.validity().not_before)?,
            not_after: time(certificate.validity().not_after)?,
        })
    }
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match **bytes {
            [a, b, c, d] => Some(IpAddr::from([a, b, c, d]).to_string()),
            ref bytes => <[u8; 16]>::try_from(bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
        },
        _ => None,
    }
}

fn time(time: ASN1Time) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(time.timestamp(), 0)
}

/// Why a CA file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It is missing, a folder, or not ours to read.
    #[error("{path} can't be read: {error}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// It is empty, in another format, or holds keys only.
    #[error("{0} has no certificate in it: PEM is expected, with -----BEGIN CERTIFICATE----- lines")]
    Empty(PathBuf),
    /// One of its entries is broken; a connection would refuse the whole file for it.
    #[error("certificate {number} of {path} is none: {why}")]
    Entry {
        /// The file.
        path: PathBuf,
        /// Which certificate, counted from 1.
        number: usize,
        /// What is wrong with it.
        why: String,
    },
}

/// The certificates of a CA file in PEM form, in its order. Text and keys between them don't matter.
///
/// # Errors
/// It can't be read, has no certificate, or one that a connection would refuse.
pub fn bundle(path: &Path) -> Result<Vec<Certificate>, BundleError> {
    Ok(read(path)?.0)
}

/// The same, with the certificates as trust anchors: what sqlx makes of the file for each connection.
pub(crate) fn read(path: &Path) -> Result<(Vec<Certificate>, RootCertStore), BundleError> {
    let pem = fs::read(path).map_err(|error| BundleError::Unreadable { path: path.to_owned(), error })?;
    let (mut certificates, mut anchors) = (Vec::new(), RootCertStore::empty());
    for (index, der) in CertificateDer::pem_slice_iter(&pem).enumerate() {
        let refused = |why| BundleError::Entry { path: path.to_owned(), number: index + 1, why };
        let der = der.map_err(|error| refused(words(&error)))?;
        let certificate = Certificate::parse(&der);
        certificates
            .push(certificate.ok_or_else(|| refused("its content is not that of an X.509 certificate".into()))?);
        anchors.add(der).map_err(|error| refused(error.to_string()))?;
    }
    if certificates.is_empty() {
        return Err(BundleError::Empty(path.to_owned()));
    }
    Ok((certificates, anchors))
}

fn words(error: &pem::Error) -> String {
    match error {
        // Its own text shows the marker as a list of numbers.
        pem::Error::MissingSectionEnd { .. } => "its -----END CERTIFICATE----- line is missing".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use chrono::TimeDelta;

    use super::*;

    fn shipped() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/rds-ca/global-bundle.pem")
    }

    /// A file with this content, until the test ends.
    fn file(content: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), content).unwrap();
        file
    }

    fn pem() -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        rcgen::CertificateParams::new(["db.example.com".to_owned(), "10.1.2.3".to_owned(), "fd00::1".to_owned()])
            .unwrap()
            .self_signed(&key)
            .unwrap()
            .pem()
    }

    #[test]
    fn the_shipped_bundle_is_whole() {
        let certificates = bundle(&shipped()).unwrap();
        assert_eq!(certificates.len(), 92);
        // When it was made: the test is about the file, not about today.
        let made = DateTime::parse_from_rfc3339("2026-11-22T00:00:00Z").unwrap().to_utc();
        for certificate in &certificates {
            let subject = &certificate.subject;
            let ours =
                ["CN=Amazon RDS ", "CN=Amazon Root CA ", "CN=Starfield Services Root Certificate Authority - G2"];
            assert!(ours.iter().any(|name| subject.contains(name)), "{subject}");
            assert_eq!(certificate.issuer, *subject, "not a root");
            assert!(certificate.not_before < made && certificate.days_left(made) > 10 * 365, "{subject}");
        }
        let subjects: HashSet<&str> = certificates.iter().map(|certificate| &*certificate.subject).collect();
        assert_eq!(subjects.len(), certificates.len(), "one is there twice");
        for kind in ["RSA2048", "RSA4096", "ECC384"] {
            let name = format!("CN=Amazon RDS eu-west-1 Root CA {kind} G1,");
            assert_eq!(subjects.iter().filter(|subject| subject.contains(&name)).count(), 1, "{name}");
            let all = format!(" Root CA {kind} G1,");
            assert_eq!(subjects.iter().filter(|subject| subject.contains(&all)).count(), 29, "{kind}");
        }
    }

    #[test]
    fn bundle_contains_only_listed_cas() {
        let text = fs::read_to_string(shipped()).unwrap();
        let mut named = text.lines().filter(|line| line.starts_with('#'));
        for der in CertificateDer::pem_slice_iter(text.as_bytes()) {
            let der = der.unwrap();
            let (_, certificate) = X509Certificate::from_der(&der).unwrap();
            assert!(certificate.is_ca(), "{}", certificate.subject());
            let (comment, cn) = (named.next().unwrap(), certificate.subject().iter_common_name().next().unwrap());
            assert!(comment.contains(&format!("CN={},", cn.as_str().unwrap())), "{comment}");
            let end = Certificate::parse(&der).unwrap().not_after;
            assert!(comment.ends_with(&format!("notAfter={}", end.format("%FT%TZ"))), "{comment}");
        }
        assert_eq!(named.next(), None);
    }

    #[test]
    fn names_and_days_are_read() {
        let pem = pem();
        let certificates = bundle(file(&format!("a comment\n{pem}\nanother\n")).path()).unwrap();
        let [certificate] = &certificates[..] else { panic!("{certificates:?}") };
        assert_eq!(certificate.names, ["db.example.com", "10.1.2.3", "fd00::1"]);
        let end = certificate.not_after;
        assert_eq!(certificate.days_left(end), 0);
        assert_eq!(certificate.days_left(end - TimeDelta::hours(47)), 1);
        assert_eq!(certificate.days_left(end + TimeDelta::seconds(1)), -1);
    }

    #[test]
    fn a_file_of_no_use_is_told_so() {
        let refusal = |path: &Path| bundle(path).unwrap_err().to_string();
        let missing = refusal(Path::new("/nonexistent/ca.pem"));
        assert!(missing.contains("/nonexistent/ca.pem can't be read: No such file"), "{missing}");
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        for nothing in ["", "not PEM at all", &key] {
            let empty = refusal(file(nothing).path());
            assert!(empty.contains("has no certificate in it"), "{empty}");
        }
        let good = pem();
        let nonsense = "-----BEGIN CERTIFICATE-----\nbm9uc2Vuc2U=\n-----END CERTIFICATE-----\n";
        let cut = good.rsplit_once("-----END").unwrap().0;
        let characters = good.replacen("MII", "!!!", 1);
        for (bad, why) in [(nonsense, "not that of an X.509"), (cut, "END CERTIFICATE"), (&characters, "base64")] {
            let broken = refusal(file(&format!("{good}{bad}")).path());
            assert!(broken.contains("certificate 2 of ") && broken.contains(why), "{broken}");
        }
    }
}
