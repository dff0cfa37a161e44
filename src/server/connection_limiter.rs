//! Connection limits and eviction.
//!
//! - Each network (an IPv4 address or an IPv6 /64) has a limit of open connections and a rate of new ones;
//!   an IPv6 /56 has twice as many, and a /48 four times. Connections over a limit are closed before TLS, at
//!   the cost of one accept.
//! - When the total limit is reached, a new connection evicts the oldest unauthenticated one, preferably an
//!   idle one. Connections with a session are never evicted, so holding connections open denies no service.
//!
//! Trusted proxies count only against the total limit.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::connections::Evictable;
use crate::session::context::{IPV6_NETWORKS, prefix, subscriber_network};
use crate::telemetry::Limit;

use super::connection_activity::ConnectionActivity;
use super::gcra::{Gcra, Quota};

/// Burst of new connections per network, in seconds of its rate.
const BURST_WINDOW: Duration = Duration::from_secs(5);

/// Number of candidates searched for an idle one.
const MAX_SCAN: usize = 32;

/// Networks without an open connection whose rate is kept.
const MAX_IDLE_NETWORKS: usize = 4096;

/// The limits and all open connections, shared by the workers.
pub struct ConnectionLimiter {
    state: Mutex<LimiterState>,
}

/// Limits on client connections.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    pub connections: usize,
    pub per_network: usize,
    /// New connections of one network per second.
    pub rate: u32,
}

/// Counts one connection against the limits. Dropping it releases the count.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    limiter: Arc<ConnectionLimiter>,
    id: u64,
    network: Option<IpAddr>,
    protected: AtomicBool,
}

struct LimiterState {
    limits: ConnectionLimits,
    count: usize,
    next_id: u64,
    /// By first address and prefix length.
    networks: HashMap<(IpAddr, u32), NetworkUsage>,
    /// Connections without a session, oldest first.
    candidates: BTreeMap<u64, EvictionCandidate>,
}

struct NetworkUsage {
    open: usize,
    opens: Gcra,
}

struct EvictionCandidate {
    network: Option<IpAddr>,
    activity: Arc<ConnectionActivity>,
}

impl ConnectionLimiter {
    /// A limiter without connections.
    pub fn new(limits: ConnectionLimits) -> ConnectionLimiter {
        let state = LimiterState {
            limits,
            count: 0,
            next_id: 0,
            networks: HashMap::new(),
            candidates: BTreeMap::new(),
        };
        ConnectionLimiter { state: Mutex::new(state) }
    }

    /// Replaces the limits. Open connections remain.
    pub fn configure(&self, limits: ConnectionLimits) {
        self.state.lock().limits = limits;
    }

    /// Returns a permit for a connection of `peer`. `counted` is false for a trusted proxy.
    ///
    /// # Errors
    /// The limit that was reached.
    pub(super) fn acquire(
        self: &Arc<Self>,
        peer: IpAddr,
        counted: bool,
        activity: &Arc<ConnectionActivity>,
    ) -> Result<ConnectionPermit, Limit> {
        let network = counted.then(|| subscriber_network(peer));
        let mut state = self.state.lock();
        if let Some(network) = network {
            state.check_network(network, Instant::now())?;
        }
        if state.count >= state.limits.connections && !state.evict_one() {
            return Err(Limit::Connections);
        }
        let id = state.insert(EvictionCandidate { network, activity: Arc::clone(activity) });
        Ok(ConnectionPermit {
            limiter: Arc::clone(self),
            id,
            network,
            protected: AtomicBool::new(false),
        })
    }

    /// Evicts the oldest tenth of the unauthenticated connections, to free memory. Returns their number.
    pub fn evict_tenth(&self) -> usize {
        let mut state = self.state.lock();
        let tenth = state.candidates.len().div_ceil(10);
        (0..tenth).filter(|_| state.evict_one()).count()
    }
}

impl fmt::Debug for ConnectionLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionLimiter")
            .field("limits", &self.state.lock().limits)
            .finish_non_exhaustive()
    }
}

impl ConnectionPermit {
    /// Exempts the connection from eviction, because a request had a valid session.
    pub(super) fn protect(&self) {
        if !self.protected.load(Ordering::Relaxed) {
            let left = self.limiter.state.lock().candidates.remove(&self.id);
            // An eviction that already happened is not undone.
            self.protected.store(left.is_some(), Ordering::Relaxed);
        }
    }
}

/// The permit of a connection that is or may become a tunnel. It remains evictable.
pub(super) struct UpgradePermit {
    _permit: Arc<ConnectionPermit>,
    activity: Arc<ConnectionActivity>,
}

