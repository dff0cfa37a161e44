//! Looks where the primaries are while nothing fails: a master that was replaced may still answer.

use std::time::Duration;

use tokio::time::sleep;
use tracing::{info, warn};

use super::Redis;

/// How long writes may go to a master that is none any more and does not know it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Redis {
    /// For ever. Returns at once where there is nobody to ask.
    pub(in crate::store) async fn tend(&self) {
        let (topology, dialer) = (&self.shared.topology, &self.shared.dialer);
        if topology.is_fixed() {
            return;
        }
        let (mut told, mut trouble) = (String::new(), None);
        loop {
            let looked = topology.refresh(dialer).await.err();
            if looked.is_some() && looked != trouble {
                let error = looked.as_ref().map(ToString::to_string).unwrap_or_default();
                warn!(event = "primaries-unknown", error, "the last known ones are asked");
            }
            trouble = looked;
            let map = topology.map();
            let names: Vec<&str> = map.primaries.iter().map(|one| one.address.as_str()).collect();
            let names = names.join(" ");
            if names != told {
                info!(event = "primaries", primaries = names);
                told = names;
            }
            sleep(LOOK_EVERY).await;
        }
    }
}
