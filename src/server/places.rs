//! Room for connections: who gets a place, and who gives one up.
//!
//! - A network (an IPv4 address, an IPv6 /64) has at most its share, and so many new ones in a second.
//!   Beyond that its connections are closed before TLS, which costs one accept.
//! - When all places are taken, a new connection gets the place of the oldest one on which no session
//!   was shown, one without a request under way if there is such. Whoever holds connections open is
//!   so displaced by those who want to be served, and those with a session are never displaced.
//!
//! Trusted proxies are no network of clients: they are counted in all only.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::proxy::{Hold, Seat};
use crate::telemetry::Limit;

use super::bucket::{Bucket, Rate};
use super::pulse::Pulse;

/// New connections of a network that may come at once, in seconds of its rate.
const BURST: Duration = Duration::from_secs(5);

/// How many of the oldest strangers are looked at for one that does nothing.
const LOOKED_AT: usize = 32;

/// Networks that are remembered beyond those with an open connection.
const REMEMBERED: usize = 4096;

/// All places, shared by the workers.
pub struct Places {
    room: Room,
    taken: Mutex<Taken>,
}

/// How much there is.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub connections: usize,
    pub per_network: usize,
    /// New ones of one network in a second.
    pub rate: u32,
}

/// One connection's place. Dropping it gives it up.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    network: Option<IpAddr>,
    kept: AtomicBool,
}

#[derive(Default)]
struct Taken {
    count: usize,
    next: u64,
    networks: HashMap<IpAddr, Network>,
    /// Connections without a session, the oldest first.
    strangers: BTreeMap<u64, Stranger>,
}

struct Network {
    open: usize,
    fresh: Bucket,
}

struct Stranger {
    network: Option<IpAddr>,
    pulse: Arc<Pulse>,
}

impl Places {
    /// Empty room.
    pub fn new(room: Room) -> Places {
        Places { room, taken: Mutex::default() }
    }

    /// A place for a connection of `peer`, or the limit that has none. `counted` is false for a peer
    /// that speaks for many clients.
    pub(super) fn admit(
        self: &Arc<Self>,
        peer: IpAddr,
        counted: bool,
        pulse: &Arc<Pulse>,
    ) -> Result<Place, Limit> {
        let network = counted.then(|| network_of(peer));
        let mut taken = self.taken();
        if let Some(network) = network {
            taken.check(network, self.room, Instant::now())?;
        }
        if taken.count >= self.room.connections && !taken.displace() {
            return Err(Limit::Connections);
        }
        let number = taken.seat(Stranger { network, pulse: Arc::clone(pulse) });
        Ok(Place { places: Arc::clone(self), number, network, kept: AtomicBool::new(false) })
    }

    /// Closes the oldest tenth of the connections without a session: memory is short.
    pub fn make_room(&self) -> usize {
        let mut taken = self.taken();
        let tenth = taken.strangers.len().div_ceil(10);
        (0..tenth).filter(|_| taken.displace()).count()
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Places").field("room", &self.room).finish_non_exhaustive()
    }
}

impl Place {
    /// A session was shown here: from now on nobody displaces it.
    pub(super) fn keep(&self) {
        if !self.kept.load(Ordering::Relaxed) {
            let left = self.places.taken().strangers.remove(&self.number);
            // A stranger who was just displaced stays so.
            self.kept.store(left.is_some(), Ordering::Relaxed);
        }
    }
}

/// The place of a connection that became a tunnel, or may: it counts for as long as that goes on, and
/// can be asked for.
pub(super) struct Seated {
    _place: Arc<Place>,
    pulse: Arc<Pulse>,
}

impl Seated {
    pub(super) fn of(place: &Arc<Place>, pulse: &Arc<Pulse>) -> Seat {
        // It does not rest meanwhile: those at rest are displaced first.
        pulse.begin_writing();
        Seat(Arc::new(Seated { _place: Arc::clone(place), pulse: Arc::clone(pulse) }))
    }
}

impl Hold for Seated {
    fn wanted(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.pulse.displaced())
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        self.pulse.end();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        if taken.strangers.remove(&self.number).is_some() || self.kept.load(Ordering::Relaxed) {
            taken.release(self.network);
        }
    }
}

impl Taken {
    /// Whether the network may have one more. Refused attempts cost it nothing.
    fn check(&mut self, network: IpAddr, room: Room, now: Instant) -> Result<(), Limit> {
        if self.networks.len() > self.count + REMEMBERED {
            self.networks.retain(|_, network| network.open > 0 || !network.fresh.is_even(now));
        }
        let rate = Rate { every: Duration::from_secs(1) / room.rate.max(1), burst: BURST };
        let fresh = Bucket::new(now);
        let known = self.networks.entry(network).or_insert(Network { open: 0, fresh });
        if known.open >= room.per_network {
            return Err(Limit::ConnectionsPerNetwork);
        }
        if known.fresh.take(rate, now) { Ok(()) } else { Err(Limit::ConnectionRate) }
    }

    fn seat(&mut self, stranger: Stranger) -> u64 {
        let number = self.next;
        self.next += 1;
        self.count += 1;
        if let Some(network) = stranger.network.and_then(|known| self.networks.get_mut(&known)) {
            network.open += 1;
        }
        self.strangers.insert(number, stranger);
        number
    }