impl UpgradePermit {
    pub(super) fn new(
        permit: &Arc<ConnectionPermit>,
        activity: &Arc<ConnectionActivity>,
    ) -> UpgradePermit {
        // A tunnel is not idle; idle connections are evicted first.
        activity.hold();
        UpgradePermit { _permit: Arc::clone(permit), activity: Arc::clone(activity) }
    }
}

impl Evictable for UpgradePermit {
    fn evicted(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.activity.evicted())
    }
}

impl Drop for UpgradePermit {
    fn drop(&mut self) {
        self.activity.release();
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut state = self.limiter.state.lock();
        if state.candidates.remove(&self.id).is_some() || self.protected.load(Ordering::Relaxed) {
            state.release(self.network);
        }
    }
}

impl LimiterState {
    /// Checks the limits of a network and of the wider ones around it. A rejected connection does not
    /// consume the rate of the network that rejected it, or of a wider one.
    fn check_network(&mut self, network: IpAddr, now: Instant) -> Result<(), Limit> {
        let limits = self.limits;
        let open = self.count.saturating_mul(IPV6_NETWORKS.len());
        if self.networks.len() > open + MAX_IDLE_NETWORKS {
            self.networks
                .retain(|_, network| network.open > 0 || !network.opens.is_replenished(now));
        }
        let opens = Gcra::new(now);
        for (key, factor) in networks_around(network) {
            let rate = limits.rate.max(1).saturating_mul(factor);
            let quota = Quota { interval: Duration::from_secs(1) / rate, burst: BURST_WINDOW };
            let factor = usize::try_from(factor).unwrap_or(usize::MAX);
            let existing = self.networks.entry(key).or_insert(NetworkUsage { open: 0, opens });
            if existing.open >= limits.per_network.saturating_mul(factor) {
                return Err(Limit::ConnectionsPerNetwork);
            }
            if !existing.opens.try_acquire(quota, now) {
                return Err(Limit::ConnectionRate);
            }
        }
        Ok(())
    }

    fn insert(&mut self, candidate: EvictionCandidate) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.count += 1;
        for (key, _) in candidate.network.into_iter().flat_map(networks_around) {
            if let Some(network) = self.networks.get_mut(&key) {
                network.open += 1;
            }
        }
        self.candidates.insert(id, candidate);
        id
    }

    /// Evicts one unauthenticated connection. Returns false if there is none.
    fn evict_one(&mut self) -> bool {
        let oldest = self.candidates.iter().take(MAX_SCAN);
        let idle = oldest.clone().find(|(_, candidate)| candidate.activity.is_idle());
        let Some(id) = idle.or(self.candidates.iter().next()).map(|(id, _)| *id) else {
            return false;
        };
        if let Some(candidate) = self.candidates.remove(&id) {
            candidate.activity.evict();
            self.release(candidate.network);
        }
        true
    }

    fn release(&mut self, network: Option<IpAddr>) {
        self.count -= 1;
        for (key, _) in network.into_iter().flat_map(networks_around) {
            let Some(network) = self.networks.get_mut(&key) else { continue };
            network.open -= 1;
            if network.open == 0 && network.opens.is_replenished(Instant::now()) {
                self.networks.remove(&key);
            }
        }
    }
}

