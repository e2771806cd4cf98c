//! `darkroom upload`: sends pictures to an album, from anywhere, through the public contract alone.
//!
//! Promises: a file is never held in memory as a whole, and only those being sent are open. Whatever is interrupted
//! goes on when the same command is run again: what the album has is known by its SHA-256 and not sent twice. A file
//! that fails does not keep the others from going. The token and signed URLs are in no message.
//!
//! Called by the command line only. It knows the server by HTTP and shares with it the words of `domain` and the
//! plain types of `imaging`.

mod api;
mod failure;
mod retry;
mod screen;
mod source;
mod summary;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, hash_map::Entry},
    path::{Path, PathBuf},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use futures_util::{StreamExt, stream};
use secrecy::SecretString;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::{
    api::{Api, Declared, NewPhoto, PhotoInfo},
    failure::Failure,
    retry::Policy,
    screen::Screen,
    source::{Item, Picture, Unfit},
    summary::{Outcome, Summary},
};
use crate::domain::PhotoState;

/// After so many files in a row that no number of tries got through, the server is taken to be gone.
const LOST_IN_A_ROW: u32 = 4;
/// Between two looks at a photo that is being developed: the first wait, which doubles, and the longest.
const LOOK: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(4));

/// What to upload, and where to.
#[derive(Debug)]
pub struct Options {
    /// Where the service is, with the path of a stage if there is one.
    pub server: url::Url,
    /// A JWT or an invite token.
    pub token: SecretString,
    /// The album.
    pub album: uuid::Uuid,
    /// Files, and directories that are searched for pictures.
    pub files: Vec<PathBuf>,
    /// The name that the album shows beside the photos of a guest.
    pub guest_name: Option<String>,
    /// How many files are sent at a time; at least 1.
    pub parallel: usize,
    /// Whether to wait until each photo is ready or rejected.
    pub wait: bool,
}

/// Uploads the files, showing progress and in the end a summary on standard error. True when each file is in the
/// album; false when one failed or was not sent, e.g. after Ctrl-C.
///
/// # Errors
/// Nothing could be tried: the server can't be reached, or the token does not open the album for adding photos.
pub async fn upload(options: Options) -> anyhow::Result<bool> {
    let stop = CancellationToken::new();
    let pressed = stop.clone();
    tokio::spawn(async move {
        // Without the handler, Ctrl-C ends the process as ever.
        if tokio::signal::ctrl_c().await.is_ok() {
            pressed.cancel();
        }
    });
    let summary = run(&options, Policy::USUAL, Screen::standard_error(), stop).await?;
    eprint!("{summary}");
    Ok(summary.is_success())
}

async fn run(options: &Options, policy: Policy, screen: Screen, stop: CancellationToken) -> anyhow::Result<Summary> {
    let api = Api::new(&options.server, options.token.clone(), options.album)?;
    let title = tokio::select! {
        () = stop.cancelled() => return Ok(Summary::interrupted()),
        album = retry::run(&policy, |why| screen.hitch(why), || api.album()) => album.and_then(api::Album::takes_photos).map_err(|failure| failure.about_album())?,
    };
    let (files, halt) = (options.files.clone(), stop.clone());
    let found =
        tokio::task::spawn_blocking(move || source::find(&files, &halt)).await.context("the search for files")?;
    screen.start(found.items.len(), found.items.iter().map(|item| item.bytes).sum());
    let batch = Batch {
        options,
        policy,
        api,
        screen,
        stop,
        halted: OnceLock::new(),
        lost_in_a_row: AtomicU32::new(0),
        claimed: Mutex::default(),
        summary: Mutex::new(Summary::new(title)),
    };
    for (path, why) in found.unreadable {
        batch.record(&path, 0, Outcome::Failed(why));
    }
    let parallel = options.parallel.max(1);
    stream::iter(&found.items).for_each_concurrent(parallel, |item| batch.take(item)).await;
    if options.wait {
        batch.see_through(parallel).await;
    }
    batch.screen.finish();
    let mut summary = batch.summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.stopped = if batch.stop.is_cancelled() { Some("interrupted".into()) } else { batch.halted.into_inner() };
    Ok(summary)
}

/// One run over a list of files.
struct Batch<'a> {
    options: &'a Options,
    policy: Policy,
    api: Api,
    screen: Screen,
    /// Ctrl-C: whatever is under way is dropped.
    stop: CancellationToken,
    /// Why no further file is begun.
    halted: OnceLock<String>,
    lost_in_a_row: AtomicU32,
    /// Which file of this run has which bytes.
    claimed: Mutex<HashMap<[u8; 32], PathBuf>>,
    summary: Mutex<Summary>,
}

