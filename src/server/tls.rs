//! TLS on a listener, with a certificate that can be changed while connections go on.

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

/// A listener's side of TLS; cheap to clone.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    shown: Arc<Shown>,
}

/// The certificate that new connections are shown.
#[derive(Debug)]
struct Shown(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl Tls {
    /// Reads the certificate and its key.
    ///
    /// # Errors
    /// A file can't be read or is not PEM, or the key is another certificate's.
    pub fn open(files: &config::Tls) -> anyhow::Result<Self> {
        let shown = Arc::new(Shown(RwLock::new(read(files)?)));
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(shown.clone());
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { acceptor: Arc::new(server).into(), shown })
    }

    /// Reads them again; new connections are shown what was read, and what was there stays when that fails.
    ///
    /// # Errors
    /// As [`Tls::open`].
    pub fn reload(&self, files: &config::Tls) -> anyhow::Result<()> {
        let fresh = read(files)?;
        *self.shown.0.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// The certificate that is shown, DER.
    #[must_use]
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.shown.0.read().unwrap_or_else(PoisonError::into_inner).cert[0].clone()
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

fn read(files: &config::Tls) -> anyhow::Result<Arc<CertifiedKey>> {
    let (chain_at, key_at) = (files.certificate.display(), files.key.display());
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("the certificates of {chain_at} can't be read"))?;
    anyhow::ensure!(!chain.is_empty(), "{chain_at} holds no certificate");
    // The error of the parser says nothing of the key itself.
    let key = PrivateKeyDer::from_pem_file(&files.key).with_context(|| format!("the key of {key_at} can't be read"))?;
    let pair = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
        .with_context(|| format!("the key of {key_at} does not go with the certificate of {chain_at}"))?;
    Ok(Arc::new(pair))
}
