//! Logins at external providers. The name of a provider comes from the configuration.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::register::register;

#[derive(Clone)]
pub struct ProviderMetrics {
    up: Family<ProviderLabels, Gauge>,
    logins: Family<ProviderResultLabels, Counter>,
    logouts: Family<ProviderResultLabels, Counter>,
    ldap_logins: Family<ProviderResultLabels, Counter>,
    rechecks: Family<ProviderResultLabels, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ProviderLabels {
    provider: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ProviderResultLabels {
    provider: String,
    result: &'static str,
}

impl ProviderMetrics {
    pub(super) fn register(r: &mut Registry) -> ProviderMetrics {
        ProviderMetrics {
            up: register(r, "oidc_up", "1 while the OpenID Connect provider responds"),
            logins: register(r, "oidc_logins", "Logins at OpenID Connect providers, by result"),
            logouts: register(r, "oidc_backchannel_logouts", "Logout requests of providers"),
            ldap_logins: register(r, "ldap_logins", "Logins at LDAP directories, by result"),
            rechecks: register(r, "provider_rechecks", "Checks of accounts at their provider"),
        }
    }

    /// Records whether a provider responds.
    pub fn up(&self, provider: &str, is_up: bool) {
        let provider = provider.to_owned();
        self.up.get_or_create(&ProviderLabels { provider }).set(i64::from(is_up));
    }

    /// Counts a login by its result.
    pub fn login(&self, provider: &str, result: &'static str) {
        count(&self.logins, provider, result);
    }

    /// Counts a login at an LDAP directory by its result.
    pub fn ldap_login(&self, directory: &str, result: &'static str) {
        count(&self.ldap_logins, directory, result);
    }

    /// Counts a back-channel logout request by its result.
    pub fn logout(&self, provider: &str, result: &'static str) {
        count(&self.logouts, provider, result);
    }

    /// Counts the check of an account by its result.
    pub fn recheck(&self, provider: &str, result: &'static str) {
        count(&self.rechecks, provider, result);
    }
}

fn count(family: &Family<ProviderResultLabels, Counter>, provider: &str, result: &'static str) {
    let provider = provider.to_owned();
    family.get_or_create(&ProviderResultLabels { provider, result }).inc();
}
