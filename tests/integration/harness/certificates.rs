//! Certificates for the tests' servers: valid, expired, and of another authority.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// Valid now.
    Good,
    Expired,
}

/// A certificate authority.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    path: PathBuf,
}

/// A certificate and its key, as PEM files.
#[derive(Debug, Clone)]
pub struct Issued {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    /// Creates an authority with its files in `folder`, which authorities of different names may share.
    pub fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        let path = folder.join(format!("{name}.pem"));
        fs::write(&path, issuer.pem()).expect("a file");
        Self { issuer, path }
    }

    /// The CA certificate.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Issues a server certificate for names and addresses; the first one names the files.
    pub fn issue(&self, names: &[&str], validity: Validity) -> Issued {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let stem = format!("{}-{validity:?}", names[0]);
        let mut params = CertificateParams::new(names).expect("names");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(if validity == Validity::Good { 2120 } else { 2021 }, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let file = |ending: &str| self.path.with_file_name(format!("{}.{ending}", stem.to_lowercase()));
        let issued = Issued { certificate: file("pem"), key: file("key") };
        fs::write(&issued.certificate, certificate.pem()).expect("a file");
        fs::write(&issued.key, key.serialize_pem()).expect("a file");
        issued
    }
}
