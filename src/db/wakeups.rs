//! Wake-up notifications of commits inside this process: workers start and long polls return at once. Other processes
//! learn of a commit by polling.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, watch};

use crate::domain::{AlbumId, job::Queue};

/// What a transaction has committed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wakeup {
    /// A job that is due.
    Job(Queue),
    /// An event, by album and number.
    Event(AlbumId, u64),
}

/// Delivers wake-up notifications.
#[derive(Debug, Default)]
pub struct Wakeups {
    default: Notify,
    outbox: Notify,
    followed: Mutex<HashMap<AlbumId, watch::Sender<u64>>>,
}

impl Wakeups {
    pub(crate) fn notify(&self, wakeups: &[Wakeup]) {
        for wakeup in wakeups {
            match wakeup {
                Wakeup::Job(queue) => self.queue(*queue).notify_one(),
                Wakeup::Event(album_id, seq) => self.notify_event(*album_id, *seq),
            }
        }
    }

    /// Waits until a job of a queue is committed; one committed before the call counts.
    pub async fn wait_for_job(&self, queue: Queue) {
        self.queue(queue).notified().await;
    }

    fn queue(&self, queue: Queue) -> &Notify {
        match queue {
            Queue::Default => &self.default,
            Queue::Outbox => &self.outbox,
        }
    }

    /// Tells the followers of an album the number of its latest event.
    pub fn notify_event(&self, album_id: AlbumId, seq: u64) {
        if let Some(sender) = self.lock().get(&album_id) {
            sender.send_if_modified(|last| {
                let is_newer = *last < seq;
                *last = seq.max(*last);
                is_newer
            });
        }
    }

    /// Follows an album; `known` is the number of the last event that the caller has seen.
    pub fn follow(&self, album_id: AlbumId, known: u64) -> watch::Receiver<u64> {
        let mut receiver = self.lock().entry(album_id).or_insert_with(|| watch::Sender::new(known)).subscribe();
        receiver.mark_unchanged();
        receiver
    }

    /// The albums that have followers; forgets all others.
    pub fn followed_albums(&self) -> Vec<AlbumId> {
        let mut followed = self.lock();
        followed.retain(|_, sender| sender.receiver_count() > 0);
        followed.keys().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AlbumId, watch::Sender<u64>>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
