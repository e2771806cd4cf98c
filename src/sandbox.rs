//! The pool of child processes that open strangers' pictures.
//!
//! A decoder is C code on untrusted bytes: it may crash, loop, ask for all memory, or be made to run something else. So
//! `imaging` runs in children of this same binary (the hidden verb `__develop`, [`child()`]) that can't open files or
//! sockets, are limited in memory and CPU time, and are killed when they take too long. Whatever happens costs the one photo.
//!
//! How a photo goes: a child is taken from the warm ones or started; it gets the original's open file by its socket, maps it,
//! and answers the probe; when the pool has room for so many pixels it is told to go on; renditions come back by the socket.
//! Dropping the future of [`Sandbox::develop`] kills the child that works for it.
//!
//! Only the worker's jobs for photos and edits call this.

mod child;
mod confine;
mod process;
mod protocol;

#[cfg(test)]
mod tests;

pub use child::child;

use crate::telemetry::metrics;
use imaging::{Filter, Limits, MediaType, Recipe, Rejection, Rendered, StageTimes};
use process::{Broken, Process};
use protocol::{Job, Verdict};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, io};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Pixels are admitted in units of so many, for a semaphore counts in 32 bits.
const PIXELS_PER_PERMIT: u64 = 4096;

/// How children are run and what they may use.
#[derive(Clone, Debug)]
pub struct SandboxConfig {
    /// Children that work at the same time, at least 1.
    pub processes: usize,
    /// Address space of one child in bytes. The binary itself and the original count: not below 256 MiB.
    pub memory_bytes: u64,
    /// CPU time for one photo in whole seconds.
    pub cpu_seconds: u64,
    /// Time on the clock for one photo, without the wait for its turn.
    pub wall: Duration,
    /// Pixels that may be decoded at the same time, over all children; a photo that has more is decoded alone.
    pub pixels_in_flight: u64,
    /// Photos after which a child is replaced.
    pub recycle_after: u32,
    /// How long a child without work is kept.
    pub idle_exit: Duration,
    /// What is made of a photo; the filters come with it.
    pub recipe: Recipe,
    /// What a photo may be.
    pub limits: Limits,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self {
            processes: std::thread::available_parallelism().map_or(2, usize::from),
            memory_bytes: 1 << 30,
            cpu_seconds: 20,
            wall: Duration::from_secs(40),
            pixels_in_flight: 400_000_000,
            recycle_after: 500,
            idle_exit: Duration::from_mins(1),
            recipe: Recipe::default(),
            limits: Limits::default(),
        }
    }
}

/// Why a photo has no renditions.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The file's fault, told by the decoder.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The decoder died of this photo.
    #[error("the decoder died: {0}")]
    Crashed(String),
    /// The decoder ran beyond its CPU time or its time on the clock, and was killed.
    #[error("the decoder took too long")]
    TimedOut,
    /// The decoder needed more memory than it may have.
    #[error("the decoder ran out of memory")]
    OutOfMemory,
    /// No decoder could be started, or the original could not be read: not the photo's fault.
    #[error("no decoder: {0}")]
    Unavailable(#[from] io::Error),
}

/// The pool. Cheap to share behind an `Arc`; children are started when they are needed.
pub struct Sandbox {
    config: SandboxConfig,
    program: PathBuf,
    arguments: Vec<OsString>,
    slots: Semaphore,
    pixels: Semaphore,
    pixel_permits: u32,
    idle: Mutex<Vec<(Process, Instant)>>,
}

impl Sandbox {
    /// A pool that runs `program __develop`; pass `std::env::current_exe()`. Starts nothing yet.
    #[must_use]
    pub fn new(config: SandboxConfig, program: PathBuf) -> Self {
        Self::with_arguments(config, program, vec!["__develop".into()])
    }

    fn with_arguments(config: SandboxConfig, program: PathBuf, arguments: Vec<OsString>) -> Self {
        let pixel_permits = permits(config.pixels_in_flight);
        Self {
            slots: Semaphore::new(config.processes.max(1)),
            pixels: Semaphore::new(pixel_permits as usize),
            pixel_permits,
            idle: Mutex::new(Vec::new()),
            config,
            program,
            arguments,
        }
    }

    /// Waits until there is room for one more photo behind those that wait already: a worker that takes on more than that
    /// keeps it from others.
    pub async fn room(&self) {
        // Never closed, and given back at once: who waits here next gets it.
        let _ = tokio::join!(self.slots.acquire(), self.pixels.acquire());
    }

