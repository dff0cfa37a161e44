//! Limits on failed logins.
//!
//! | counter | failures on | from | default |
//! | --- | --- | --- | --- |
//! | pair | one account | an IPv4 address or IPv6 /64 | 10, then one per 6 s |
//! | account | one account | everywhere, except known places | 100, then one per 30 s (NIST SP 800-63B-4, 3.2.2) |
//! | network | all accounts | an IPv4 address or IPv6 /64 | 30, then one per 2 s |
//! | wider networks | all accounts | an IPv6 /56; an IPv6 /48 or IPv4 /24 | 2 times the network's; 4 times |
//!
//! Only failures count: an attempt is charged before its hash and taken back if the password is right.
//! A place is known to an account if a login with its current password succeeded from the same address or
//! /64. There, only the pair counts, so strangers elsewhere cannot lock the account's owner out.
//!
//! Unknown names are counted like existing ones. The counters are in the store, so all gateways count
//! together. If it does not answer, the gateway counts alone: no attempt is free, and none is refused
//! because of the store.

use std::net::IpAddr;
use std::time::Duration;

use data_encoding::HEXLOWER;

use crate::identity::QueuePlace;
use crate::identity::account::normalize_name;
use crate::rate_limit::{LoginLimits, Rate};
use crate::secret::LoginKey;
use crate::session::context::{
    IPV4_NETWORKS, IPV6_NETWORKS, network_of, prefix, subscriber_network,
};
use crate::store::{Counter, CounterGroup, KnownPlace, Unavailable};

use super::verified_store::VerifiedStore;

/// Counts failed logins.
#[derive(Clone)]
pub struct LoginThrottle {
    store: VerifiedStore,
}

/// What an attempt proves. Each kind has its own counters of pair and account, and its own known places: a
/// stranger with the password must not become known to the limits on codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LoginProof {
    Password,
    Code,
}

/// Failures on the codes of one account, from one place and from all unknown ones: five in 15 minutes. At this
/// rate, a stranger who has the password guesses one of a million codes within two years.
const CODE_FAILURES: u32 = 5;
const CODE_INTERVAL: Duration = Duration::from_secs(3 * 60);

/// One login attempt, with the counters that it is charged to.
#[derive(Clone, Debug)]
pub struct LoginAttempt {
    pair: CounterGroup,
    account: CounterGroup,
    networks: CounterGroup,
    place: KnownPlace,
    network: IpAddr,
    is_known: bool,
}

impl LoginAttempt {
    /// The attempt of this name from this address. `credential` is the digest of the account's password;
    /// zero if there is no account.
    fn new(
        limits: &LoginLimits,
        key: &LoginKey,
        (name, proof): (&str, LoginProof),
        credential: [u8; 8],
        from: IpAddr,
    ) -> LoginAttempt {
        let tag = |purpose: &str, text: &str| HEXLOWER.encode(&key.tag(purpose, text));
        let (address, name) = (from.to_canonical(), normalize_name(name));
        let names = proof.counter_names();
        let subscriber = subscriber_network(address).to_string();
        let user = tag("user", &name);
        let group = |counters| CounterGroup { tag: user.clone(), counters };
        let place = format!("{subscriber} {}", HEXLOWER.encode(&credential));
        let network = network_of(address);
        LoginAttempt {
            pair: group(vec![Counter { name: tag(names.pair, &subscriber), rate: limits.pair }]),
            account: group(vec![Counter { name: names.account.to_owned(), rate: limits.account }]),
            networks: CounterGroup {
                tag: tag("network", &network.to_string()),
                counters: networks(address, limits.network)
                    .into_iter()
                    .map(|(network, rate)| Counter { name: tag("network", &network), rate })
                    .collect(),
            },
            place: KnownPlace { name: tag(names.place, &place), tag: user },
            network,
            is_known: false,
        }
    }

    /// Returns where the attempt waits for its hash.
    pub fn queue_place(&self) -> QueuePlace {
        QueuePlace { network: self.network, is_known: self.is_known }
    }

