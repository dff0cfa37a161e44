//! The limit on open files (RLIMIT_NOFILE). A client connection takes one descriptor, and its upstream
//! connection another.
//!
//! A gateway without free descriptors accepts no connection. Many systems set a soft limit of 1,024 and a
//! hard limit of 524,288. The soft limit is therefore raised to the hard limit at start, and the number of
//! client connections is capped to fit.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Descriptors for the store, logs, listeners, certificates and the admin API.
const RESERVED_FDS: u64 = 128;

/// Raises the limit and returns `wanted`, or fewer connections if the descriptors do not suffice.
pub(super) fn max_connections(wanted: usize) -> usize {
    let Some(files) = raise_limit() else { return wanted };
    let fit = connections_for(files);
    if fit < wanted {
        warn!(
            event = "process.nofile-limit-low",
            files,
            connections = fit,
            wanted,
            "the limit on open files is too low for limits.connections; raise `ulimit -Hn` (systemd: LimitNOFILE=)"
        );
    }
    wanted.min(fit)
}

fn connections_for(files: u64) -> usize {
    usize::try_from(files.saturating_sub(RESERVED_FDS) / 2).unwrap_or(usize::MAX).max(1)
}

/// Raises the soft limit to the hard limit and returns it; `None` means unlimited.
fn raise_limit() -> Option<u64> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // If the kernel refuses, the previous limit remains, and is what the next call returns.
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap_or_default();
    getrlimit(Resource::Nofile).current
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_needs_two_descriptors_beside_the_reserve() {
        assert_eq!(connections_for(1024), 448);
        assert_eq!(connections_for(524_288), 262_080);
        assert_eq!(connections_for(10), 1);
    }

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_limit() {
        assert!(max_connections(1) == 1);
        let now = getrlimit(Resource::Nofile);
        assert_eq!(now.current, now.maximum);
    }
}