    /// Develops a photo in a child, with filters for an edit. The child reads `original` from its start to its end; its
    /// position is of no matter.
    ///
    /// # Errors
    /// See [`SandboxError`]. Only [`SandboxError::Unavailable`] is worth a retry as it is; the others speak of the photo.
    pub async fn develop(
        &self,
        original: fs::File,
        declared: MediaType,
        filters: &[Filter],
    ) -> Result<Rendered, SandboxError> {
        let _slot = self.slots.acquire().await.map_err(io::Error::other)?;
        let job = Arc::new(Job {
            declared,
            recipe: Recipe { filters: filters.to_vec(), ..self.config.recipe.clone() },
            limits: self.config.limits.clone(),
            memory_bytes: self.config.memory_bytes,
            cpu_seconds: self.config.cpu_seconds,
            idle_seconds: self.config.idle_exit.as_secs() + 1,
        });
        let (mut process, weight) = self.probe(&original, &job).await?;
        let _room = match weight {
            Verdict::Probed { weight } => self.admit(weight).await?,
            other => return self.settle(process, other),
        };
        let rendered = tokio::time::timeout(self.config.wall, process.develop()).await;
        match rendered {
            Ok(Ok(verdict)) => self.settle(process, verdict),
            Ok(Err(broken)) => Err(process.autopsy(broken).await),
            Err(_) => Err(SandboxError::TimedOut),
        }
    }

    /// Has a child look at the photo. A warm child may have ended meanwhile, so what fails there is tried in a fresh one.
    async fn probe(&self, original: &fs::File, job: &Job) -> Result<(Process, Verdict), SandboxError> {
        let warm = self.warm();
        let was_warm = warm.is_some();
        let mut process = match warm {
            Some(process) => process,
            None => Process::start(&self.program, &self.arguments)?,
        };
        match self.probe_in(&mut process, original, job).await {
            Ok(verdict) => Ok((process, verdict)),
            Err(None) => Err(SandboxError::TimedOut),
            Err(Some(_)) if was_warm => {
                let mut process = Process::start(&self.program, &self.arguments)?;
                match self.probe_in(&mut process, original, job).await {
                    Ok(verdict) => Ok((process, verdict)),
                    Err(None) => Err(SandboxError::TimedOut),
                    Err(Some(broken)) => Err(process.autopsy(broken).await),
                }
            }
            Err(Some(broken)) => Err(process.autopsy(broken).await),
        }
    }

    /// `Err(None)` when the time is over.
    async fn probe_in(&self, process: &mut Process, original: &fs::File, job: &Job) -> Result<Verdict, Option<Broken>> {
        let probed = tokio::time::timeout(self.config.wall, process.probe(original, job)).await;
        probed.map_err(|_| None)?.map_err(Some)
    }

    /// A child that waits for work, if there is one that has not waited too long.
    fn warm(&self) -> Option<Process> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, since)| since.elapsed() < self.config.idle_exit);
        idle.pop().map(|(process, _)| process)
    }

    /// Waits until there is room for so many pixels.
    async fn admit(&self, weight: u64) -> Result<SemaphorePermit<'_>, SandboxError> {
        let wanted = permits(weight).min(self.pixel_permits);
        Ok(self.pixels.acquire_many(wanted).await.map_err(io::Error::other)?)
    }

    /// Turns a verdict into a result, and keeps the child for the next photo.
    fn settle(&self, process: Process, verdict: Verdict) -> Result<Rendered, SandboxError> {
        let result = match verdict {
            Verdict::Rendered(rendered, stages) => {
                measure(&rendered, stages);
                Ok(rendered)
            }
            Verdict::Rejected(rejection) => Err(rejection.into()),
            Verdict::Probed { .. } => Err(SandboxError::Crashed("it spoke out of turn".to_owned())),
            Verdict::Failed(reason) => Err(SandboxError::Unavailable(io::Error::other(reason))),
        };
        let sound = matches!(result, Ok(_) | Err(SandboxError::Rejected(_)));
        if sound && process.photos() < self.config.recycle_after {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push((process, Instant::now()));
        }
        result
    }
}

fn measure(rendered: &Rendered, stages: StageTimes) {
    for (metric, time) in [
        (&metrics::IMAGING_DECODE_DURATION, stages.decode),
        (&metrics::IMAGING_RESIZE_DURATION, stages.resize),
        (&metrics::IMAGING_ENCODE_DURATION, stages.encode),
    ] {
        metric.record(time.as_secs_f64());
    }
    metrics::IMAGING_DECODED_PIXELS.increment(u64::from(rendered.width) * u64::from(rendered.height));
}

/// Permits for so many pixels: at least one.
fn permits(pixels: u64) -> u32 {
    let most = u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX);
    u32::try_from(pixels.div_ceil(PIXELS_PER_PERMIT)).unwrap_or(most).clamp(1, most)
}