    /// Returns the groups to charge.
    fn charged(&self) -> Vec<CounterGroup> {
        if self.is_known {
            return vec![self.pair.clone()];
        }
        vec![self.user_counters(), self.networks.clone()]
    }

    /// The counters of the account: they share a slot, so one script charges both.
    fn user_counters(&self) -> CounterGroup {
        let counters = [&self.pair, &self.account].map(|group| group.counters.clone()).concat();
        CounterGroup { tag: self.pair.tag.clone(), counters }
    }
}

/// Names of the counters of one kind of proof.
struct CounterNames {
    pair: &'static str,
    account: &'static str,
    place: &'static str,
}

impl LoginProof {
    fn counter_names(self) -> CounterNames {
        match self {
            LoginProof::Password => {
                CounterNames { pair: "pair", account: "account", place: "place" }
            }
            LoginProof::Code => {
                CounterNames { pair: "code pair", account: "code account", place: "code place" }
            }
        }
    }

    fn limits(self, configured: &LoginLimits) -> LoginLimits {
        let code = Rate::new(CODE_FAILURES, CODE_INTERVAL);
        match self {
            LoginProof::Password => *configured,
            LoginProof::Code => {
                LoginLimits { pair: code, account: code, network: configured.network }
            }
        }
    }
}

impl LoginThrottle {
    pub(super) fn new(store: VerifiedStore) -> LoginThrottle {
        LoginThrottle { store }
    }

    /// Prepares an attempt with a password. Nothing is charged yet. During a store outage no place is known.
    pub async fn attempt(&self, name: &str, from: IpAddr) -> LoginAttempt {
        let credential = self.store.shared.login_methods.credential_digest(name);
        self.prepare((name, LoginProof::Password), credential, from).await
    }

    /// Prepares an attempt with a one-time code or a recovery code of an account.
    pub async fn code_attempt(
        &self,
        account: &str,
        credential: [u8; 8],
        from: IpAddr,
    ) -> LoginAttempt {
        self.prepare((account, LoginProof::Code), credential, from).await
    }

    async fn prepare(
        &self,
        (name, proof): (&str, LoginProof),
        credential: [u8; 8],
        from: IpAddr,
    ) -> LoginAttempt {
        let limits = proof.limits(&self.store.settings.login_limits);
        let keys = self.store.shared.keys.load_full();
        let attempt = LoginAttempt::new(&limits, keys.login(), (name, proof), credential, from);
        let known = self.store.raw.is_known_place(&attempt.place, self.store.now()).await;
        let is_known = self.count_error(known).unwrap_or(false);
        LoginAttempt { is_known, ..attempt }
    }

    /// Charges the attempt as if it failed.
    ///
    /// # Errors
    /// The time to wait, if a limit is reached. Nothing is charged then.
    pub async fn charge(&self, attempt: &LoginAttempt) -> Result<(), Duration> {
        let groups = attempt.charged();
        for (index, group) in groups.iter().enumerate() {
            if let Err(wait) = self.charge_group(group).await {
                for charged in &groups[..index] {
                    self.refund(charged).await;
                }
                return Err(wait);
            }
        }
        Ok(())
    }

    /// Takes the charge of a successful attempt back, clears the failures of the account, and remembers
    /// the place.
    pub async fn record_success(&self, attempt: &LoginAttempt) {
        if !attempt.is_known {
            self.refund(&attempt.networks).await;
        }
        let (shared, now) = (&self.store.shared, self.store.now());
        let known_for = self.store.settings.risk.known_for;
        let (user, place) = (attempt.user_counters(), &attempt.place);
        let cleared = self.store.raw.clear_login(&user, place, known_for, now).await;
        if self.count_error(cleared).is_none() {
            shared.login_fallback.clear(&user, place, now);
        }
    }

