//! What is seen while it runs: a progress bar on a terminal, a line for each file elsewhere. All on standard error.

use std::{
    io::{self, IsTerminal},
    path::Path,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use indicatif::{DecimalBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::summary::{Outcome, printable};

const TICK: Duration = Duration::from_millis(200);

/// Where progress is shown.
#[derive(Debug, Clone)]
pub struct Screen {
    bar: ProgressBar,
    shows: Shows,
    count: Arc<Count>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shows {
    Bar,
    Lines,
    #[cfg(test)]
    Nothing,
}

#[derive(Debug, Default)]
struct Count {
    files: AtomicUsize,
    done: AtomicUsize,
    hitch: Mutex<String>,
}

impl Screen {
    /// A bar when standard error is a terminal, lines when it isn't.
    pub fn standard_error() -> Self {
        let shows = if io::stderr().is_terminal() { Shows::Bar } else { Shows::Lines };
        Self { bar: ProgressBar::hidden(), shows, count: Arc::default() }
    }

    /// Shows nothing.
    #[cfg(test)]
    pub fn none() -> Self {
        Self { bar: ProgressBar::hidden(), shows: Shows::Nothing, count: Arc::default() }
    }

    /// The number of files and of their bytes are known.
    pub fn start(&self, files: usize, bytes: u64) {
        self.count.files.store(files, Ordering::Relaxed);
        self.style("{bar:28} {decimal_bytes}/{decimal_total_bytes}  {msg}  {decimal_bytes_per_sec}  {eta} left");
        self.bar.set_length(bytes);
        if self.shows == Shows::Bar {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            self.bar.enable_steady_tick(TICK);
        }
        self.tell();
    }

    /// Reports a failure that will be retried. The same cause is reported once, however many files it delays.
    pub fn hitch(&self, why: &str) {
        let mut last = self.count.hitch.lock().unwrap_or_else(PoisonError::into_inner);
        if *last == why {
            return;
        }
        why.clone_into(&mut last);
        let line = format!("{}; trying again", printable(why));
        match self.shows {
            Shows::Bar if !self.bar.is_hidden() => self.bar.println(line),
            Shows::Bar | Shows::Lines => eprintln!("{line}"),
            #[cfg(test)]
            Shows::Nothing => {}
        }
    }

    /// The bytes of one try to send one file.
    pub fn sending(&self) -> Sent {
        Sent { bar: self.bar.clone(), bytes: Arc::default(), broken: Arc::default() }
    }

    /// A file is dealt with.
    pub fn done(&self, path: &Path, bytes: u64, outcome: &Outcome) {
        self.count.done.fetch_add(1, Ordering::Relaxed);
        // The bar counts what is to be sent; what turns out not to be is taken off, so that rate and time stay true.
        if *outcome != Outcome::Added {
            self.bar.dec_length(bytes);
        }
        self.tell();
        if self.shows == Shows::Lines
            && let Some(line) = line(path, bytes, outcome)
        {
            eprintln!("{line}");
        }
    }

    /// So many photos are still being developed.
    pub fn wait_for(&self, photos: usize) {
        if photos > 0 {
            self.style("{bar:28} {pos}/{len}  waiting until the photos are ready");
            self.bar.set_position(0);
            self.bar.set_length(photos as u64);
        }
    }

    /// One of them is waited for no more.
    pub fn waited(&self) {
        self.bar.inc(1);
    }

    /// Makes room for the summary.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn tell(&self) {
        let (done, files) = (self.count.done.load(Ordering::Relaxed), self.count.files.load(Ordering::Relaxed));
        self.bar.set_message(format!("{done} of {files} files"));
    }

    fn style(&self, template: &str) {
        let style = ProgressStyle::with_template(template).expect("the template is well-formed");
        self.bar.set_style(style.progress_chars("━╸─"));
    }
}

fn line(path: &Path, bytes: u64, outcome: &Outcome) -> Option<String> {
    let path = printable(&path.to_string_lossy());
    Some(match outcome {
        Outcome::Added => format!("added    {path} ({})", DecimalBytes(bytes)),
        Outcome::Already => format!("skipped  {path}: already there"),
        Outcome::Twin(first) => format!("skipped  {path}: the same as {}", printable(&first.to_string_lossy())),
        Outcome::Failed(why) => format!("failed   {path}: {}", printable(why)),
        Outcome::Ignored | Outcome::Unsent => return None,
    })
}

/// What has been sent in one try.
#[derive(Debug, Clone)]
pub struct Sent {
    bar: ProgressBar,
    bytes: Arc<AtomicU64>,
    broken: Arc<OnceLock<String>>,
}

impl Sent {
    /// So much more was handed to the network.
    pub fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bar.inc(bytes);
    }

    /// How much that is by now.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The try failed; the next begins at the beginning.
    pub fn undo(&self) {
        self.bar.dec(self.bytes.swap(0, Ordering::Relaxed));
    }

    /// The file itself is at fault.
    pub fn break_off(&self, why: String) {
        let _ = self.broken.set(why);
    }

    /// Why the file is at fault, if it is.
    pub fn broken(&self) -> Option<&str> {
        self.broken.get().map(String::as_str)
    }
}
