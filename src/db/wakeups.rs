//! What commits announce inside this process: workers wake at once, long polls end at once. Other processes
//! find out by polling.

use std::{collections::HashMap, sync::Mutex};

use tokio::sync::{Notify, watch};

use super::jobs::Queue;
use crate::domain::AlbumId;

/// Something a transaction has committed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ring {
    /// A job that is due.
    Job(Queue),
    /// An event, by album and number.
    Event(AlbumId, u64),
}

/// The bells.
#[derive(Debug, Default)]
pub struct Signals {
    default: Notify,
    outbox: Notify,
    followed: Mutex<HashMap<AlbumId, watch::Sender<u64>>>,
}

impl Signals {
    pub(crate) fn ring(&self, rings: &[Ring]) {
        for ring in rings {
            match ring {
                Ring::Job(queue) => self.queue(*queue).notify_one(),
                Ring::Event(album_id, seq) => self.reached(*album_id, *seq),
            }
        }
    }

    /// Waits for a job of a queue to be committed; one that was committed before the call counts.
    pub async fn next_job(&self, queue: Queue) {
        self.queue(queue).notified().await;
    }

    fn queue(&self, queue: Queue) -> &Notify {
        match queue {
            Queue::Default => &self.default,
            Queue::Outbox => &self.outbox,
        }
    }

    /// Tells the followers of an album how far its numbers have come.
    pub fn reached(&self, album_id: AlbumId, seq: u64) {
        if let Some(sender) = self.lock().get(&album_id) {
            sender.send_if_modified(|last| {
                if *last < seq {
                    *last = seq;
                    true
                } else {
                    false
                }
            });
        }
    }

    /// Follows an album; `known` is the last number that the caller has seen.
    pub fn follow(&self, album_id: AlbumId, known: u64) -> watch::Receiver<u64> {
        let mut receiver = self.lock().entry(album_id).or_insert_with(|| watch::Sender::new(known)).subscribe();
        receiver.mark_unchanged();
        receiver
    }

    /// The albums that somebody follows; what nobody follows any more is forgotten.
    pub fn followed(&self) -> Vec<AlbumId> {
        let mut followed = self.lock();
        followed.retain(|_, sender| sender.receiver_count() > 0);
        followed.keys().copied().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<AlbumId, watch::Sender<u64>>> {
        self.followed.lock().expect("no holder of this lock panics")
    }
}
