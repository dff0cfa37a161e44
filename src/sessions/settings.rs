//! Session settings of one configuration.

use std::sync::Arc;

use crate::config::Config;
use crate::identity::LoginProviders;
use crate::message::CookieNames;
use crate::rate_limit::LoginLimits;
use crate::risk::RiskSettings;
use crate::session::{SecondFactorPolicy, SessionPolicy};

/// Immutable settings. A reload creates new ones, and requests in progress keep the old ones.
#[derive(Clone, Debug)]
pub struct SessionSettings {
    pub policy: SessionPolicy,
    /// Maximum number of sessions per user; zero for no limit.
    pub max_per_user: usize,
    pub cookies: CookieNames,
    pub risk: RiskSettings,
    pub login_limits: LoginLimits,
    pub second_factor: SecondFactorPolicy,
    /// Routes that accept personal access tokens, as host and path.
    pub token_routes: Vec<String>,
    /// OpenID Connect providers.
    pub providers: Arc<LoginProviders>,
}

impl SessionSettings {
    /// Returns settings with a policy and the defaults of everything else.
    pub fn new(policy: SessionPolicy) -> SessionSettings {
        SessionSettings {
            policy,
            max_per_user: 0,
            cookies: CookieNames::default(),
            risk: RiskSettings::default(),
            login_limits: LoginLimits::default(),
            second_factor: SecondFactorPolicy::default(),
            token_routes: Vec::new(),
            providers: Arc::default(),
        }
    }
}

/// Without providers, which need the secrets that the configuration names.
impl From<&Config> for SessionSettings {
    fn from(config: &Config) -> SessionSettings {
        SessionSettings {
            policy: config.session.policy.clone(),
            max_per_user: config.session.max_per_user,
            cookies: CookieNames::new(config.session.cookie.clone()),
            risk: config.signals.settings.clone(),
            login_limits: config.login.limits,
            second_factor: config.login.second_factor.clone(),
            token_routes: token_routes(config),
            providers: Arc::default(),
        }
    }
}

fn token_routes(config: &Config) -> Vec<String> {
    config.routes.iter().filter(|route| route.accepts_tokens).map(|route| route.label()).collect()
}
