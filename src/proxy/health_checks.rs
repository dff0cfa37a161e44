//! Active health checks: one task for each endpoint of the process.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::message::Endpoint;
use crate::route::{HealthCheck, RouteTable};
use crate::secret::random_bytes;
use crate::tls::TlsError;
use crate::upstream::EndpointStates;

use super::endpoint_check::{Check, CheckClient};
use super::shared_endpoints::SharedEndpoints;
use super::upstream_clusters::connect_to;

/// Longest time until the first check, so that many endpoints are not all checked at once.
const FIRST_DELAY: Duration = Duration::from_secs(1);

/// The running checks. They end when this is dropped.
#[derive(Default)]
pub struct HealthChecks {
    /// Routes that the checks belong to.
    routes: Option<Arc<RouteTable>>,
    tasks: JoinSet<()>,
}

impl HealthChecks {
    /// Runs the checks of these routes instead of those before. States of endpoints stay.
    ///
    /// # Errors
    /// A CA file of a route cannot be read. The checks of this route do not run.
    pub fn follow(
        &mut self,
        routes: &Arc<RouteTable>,
        endpoints: &SharedEndpoints,
    ) -> Result<(), TlsError> {
        if self.routes.as_ref().is_some_and(|running| Arc::ptr_eq(running, routes)) {
            return Ok(());
        }
        self.tasks = JoinSet::new();
        let mut followed = Vec::new();
        let mut result = Ok(());
        for route in routes.iter() {
            let Some(check) = Check::of(route) else { continue };
            let states = endpoints.states(route);
            let new = |it: &&Endpoint| !followed.contains(&(states.clone(), Endpoint::clone(it)));
            let unchecked: Vec<Endpoint> = route.upstreams.iter().filter(new).cloned().collect();
            followed.extend(unchecked.iter().map(|endpoint| (states.clone(), endpoint.clone())));
            match connect_to(route, check.connection_settings()) {
                Ok(client) => self.start(&check, client, &states, unchecked),
                Err(error) => result = Err(error),
            }
        }
        // After an error, the next call tries again.
        self.routes = result.is_ok().then(|| Arc::clone(routes));
        result
    }

    fn start(
        &mut self,
        check: &Check,
        client: CheckClient,
        states: &EndpointStates,
        unchecked: Vec<Endpoint>,
    ) {
        let client = Arc::new(client.with_shared_states(states.clone(), 0));
        for endpoint in unchecked {
            let checks = repeat(check.clone(), Arc::clone(&client), states.clone(), endpoint);
            self.tasks.spawn(checks);
        }
    }
}

async fn repeat(
    check: Check,
    client: Arc<CheckClient>,
    states: EndpointStates,
    endpoint: Endpoint,
) {
    let HealthCheck { interval, fall, rise, .. } = check.settings;
    let mut delay = jittered(interval.min(FIRST_DELAY), random_bytes()) / 2;
    let state = states.get(&endpoint);
    loop {
        tokio::time::sleep(delay).await;
        let failure = check.run(&client, &endpoint).await.err();
        state.record_check(failure.as_ref().map(|error| error as &dyn Display), fall, rise);
        delay = jittered(interval, random_bytes());
    }
}

/// Returns the duration, shorter or longer by at most a tenth.
fn jittered(duration: Duration, [random]: [u8; 1]) -> Duration {
    duration * (900 + u32::from(random) * 200 / 255) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_jitter_is_at_most_a_tenth() {
        let ten = Duration::from_secs(10);
        assert_eq!(jittered(ten, [0]), Duration::from_secs(9));
        assert_eq!(jittered(ten, [255]), Duration::from_secs(11));
    }
}
