//! X.509 certificates, and CA files with them.

use std::{
    fs, io,
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
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

const SECONDS_PER_DAY: i64 = 24 * 60 * 60;

/// A certificate, as far as operators need to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Its subject, as `C=US, O=Example, CN=db.example.com`.
    pub subject: String,
    /// When it expires.
    pub not_after: DateTime<Utc>,
}

impl Certificate {
    /// Parses DER; `None` if it is not a certificate.
    pub fn parse(der: &[u8]) -> Option<Self> {
        let (rest, certificate) = X509Certificate::from_der(der).ok()?;
        let not_after = DateTime::from_timestamp(certificate.validity().not_after.timestamp(), 0)?;
        rest.is_empty().then(|| Self { subject: certificate.subject().to_string(), not_after })
    }

    /// See [`days_until`].
    #[must_use]
    pub fn days_left(&self, now: DateTime<Utc>) -> i64 {
        days_until(self.not_after, now)
    }
}

/// The whole days until a certificate expires, rounded down: 0 on the last day, negative afterwards.
pub(crate) fn days_until(not_after: DateTime<Utc>, now: DateTime<Utc>) -> i64 {
    (not_after - now).num_seconds().div_euclid(SECONDS_PER_DAY)
}

/// Why a CA file is not usable.
#[derive(Debug, thiserror::Error)]
pub enum CaFileError {
    /// It is missing, a directory, or not readable for this user.
    #[error("reading {path} failed: {error}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// It is empty, in another format, or contains only keys.
    #[error("{0} contains no certificate: PEM is expected, with -----BEGIN CERTIFICATE----- lines")]
    Empty(PathBuf),
    /// One of its certificates is invalid; a connection would reject the whole file for it.
    #[error("certificate {number} of {path} is invalid: {reason}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The position of the certificate, from 1.
        number: usize,
        /// What is invalid.
        reason: String,
    },
}

/// The certificates of a CA file in PEM format, in their order; text and keys between them are ignored. Fails where
/// sqlx would reject the file.
pub fn read_ca_file(path: &Path) -> Result<Vec<Certificate>, CaFileError> {
    let pem = fs::read(path).map_err(|error| CaFileError::Unreadable { path: path.to_owned(), error })?;
    let (mut certificates, mut anchors) = (Vec::new(), RootCertStore::empty());
    for (index, der) in CertificateDer::pem_slice_iter(&pem).enumerate() {
        let invalid = |reason| CaFileError::Invalid { path: path.to_owned(), number: index + 1, reason };
        let der = der.map_err(|error| {
            invalid(match error {
                // Its own text prints the marker as a list of numbers.
                pem::Error::MissingSectionEnd { .. } => "its -----END CERTIFICATE----- line is missing".to_owned(),
                other => other.to_string(),
            })
        })?;
        let certificate = Certificate::parse(&der);
        certificates.push(certificate.ok_or_else(|| invalid("its content is not an X.509 certificate".to_owned()))?);
        anchors.add(der).map_err(|error| invalid(error.to_string()))?;
    }
    if certificates.is_empty() {
        return Err(CaFileError::Empty(path.to_owned()));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use chrono::TimeDelta;

    use super::*;

    fn shipped() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/rds-ca/global-bundle.pem")
    }

    /// A temporary file with this content.
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
    fn shipped_ca_file_is_complete() {
        let text = fs::read_to_string(shipped()).unwrap();
        let certificates = read_ca_file(&shipped()).unwrap();
        assert_eq!(certificates.len(), 92);
        // The date of the file: the test must not depend on the current date.
        let created = DateTime::parse_from_rfc3339("2026-11-22T00:00:00Z").unwrap().to_utc();
        let mut comments = text.lines().filter(|line| line.starts_with('#'));
        for (der, certificate) in CertificateDer::pem_slice_iter(text.as_bytes()).zip(&certificates) {
            let (der, subject) = (der.unwrap(), &certificate.subject);
            let (_, parsed) = X509Certificate::from_der(&der).unwrap();
            let names =
                ["CN=Amazon RDS ", "CN=Amazon Root CA ", "CN=Starfield Services Root Certificate Authority - G2"];
            assert!(names.iter().any(|name| subject.contains(name)), "{subject}");
            assert!(parsed.is_ca() && parsed.issuer() == parsed.subject(), "{subject} is not a root CA");
            assert!(parsed.validity().not_before.timestamp() < created.timestamp(), "{subject}");
            assert!(certificate.days_left(created) > 10 * 365, "{subject}");
            let (comment, cn) = (comments.next().unwrap(), parsed.subject().iter_common_name().next().unwrap());
            assert!(comment.contains(&format!("CN={},", cn.as_str().unwrap())), "{comment}");
            assert!(comment.ends_with(&format!("notAfter={}", certificate.not_after.format("%FT%TZ"))), "{comment}");
        }
        assert_eq!(comments.next(), None);
        let subjects: HashSet<&str> = certificates.iter().map(|certificate| &*certificate.subject).collect();
        assert_eq!(subjects.len(), certificates.len(), "a duplicate");
        for kind in ["RSA2048", "RSA4096", "ECC384"] {
            let name = format!("CN=Amazon RDS eu-west-1 Root CA {kind} G1,");
            assert_eq!(subjects.iter().filter(|subject| subject.contains(&name)).count(), 1, "{name}");
            let all = format!(" Root CA {kind} G1,");
            assert_eq!(subjects.iter().filter(|subject| subject.contains(&all)).count(), 29, "{kind}");
        }
    }

    #[test]
    fn counts_whole_days() {
        let pem = pem();
        let certificates = read_ca_file(file(&format!("a comment\n{pem}\nanother\n")).path()).unwrap();
        let [certificate] = &certificates[..] else { panic!("{certificates:?}") };
        let end = certificate.not_after;
        assert_eq!(certificate.days_left(end), 0);
        assert_eq!(certificate.days_left(end - TimeDelta::hours(47)), 1);
        assert_eq!(certificate.days_left(end + TimeDelta::seconds(1)), -1);
    }

    #[test]
    fn reports_unusable_ca_files() {
        let error = |path: &Path| read_ca_file(path).unwrap_err().to_string();
        let missing = error(Path::new("/nonexistent/ca.pem"));
        assert!(missing.contains("reading /nonexistent/ca.pem failed: No such file"), "{missing}");
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        for nothing in ["", "not PEM at all", &key] {
            let empty = error(file(nothing).path());
            assert!(empty.contains("contains no certificate"), "{empty}");
        }
        let good = pem();
        let nonsense = "-----BEGIN CERTIFICATE-----\nbm9uc2Vuc2U=\n-----END CERTIFICATE-----\n";
        let cut = good.rsplit_once("-----END").unwrap().0;
        let characters = good.replacen("MII", "!!!", 1);
        for (bad, why) in [(nonsense, "not an X.509"), (cut, "END CERTIFICATE"), (&characters, "base64")] {
            let broken = error(file(&format!("{good}{bad}")).path());
            assert!(broken.contains("certificate 2 of ") && broken.contains(why), "{broken}");
        }
    }
}
