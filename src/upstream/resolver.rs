//! Addresses of a name, as the resolver of the system answers. Answers carry no TTL, so they are used for a fixed
//! time.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// Time for which an answer is used.
const FRESH: Duration = Duration::from_secs(10);
/// An address is gone if no answer has had it for this time. Some servers answer with a part of their addresses.
const GONE_AFTER: Duration = Duration::from_secs(60);
/// Time for which the address of an old connection is remembered.
const REMEMBERED: Duration = Duration::from_secs(60 * 60);

type Answer = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// Resolves a host name and a port.
#[derive(Clone)]
pub struct Resolver(Arc<dyn Fn(String, u16) -> Answer + Send + Sync>);

impl Resolver {
    /// Resolves with a function, for tests.
    pub fn new(lookup: impl Fn(String, u16) -> Answer + Send + Sync + 'static) -> Resolver {
        Resolver(Arc::new(lookup))
    }

    pub(super) async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        (self.0)(host.to_owned(), port).await
    }
}

impl Default for Resolver {
    fn default() -> Resolver {
        Resolver::new(|host, port| {
            Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
        })
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

/// The answers for one name. Pure.
#[derive(Default)]
pub(super) struct Answers {
    latest: Vec<SocketAddr>,
    resolved: Option<Instant>,
    /// When an answer had an address last.
    seen: HashMap<SocketAddr, Instant>,
}

impl Answers {
    /// Returns the latest answer, unless it is too old.
    pub(super) fn fresh(&self, now: Instant) -> Option<&[SocketAddr]> {
        let age = now.saturating_duration_since(self.resolved?);
        (age < FRESH).then_some(&self.latest)
    }

    /// Returns the latest answer, however old.
    pub(super) fn latest(&self) -> &[SocketAddr] {
        &self.latest
    }

    pub(super) fn record(&mut self, answer: &[SocketAddr], now: Instant) {
        self.latest = answer.to_owned();
        self.resolved = Some(now);
        self.seen.retain(|_, at| now.saturating_duration_since(*at) < REMEMBERED);
        self.seen.extend(answer.iter().map(|address| (*address, now)));
    }

    /// Whether an address was in an answer, and has not been for some time. While there is no answer, no address
    /// goes.
    pub(super) fn is_gone(&self, address: &SocketAddr) -> bool {
        self.seen.get(address).is_some_and(|at| self.is_long_before_latest(*at))
    }

    /// Whether any address is gone.
    pub(super) fn has_gone(&self) -> bool {
        self.seen.values().any(|at| self.is_long_before_latest(*at))
    }

    fn is_long_before_latest(&self, at: Instant) -> bool {
        self.resolved.is_some_and(|latest| latest.saturating_duration_since(at) >= GONE_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_gone_when_answers_lack_it_for_a_minute() {
        let [old, new]: [SocketAddr; 2] =
            ["10.0.0.1:80", "10.0.0.2:80"].map(|text| text.parse().expect("an address"));
        let (mut answers, start) = (Answers::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(answers.fresh(start), None);
        answers.record(&[old, new], start);
        assert_eq!(answers.fresh(after(9)), Some(&[old, new][..]));
        assert_eq!(answers.fresh(after(10)), None);
        answers.record(&[new], after(59));
        assert!(!answers.has_gone());
        // An answer may be a part of all addresses.
        answers.record(&[old], after(60));
        answers.record(&[new], after(119));
        assert!(!answers.is_gone(&old));
        answers.record(&[new], after(120));
        assert!(answers.is_gone(&old) && answers.has_gone() && !answers.is_gone(&new));
        answers.record(&[new], after(60 + 60 * 60));
        assert!(!answers.has_gone());
    }
}
