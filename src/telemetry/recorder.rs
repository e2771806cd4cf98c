//! Installs the recorders of the process: the Prometheus exporter behind `/metrics`, and CloudWatch's embedded metric
//! format where it is configured. Also records the metrics of the process and of the Tokio runtime.

use std::{
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use metrics_util::layers::FanoutBuilder;
use tokio::runtime::Handle;

use super::{
    emf,
    metrics::{self, Metric},
};
use crate::config::Emf;

static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();

/// The Prometheus exporter, installed without the embedded metric format if nothing was installed before.
pub fn handle() -> &'static PrometheusHandle {
    install(Emf::Off)
}

/// Installs the recorders once for the process; later calls return the same exporter.
///
/// # Panics
/// If another recorder is installed.
pub fn install(emf: Emf) -> &'static PrometheusHandle {
    HANDLE.get_or_init(|| {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let installed = match emf {
            Emf::Off => ::metrics::set_global_recorder(recorder).is_ok(),
            Emf::Stdout => {
                let both = FanoutBuilder::default().add_recorder(recorder).add_recorder(emf::recorder());
                ::metrics::set_global_recorder(both.build()).is_ok()
            }
        };
        assert!(installed, "the only metrics recorder of the process");
        metrics::registry().iter().for_each(Metric::describe);
        // `metrics-process` needs /proc/stat for it, which `ProcSubset=pid` of the systemd unit hides.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        metrics::PROCESS_START_TIME.set(now.as_secs_f64());
        handle
    })
}

/// Records the metrics of the process and of the current Tokio runtime.
#[expect(clippy::cast_precision_loss, reason = "counts for a graph")]
pub fn record_process_metrics() {
    metrics_process::Collector::default().collect();
    let Ok(runtime) = Handle::try_current() else { return };
    let runtime = runtime.metrics();
    metrics::TOKIO_WORKERS.set(runtime.num_workers() as f64);
    metrics::TOKIO_LIVE_TASKS.set(runtime.num_alive_tasks() as f64);
    metrics::TOKIO_GLOBAL_QUEUE_DEPTH.set(runtime.global_queue_depth() as f64);
    let workers = 0..runtime.num_workers();
    let busy: Duration = workers.map(|worker| runtime.worker_total_busy_duration(worker)).sum();
    metrics::TOKIO_BUSY.set_total(busy.as_secs());
}
