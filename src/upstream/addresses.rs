//! TCP connections to a name with several addresses (Happy Eyeballs, RFC 8305).
//!
//! An address that does not answer must not delay every request: the next address is tried after a short
//! wait, and the silent one is tried last for a while.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::message::Endpoint;

use super::error::UpstreamError;
use super::resolver::{Answers, Resolver};

/// Time after which the next address is tried too (RFC 8305 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Time for which an address without an answer is tried last.
const DEMOTION: Duration = Duration::from_secs(60);

/// Addresses of one endpoint.
#[derive(Default)]
pub(super) struct Addresses {
    resolver: Resolver,
    answers: Mutex<Answers>,
    /// Number of connections, which rotate over the addresses.
    turns: AtomicUsize,
    /// Addresses that did not answer, with the time of the last attempt.
    silent: Mutex<HashMap<SocketAddr, Instant>>,
}

impl Addresses {
    pub(super) fn new(resolver: Resolver) -> Addresses {
        Addresses { resolver, ..Addresses::default() }
    }

    /// Resolves the endpoint and connects to the first address that answers. If all addresses of an earlier answer
    /// fail, resolves it again.
    pub(super) async fn connect(&self, endpoint: &Endpoint) -> Result<TcpStream, UpstreamError> {
        let known = self.answers.lock().fresh(Instant::now()).map(<[SocketAddr]>::to_vec);
        let Some(known) = known else {
            return self.connect_first(self.resolve(endpoint).await?).await;
        };
        let failed = match self.connect_first(known.clone()).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        let mut others = self.resolve(endpoint).await?;
        others.retain(|address| !known.contains(address));
        if others.is_empty() { Err(failed) } else { self.connect_first(others).await }
    }

    /// Resolves the endpoint. If the resolver fails, returns its latest answer.
    async fn resolve(&self, endpoint: &Endpoint) -> Result<Vec<SocketAddr>, UpstreamError> {
        match self.resolver.resolve(endpoint.host(), endpoint.port()).await {
            Ok(resolved) => {
                self.answers.lock().record(&resolved, Instant::now());
                Ok(resolved)
            }
            Err(error) => match self.answers.lock().latest() {
                [] => Err(UpstreamError::Dns(error.to_string())),
                latest => Ok(latest.to_vec()),
            },
        }
    }

    /// Resolves the endpoint if its latest answer is old.
    pub(super) async fn refresh(&self, endpoint: &Endpoint) {
        let is_fresh = self.answers.lock().fresh(Instant::now()).is_some();
        if !is_fresh && Addresses::is_name(endpoint) {
            // Without an answer, the addresses stay.
            self.resolve(endpoint).await.unwrap_or_default();
        }
    }

    /// Whether the name has lost any address.
    pub(super) fn has_gone(&self) -> bool {
        self.answers.lock().has_gone()
    }

    /// Whether the endpoint has a name, whose addresses may change.
    pub(super) fn is_name(endpoint: &Endpoint) -> bool {
        endpoint.socket().is_none() && endpoint.host().parse::<IpAddr>().is_err()
    }

    /// Whether the name has lost this address.
    pub(super) fn is_gone(&self, peer: Option<SocketAddr>) -> bool {
        peer.is_some_and(|peer| self.answers.lock().is_gone(&peer))
    }

    async fn connect_first(&self, resolved: Vec<SocketAddr>) -> Result<TcpStream, UpstreamError> {
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        let mut untried = self.ordered(resolved, turn).into_iter();
        let mut attempts = FuturesUnordered::new();
        let mut pending: Vec<SocketAddr> = Vec::new();
        let mut failure = UpstreamError::Dns("no address".to_owned());
        loop {
            let next = untried.next();
            pending.extend(next);
            attempts.extend(next.map(connect_address));
            let has_more = untried.len() > 0;
            tokio::select! {
                biased;
                attempt = attempts.next() => {
                    let Some((address, connected)) = attempt else { return Err(failure) };
                    pending.retain(|other| *other != address);
                    match connected {
                        Ok(stream) => {
                            self.record(address, &pending);
                            return Ok(stream);
                        }
                        Err(error) => {
                            self.demote(&[address]);
                            failure = UpstreamError::from_connect(&error);
                        }
                    }
                }
                () = sleep(ATTEMPT_DELAY), if has_more => {}
            }
        }
    }