/// Returns the networks that count a connection, with the multiple of the limits. An IPv4 /24 is not among
/// them: mobile networks share one between many thousand users.
fn networks_around(network: IpAddr) -> impl Iterator<Item = ((IpAddr, u32), u32)> {
    let lengths: &[(u32, u32)] = match network {
        IpAddr::V4(_) => &[(32, 1)],
        IpAddr::V6(_) => &IPV6_NETWORKS,
    };
    lengths.iter().map(move |(length, factor)| ((prefix(network, *length), *length), *factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(connections: usize, per_network: usize, rate: u32) -> Arc<ConnectionLimiter> {
        Arc::new(ConnectionLimiter::new(ConnectionLimits { connections, per_network, rate }))
    }

    fn peer(id: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, id])
    }

    #[derive(Debug)]
    struct Client {
        permit: ConnectionPermit,
        activity: Arc<ConnectionActivity>,
    }

    fn connect(limiter: &Arc<ConnectionLimiter>, peer: IpAddr) -> Result<Client, Limit> {
        let activity = Arc::new(ConnectionActivity::new());
        let permit = limiter.acquire(peer, true, &activity)?;
        Ok(Client { permit, activity })
    }

    #[test]
    fn the_limit_of_one_network_does_not_affect_others() {
        let limiter = limiter(100, 3, 1000);
        let mut first: Vec<_> =
            (0..3).map(|_| connect(&limiter, peer(1)).expect("a permit")).collect();
        assert_eq!(connect(&limiter, peer(1)).err(), Some(Limit::ConnectionsPerNetwork));
        assert!(connect(&limiter, peer(2)).is_ok());
        first.pop();
        assert!(connect(&limiter, peer(1)).is_ok());
    }

    #[test]
    fn the_rate_of_new_connections_per_network_is_limited() {
        let limiter = limiter(100, 100, 10);
        let accepted = (0..200).filter(|_| connect(&limiter, peer(1)).is_ok()).count();
        assert!((50..60).contains(&accepted), "{accepted}");
        assert_eq!(connect(&limiter, peer(1)).err(), Some(Limit::ConnectionRate));
        assert!(connect(&limiter, peer(2)).is_ok());
    }

    #[test]
    fn an_ipv6_48_cannot_multiply_its_limits() {
        let address = |n: u128| IpAddr::from((0x2001_0db8_0001_u128 << 80 | n << 64).to_be_bytes());
        let limiter = limiter(1_000, 5, 1_000);
        let open: Vec<_> = (0..100).map(|n| connect(&limiter, address(n * 0x100))).collect();
        let accepted = open.iter().filter(|opened| opened.is_ok()).count();
        assert_eq!(accepted, 20, "four times the limit of a network");
        let elsewhere = IpAddr::from((0x2001_0db8_0002_u128 << 80).to_be_bytes());
        assert!(connect(&limiter, elsewhere).is_ok());
        drop(open);
        assert!(connect(&limiter, address(0)).is_ok());
        assert!(limiter.state.lock().networks.values().all(|network| network.open == 0));
    }

    #[test]
    fn trusted_proxies_count_against_the_total_only() {
        let limiter = limiter(100, 1, 1);
        let activity = Arc::new(ConnectionActivity::new());
        let permits: Vec<_> = (0..50).map(|_| limiter.acquire(peer(1), false, &activity)).collect();
        assert!(permits.iter().all(Result::is_ok));
    }

    #[test]
    fn a_full_limiter_evicts_the_oldest_idle_candidate() {
        let limiter = limiter(3, 3, 1000);
        let old = connect(&limiter, peer(1)).expect("a permit");
        let idle = connect(&limiter, peer(2)).expect("a permit");
        let existing = connect(&limiter, peer(3)).expect("a permit");
        old.activity.request_started();
        existing.permit.protect();
        let new = connect(&limiter, peer(4)).expect("a permit");
        assert!(idle.activity.is_evicted() && !old.activity.is_evicted());
        new.activity.request_started();
        let newer = connect(&limiter, peer(5)).expect("a permit");
        assert!(old.activity.is_evicted(), "the oldest, since none is idle");
        newer.permit.protect();
        new.permit.protect();
        assert_eq!(connect(&limiter, peer(6)).err(), Some(Limit::Connections));
        assert!(!existing.activity.is_evicted());
    }

    #[test]
    fn permits_are_released_exactly_once() {
        let limiter = limiter(2, 2, 1000);
        for round in 0..10_u8 {
            let first = connect(&limiter, peer(round)).expect("a permit");
            let second = connect(&limiter, peer(round)).expect("a permit");
            first.permit.protect();
            let third = connect(&limiter, peer(99)).expect("a permit");
            assert!(second.activity.is_evicted());
            second.permit.protect();
            drop((first, second, third));
            let state = limiter.state.lock();
            assert_eq!((state.count, state.candidates.len()), (0, 0));
            assert!(state.networks.values().all(|network| network.open == 0));
        }
    }

    #[test]
    fn evict_tenth_evicts_a_tenth_of_the_candidates() {
        let limiter = limiter(100, 100, 1000);
        let permits: Vec<_> =
            (0..25).map(|_| connect(&limiter, peer(1)).expect("a permit")).collect();
        assert_eq!(limiter.evict_tenth(), 3);
        assert_eq!(permits.iter().filter(|client| client.activity.is_evicted()).count(), 3);
    }

    #[test]
    fn idle_networks_are_dropped() {
        let limiter = limiter(10, 10, 1_000_000);
        for id in 0..20_000_u32 {
            let address = IpAddr::from(id.to_be_bytes());
            drop(connect(&limiter, address));
        }
        assert!(limiter.state.lock().networks.len() <= MAX_IDLE_NETWORKS + 1);
    }
}
