//! How the process and its runtime are: what the system tells of them, under the names that Prometheus clients use.

use std::time::SystemTime;

use tokio::runtime::Handle;

use super::metrics;

/// Sets the metrics of the process and of the runtime that calls; what the system does not tell stays as it is.
#[expect(clippy::cast_precision_loss, reason = "counts for a graph")]
pub fn measure() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(kib) = field(&status, "VmRSS:") {
        metrics::PROCESS_MEMORY.set(kib as f64 * 1024.0);
    }
    if let Some(threads) = field(&status, "Threads:") {
        metrics::PROCESS_THREADS.set(threads as f64);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        // One of them is the one that reads the folder.
        metrics::PROCESS_FDS.set(open.count().saturating_sub(1) as f64);
    }
    if let Some(most) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        metrics::PROCESS_MAX_FDS.set(most as f64);
    }
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime).tv_sec;
    metrics::PROCESS_CPU.reach(u64::try_from(used).unwrap_or(0));
    if let Ok(runtime) = Handle::try_current() {
        let of = runtime.metrics();
        metrics::RUNTIME_WORKERS.set(of.num_workers() as f64);
        metrics::RUNTIME_TASKS.set(of.num_alive_tasks() as f64);
        metrics::RUNTIME_QUEUE.set(of.global_queue_depth() as f64);
        let busy: std::time::Duration = (0..of.num_workers()).map(|worker| of.worker_total_busy_duration(worker)).sum();
        metrics::RUNTIME_BUSY.reach(busy.as_secs());
    }
}

/// Notes that the process starts now: it does nothing worth mentioning before it measures.
pub(crate) fn started() {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    metrics::PROCESS_START.set(since.as_secs_f64());
}

/// A number of `/proc/self/status`, see proc(5).
fn field(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}
