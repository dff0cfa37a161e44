//! The queue for password hashing.
//!
//! A hash takes a core for tens of milliseconds, and clients without a session cause it. So the number of
//! concurrent hashes is bounded, and the attempts that wait are served fairly:
//!
//! - Attempts from places known for the account have a lane of their own with its own places, and three of
//!   four turns.
//! - Within a lane, the networks (IPv4 /24, IPv6 /48) take turns. A flood from one network delays others by
//!   one hash each.
//! - A full lane drops the newest attempt of the network with the most waiting attempts.
//! - One network has at most [`NETWORK_MAX`] hashes at a time, except in the known lane.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

/// Maximum number of concurrent hashes for one network. It is below the limit on failures of a network,
/// so attempts in progress alone never exhaust that limit.
const NETWORK_MAX: usize = 8;

/// Every so many turns, attempts from unknown places go first.
const UNKNOWN_TURN: u32 = 4;

/// Where an attempt waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuePlace {
    /// The client's network: IPv4 /24 or IPv6 /48.
    pub network: IpAddr,
    /// Whether the place is known for the account.
    pub is_known: bool,
}

/// The queue. Shared by all runtimes behind an [`Arc`].
#[derive(Debug)]
pub(super) struct HashQueue {
    lane_length: usize,
    state: Mutex<State>,
}

/// Permission to run one hash. Dropping it serves the next attempt.
#[derive(Debug)]
pub(super) struct HashPermit {
    queue: Arc<HashQueue>,
    /// `None` after the permit was returned.
    place: Option<QueuePlace>,
}

#[derive(Debug)]
struct State {
    free: usize,
    turn: u32,
    known: Lane,
    unknown: Lane,
    /// Running hashes of each network, without the known lane.
    running: HashMap<IpAddr, usize>,
}

/// Waiting attempts. Networks take turns; each serves its oldest attempt first.
#[derive(Debug, Default)]
struct Lane {
    turns: VecDeque<IpAddr>,
    waiting: HashMap<IpAddr, VecDeque<oneshot::Sender<HashPermit>>>,
    length: usize,
}

impl HashQueue {
    pub(super) fn new(permits: usize, lane_length: usize) -> HashQueue {
        let state = State {
            free: permits,
            turn: 0,
            known: Lane::default(),
            unknown: Lane::default(),
            running: HashMap::new(),
        };
        HashQueue { lane_length, state: Mutex::new(state) }
    }

    /// Waits for a permit; `None` if the lane is full. Dropping the future leaves the queue.
    pub(super) async fn acquire(self: &Arc<Self>, place: QueuePlace) -> Option<HashPermit> {
        let (sender, receiver) = oneshot::channel();
        let dropped = self.state().enter(place, sender, self.lane_length);
        drop(dropped);
        self.serve();
        receiver.await.ok()
    }

    /// Returns the number of attempts that wait.
    pub(super) fn waiting(&self) -> usize {
        let mut state = self.state();
        state.known.forget_abandoned();
        state.unknown.forget_abandoned();
        state.known.length + state.unknown.length
    }

