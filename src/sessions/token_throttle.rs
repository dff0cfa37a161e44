//! Limits on refused tokens of programs.
//!
//! | counter | refusals of | default |
//! | --- | --- | --- |
//! | token | one token; of a provider's token, from one IPv4 address or IPv6 /64 | 30, then one per 2 s |
//! | network | all tokens of providers from one IPv4 address or IPv6 /64 | 20 times as many |
//! | logouts | logout tokens from one IPv4 address or IPv6 /64 | 20 times as many |
//!
//! The counters are in the store, so all gateways count together. A check asks only this gateway's memory:
//! an accepted token costs no store command. Each gateway notices an exhausted counter at its first refusal.

use std::net::IpAddr;
use std::time::Duration;

use data_encoding::HEXLOWER;

use crate::session::context::subscriber_network;
use crate::session::{TokenId, TokenRefusal};
use crate::store::{Counter, CounterGroup};

use super::verified_store::VerifiedStore;

/// The network's share of the rate: many programs may be behind one address.
const NETWORK_FACTOR: u32 = 20;

/// Counts refused tokens.
#[derive(Clone)]
pub struct TokenThrottle {
    store: VerifiedStore,
}

impl TokenThrottle {
    pub(super) fn new(store: VerifiedStore) -> TokenThrottle {
        TokenThrottle { store }
    }

    /// The counter of a personal access token. Only its owner can have it refused.
    pub fn of_token(&self, id: TokenId) -> CounterGroup {
        let rate = self.store.settings.login_limits.network;
        let counters = vec![Counter { name: id.handle(), rate }];
        CounterGroup { tag: format!("access token {}", id.handle()), counters }
    }

    /// The counters of a provider's token. A client can invent any number of tokens, so its network counts.
    pub fn of_network(&self, id: TokenId, client: IpAddr) -> CounterGroup {
        let network = subscriber_network(client.to_canonical()).to_string();
        let keys = self.store.shared.keys.load_full();
        let tag = HEXLOWER.encode(&keys.login().tag("bearer network", &network));
        let rate = self.store.settings.login_limits.network;
        let all = Counter { name: "network".to_owned(), rate: rate.times(NETWORK_FACTOR) };
        CounterGroup { tag, counters: vec![Counter { name: id.handle(), rate }, all] }
    }

    /// The counter of refused logout tokens from a network. Each costs the verification of a signature.
    pub fn of_logouts(&self, client: IpAddr) -> CounterGroup {
        let network = subscriber_network(client.to_canonical()).to_string();
        let keys = self.store.shared.keys.load_full();
        let tag = HEXLOWER.encode(&keys.login().tag("logout network", &network));
        let rate = self.store.settings.login_limits.network.times(NETWORK_FACTOR);
        CounterGroup { tag, counters: vec![Counter { name: "network".to_owned(), rate }] }
    }

    /// Checks that the token was not refused too often.
    ///
    /// # Errors
    /// The time to wait.
    pub fn check(&self, group: &CounterGroup) -> Result<(), TokenRefusal> {
        let checked = self.store.shared.login_fallback.check(group, self.store.now());
        checked.map_err(|wait| TokenRefusal::Throttled { wait })
    }

    /// Counts a refusal.
    pub async fn charge(&self, group: &CounterGroup) {
        let (now, known) = (self.store.now(), &self.store.shared.login_fallback);
        let charged = self.store.raw.charge_login(group, now).await;
        match self.store.track_errors(charged) {
            Ok(Err(wait)) => known.hold(group, wait.max(Duration::from_secs(1)), now),
            Ok(Ok(())) | Err(_) => known.charge(group, now).unwrap_or_default(),
        }
    }
}