    /// Sorts silent addresses last, and alternates between the address families otherwise: a host without
    /// IPv6 would wait for each IPv6 address. Connections rotate over the addresses of a family.
    fn ordered(&self, resolved: Vec<SocketAddr>, turn: usize) -> Vec<SocketAddr> {
        let first_is_v4 = resolved.first().is_some_and(SocketAddr::is_ipv4);
        let (mut preferred, mut other): (Vec<_>, Vec<_>) =
            resolved.into_iter().partition(|address| address.is_ipv4() == first_is_v4);
        for family in [&mut preferred, &mut other] {
            let first = turn % family.len().max(1);
            family.rotate_left(first);
        }
        let ranked = |family: Vec<SocketAddr>, offset: usize| {
            family.into_iter().enumerate().map(move |(rank, address)| (2 * rank + offset, address))
        };
        let mut all: Vec<_> = ranked(preferred, 0).chain(ranked(other, 1)).collect();
        let silent = self.silent.lock();
        let is_silent = |address: &SocketAddr| {
            silent.get(address).is_some_and(|since| since.elapsed() < DEMOTION)
        };
        all.sort_by_key(|(rank, address)| (is_silent(address), *rank));
        all.into_iter().map(|(_, address)| address).collect()
    }

    /// Records that `answered` was faster than addresses that were tried before.
    fn record(&self, answered: SocketAddr, overtaken: &[SocketAddr]) {
        self.silent.lock().remove(&answered);
        self.demote(overtaken);
    }

    fn demote(&self, addresses: &[SocketAddr]) {
        let mut silent = self.silent.lock();
        silent.retain(|_, since| since.elapsed() < DEMOTION);
        silent.extend(addresses.iter().map(|address| (*address, Instant::now())));
    }
}

async fn connect_address(address: SocketAddr) -> (SocketAddr, std::io::Result<TcpStream>) {
    let connected = TcpStream::connect(address).await;
    let stream = connected.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
    (address, stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpSocket};
    use tokio::time::timeout;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    }

    /// A listener whose queue is full, so that the kernel drops further SYN packets.
    async fn silent_listener() -> (TcpListener, Vec<TcpStream>) {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("bound");
        let listener = socket.listen(1).expect("listening");
        let address = listener.local_addr().expect("an address");
        let mut filling = Vec::new();
        while let Ok(stream) =
            timeout(Duration::from_millis(300), TcpStream::connect(address)).await
        {
            filling.push(stream.expect("connected"));
        }
        (listener, filling)
    }

    #[tokio::test]
    async fn a_silent_address_delays_one_connection_by_250_ms() {
        let (silent, _filling) = silent_listener().await;
        let silent = silent.local_addr().expect("an address");
        let live = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let live = live.local_addr().map(|address| (live, address)).expect("an address");
        let all = Addresses::default();
        for limit in [1000, 200] {
            let connecting = all.connect_first(vec![silent, live.1]);
            let stream = timeout(Duration::from_millis(limit), connecting).await.expect("in time");
            assert_eq!(stream.expect("connected").peer_addr().expect("an address"), live.1);
        }
    }

    #[tokio::test]
    async fn a_refused_address_costs_no_delay_and_all_are_tried() {
        let closed = || async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            listener.local_addr().expect("an address")
        };
        let refused = vec![closed().await, closed().await];
        let live = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let with_live = [refused.clone(), vec![live.local_addr().expect("an address")]].concat();
        let all = Addresses::default();
        let connected = timeout(Duration::from_millis(200), all.connect_first(with_live)).await;
        connected.expect("in time").expect("connected");
        let failed = all.connect_first(refused).await;
        assert_eq!(failed.expect_err("refused"), UpstreamError::ConnectionRefused);
        assert!(matches!(all.connect_first(Vec::new()).await, Err(UpstreamError::Dns(_))));
    }

    #[test]
    fn families_alternate_and_silent_addresses_come_last() {
        let all = Addresses::default();
        let resolved = addresses(&["[::1]:1", "[::2]:1", "[::3]:1", "10.0.0.1:1"]);
        let expected = addresses(&["[::1]:1", "10.0.0.1:1", "[::2]:1", "[::3]:1"]);
        assert_eq!(all.ordered(resolved.clone(), 0), expected);
        let expected = addresses(&["[::2]:1", "10.0.0.1:1", "[::3]:1", "[::1]:1"]);
        assert_eq!(all.ordered(resolved.clone(), 1), expected);
        all.demote(&addresses(&["[::1]:1"]));
        let expected = addresses(&["10.0.0.1:1", "[::2]:1", "[::3]:1", "[::1]:1"]);
        assert_eq!(all.ordered(resolved.clone(), 0), expected);
        all.record(addresses(&["[::1]:1"])[0], &[]);
        assert_eq!(all.ordered(resolved, 0)[0], addresses(&["[::1]:1"])[0]);
    }
}
