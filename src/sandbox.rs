//! Decodes untrusted pictures in confined child processes.
//!
//! A decoder is C code on untrusted bytes: it may crash, loop, exhaust memory, or be made to execute an attacker's
//! code. So `imaging` runs in children of this binary (the hidden command `__decoder`, [`child()`]) that can't open
//! files or sockets, have limited memory and CPU time, and are killed when they take too long. A failure costs one
//! photo.
//!
//! A photo takes a warm child or starts one. The child receives the open file of the original over its socket, maps it,
//! and answers a probe with the number of pixels. Once the pool admits so many pixels, the child renders and sends the
//! renditions over the socket. Dropping the future of [`Sandbox::render`] kills the child.
//!
//! Only the jobs for photos and edits use the sandbox.

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
use protocol::{Job, Reply};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, io};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Pixels are admitted in units, because a semaphore counts in 32 bits.
const PIXELS_PER_PERMIT: u64 = 4096;

#[derive(Clone, Debug)]
pub struct SandboxConfig {
    /// Children that work at the same time; at least 1.
    pub processes: usize,
    /// Address space of one child in bytes, which includes the binary and the original: at least 256 MiB.
    pub memory_bytes: u64,
    /// CPU time of one photo.
    pub cpu_seconds: u64,
    /// Wall-clock time of one photo, without the wait for admission.
    pub time_limit: Duration,
    /// Pixels decoded at the same time by all children. A photo with more is decoded alone.
    pub max_concurrent_pixels: u64,
    /// Photos after which a child is replaced.
    pub recycle_after: u32,
    /// How long an idle child is kept.
    pub idle_timeout: Duration,
    /// Without filters, which belong to a photo.
    pub recipe: Recipe,
    pub limits: Limits,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self {
            processes: std::thread::available_parallelism().map_or(2, usize::from),
            memory_bytes: 1 << 30,
            cpu_seconds: 20,
            time_limit: Duration::from_secs(40),
            max_concurrent_pixels: 400_000_000,
            recycle_after: 500,
            idle_timeout: Duration::from_mins(1),
            recipe: Recipe::default(),
            limits: Limits::default(),
        }
    }
}

/// Why a photo has no renditions.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The decoder rejects the picture.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    #[error("the decoder crashed: {0}")]
    Crashed(String),
    /// The CPU time or the wall-clock time was exceeded.
    #[error("the decoder took too long")]
    TimedOut,
    #[error("the decoder ran out of memory")]
    OutOfMemory,
    /// No decoder could be started, or the original could not be read. Only this error is worth a retry as it is.
    #[error("the decoder is unavailable: {0}")]
    Unavailable(#[from] io::Error),
}

/// A pool of children, which are started on demand.
pub struct Sandbox {
    config: SandboxConfig,
    program: PathBuf,
    arguments: Vec<OsString>,
    slots: Semaphore,
    pixels: Semaphore,
    max_pixel_permits: u32,
    idle: Mutex<Vec<(Process, Instant)>>,
}

impl Sandbox {
    /// A pool that runs `program __decoder`.
    #[must_use]
    pub fn new(config: SandboxConfig, program: PathBuf) -> Self {
        Self::with_arguments(config, program, vec!["__decoder".into()])
    }

    fn with_arguments(config: SandboxConfig, program: PathBuf, arguments: Vec<OsString>) -> Self {
        let max_pixel_permits = permits(config.max_concurrent_pixels);
        Self {
            slots: Semaphore::new(config.processes.max(1)),
            pixels: Semaphore::new(max_pixel_permits as usize),
            max_pixel_permits,
            idle: Mutex::new(Vec::new()),
            config,
            program,
            arguments,
        }
    }

    /// Waits until another photo would be admitted at once, so that a worker does not claim more than it can decode.
    pub async fn wait_for_capacity(&self) {
        // The semaphores are never closed; the permits are returned at once.
        let _ = tokio::join!(self.slots.acquire(), self.pixels.acquire());
    }