    /// Hands free permits to waiting attempts. The lock is not held while a permit is sent, because a
    /// dropped permit takes it again.
    fn serve(self: &Arc<Self>) {
        loop {
            let next = self.state().next();
            let Some((place, sender)) = next else { return };
            let permit = HashPermit { queue: Arc::clone(self), place: Some(place) };
            // The permit of an abandoned attempt is returned here: its drop would recurse.
            if let Err(mut unsent) = sender.send(permit)
                && let Some(place) = unsent.place.take()
            {
                self.state().release(place);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    /// Adds an attempt. Returns the attempt that has to leave because the lane is full.
    fn enter(
        &mut self,
        place: QueuePlace,
        sender: oneshot::Sender<HashPermit>,
        limit: usize,
    ) -> Option<oneshot::Sender<HashPermit>> {
        let lane = if place.is_known { &mut self.known } else { &mut self.unknown };
        if lane.length >= limit {
            lane.forget_abandoned();
        }
        lane.push(place.network, sender);
        // A free permit is not a place in the queue.
        if lane.length > limit + self.free { lane.drop_newest_of_longest() } else { None }
    }

    /// Takes a permit for the attempt whose turn it is.
    fn next(&mut self) -> Option<(QueuePlace, oneshot::Sender<HashPermit>)> {
        if self.free == 0 {
            return None;
        }
        self.turn = self.turn.wrapping_add(1);
        let unknown_first = self.turn.is_multiple_of(UNKNOWN_TURN);
        let (place, sender) = match unknown_first {
            true => self.next_unknown().or_else(|| self.next_known()),
            false => self.next_known().or_else(|| self.next_unknown()),
        }?;
        self.free -= 1;
        Some((place, sender))
    }

    fn next_known(&mut self) -> Option<(QueuePlace, oneshot::Sender<HashPermit>)> {
        let (network, sender) = self.known.pop(|_| true)?;
        Some((QueuePlace { network, is_known: true }, sender))
    }

    fn next_unknown(&mut self) -> Option<(QueuePlace, oneshot::Sender<HashPermit>)> {
        let running = &self.running;
        let may_run = |network: IpAddr| running.get(&network).is_none_or(|now| *now < NETWORK_MAX);
        let (network, sender) = self.unknown.pop(may_run)?;
        *self.running.entry(network).or_default() += 1;
        Some((QueuePlace { network, is_known: false }, sender))
    }

    fn release(&mut self, place: QueuePlace) {
        self.free += 1;
        if !place.is_known
            && let Some(running) = self.running.get_mut(&place.network)
        {
            *running = running.saturating_sub(1);
            if *running == 0 {
                self.running.remove(&place.network);
            }
        }
    }
}

impl Lane {
    fn push(&mut self, network: IpAddr, sender: oneshot::Sender<HashPermit>) {
        let attempts = self.waiting.entry(network).or_default();
        if attempts.is_empty() {
            self.turns.push_back(network);
        }
        attempts.push_back(sender);
        self.length += 1;
    }

    /// Removes the oldest attempt of the next network that may run.
    fn pop(
        &mut self,
        may_run: impl Fn(IpAddr) -> bool,
    ) -> Option<(IpAddr, oneshot::Sender<HashPermit>)> {
        let at = self.turns.iter().position(|network| may_run(*network))?;
        let network = self.turns.remove(at)?;
        let attempts = self.waiting.get_mut(&network)?;
        let sender = attempts.pop_front()?;
        self.length -= 1;
        if attempts.is_empty() {
            self.waiting.remove(&network);
        } else {
            self.turns.push_back(network);
        }
        Some((network, sender))
    }

    fn drop_newest_of_longest(&mut self) -> Option<oneshot::Sender<HashPermit>> {
        let longest = self.waiting.iter().max_by_key(|(_, attempts)| attempts.len());
        let network = longest.map(|(network, _)| *network)?;
        let attempts = self.waiting.get_mut(&network)?;
        let newest = attempts.pop_back()?;
        self.length -= 1;
        if attempts.is_empty() {
            self.waiting.remove(&network);
            self.turns.retain(|turn| *turn != network);
        }
        Some(newest)
    }

    /// Removes the attempts whose client or patience is gone.
    fn forget_abandoned(&mut self) {
        self.waiting.retain(|_, attempts| {
            attempts.retain(|sender| !sender.is_closed());
            !attempts.is_empty()
        });
        self.turns.retain(|network| self.waiting.contains_key(network));
        self.length = self.waiting.values().map(VecDeque::len).sum();
    }
}

impl Drop for HashPermit {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            self.queue.state().release(place);
            self.queue.serve();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(network: u8, is_known: bool) -> QueuePlace {
        QueuePlace { network: IpAddr::from([10, 0, network, 0]), is_known }
    }

    /// Enters the queue in this order, then returns the order in which attempts are served.
    async fn served(queue: &Arc<HashQueue>, places: &[QueuePlace]) -> Vec<Option<u8>> {
        let first = queue.acquire(place(99, true)).await.expect("free");
        let (report, mut reports) = tokio::sync::mpsc::unbounded_channel();
        for place in places.iter().copied() {
            let (queue, report) = (Arc::clone(queue), report.clone());
            let before = tokio::spawn(async move {
                let permit = queue.acquire(place).await;
                let IpAddr::V4(network) = place.network else { return };
                let number = network.octets()[2];
                report.send(permit.is_some().then_some(number)).expect("a receiver");
            });
            tokio::task::yield_now().await;
            drop(before);
        }
        drop((first, report));
        let mut order = Vec::new();
        while let Some(number) = reports.recv().await {
            order.push(number);
        }
        order
    }

    #[tokio::test]
    async fn networks_take_turns() {
        let queue = Arc::new(HashQueue::new(1, 100));
        let flood = [1, 1, 1, 1, 2, 3].map(|network| place(network, false));
        let order = served(&queue, &flood).await;
        assert_eq!(order, [1, 2, 3, 1, 1, 1].map(Some));
    }

    #[tokio::test]
    async fn known_places_have_three_of_four_turns() {
        let queue = Arc::new(HashQueue::new(1, 100));
        let places: Vec<_> = (0..12).map(|n| place(u8::from(n >= 6) + 1, n >= 6)).collect();
        let order: Vec<u8> = served(&queue, &places).await.into_iter().flatten().collect();
        let known = order[..8].iter().filter(|network| **network == 2).count();
        assert_eq!(known, 6, "{order:?}");
        assert_eq!(order.len(), 12);
    }

    #[tokio::test]
    async fn a_full_lane_drops_from_the_longest_network() {
        let queue = Arc::new(HashQueue::new(1, 3));
        let flood = [1, 1, 1, 1, 2].map(|network| place(network, false));
        let order = served(&queue, &flood).await;
        let refused = order.iter().filter(|served| served.is_none()).count();
        assert_eq!(refused, 2, "{order:?}");
        assert!(order.contains(&Some(2)), "{order:?}");
    }

    #[tokio::test]
    async fn an_abandoned_attempt_keeps_no_permit() {
        let queue = Arc::new(HashQueue::new(1, 3));
        let first = queue.acquire(place(1, false)).await.expect("free");
        let waiting = {
            let queue = Arc::clone(&queue);
            tokio::spawn(async move { queue.acquire(place(2, false)).await })
        };
        tokio::task::yield_now().await;
        waiting.abort();
        drop(first);
        assert!(queue.acquire(place(3, false)).await.is_some());
    }

    #[tokio::test]
    async fn one_network_never_has_all_permits() {
        let queue = Arc::new(HashQueue::new(NETWORK_MAX + 2, 100));
        let mut held = Vec::new();
        for _ in 0..NETWORK_MAX {
            held.push(queue.acquire(place(1, false)).await.expect("free"));
        }
        let ninth = queue.acquire(place(1, false));
        let elsewhere = queue.acquire(place(2, false));
        tokio::select! {
            biased;
            _ = ninth => panic!("a ninth hash of one network"),
            other = elsewhere => assert!(other.is_some()),
        }
    }
}
