//! TLS on a listener, with a certificate that can be replaced while connections are open.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use anyhow::Context;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::config;

/// Accepts TLS connections; cheap to clone.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    current: Arc<CurrentCertificate>,
}

#[derive(Debug)]
struct CurrentCertificate(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl Tls {
    /// Fails when a file can't be read or is not PEM, and when the key does not match the certificate.
    pub fn open(files: &config::Tls) -> anyhow::Result<Self> {
        let current = Arc::new(CurrentCertificate(RwLock::new(read_certificate(files)?)));
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(current.clone());
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { acceptor: Arc::new(server).into(), current })
    }

    /// Reads the files again, for new connections. After an error the current certificate stays in use.
    pub fn reload(&self, files: &config::Tls) -> anyhow::Result<()> {
        let new = read_certificate(files)?;
        *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// The server's own certificate, without its chain.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.current.0.read().unwrap_or_else(PoisonError::into_inner).cert[0].clone()
    }

    pub(crate) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> std::io::Result<TlsStream<S>> {
        self.acceptor.accept(stream).await
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

fn read_certificate(files: &config::Tls) -> anyhow::Result<Arc<CertifiedKey>> {
    let (chain_path, key_path) = (files.certificate.display(), files.key.display());
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("failed to read the certificates in {chain_path}"))?;
    anyhow::ensure!(!chain.is_empty(), "{chain_path} contains no certificate");
    // The parser's errors reveal nothing of the key.
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .with_context(|| format!("failed to read the private key in {key_path}"))?;
    let certified_key = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
        .with_context(|| format!("the private key in {key_path} does not match the certificate in {chain_path}"))?;
    Ok(Arc::new(certified_key))
}
