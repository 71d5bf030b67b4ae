//! The recorder behind `/metrics`, and what the process says of itself.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::task;

use super::Histograms;

/// Bounds of the histograms in seconds: from what a cached query takes on a LAN to a minute.
pub(super) const BUCKETS: &[f64] = &[
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
];

/// Samples of histograms pile up until they are worked off; so often they are.
const UPKEEP_PERIOD: Duration = Duration::from_secs(5);

/// Renders what was recorded.
#[derive(Clone)]
pub struct Exporter {
    handle: PrometheusHandle,
    process: std::sync::Arc<ProcessMetrics>,
    histograms: Option<Histograms>,
}

impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Exporter")
    }
}

/// Installs the recorder of this process. `None` when there is one already (several apps in one process,
/// as tests have): the first one keeps it.
pub fn install() -> Option<Exporter> {
    let builder = PrometheusBuilder::new().set_buckets(BUCKETS).ok()?;
    let handle = builder.install_recorder().ok()?;
    Some(Exporter { handle, process: std::sync::Arc::new(ProcessMetrics::new()), histograms: None })
}

impl Exporter {
    /// Renders these, too.
    #[must_use]
    pub fn with(self, histograms: Histograms) -> Self {
        Self { histograms: Some(histograms), ..self }
    }

    fn flush(&self) {
        if let Some(histograms) = &self.histograms {
            histograms.flush(&|| self.handle.run_upkeep());
        }
    }

    /// Prometheus text.
    pub fn render(&self) -> String {
        self.process.refresh();
        self.flush();
        self.handle.render()
    }

    /// Works off samples until dropped.
    pub async fn upkeep(self) {
        loop {
            tokio::time::sleep(UPKEEP_PERIOD).await;
            self.flush();
            self.handle.run_upkeep();
        }
    }
}

/// Memory, CPU, descriptors, panics.
struct ProcessMetrics {
    resident: Gauge,
    cpu: Gauge,
    descriptors: Gauge,
    panics: Counter,
}

impl ProcessMetrics {
    fn new() -> Self {
        describe_gauge!("process_resident_memory_bytes", "Resident memory");
        describe_gauge!("process_cpu_seconds_total", "User and system CPU time");
        describe_gauge!("process_open_fds", "Open file descriptors");
        describe_gauge!("process_start_time_seconds", "When the process began, since the Unix epoch");
        describe_counter!("pgweir_panics_total", "Panics that ended one task each");
        describe_gauge!("pgweir_build_info", "1, with the version as label");
        gauge!("pgweir_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        gauge!("process_start_time_seconds").set(now.as_secs_f64());
        Self {
            resident: gauge!("process_resident_memory_bytes"),
            cpu: gauge!("process_cpu_seconds_total"),
            descriptors: gauge!("process_open_fds"),
            panics: counter!("pgweir_panics_total"),
        }
    }

    /// Reads /proc where there is one.
    fn refresh(&self) {
        self.panics.absolute(task::panics());
        if let Ok(statm) = std::fs::read_to_string("/proc/self/statm")
            && let Some(pages) = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok())
        {
            self.resident.set((pages * rustix::param::page_size() as u64) as f64);
        }
        if let Ok(stat) = std::fs::read_to_string("/proc/self/stat") {
            // The name may hold spaces; fields are counted from its closing parenthesis.
            let after = stat.rsplit(')').next().unwrap_or("");
            let ticks: u64 =
                after.split_ascii_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
            self.cpu.set(ticks as f64 / rustix::param::clock_ticks_per_second() as f64);
        }
        if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
            self.descriptors.set(entries.count() as f64);
        }
    }
}
