//! The protocol between parent and child: a length (4 bytes, little endian), then JSON; after [`Reply::Rendered`] the
//! bytes of the renditions.
//!
//! The open file of the original is sent as ancillary data with the first byte of a job. Renditions are sent over the
//! socket rather than in shared memory: the whole sandbox costs about 2 ms a photo, and the child needs no right to
//! create files.

use imaging::{Limits, MediaType, Recipe, Rejection, Rendered, StageTimes};
use serde::{Deserialize, Serialize};

/// A longer message from a child is a protocol violation.
pub const MAX_MESSAGE_BYTES: usize = 64 << 10;
/// The limit for all renditions of a photo together.
pub const MAX_RENDITION_BYTES: usize = 256 << 20;
/// The parent's answer to [`Reply::Probed`] when the photo is admitted.
pub const GO: u8 = b'!';

/// Parent to child: a photo to render.
#[derive(Debug, Serialize, Deserialize)]
pub struct Job {
    pub declared: MediaType,
    pub recipe: Recipe,
    pub limits: Limits,
    /// Applied with the first job of a child, because limits can't be raised.
    pub memory_bytes: u64,
    pub cpu_seconds: u64,
    /// The child exits when no job has arrived for so long.
    pub idle_seconds: u64,
}

/// Child to parent.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// `weight` is in pixels; the child waits for [`GO`].
    Probed { weight: u64 },
    /// The bytes of the renditions follow the message.
    Rendered(Rendered, StageTimes),
    /// The picture is rejected.
    Rejected(Rejection),
    /// An internal error.
    Failed(String),
}

/// A reply and the lengths of the renditions that follow it.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReplyMessage {
    pub reply: Reply,
    pub lengths: Vec<usize>,
}

/// Prefixes a message with its length.
pub fn frame(message: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = u32::try_from(bytes.len() - 4).unwrap_or(u32::MAX).to_le_bytes();
    bytes[..4].copy_from_slice(&length);
    Ok(bytes)
}
