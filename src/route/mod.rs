//! Routes: the upstream of a request, and its access rule. Pure.
//!
//! | module | content |
//! | --- | --- |
//! | `mod` | [`Route`] with its access rule and limits |
//! | `table` | [`RouteTable`]: the route of a request, and changes by a reload |
//! | `disguise` | paths that a lenient upstream resolves to a stricter route |
//! | `headers` | headers that a route removes, passes and sets |
//! | `methods`, `activity` | requests to which a rule applies; requests that count as activity |
//! | `session_control` | requests and responses that rotate or end the session |
//! | `path_mapping` | other paths at the upstream |
//! | `upstream_options` | TLS, headers and health checks towards the upstream |

mod activity;
mod disguise;
mod headers;
mod methods;
mod path_mapping;
mod session_control;
mod table;
mod upstream_options;

pub use activity::{Activity, ActivityFrames};
pub use headers::RouteHeaders;
pub use methods::Methods;
pub use path_mapping::PathMapping;
pub use session_control::{
    LogoutPage, SensitiveAction, SessionCommand, SessionControlRules, is_success,
};
pub use table::{RouteConflict, RouteTable};
pub use upstream_options::{
    ClientCertificate, HealthCheck, HostHeader, UpstreamOptions, UpstreamTls,
};

use std::borrow::Cow;
use std::time::Duration;

use http::{HeaderName, Method};

use crate::message::{CrossOriginPolicy, Endpoint, HostPattern, IdentityHeaders, PathPrefix};
use crate::session::{Identity, Provider, RoutePolicy};

/// One validated `[[route]]`.
#[derive(Clone, Debug)]
pub struct Route {
    /// Position in the table that contains the route.
    pub index: usize,
    pub host: HostPattern,
    pub path: PathPrefix,
    /// Endpoints of the upstream cluster; at least one.
    pub upstreams: Vec<Endpoint>,
    pub access: Access,
    /// Whether a request without a session cookie passes if it has credentials for the upstream.
    pub accepts_app_credentials: bool,
    /// Whether personal access tokens are accepted.
    pub accepts_tokens: bool,
    /// Header for personal access tokens beside `Authorization` and `X-Doorward-Token`.
    pub token_header: Option<HeaderName>,
    /// Providers whose access tokens are accepted.
    pub bearer: Vec<String>,
    /// Whether client certificates are accepted.
    pub accepts_certificates: bool,
    pub identity: IdentityHeaders,
    /// Whether requests of a user carry a signed assertion.
    pub assertion: bool,
    pub headers: RouteHeaders,
    pub policy: RoutePolicy,
    /// Methods to which `max_auth_age` applies.
    pub auth_age_methods: Methods,
    pub limits: BodyLimits,
    /// Cross-origin policy (CSRF protection).
    pub cross_origin: CrossOriginPolicy,
    pub ambiguous_paths: AmbiguousPaths,
    /// Whether tokens are rotated on this route.
    pub rotation: bool,
    /// Longest wait for the response head of the upstream.
    pub response_timeout: Duration,
    /// During a store outage, read requests of sessions confirmed within this time are admitted; `None`
    /// refuses them.
    pub serve_stale_for: Option<Duration>,
    /// Maximum age of a tracked connection; `None` is no limit.
    pub max_connection_age: Option<Duration>,
    pub activity: Activity,
    pub session_control: SessionControlRules,
    pub upstream_options: UpstreamOptions,
    /// Whether an https upstream must end a response of unknown length with close_notify.
    pub requires_close_notify: bool,
    /// Size in bytes up to which request bodies of unknown length are read before they are forwarded; `None`
    /// reads what arrives at once.
    pub buffer_requests: Option<usize>,
}

impl Route {
    /// Returns whether the access rule admits a user.
    pub fn admits(&self, identity: &Identity) -> bool {
        match &self.access {
            Access::Public => true,
            Access::Session(rule) => rule.allows(identity),
        }
    }

