//! The result of each file, and the summary printed at the end.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use uuid::Uuid;

/// What became of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The album has it now.
    Added,
    /// The album had it.
    Already,
    /// Another file of this run has the same bytes.
    Twin(PathBuf),
    /// Found in a directory, and no picture.
    Ignored,
    /// Not in the album, and why.
    Failed(String),
    /// Not tried, or interrupted.
    Unsent,
}

/// A photo that is to be waited for.
#[derive(Debug, Clone)]
pub struct Waiting {
    path: PathBuf,
    /// Its id.
    pub photo: Uuid,
    sent: bool,
}

/// What became of all of them.
#[derive(Debug, Default)]
pub struct Summary {
    title: String,
    pub added: usize,
    added_bytes: u64,
    pub already: usize,
    pub twins: usize,
    pub ignored: usize,
    pub failed: Vec<(PathBuf, String)>,
    pub unsent: usize,
    /// Why it ended early.
    pub stopped: Option<String>,
    /// Photos whose bytes the server has and has not developed.
    pub waiting: Vec<Waiting>,
}

impl Summary {
    /// Nothing yet, for the album of this title.
    pub fn new(title: String) -> Self {
        Self { title, ..Self::default() }
    }

    /// Ended before the album was known.
    pub fn interrupted() -> Self {
        Self { stopped: Some("interrupted".into()), ..Self::default() }
    }

    /// Whether every file is in the album.
    pub fn is_success(&self) -> bool {
        self.failed.is_empty() && self.unsent == 0 && self.stopped.is_none()
    }

    /// Counts a file.
    pub fn add(&mut self, path: &Path, bytes: u64, outcome: Outcome) {
        match outcome {
            Outcome::Added => {
                self.added += 1;
                self.added_bytes += bytes;
            }
            Outcome::Already => self.already += 1,
            Outcome::Twin(_) => self.twins += 1,
            Outcome::Ignored => self.ignored += 1,
            Outcome::Failed(why) => self.failed.push((path.to_owned(), why)),
            Outcome::Unsent => self.unsent += 1,
        }
    }

    /// Notes a photo to wait for.
    pub fn wait_for(&mut self, path: &Path, photo: Uuid, sent: bool) {
        self.waiting.push(Waiting { path: path.to_owned(), photo, sent });
    }

    /// A file that seemed to be in the album is not.
    pub fn take_back(&mut self, wait: Waiting, why: String) {
        let count = if wait.sent { &mut self.added } else { &mut self.already };
        *count = count.saturating_sub(1);
        self.failed.push((wait.path, why));
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.title.is_empty() {
            write!(f, "{}: ", printable(&self.title))?;
        }
        write!(f, "added {}", self.added)?;
        if self.added_bytes > 0 {
            write!(f, " ({})", indicatif::DecimalBytes(self.added_bytes))?;
        }
        write!(f, ", skipped {} (already there)", self.already)?;
        if self.twins > 0 {
            write!(f, ", {} twice in the list", self.twins)?;
        }
        writeln!(f, ", failed {}", self.failed.len())?;
        for (path, why) in &self.failed {
            writeln!(f, "  failed  {}: {}", printable(&path.to_string_lossy()), printable(why))?;
        }
        if self.ignored > 0 {
            writeln!(
                f,
                "  {} other {} no pictures",
                self.ignored,
                if self.ignored == 1 { "file is" } else { "files are" }
            )?;
        }
        if let Some(why) = &self.stopped {
            let unsent = if self.unsent > 0 { format!(", {} not sent", self.unsent) } else { String::new() };
            writeln!(f, "stopped: {}{unsent}; run it again to go on", printable(why))?;
        }
        Ok(())
    }
}

/// Names and answers come from others: what would steer the terminal is taken out.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_explains_failures() {
        let mut summary = Summary::new("Anna & Ben".into());
        for outcome in [
            Outcome::Added,
            Outcome::Added,
            Outcome::Already,
            Outcome::Twin("a.jpg".into()),
            Outcome::Ignored,
            Outcome::Unsent,
        ] {
            summary.add(Path::new("x.jpg"), 1_500_000, outcome);
        }
        summary.add(Path::new("b\x1b[2J.heic"), 9, Outcome::Failed("no".into()));
        summary.stopped = Some("the album is closed".into());
        let text = "Anna & Ben: added 2 (3.00 MB), skipped 1 (already there), 1 twice in the list, failed 1\n  \
                    failed  b\u{fffd}[2J.heic: no\n  1 other file is no pictures\n\
                    stopped: the album is closed, 1 not sent; run it again to go on\n";
        assert_eq!(summary.to_string(), text);
        assert!(!summary.is_success());
    }

    #[test]
    fn a_rejected_photo_was_not_added() {
        let mut summary = Summary::new("t".into());
        summary.add(Path::new("x.jpg"), 5, Outcome::Added);
        summary.wait_for(Path::new("x.jpg"), Uuid::nil(), true);
        let wait = summary.waiting.remove(0);
        summary.take_back(wait, "this picture is cut off".into());
        assert_eq!((summary.added, summary.failed.len(), summary.is_success()), (0, 1, false));
    }
}
