//! A fake MySQL server that asks for the password in clear text (`mysql_clear_password`) and records every byte that a
//! client sends.

use std::{
    fs, io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use super::{certificates::Issued, eventually};

const CLEAR_PASSWORD: &str = "mysql_clear_password";
/// The default plugin of real servers.
const USUAL: &str = "caching_sha2_password";

/// Capability flags: long password, connect with database, protocol 4.1, transactions, secure connection, and plugin
/// authentication.
const CAPABILITIES: u32 = 0x1 | 0x8 | 0x200 | 0x2000 | 0x8000 | 0x8_0000 | 0x20_0000;
const CAPABILITY_TLS: u32 = 0x800;
/// The limit of a packet of a login, in bytes.
const LONGEST_PACKET: usize = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    /// In its greeting.
    AtOnce,
    /// After the client's first authentication response.
    Later,
}

/// The server; it ends with the test's runtime.
pub struct RogueDatabase {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    asks: Asks,
    tls: Option<TlsAcceptor>,
    heard: Mutex<Vec<u8>>,
    connections: AtomicUsize,
    ended: AtomicUsize,
    handshakes: AtomicUsize,
}

impl RogueDatabase {
    /// Without TLS.
    pub async fn without_tls(asks: Asks) -> Self {
        Self::start(asks, None).await
    }

    /// With TLS and a certificate.
    pub async fn with_tls(issued: &Issued, asks: Asks) -> Self {
        let certificate = CertificateDer::from_pem_file(&issued.certificate).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(&fs::read(&issued.key).expect("a key")).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("a certificate and its key");
        Self::start(asks, Some(Arc::new(config).into())).await
    }

    async fn start(asks: Asks, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared {
            asks,
            tls,
            heard: Mutex::default(),
            connections: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            handshakes: AtomicUsize::new(0),
        });
        let served = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                served.connections.fetch_add(1, Ordering::Relaxed);
                let shared = Arc::clone(&served);
                tokio::spawn(async move {
                    // The tests expect clients to disconnect.
                    let _left = shared.serve(stream).await;
                    shared.ended.fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        Self { port, shared }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Waits until there was a connection and all have ended.
    pub async fn settled(&self) {
        eventually("settled", async || {
            let ended = self.shared.ended.load(Ordering::Relaxed);
            (ended > 0 && ended == self.shared.connections.load(Ordering::Relaxed)).then_some(())
        })
        .await;
    }

    /// Whether a client has sent these bytes, in clear text or inside TLS.
    pub fn received(&self, words: &str) -> bool {
        self.shared.heard.lock().unwrap().windows(words.len()).any(|heard| heard == words.as_bytes())
    }

    /// The number of clients that accepted its certificate.
    pub fn handshakes(&self) -> usize {
        self.shared.handshakes.load(Ordering::Relaxed)
    }
}

impl Shared {
    async fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        let asks_for = if self.asks == Asks::AtOnce { CLEAR_PASSWORD } else { USUAL };
        write_packet(&mut stream, 0, &greeting(asks_for, self.tls.is_some())).await?;
        let Some(tls) = &self.tls else { return self.ask(stream).await };
        // The client requests TLS; the handshake fails otherwise, with the bytes so far recorded.
        self.hear_packet(&mut stream).await?;
        let stream = tls.accept(stream).await?;
        self.handshakes.fetch_add(1, Ordering::Relaxed);
        self.ask(stream).await
    }

    /// Reads the client's response to the greeting, requests the password unless the greeting did, denies access, and
    /// records until the client disconnects.
    async fn ask(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
        let mut sequence = self.hear_packet(&mut stream).await?;
        if self.asks == Asks::Later {
            let switch = [&[0xfe][..], CLEAR_PASSWORD.as_bytes(), &[0]].concat();
            write_packet(&mut stream, sequence + 1, &switch).await?;
            sequence = self.hear_packet(&mut stream).await?;
        }
        let refusal = [&[0xff][..], &1045_u16.to_le_bytes(), b"#28000Access denied"].concat();
        write_packet(&mut stream, sequence + 1, &refusal).await?;
        let mut rest = Vec::new();
        stream.take(LONGEST_PACKET as u64).read_to_end(&mut rest).await?;
        self.heard.lock().unwrap().extend(rest);
        Ok(())
    }

    /// Records a packet, even an incomplete one; returns its sequence number.
    async fn hear_packet(&self, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<u8> {
        let mut head = [0; 4];
        stream.read_exact(&mut head).await?;
        let length = u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize;
        let mut packet = Vec::new();
        stream.take(length.min(LONGEST_PACKET) as u64).read_to_end(&mut packet).await?;
        self.heard.lock().unwrap().extend(packet);
        Ok(head[3])
    }
}

/// The greeting: handshake version 10.
fn greeting(plugin: &str, tls: bool) -> Vec<u8> {
    let capabilities = if tls { CAPABILITIES | CAPABILITY_TLS } else { CAPABILITIES };
    let [low_0, low_1, high_0, high_1] = capabilities.to_le_bytes();
    let salt = [b's'; 20];
    [
        &[10][..],
        b"8.4.0\0",
        // The connection id.
        &1_u32.to_le_bytes(),
        &salt[..8],
        &[0, low_0, low_1],
        // utf8mb4 and the status flag `autocommit`.
        &[45, 2, 0],
        &[high_0, high_1],
        // The length of salt and terminating zero, and 10 reserved bytes.
        &[21],
        &[0; 10],
        &salt[8..],
        &[0],
        plugin.as_bytes(),
        &[0],
    ]
    .concat()
}

async fn write_packet(stream: &mut (impl AsyncWrite + Unpin), sequence: u8, packet: &[u8]) -> io::Result<()> {
    let length = u32::try_from(packet.len()).expect("a short packet").to_le_bytes();
    stream.write_all(&[&length[..3], &[sequence], packet].concat()).await?;
    stream.flush().await
}
