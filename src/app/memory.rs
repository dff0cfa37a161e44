//! The memory of this process against what it may have.
//!
//! What counts is what the kernel counts when it looks for somebody to end: resident pages. Near the
//! limit strangers are turned away, at it everybody new, and the oldest connections without a session
//! are closed. Where the kernel does not say (another system than Linux), nothing happens.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, interval};
use tracing::info;

use crate::config::Memory;
use crate::proxy::{MemoryStrain, Strain};
use crate::server::Places;

/// An attacker on the same network fills a hundred megabytes in the meantime.
const LOOK: Duration = Duration::from_millis(100);

/// Pages that were given back are counted until the allocator returns them: what a closed connection
/// held shows late, and closing more at once would close too many.
const BETWEEN: Duration = Duration::from_secs(2);

const PAGE: u64 = 4096;

/// What is watched, and who is told.
pub(super) struct Watch {
    pub(super) most: u64,
    pub(super) strain: Arc<MemoryStrain>,
    pub(super) places: Arc<Places>,
}

/// The limit in bytes; none where there is none, or where it cannot be known.
pub(super) fn limit(wanted: Memory) -> Option<u64> {
    match wanted {
        Memory::Bytes(0) => None,
        Memory::Bytes(bytes) => Some(bytes),
        Memory::Auto => Some(available()? / 5 * 4),
    }
}

impl Watch {
    /// Looks for as long as the process runs.
    pub(super) async fn run(self) {
        info!(event = "memory-limit", bytes = self.most);
        let mut tick = interval(LOOK);
        let mut made_room: Option<Instant> = None;
        loop {
            tick.tick().await;
            let strain = strain(resident().unwrap_or_default(), self.most);
            self.strain.set(strain);
            if strain == Strain::Full && made_room.is_none_or(|at| at.elapsed() >= BETWEEN) {
                self.places.make_room();
                made_room = Some(Instant::now());
            }
        }
    }
}

/// From nine tenths on it is high.
fn strain(resident: u64, most: u64) -> Strain {
    if resident >= most {
        Strain::Full
    } else if resident >= most / 10 * 9 {
        Strain::High
    } else {
        Strain::None
    }
}

fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    pages.checked_mul(PAGE)
}

/// The least of what the machine has and what the control group allows.
fn available() -> Option<u64> {
    let machine = machine();
    let group = group();
    machine.into_iter().chain(group).min()
}

fn machine() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Version 2, in which every group has its limit in a file; "max" is none. A container sees its own
/// group as the root.
fn group() -> Option<u64> {
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
    fn strain_is_high_from_nine_tenths_on_and_full_at_the_limit() {
        let table = [(89, Strain::None), (90, Strain::High), (99, Strain::High)];
        for (resident, expected) in table {
            assert_eq!(strain(resident, 100), expected, "{resident}");
        }
        assert_eq!(strain(100, 100), Strain::Full);
    }

    #[test]
    fn auto_is_less_than_the_machine_has_and_more_than_we_hold_and_zero_is_none() {
        let auto = limit(Memory::Auto).expect("Linux says");
        assert!(auto < machine().expect("Linux says") && auto > resident().expect("Linux says"));
        assert_eq!(limit(Memory::Bytes(0)), None);
        assert_eq!(limit(Memory::Bytes(7)), Some(7));
    }
}
