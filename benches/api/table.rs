//! Measured times and tables.

use std::{fs, time::Duration};

/// Measured times in milliseconds.
#[derive(Default)]
pub struct Times(Vec<f64>);

impl Times {
    pub fn add(&mut self, took: Duration) {
        self.0.push(took.as_secs_f64() * 1e3);
    }

    pub fn median(&self) -> f64 {
        self.part(1, 2)
    }

    /// The 99th percentile.
    pub fn p99(&self) -> f64 {
        self.part(99, 100)
    }

    fn part(&self, part: usize, of: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get((sorted.len() * part / of).min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
    }
}

impl FromIterator<Duration> for Times {
    fn from_iter<T: IntoIterator<Item = Duration>>(tries: T) -> Self {
        let mut times = Self::default();
        tries.into_iter().for_each(|took| times.add(took));
        times
    }
}

/// Prints a Markdown table.
pub fn print(title: &str, head: &[&str], rows: &[Vec<String>]) {
    println!("{title}\n\n| {} |\n|{}", head.join(" | "), "---|".repeat(head.len()));
    for row in rows {
        println!("| {} |", row.join(" | "));
    }
    println!();
}

/// Prints the load of the last minute, which affects the figures.
pub fn print_load() {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("{cores} cores; load of the last minute {}.\n", load.split(' ').next().unwrap_or("unknown"));
}
