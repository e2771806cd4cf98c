//! What parent and child say to each other: a length (4 bytes, little endian), then JSON; after [`Verdict::Rendered`] the
//! renditions' bytes, one behind the other.
//!
//! The original's open file travels beside a job's first byte. Renditions take the socket rather than shared memory: all of
//! the sandbox costs about 2 ms a photo that way, and a child that can't make files needs no exception from its limits.

use imaging::{Limits, MediaType, Recipe, Rejection, Rendered, StageTimes};
use serde::{Deserialize, Serialize};

/// The most bytes of one message; a child that says more is broken.
pub const MAX_MESSAGE_BYTES: usize = 64 << 10;
/// The most bytes of all renditions of a photo.
pub const MAX_RENDITION_BYTES: usize = 256 << 20;
/// What the parent answers to [`Verdict::Probed`] when there is room.
pub const GO: u8 = b'!';

/// Parent to child: a photo to look at.
#[derive(Debug, Serialize, Deserialize)]
pub struct Job {
    pub declared: MediaType,
    pub recipe: Recipe,
    pub limits: Limits,
    /// Taken to heart with a child's first job only: limits are never raised.
    pub memory_bytes: u64,
    pub cpu_seconds: u64,
    /// How long to wait for the next job before ending.
    pub idle_seconds: u64,
}

/// Child to parent.
#[derive(Debug, Serialize, Deserialize)]
pub enum Verdict {
    /// The photo looks sound; the child waits for [`GO`].
    Probed { weight: u64 },
    /// Here it is, and where the time went. The bytes of each rendition follow, as many as `lengths` says in the message.
    Rendered(Rendered, StageTimes),
    /// The photo's fault.
    Rejected(Rejection),
    /// Not the photo's fault.
    Failed(String),
}

/// A verdict with the lengths of what follows it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reply {
    pub verdict: Verdict,
    pub lengths: Vec<usize>,
}

/// A message with its length before it.
pub fn frame(message: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = u32::try_from(bytes.len() - 4).unwrap_or(u32::MAX).to_le_bytes();
    bytes[..4].copy_from_slice(&length);
    Ok(bytes)
}
