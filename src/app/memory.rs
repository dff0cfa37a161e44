//! Memory monitor: compares the resident set of the process with the configured limit.
//!
//! Resident pages are what the OOM killer counts. Near the limit, requests without a session are
//! rejected. At the limit, new connections are rejected too, and the oldest connections without a session
//! are closed. On systems other than Linux the monitor does nothing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, interval};
use tracing::info;

use crate::config::Memory;
use crate::proxy::{LoadLevel, MemoryLoad};
use crate::server::ConnectionLimiter;
use crate::telemetry::process::resident_bytes;

/// Short, because an attacker on a fast network fills some 100 MB within one interval.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The allocator returns freed pages late, so the resident set drops some time after connections were
/// closed. Evicting again earlier would close too many.
const EVICT_INTERVAL: Duration = Duration::from_secs(2);

/// Sets the load level and evicts connections at the limit.
pub(super) struct MemoryMonitor {
    pub(super) overload: Arc<MemoryLoad>,
    pub(super) limiter: Arc<ConnectionLimiter>,
}

/// Returns the limit in bytes; `None` if there is none, or if the memory size is unknown.
pub(super) fn limit(configured: Memory) -> Option<u64> {
    match configured {
        Memory::Bytes(0) => None,
        Memory::Bytes(bytes) => Some(bytes),
        Memory::Auto => Some(total()? / 5 * 4),
    }
}

impl MemoryMonitor {
    /// Polls until the process ends. `limit` returns the current limit in bytes.
    pub(super) async fn run(self, limit: impl Fn() -> Option<u64>) {
        let mut tick = interval(POLL_INTERVAL);
        let mut last_eviction: Option<Instant> = None;
        let mut logged = None;
        loop {
            tick.tick().await;
            let limit = limit();
            if limit != logged {
                info!(event = "memory.limit-set", limit_bytes = limit.unwrap_or_default());
                logged = limit;
            }
            let used = || resident_bytes().unwrap_or_default();
            let level = limit.map_or(LoadLevel::Normal, |limit| level(used(), limit));
            self.overload.set(level);
            if level == LoadLevel::Overloaded
                && last_eviction.is_none_or(|at| at.elapsed() >= EVICT_INTERVAL)
            {
                self.limiter.evict_tenth();
                last_eviction = Some(Instant::now());
            }
        }
    }
}

/// Returns `High` from 90 % of the limit.
fn level(rss: u64, limit: u64) -> LoadLevel {
    if rss >= limit {
        LoadLevel::Overloaded
    } else if rss >= limit / 10 * 9 {
        LoadLevel::High
    } else {
        LoadLevel::Normal
    }
}

/// Returns the smaller of the machine's memory and the cgroup limit.
fn total() -> Option<u64> {
    machine_memory().into_iter().chain(cgroup_limit()).min()
}

fn machine_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Reads the limits of the process's cgroup (version 2) and its ancestors; "max" means none. A container
/// sees its own cgroup as the root.
fn cgroup_limit() -> Option<u64> {
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let root = Path::new("/sys/fs/cgroup");
    let own = root.join(path.trim_start_matches('/'));
    let groups = own.ancestors().take_while(|group| group.starts_with(root));
    let limits = groups.filter_map(|group| {
        std::fs::read_to_string(group.join("memory.max")).ok()?.trim().parse::<u64>().ok()
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_high_at_ninety_percent_and_overloaded_at_the_limit() {
        let table = [(89, LoadLevel::Normal), (90, LoadLevel::High), (99, LoadLevel::High)];
        for (rss, expected) in table {
            assert_eq!(level(rss, 100), expected, "{rss}");
        }
        assert_eq!(level(100, 100), LoadLevel::Overloaded);
    }

    #[test]
    fn auto_is_between_rss_and_machine_memory_and_zero_is_none() {
        let auto = limit(Memory::Auto).expect("Linux reports it");
        assert!(
            auto < machine_memory().expect("Linux reports it")
                && auto > resident_bytes().expect("Linux reports it")
        );
        assert_eq!(limit(Memory::Bytes(0)), None);
        assert_eq!(limit(Memory::Bytes(7)), Some(7));
    }
}
