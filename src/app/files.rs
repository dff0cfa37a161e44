//! How many files the process may open: each connection is one, and another towards its app.
//!
//! A gateway that runs out of them serves nobody, and many systems give a thousand by default and allow
//! half a million to whoever asks. So it asks, and takes no more connections than it has files for.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// For the store, the log, listeners, certificates and the operator.
const OTHERS: u64 = 128;

/// Asks for all that it may have; as many of `wanted` connections as there are files for.
pub(super) fn connections(wanted: usize) -> usize {
    let Some(files) = raised() else { return wanted };
    let fit = fit(files);
    if fit < wanted {
        warn!(
            event = "few-files",
            files,
            connections = fit,
            wanted,
            "too few open files are allowed for limits.connections; raise `ulimit -Hn` (LimitNOFILE= of systemd)"
        );
    }
    wanted.min(fit)
}

fn fit(files: u64) -> usize {
    usize::try_from(files.saturating_sub(OTHERS) / 2).unwrap_or(usize::MAX).max(1)
}

/// The limit as it is now; none where there is no limit.
fn raised() -> Option<u64> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Where it is refused, what holds is what held before.
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap_or_default();
    getrlimit(Resource::Nofile).current
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_needs_two_files_and_some_are_kept_for_others() {
        assert_eq!(fit(1024), 448);
        assert_eq!(fit(524_288), 262_080);
        assert_eq!(fit(10), 1);
    }

    #[test]
    fn the_limit_is_raised_as_far_as_it_may_be() {
        assert!(connections(1) == 1);
        let now = getrlimit(Resource::Nofile);
        assert_eq!(now.current, now.maximum);
    }
}