impl Batch<'_> {
    async fn take(&self, item: &Item) {
        let outcome = if self.stop.is_cancelled() || self.halted.get().is_some() {
            Outcome::Unsent
        } else {
            tokio::select! {
                () = self.stop.cancelled() => Outcome::Unsent,
                outcome = self.upload(item) => outcome,
            }
        };
        self.record(&item.path, item.bytes, outcome);
    }

    async fn upload(&self, item: &Item) -> Outcome {
        let picture = match source::examine(&item.path, &self.stop).await {
            Ok(picture) => picture,
            Err(Unfit::Other(_)) if item.searched => return Outcome::Ignored,
            Err(Unfit::Other(why) | Unfit::Refused(why)) => return Outcome::Failed(why),
        };
        if let Some(first) = self.claim(&picture, &item.path) {
            return Outcome::Twin(first);
        }
        match self.send(item, &picture).await {
            Ok(outcome) => {
                self.lost_in_a_row.store(0, Ordering::Relaxed);
                outcome
            }
            Err(Failure::Refused(why)) => Outcome::Failed(why),
            Err(Failure::Fatal(why)) => {
                self.halted.get_or_init(|| why);
                Outcome::Unsent
            }
            Err(Failure::Passing { why, .. }) => {
                if self.lost_in_a_row.fetch_add(1, Ordering::Relaxed) + 1 >= LOST_IN_A_ROW {
                    self.halted.get_or_init(|| why.clone());
                }
                Outcome::Failed(why)
            }
        }
    }

    /// The file of this run that has the same bytes, if one came before.
    fn claim(&self, picture: &Picture, path: &Path) -> Option<PathBuf> {
        let mut claimed = self.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        match claimed.entry(picture.sha256.0) {
            Entry::Occupied(first) => Some(first.get().clone()),
            Entry::Vacant(free) => {
                free.insert(path.to_owned());
                None
            }
        }
    }

    /// Declares the photo and sends its bytes. After a failure it is declared again: that gives a fresh URL, or says
    /// that the bytes have come after all.
    async fn send(&self, item: &Item, picture: &Picture) -> Result<Outcome, Failure> {
        let new = NewPhoto::new(picture, self.options.guest_name.as_deref());
        let mut failed = 0;
        loop {
            // A key of its own for each declaration: an old key would give the old URL.
            let key = uuid::Uuid::now_v7();
            let Declared { photo, upload } =
                retry::run(&self.policy, |why| self.screen.hitch(why), || self.api.declare(&new, key)).await?;
            let Some(upload) = upload else {
                return Ok(self.settled(&item.path, photo, failed > 0));
            };
            let sent = self.screen.sending();
            match self.api.put(&upload, &item.path, picture.bytes, &sent).await {
                Ok(()) => return Ok(self.settled(&item.path, photo, true)),
                Err(Failure::Passing { why, after }) if failed + 1 < self.policy.tries => {
                    sent.undo();
                    self.screen.hitch(&why);
                    tokio::time::sleep(self.policy.wait(failed, after)).await;
                    failed += 1;
                }
                Err(failure) => {
                    sent.undo();
                    return Err(failure);
                }
            }
        }
    }

    /// The server has all bytes of the photo.
    fn settled(&self, path: &Path, photo: PhotoInfo, sent: bool) -> Outcome {
        match photo.state {
            PhotoState::Rejected => return Outcome::Failed(photo.rejection()),
            PhotoState::Ready => {}
            _ if self.options.wait => self.summary().wait_for(path, photo.id, sent),
            _ => {}
        }
        if sent { Outcome::Added } else { Outcome::Already }
    }

    /// Waits for the photos that are still being developed, for as long as one after the other gets done.
    async fn see_through(&self, parallel: usize) {
        let waiting = std::mem::take(&mut self.summary().waiting);
        self.screen.wait_for(waiting.len());
        let patience = Mutex::new(Instant::now() + self.policy.patience);
        stream::iter(waiting)
            .for_each_concurrent(parallel, |wait| {
                let patience = &patience;
                async move {
                    let end = tokio::select! {
                        () = self.stop.cancelled() => Err("was uploaded; not waited for until it was ready".to_owned()),
                        end = self.developed(wait.photo, patience) => end,
                    };
                    self.screen.waited();
                    if let Err(why) = end {
                        self.summary().take_back(wait, why);
                    }
                }
            })
            .await;
    }

    async fn developed(&self, photo: uuid::Uuid, patience: &Mutex<Instant>) -> Result<(), String> {
        let mut pause = LOOK.0;
        loop {
            let why = match self.api.photo(photo).await {
                Ok(PhotoInfo { state: PhotoState::Ready, .. }) => {
                    *patience.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now() + self.policy.patience;
                    return Ok(());
                }
                Ok(photo) if photo.state == PhotoState::Rejected => return Err(photo.rejection()),
                Ok(_) => format!("was uploaded, but was not ready after {} s", self.policy.patience.as_secs()),
                Err(Failure::Passing { why, .. }) => why,
                Err(Failure::Refused(why) | Failure::Fatal(why)) => return Err(why),
            };
            if Instant::now() >= *patience.lock().unwrap_or_else(PoisonError::into_inner) {
                return Err(why);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK.1);
        }
    }

    fn record(&self, path: &Path, bytes: u64, outcome: Outcome) {
        self.screen.done(path, bytes, &outcome);
        self.summary().add(path, bytes, outcome);
    }

    fn summary(&self) -> std::sync::MutexGuard<'_, Summary> {
        self.summary.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