    async fn charge_group(&self, group: &CounterGroup) -> Result<(), Duration> {
        let now = self.store.now();
        match self.count_error(self.store.raw.charge_login(group, now).await) {
            Some(charged) => charged,
            None => self.store.shared.login_fallback.charge(group, now),
        }
    }

    async fn refund(&self, group: &CounterGroup) {
        if self.count_error(self.store.raw.refund_login(group).await).is_none() {
            self.store.shared.login_fallback.refund(group);
        }
    }

    fn count_error<T>(&self, result: Result<T, Unavailable>) -> Option<T> {
        self.store.track_errors(result).ok()
    }
}

/// Returns the networks of an address, narrow to wide, with their rates.
fn networks(address: IpAddr, rate: Rate) -> Vec<(String, Rate)> {
    let lengths: &[(u32, u32)] = match address {
        IpAddr::V4(_) => &IPV4_NETWORKS,
        IpAddr::V6(_) => &IPV6_NETWORKS,
    };
    let network = |(length, factor): &(u32, u32)| {
        (format!("{}/{length}", prefix(address, *length)), rate.times(*factor))
    };
    lengths.iter().map(network).collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;
    use crate::clock::{Clock, UnixMillis};
    use crate::sessions::test_support;
    use crate::store::Store;

    const HERE: [u8; 4] = [192, 0, 2, 1];

    fn throttle() -> (LoginThrottle, Clock) {
        let clock = Clock::manual(UnixMillis(1_000_000_000));
        (test_support::sessions(&Store::memory(clock.clone()), &clock).throttle, clock)
    }

    fn network(number: u32) -> IpAddr {
        IpAddr::from(((number << 8) + 0x0a00_0000).to_be_bytes())
    }

    async fn fail(throttle: &LoginThrottle, name: &str, from: IpAddr) -> Result<(), Duration> {
        throttle.charge(&throttle.attempt(name, from).await).await
    }

    async fn succeed(throttle: &LoginThrottle, name: &str, from: IpAddr) -> Result<(), Duration> {
        let attempt = throttle.attempt(name, from).await;
        throttle.charge(&attempt).await?;
        throttle.record_success(&attempt).await;
        Ok(())
    }

    #[tokio::test]
    async fn a_pair_has_ten_failures_then_one_per_6_s() {
        let (throttle, clock) = throttle();
        for name in ["alice", "ALICE"].into_iter().cycle().take(10) {
            fail(&throttle, name, HERE.into()).await.expect("within the burst");
        }
        let wait = fail(&throttle, "alice", HERE.into()).await;
        assert_eq!(wait, Err(Duration::from_secs(6)));
        clock.advance(Duration::from_millis(5_999));
        assert!(fail(&throttle, "alice", HERE.into()).await.is_err());
        clock.advance(Duration::from_millis(1));
        fail(&throttle, "alice", HERE.into()).await.expect("six seconds later");
        assert!(fail(&throttle, "alice", HERE.into()).await.is_err());
    }

    #[tokio::test]
    async fn an_account_has_100_failures_then_one_per_30_s() {
        let (throttle, clock) = throttle();
        for number in 0..100 {
            fail(&throttle, "alice", network(number)).await.expect("within the burst");
        }
        let wait = fail(&throttle, "alice", network(100)).await;
        assert_eq!(wait, Err(Duration::from_secs(30)));
        clock.advance(Duration::from_secs(30));
        fail(&throttle, "alice", network(101)).await.expect("one more");
        fail(&throttle, "alice", network(102)).await.expect_err("and only one");
        fail(&throttle, "bob", network(103)).await.expect("another account");
    }

    #[tokio::test]
    async fn a_refused_attempt_is_charged_nowhere() {
        let (throttle, clock) = throttle();
        for number in 0..30 {
            fail(&throttle, &format!("user{number}"), HERE.into()).await.expect("free");
        }
        for _ in 0..50 {
            fail(&throttle, "alice", HERE.into()).await.expect_err("the network is exhausted");
        }
        clock.advance(Duration::from_secs(60));
        for _ in 0..10 {
            fail(&throttle, "alice", HERE.into()).await.expect("the pair was not charged");
        }
    }

    #[tokio::test]
    async fn wider_networks_have_multiples_of_the_narrow_one() {
        for (narrow, wide) in [
            // Free within one network, and the number of attempts of the wider ones.
            (["2001:db8:0:1::", "2001:db8:0:1::"], 30),
            (["2001:db8:0:100::", "2001:db8:0:1ff::"], 60),
            (["2001:db8:0:0::", "2001:db8:0:ffff::"], 120),
        ] {
            let (throttle, _) = throttle();
            let [first, last] = narrow.map(|text| text.parse::<Ipv6Addr>().expect("an address"));
            let step = (last.to_bits() - first.to_bits()) / 200;
            let mut admitted = 0;
            for number in 0..200_u32 {
                let from = Ipv6Addr::from_bits(first.to_bits() + step * u128::from(number));
                let name = format!("user{number}");
                admitted += u32::from(fail(&throttle, &name, from.into()).await.is_ok());
            }
            assert_eq!(admitted, wide, "{first} to {last}");
        }
    }

    #[tokio::test]
    async fn a_success_is_not_charged_and_clears_the_account() {
        let (throttle, _) = throttle();
        for _ in 0..200 {
            succeed(&throttle, "alice", HERE.into()).await.expect("not charged");
        }
        for number in 1..100 {
            fail(&throttle, "alice", network(number)).await.expect("free");
        }
        succeed(&throttle, "alice", network(200)).await.expect("the hundredth");
        for number in 300..400 {
            fail(&throttle, "alice", network(number)).await.expect("counted anew");
        }
    }

    #[tokio::test]
    async fn a_known_place_is_forgotten_after_30_days() {
        let (throttle, clock) = throttle();
        succeed(&throttle, "alice", HERE.into()).await.expect("free");
        let is_known = async |from: [u8; 4]| throttle.attempt("Alice", from.into()).await.is_known;
        assert!(is_known(HERE).await && !is_known([192, 0, 2, 2]).await);
        assert!(!throttle.attempt("bob", HERE.into()).await.is_known);
        clock.advance(Duration::from_hours(30 * 24));
        assert!(!is_known(HERE).await);
    }

    #[tokio::test]
    async fn codes_have_five_failures_and_counters_of_their_own() {
        let (throttle, clock) = throttle();
        succeed(&throttle, "alice", HERE.into()).await.expect("a place known by its password");
        let code = async |from: [u8; 4]| {
            throttle.charge(&throttle.code_attempt("alice", [0; 8], from.into()).await).await
        };
        for _ in 0..5 {
            code(HERE).await.expect("within the burst");
        }
        assert_eq!(code([192, 0, 2, 2]).await, Err(Duration::from_secs(180)), "from everywhere");
        fail(&throttle, "alice", HERE.into()).await.expect("passwords are counted apart");
        clock.advance(Duration::from_secs(180));
        let right = throttle.code_attempt("alice", [0; 8], HERE.into()).await;
        throttle.charge(&right).await.expect("replenished");
        throttle.record_success(&right).await;
        for _ in 0..5 {
            code([198, 51, 100, 1]).await.expect("anew after a right code");
        }
        code([198, 51, 100, 2]).await.expect_err("a stranger");
        code(HERE).await.expect("the place of the right code is known");
    }

    #[test]
    fn names_and_addresses_are_hidden_in_the_store() {
        let keys = crate::secret::KeyRing::generate("now");
        let limits = LoginLimits::default();
        let attempt = LoginAttempt::new(
            &limits,
            keys.login(),
            ("alice", LoginProof::Password),
            [0; 8],
            HERE.into(),
        );
        let stored = format!("{:?} {:?} {:?}", attempt.charged(), attempt.place, attempt.account);
        assert!(!stored.contains("alice") && !stored.contains("192.0.2"), "{stored}");
    }
}
