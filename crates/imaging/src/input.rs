//! Memory-mapped input files.

use memmap2::{Mmap, MmapOptions};
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd};

/// The bytes of a file, mapped read-only with mmap(2) instead of copied.
///
/// The caller guarantees that the file is neither written nor truncated while it is mapped: reading past a truncated
/// end raises SIGBUS. The service writes an original once and maps it in a decoder process, so that SIGBUS ends only
/// that process.
#[derive(Debug)]
pub struct MappedFile(Mmap);

impl MappedFile {
    /// Maps the first `length` bytes (at least 1) of an open file and reads them ahead (`MAP_POPULATE`).
    ///
    /// The caller passes the length because the seccomp filter of the decoder process does not allow `statx`.
    ///
    /// # Errors
    /// The error of mmap(2), e.g. `ENOMEM` when the address space limit is reached.
    #[expect(unsafe_code, reason = "mmap: the mapped bytes change if the file is written")]
    pub fn new(file: &impl AsFd, length: usize) -> io::Result<Self> {
        let file = file.as_fd().as_raw_fd();
        // SAFETY: the caller guarantees that the file is neither written nor truncated; see the type's documentation.
        unsafe { MmapOptions::new().len(length).populate().map(file) }.map(Self)
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
