//! A TCP proxy on a loopback port, for what happens between a client and a server: a name that begins to point
//! elsewhere, connections that are cut, that go silent, that are refused.

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

/// More connections than that wait to be accepted.
const MOST_CONNECTIONS: usize = 512;
/// How much of a connection is under way at a time, in each direction.
const BUFFER: usize = 16 * 1024;

/// The proxy. It and its connections end when it is dropped.
pub struct Switch {
    port: u16,
    wires: Arc<Wires>,
    accepting: Option<JoinHandle<()>>,
}

struct Wires {
    target: Mutex<String>,
    stalled: watch::Sender<bool>,
    /// Ends the connections that are open; the next ones have another.
    cut: Mutex<CancellationToken>,
    room: Arc<Semaphore>,
    accepted: AtomicUsize,
}

impl Switch {
    /// A proxy to `HOST:PORT`.
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

    /// The port of `localhost` to connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where new connections go from now on. Those that are open stay where they are.
    pub fn point_to(&self, target: &str) {
        target.clone_into(&mut self.wires.target.lock().unwrap());
    }

    /// Closes the connections that are open.
    pub fn cut(&self) {
        std::mem::take(&mut *self.wires.cut.lock().unwrap()).cancel();
    }

    /// Whether nothing moves: connections stay open and new ones are accepted, but no byte comes through.
    pub fn stall(&self, stalled: bool) {
        self.wires.stalled.send_replace(stalled);
    }

    /// Whether new connections are refused, as by a host on which nobody listens. Those that are open stay.
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

    /// How many connections it has accepted so far.
    pub fn connections(&self) -> usize {
        self.wires.accepted.load(Ordering::Relaxed)
    }

    /// How many of them are open.
    pub fn open(&self) -> usize {
        MOST_CONNECTIONS - self.wires.room.available_permits()
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
        self.cut();
    }
}

async fn accept(listener: TcpListener, wires: Arc<Wires>) {
    loop {
        // A failure concerns one connection, which its client then sees.
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

/// Joins a client and the target until both have ended, or one of them breaks.
async fn connect(client: TcpStream, wires: &Wires) {
    let mut stalled = wires.stalled.subscribe();
    until_moving(&mut stalled).await;
    let target = wires.target.lock().unwrap().clone();
    let Ok(server) = TcpStream::connect(target).await else { return };
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    // Both ends see a broken half as what it is: a connection that is gone.
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
    // An error means that the switch is gone; then the connection is cut as well.
    let _moving = stalled.wait_for(|stalled| !stalled).await;
}
