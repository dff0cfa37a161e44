//! Figures of the process, from `/proc`. Other systems than Linux have none.

const PAGE_SIZE: u64 = 4096;

/// Figures at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessStats {
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
    pub open_fds: u64,
}

impl ProcessStats {
    /// Reads the figures; zero where one is unknown.
    pub fn read() -> ProcessStats {
        ProcessStats {
            cpu_seconds: cpu_seconds().unwrap_or_default(),
            resident_bytes: resident_bytes().unwrap_or_default(),
            open_fds: open_fds().unwrap_or_default(),
        }
    }
}

/// Returns the resident set, which the OOM killer counts.
pub fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    pages.checked_mul(PAGE_SIZE)
}

/// Returns the time in user and system mode. The name of the program, in parentheses, may hold spaces.
fn cpu_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<u32>().ok();
    let per_second = u32::try_from(rustix::param::clock_ticks_per_second()).ok()?;
    Some((f64::from(ticks(11)?) + f64::from(ticks(12)?)) / f64::from(per_second))
}

fn open_fds() -> Option<u64> {
    u64::try_from(std::fs::read_dir("/proc/self/fd").ok()?.count()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_process_uses_cpu_memory_and_files() {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while ProcessStats::read().cpu_seconds <= 0.0 {
            assert!(std::time::Instant::now() < deadline, "no processor time");
        }
        let stats = ProcessStats::read();
        assert!(stats.resident_bytes > 1 << 20 && stats.open_fds >= 3, "{stats:?}");
    }
}
