//! Periodic refresh of the topology: a replaced master may still respond without errors.

use std::time::Duration;

use tokio::time::sleep;
use tracing::{info, warn};

use super::connector::Connector;
use super::topology::Topology;

/// Interval of the refresh. It limits the time of writes to a replaced master.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// Never returns, except for a fixed topology.
pub(super) async fn run(topology: &Topology, connector: &Connector) {
    if topology.is_fixed() {
        return;
    }
    let (mut logged, mut last_error) = (String::new(), None);
    loop {
        let result = topology.refresh_now(connector).await.err();
        if result.is_some() && result != last_error {
            let error = result.as_ref().map(ToString::to_string).unwrap_or_default();
            warn!(event = "store.primaries-unknown", error, "the last known primaries stay in use");
        }
        last_error = result;
        let map = topology.map();
        let names: Vec<&str> = map.primaries.iter().map(|node| node.address.as_str()).collect();
        let names = names.join(" ");
        if names != logged {
            info!(event = "store.primaries-changed", primaries = names);
            logged = names;
        }
        sleep(REFRESH_INTERVAL).await;
    }
}
