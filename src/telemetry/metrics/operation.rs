//! The build, the process, and the state of files that the gateway depends on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::register::register;
use crate::telemetry::process::ProcessStats;

type FloatGauge = Gauge<f64, AtomicU64>;

/// State of the audit log since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditStats {
    /// Events that were not written, because the disk was slower.
    pub lost: u64,
    /// Whether the last write failed.
    pub is_failing: bool,
}

#[derive(Clone)]
pub(super) struct OperationMetrics {
    cpu_seconds: Counter<f64, AtomicU64>,
    resident_bytes: Gauge,
    open_fds: Gauge,
    certificate_expiry: Family<CertificateLabels, Gauge>,
    audit_lost: Counter,
    audit_failing: Gauge,
    reload_failures: Counter,
    reload_failing: Gauge,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CertificateLabels {
    file: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

impl OperationMetrics {
    pub(super) fn register(r: &mut Registry) -> OperationMetrics {
        let build: Family<BuildLabels, Gauge> = register(r, "build_info", "Version; always 1");
        build.get_or_create(&BuildLabels { version: env!("CARGO_PKG_VERSION") }).set(1);
        let started: FloatGauge =
            register(r, "process_start_time_seconds", "Start of the process, in Unix time");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        started.set(now.as_secs_f64());
        OperationMetrics {
            cpu_seconds: register(r, "process_cpu_seconds", "Processor time of the process"),
            resident_bytes: register(
                r,
                "process_resident_memory_bytes",
                "Resident memory of the process",
            ),
            open_fds: register(r, "process_open_fds", "Open file descriptors"),
            certificate_expiry: register(
                r,
                "certificate_expiry_timestamp_seconds",
                "End of validity of a certificate, in Unix time",
            ),
            audit_lost: register(r, "audit_lost", "Events that the audit log does not have"),
            audit_failing: register(r, "audit_failing", "1 while the audit log cannot be written"),
            reload_failures: register(r, "reload_failures", "Failed reloads of changed files"),
            reload_failing: register(r, "reload_failing", "1 while a file cannot be loaded"),
        }
    }

    pub(super) fn update_process(&self, stats: ProcessStats) {
        self.cpu_seconds.inner().store(stats.cpu_seconds.to_bits(), Ordering::Relaxed);
        self.resident_bytes.set(i64::try_from(stats.resident_bytes).unwrap_or(i64::MAX));
        self.open_fds.set(i64::try_from(stats.open_fds).unwrap_or(i64::MAX));
    }

    pub(super) fn update_audit(&self, stats: AuditStats) {
        self.audit_lost.inner().store(stats.lost, Ordering::Relaxed);
        self.audit_failing.set(i64::from(stats.is_failing));
    }

    pub(super) fn certificate_expiry(&self, file: String, expires: Timestamp) {
        let gauge = self.certificate_expiry.get_or_create(&CertificateLabels { file });
        gauge.set(expires.as_second());
    }

    pub(super) fn reload(&self, is_failing: bool) {
        let was_failing = self.reload_failing.set(i64::from(is_failing)) != 0;
        if is_failing && !was_failing {
            self.reload_failures.inc();
        }
    }
}