    /// Sends one stranger away; false when there is none.
    fn displace(&mut self) -> bool {
        let oldest = self.strangers.iter().take(LOOKED_AT);
        let resting = oldest.clone().find(|(_, stranger)| stranger.pulse.is_resting());
        let Some(number) = resting.or(self.strangers.iter().next()).map(|(number, _)| *number)
        else {
            return false;
        };
        if let Some(stranger) = self.strangers.remove(&number) {
            stranger.pulse.displace();
            self.release(stranger.network);
        }
        true
    }

    fn release(&mut self, network: Option<IpAddr>) {
        self.count -= 1;
        let Some(address) = network else { return };
        if let Some(network) = self.networks.get_mut(&address) {
            network.open -= 1;
            if network.open == 0 && network.fresh.is_even(Instant::now()) {
                self.networks.remove(&address);
            }
        }
    }
}

/// What one subscriber can change at will is one.
fn network_of(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(connections: usize, per_network: usize, rate: u32) -> Arc<Places> {
        Arc::new(Places::new(Room { connections, per_network, rate }))
    }

    fn peer(number: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, number])
    }

    #[derive(Debug)]
    struct Client {
        place: Place,
        pulse: Arc<Pulse>,
    }

    fn come(places: &Arc<Places>, peer: IpAddr) -> Result<Client, Limit> {
        let pulse = Arc::new(Pulse::new());
        let place = places.admit(peer, true, &pulse)?;
        Ok(Client { place, pulse })
    }

    #[test]
    fn one_network_has_its_share_and_others_have_theirs() {
        let places = places(100, 3, 1000);
        let mut first: Vec<_> = (0..3).map(|_| come(&places, peer(1)).expect("a place")).collect();
        assert_eq!(come(&places, peer(1)).err(), Some(Limit::ConnectionsPerNetwork));
        assert!(come(&places, peer(2)).is_ok());
        first.pop();
        assert!(come(&places, peer(1)).is_ok());
    }

    #[test]
    fn an_ipv6_network_is_a_slash_64_and_a_mapped_address_is_its_ipv4_one() {
        let address = |text: &str| network_of(text.parse().expect("an address"));
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:0:0:1"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(address("::ffff:192.0.2.1"), peer(1));
    }

    #[test]
    fn a_network_that_comes_and_goes_quickly_meets_its_rate() {
        let places = places(100, 100, 10);
        let came = (0..200).filter(|_| come(&places, peer(1)).is_ok()).count();
        assert!((50..60).contains(&came), "{came}");
        assert_eq!(come(&places, peer(1)).err(), Some(Limit::ConnectionRate));
        assert!(come(&places, peer(2)).is_ok());
    }

    #[test]
    fn a_proxy_that_speaks_for_many_is_counted_in_all_only() {
        let places = places(100, 1, 1);
        let pulse = Arc::new(Pulse::new());
        let held: Vec<_> = (0..50).map(|_| places.admit(peer(1), false, &pulse)).collect();
        assert!(held.iter().all(Result::is_ok));
    }

    #[test]
    fn when_all_places_are_taken_the_oldest_stranger_at_rest_gives_up_its_own() {
        let places = places(3, 3, 1000);
        let old = come(&places, peer(1)).expect("a place");
        let resting = come(&places, peer(2)).expect("a place");
        let known = come(&places, peer(3)).expect("a place");
        old.pulse.begin();
        known.place.keep();
        let new = come(&places, peer(4)).expect("a place");
        assert!(resting.pulse.is_displaced() && !old.pulse.is_displaced());
        new.pulse.begin();
        let newer = come(&places, peer(5)).expect("a place");
        assert!(old.pulse.is_displaced(), "the oldest, since nobody rests");
        newer.place.keep();
        new.place.keep();
        assert_eq!(come(&places, peer(6)).err(), Some(Limit::Connections));
        assert!(!known.pulse.is_displaced());
    }

    #[test]
    fn places_are_counted_once_however_a_connection_ends() {
        let places = places(2, 2, 1000);
        for round in 0..10_u8 {
            let first = come(&places, peer(round)).expect("a place");
            let second = come(&places, peer(round)).expect("a place");
            first.place.keep();
            let third = come(&places, peer(99)).expect("a place");
            assert!(second.pulse.is_displaced());
            second.place.keep();
            drop((first, second, third));
            let taken = places.taken();
            assert_eq!((taken.count, taken.strangers.len()), (0, 0));
            assert!(taken.networks.values().all(|network| network.open == 0));
        }
    }

    #[test]
    fn when_memory_is_short_a_tenth_of_the_strangers_goes() {
        let places = places(100, 100, 1000);
        let held: Vec<_> = (0..25).map(|_| come(&places, peer(1)).expect("a place")).collect();
        assert_eq!(places.make_room(), 3);
        assert_eq!(held.iter().filter(|client| client.pulse.is_displaced()).count(), 3);
    }

    #[test]
    fn networks_that_came_once_are_forgotten() {
        let places = places(10, 10, 1_000_000);
        for number in 0..20_000_u32 {
            let address = IpAddr::from(number.to_be_bytes());
            drop(come(&places, address));
        }
        assert!(places.taken().networks.len() <= REMEMBERED + 1);
    }
}