    /// Returns whether the access rule accepts the way in which the user logged in.
    pub fn accepts_login(&self, provider: &Provider) -> bool {
        match &self.access {
            Access::Public => true,
            Access::Session(rule) => rule.accepts_login(provider),
        }
    }

    /// Returns whether the access rule requires a second factor.
    pub fn requires_second_factor(&self) -> bool {
        match &self.access {
            Access::Public => false,
            Access::Session(rule) => rule.second_factor,
        }
    }

    /// Returns whether the access rule requires a session.
    pub fn requires_session(&self) -> bool {
        match &self.access {
            Access::Public => false,
            Access::Session(_) => true,
        }
    }

    /// Returns whether programs can authenticate without a session.
    pub fn accepts_programs(&self) -> bool {
        self.accepts_tokens || !self.bearer.is_empty() || self.accepts_certificates
    }

    fn allows_ambiguous_paths(&self) -> bool {
        match (&self.access, self.ambiguous_paths) {
            (Access::Session(_), AmbiguousPaths::RequireSession)
            | (Access::Public, AmbiguousPaths::Allow) => true,
            (Access::Public, AmbiguousPaths::Refuse | AmbiguousPaths::RequireSession)
            | (Access::Session(_), AmbiguousPaths::Refuse | AmbiguousPaths::Allow) => false,
        }
    }

    /// Returns the session limits that apply to a request which the upstream may execute as any of
    /// these methods.
    pub fn policy_for<'a>(
        &self,
        mut methods: impl Iterator<Item = &'a Method>,
        websocket: bool,
    ) -> Cow<'_, RoutePolicy> {
        if self.policy.max_auth_age.is_none()
            || methods.any(|method| self.auth_age_methods.applies_to(method, websocket))
        {
            return Cow::Borrowed(&self.policy);
        }
        Cow::Owned(RoutePolicy { max_auth_age: None, ..self.policy.clone() })
    }

    /// Returns whether the path can be mapped to the upstream. Every path can if none is mapped.
    pub fn maps_path(&self, target: &str) -> bool {
        let mapping = self.upstream_options.path_mapping.as_ref();
        mapping.is_none_or(|mapping| mapping.to_upstream(target).is_some())
    }

    /// Returns whether this route, by mapping paths, also reaches those that `other` protects better at the same
    /// upstream.
    pub fn maps_into(&self, other: &Route) -> bool {
        self.upstream_options.path_mapping.is_some()
            && self.upstreams.iter().any(|upstream| other.upstreams.contains(upstream))
            && self.upstream_path().covers(other.upstream_path().as_str())
            && other.is_stricter_than(self)
    }

    /// Returns the mapping for responses. An app that receives its public prefix names public paths itself.
    pub fn response_path_mapping(&self) -> Option<&PathMapping> {
        let options = &self.upstream_options;
        options.path_mapping.as_ref().filter(|_| options.forwarded_prefix.is_none())
    }

    /// The path prefix at the upstream.
    fn upstream_path(&self) -> &PathPrefix {
        let mapping = self.upstream_options.path_mapping.as_ref();
        mapping.map_or(&self.path, PathMapping::upstream)
    }

    fn has_longer_path_than(&self, other: &Route) -> bool {
        self.host == other.host && self.path.length() > other.path.length()
    }

    /// Returns whether a request could be admitted by `other` and not by this route. Two rule sets that
    /// cannot be compared each count as stricter than the other.
    fn is_stricter_than(&self, other: &Route) -> bool {
        match (&self.access, &other.access) {
            (Access::Public, Access::Public | Access::Session(_)) => false,
            (Access::Session(_), Access::Public) => true,
            (Access::Session(here), Access::Session(there)) => {
                let admits_all_users = *here == AccessRule::default();
                !(admits_all_users || here == there)
                    || (other.accepts_app_credentials && !self.accepts_app_credentials)
                    || (other.accepts_tokens && !self.accepts_tokens)
                    || (other.accepts_certificates && !self.accepts_certificates)
                    || other.bearer.iter().any(|name| !self.bearer.contains(name))
                    || self.policy != other.policy
                    || self.auth_age_methods != other.auth_age_methods
                    || self.cross_origin != other.cross_origin
            }
        }
    }

    /// Returns whether both routes have the same host and path.
    fn has_place_of(&self, other: &Route) -> bool {
        self.host == other.host && self.path == other.path
    }

    /// Returns whether this route serves requests that `other` would serve without it.
    fn takes_precedence_over(&self, other: &Route) -> bool {
        if self.host == other.host {
            return other.path.covers(self.path.as_str()) && self.path != other.path;
        }
        self.host.rank() < other.host.rank() && self.host.is_within(&other.host)
    }

    /// Returns the name of the route for logs and metrics.
    pub fn label(&self) -> String {
        format!("{}{}", self.host, self.path.as_str())
    }
}