    /// Renders a photo in a child, with the filters of an edit. The file position of `original` is ignored.
    pub async fn render(
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
            idle_seconds: self.config.idle_timeout.as_secs() + 1,
        });
        let (mut process, reply) = self.probe(&original, &job).await?;
        let _permit = match reply {
            Reply::Probed { weight } => self.admit(weight).await?,
            other => return self.finish(process, other),
        };
        let reply = tokio::time::timeout(self.config.time_limit, process.render()).await;
        match reply {
            Ok(Ok(reply)) => self.finish(process, reply),
            Ok(Err(broken)) => Err(process.exit_reason(broken).await),
            Err(_) => Err(SandboxError::TimedOut),
        }
    }

    /// Sends the photo to a child and reads the answer to the probe. An idle child may have ended, so a failure there
    /// is retried in a new one.
    async fn probe(&self, original: &fs::File, job: &Job) -> Result<(Process, Reply), SandboxError> {
        let idle = self.take_idle();
        let was_idle = idle.is_some();
        let mut process = match idle {
            Some(process) => process,
            None => Process::start(&self.program, &self.arguments)?,
        };
        match self.probe_in(&mut process, original, job).await {
            Ok(reply) => Ok((process, reply)),
            Err(None) => Err(SandboxError::TimedOut),
            Err(Some(_)) if was_idle => {
                let mut process = Process::start(&self.program, &self.arguments)?;
                match self.probe_in(&mut process, original, job).await {
                    Ok(reply) => Ok((process, reply)),
                    Err(None) => Err(SandboxError::TimedOut),
                    Err(Some(broken)) => Err(process.exit_reason(broken).await),
                }
            }
            Err(Some(broken)) => Err(process.exit_reason(broken).await),
        }
    }

    /// `Err(None)` is a timeout.
    async fn probe_in(&self, process: &mut Process, original: &fs::File, job: &Job) -> Result<Reply, Option<Broken>> {
        let probed = tokio::time::timeout(self.config.time_limit, process.probe(original, job)).await;
        probed.map_err(|_| None)?.map_err(Some)
    }

    fn take_idle(&self) -> Option<Process> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, since)| since.elapsed() < self.config.idle_timeout);
        idle.pop().map(|(process, _)| process)
    }

    async fn admit(&self, weight: u64) -> Result<SemaphorePermit<'_>, SandboxError> {
        let wanted = permits(weight).min(self.max_pixel_permits);
        Ok(self.pixels.acquire_many(wanted).await.map_err(io::Error::other)?)
    }

    /// Turns a reply into a result, and keeps a sound child for the next photo.
    fn finish(&self, process: Process, reply: Reply) -> Result<Rendered, SandboxError> {
        let result = match reply {
            Reply::Rendered(rendered, stages) => {
                record_metrics(&rendered, stages);
                Ok(rendered)
            }
            Reply::Rejected(rejection) => Err(rejection.into()),
            Reply::Probed { .. } => Err(SandboxError::Crashed("protocol violation by the decoder process".to_owned())),
            Reply::Failed(reason) => Err(SandboxError::Unavailable(io::Error::other(reason))),
        };
        let is_sound = matches!(result, Ok(_) | Err(SandboxError::Rejected(_)));
        if is_sound && process.photos() < self.config.recycle_after {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push((process, Instant::now()));
        }
        result
    }
}

fn record_metrics(rendered: &Rendered, stages: StageTimes) {
    for (metric, time) in [
        (&metrics::IMAGING_DECODE_DURATION, stages.decode),
        (&metrics::IMAGING_RESIZE_DURATION, stages.resize),
        (&metrics::IMAGING_ENCODE_DURATION, stages.encode),
    ] {
        metric.record(time.as_secs_f64());
    }
    metrics::IMAGING_DECODED_PIXELS.increment(u64::from(rendered.width) * u64::from(rendered.height));
}

/// The permits for so many pixels; at least one.
fn permits(pixels: u64) -> u32 {
    let most = u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX);
    u32::try_from(pixels.div_ceil(PIXELS_PER_PERMIT)).unwrap_or(most).clamp(1, most)
}
