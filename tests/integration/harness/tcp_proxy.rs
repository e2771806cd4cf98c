//! A TCP proxy on a loopback port that can change its target, and close, stall or refuse connections.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::process::free_port;

/// Further connections wait to be accepted.
const MOST_CONNECTIONS: usize = 512;
/// The buffer of a connection for each direction, in bytes.
const BUFFER: usize = 16 * 1024;

/// The running proxy; it and its connections end when it is dropped.
pub struct TcpProxy {
    port: u16,
    wires: Arc<Wires>,
    accepting: Option<JoinHandle<()>>,
}

struct Wires {
    target: Mutex<String>,
    stalled: watch::Sender<bool>,
    /// Closes the open connections; later ones get a new token.
    cut: Mutex<CancellationToken>,
    room: Arc<Semaphore>,
    accepted: AtomicUsize,
}

impl TcpProxy {
    /// Starts a proxy to `HOST:PORT`.
    pub async fn start(target: &str) -> Self {
        let wires = Wires {
            target: Mutex::new(target.to_owned()),
            stalled: watch::Sender::new(false),
            cut: Mutex::default(),
            room: Arc::new(Semaphore::new(MOST_CONNECTIONS)),
            accepted: AtomicUsize::new(0),
        };
        let mut switch = Self { port: free_port(), wires: Arc::new(wires), accepting: None };
        switch.refuse(false).await;
        switch
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sets the target of new connections. Open ones keep theirs.
    pub fn point_to(&self, target: &str) {
        target.clone_into(&mut self.wires.target.lock().unwrap());
    }

    /// Closes all open connections.
    pub fn cut(&self) {
        std::mem::take(&mut *self.wires.cut.lock().unwrap()).cancel();
    }

    /// Whether data is held back: connections stay open and new ones are accepted.
    pub fn stall(&self, stalled: bool) {
        self.wires.stalled.send_replace(stalled);
    }

    /// Whether new connections are refused. Open ones stay.
    pub async fn refuse(&mut self, refuse: bool) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            // The listener is closed when this returns.
            let _aborted = accepting.await;
        }
        if !refuse {
            let listener = TcpListener::bind(("127.0.0.1", self.port)).await.expect("its port is free");
            self.accepting = Some(tokio::spawn(accept(listener, Arc::clone(&self.wires))));
        }
    }

    /// The number of accepted connections.
    pub fn connections(&self) -> usize {
        self.wires.accepted.load(Ordering::Relaxed)
    }

    /// The number of open connections.
    pub fn open(&self) -> usize {
        MOST_CONNECTIONS - self.wires.room.available_permits()
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
        self.cut();
    }
}

async fn accept(listener: TcpListener, wires: Arc<Wires>) {
    loop {
        // A failure affects one connection; its client sees it.
        let Ok((client, _)) = listener.accept().await else { continue };
        wires.accepted.fetch_add(1, Ordering::Relaxed);
        let room = Arc::clone(&wires.room).acquire_owned().await.expect("never closed");
        let cut = wires.cut.lock().unwrap().clone();
        let wires = Arc::clone(&wires);
        tokio::spawn(async move {
            cut.run_until_cancelled(connect(client, &wires)).await;
            drop(room);
        });
    }
}

/// Copies data between the client and the target until both have ended or one fails.
async fn connect(client: TcpStream, wires: &Wires) {
    let mut stalled = wires.stalled.subscribe();
    until_moving(&mut stalled).await;
    let target = wires.target.lock().unwrap().clone();
    let Ok(server) = TcpStream::connect(target).await else { return };
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    // An error closes the connection in both directions.
    let _ended = tokio::try_join!(
        carry(from_client, to_server, stalled.clone()),
        carry(from_server, to_client, stalled.clone())
    );
}

async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut stalled: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        until_moving(&mut stalled).await;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
    }
}

async fn until_moving(stalled: &mut watch::Receiver<bool>) {
    // An error means that the proxy was dropped.
    let _moving = stalled.wait_for(|stalled| !stalled).await;
}