/// Limits for bodies and connections on a route. Zero is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BodyLimits {
    /// Longest pause of a client within its request body.
    pub timeout: Duration,
    /// Minimum average rate of a client in either direction, in bytes per second.
    pub min_rate: u64,
    /// Maximum length of a request body in bytes.
    pub max_bytes: u64,
    /// Longest pause of an upstream within its response body.
    pub upstream_idle: Duration,
    /// Longest time from the request head to the end of the response. Does not apply to WebSockets and
    /// event streams.
    pub request_timeout: Duration,
    /// Longest time without data on a WebSocket in either direction.
    pub tunnel_idle: Duration,
    /// Maximum number of headers in a response.
    pub response_headers: usize,
    /// Maximum size of a response head in bytes.
    pub response_header_bytes: usize,
}

/// Handling of paths that two programs can interpret differently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AmbiguousPaths {
    #[default]
    Refuse,
    /// Forwards requests with a session if every interpretation leads to this route. Has no effect on
    /// public routes.
    RequireSession,
    /// As `RequireSession`, on a public route.
    Allow,
}

/// Access to a route. There is no default: a route without it is a configuration error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    Public,
    Session(AccessRule),
}

/// The users and groups that a route admits. If both lists are empty, it admits every user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessRule {
    pub users: Vec<String>,
    pub groups: Vec<String>,
    /// Login methods that the route accepts; empty for all.
    pub logins: Vec<String>,
    /// Authentication context classes (`acr`) of which the provider must have reported one; empty for any.
    pub acr: Vec<String>,
    /// Whether the user must have proved a second factor.
    pub second_factor: bool,
}

impl AccessRule {
    /// Returns whether the user logged in in a way that the route accepts. If not, another login may help.
    pub fn accepts_login(&self, provider: &Provider) -> bool {
        let acr = provider.external().and_then(|login| login.acr.as_ref());
        (self.logins.is_empty() || self.logins.iter().any(|name| name == provider.method()))
            && (self.acr.is_empty() || acr.is_some_and(|acr| self.acr.contains(acr)))
    }

    /// Returns whether the rule admits the user. Membership in either list is sufficient.
    pub fn allows(&self, identity: &Identity) -> bool {
        (self.users.is_empty() && self.groups.is_empty())
            || self.users.contains(&identity.user)
            || identity.groups.iter().any(|group| self.groups.contains(group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_rule_admits_listed_users_or_groups() {
        let alice =
            Identity { user: "alice".into(), groups: vec!["staff".into()], ..Identity::default() };
        let allows = |users: &[&str], groups: &[&str]| {
            let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            AccessRule { users: list(users), groups: list(groups), ..AccessRule::default() }
                .allows(&alice)
        };
        assert!(allows(&[], &[]) && allows(&["alice"], &[]) && allows(&["bob"], &["staff"]));
        assert!(!allows(&["bob"], &[]) && !allows(&[], &["admin"]));
    }
}
