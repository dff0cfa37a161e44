//! Routes: the upstream of a request, and its access rule. Pure.
//!
//! A route matches by host and by the longest path prefix at segment boundaries. Only the canonical path
//! is used: query, fragment and headers have no effect (CVE-2025-54576, CVE-2026-34457,
//! CVE-2026-40575).

mod activity;
mod disguise;
mod headers;
mod methods;
mod session_control;
mod upstream_options;

pub use activity::{Activity, ActivityFrames};
pub use headers::RouteHeaders;
pub use methods::Methods;
pub use session_control::{
    LogoutPage, SensitiveAction, SessionCommand, SessionControlRules, is_success,
};
pub use upstream_options::{ClientCertificate, HostHeader, UpstreamOptions, UpstreamTls};

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method};

use crate::message::{
    Ambiguity, AmbiguousPath, CrossOriginPolicy, Endpoint, HeaderRules, Host, HostPattern,
    IdentityHeaders, Interpretations, PathPrefix,
};
use crate::session::{Identity, RoutePolicy, SignalsMode};

use disguise::{FoldLimits, FoldedPath, FoldedPrefix};

/// One validated `[[route]]`.
#[derive(Clone, Debug)]
pub struct Route {
    pub host: HostPattern,
    pub path: PathPrefix,
    /// Endpoints of the upstream cluster; at least one.
    pub upstreams: Vec<Endpoint>,
    pub access: Access,
    /// Whether a request without a session cookie passes if it has credentials for the upstream.
    pub accepts_app_credentials: bool,
    pub identity: IdentityHeaders,
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

    /// Returns whether the access rule requires a session.
    pub fn requires_session(&self) -> bool {
        match &self.access {
            Access::Public => false,
            Access::Session(_) => true,
        }
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
        host_rank(&self.host) < host_rank(&other.host) && self.host.is_within(&other.host)
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
}

impl AccessRule {
    /// Returns whether the rule admits the user. Membership in either list is sufficient.
    pub fn allows(&self, identity: &Identity) -> bool {
        (self.users.is_empty() && self.groups.is_empty())
            || self.users.contains(&identity.user)
            || identity.groups.iter().any(|group| self.groups.contains(group))
    }
}

/// All routes in matching order.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// Shared with the permits of requests in flight.
    routes: Vec<Arc<Route>>,
    /// Shared with the copies of this table only.
    origin: Arc<()>,
    /// For each route its path as a lenient upstream resolves it; `None` if the route is not stricter
    /// than the routes with shorter paths.
    shadowable: Vec<Option<FoldedPrefix>>,
    fold_limits: FoldLimits,
}

/// Two routes with the same host and path, as indices into the given list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteConflict {
    pub first: usize,
    pub second: usize,
}

impl RouteTable {
    /// Sorts the routes so that the first match is the most specific one.
    ///
    /// # Errors
    /// If two routes have the same host and path.
    pub fn new(mut routes: Vec<Route>) -> Result<RouteTable, Vec<RouteConflict>> {
        let conflicts = find_conflicts(&routes);
        if !conflicts.is_empty() {
            return Err(conflicts);
        }
        reserve_headers(&mut routes);
        routes
            .sort_by_key(|route| (host_rank(&route.host), std::cmp::Reverse(route.path.length())));
        let shadowable = routes.iter().map(|route| {
            let mut others = routes.iter().filter(|other| route.has_longer_path_than(other));
            let is_shadowable = others.any(|other| route.is_stricter_than(other));
            is_shadowable.then(|| FoldedPrefix::new(route.path.as_str())).flatten()
        });
        let shadowable: Vec<_> = shadowable.collect();
        let fold_limits = FoldLimits::new(shadowable.iter().flatten());
        let routes = routes.into_iter().map(Arc::new).collect();
        Ok(RouteTable { routes, origin: Arc::default(), shadowable, fold_limits })
    }

    /// Returns the route for a host and a canonical path: first the most specific host that matches, then
    /// the longest path prefix on it.
    pub fn find(&self, host: &Host, path: &str) -> Option<&Arc<Route>> {
        self.for_host(host).find(|route| route.path.covers(path))
    }

    /// Returns the routes of the most specific host that matches, in matching order.
    pub fn for_host(&self, host: &Host) -> impl Iterator<Item = &Arc<Route>> {
        let mut all = self.routes.iter().filter(|route| route.host.matches(host.name()));
        let rank = all.next().map(|first| host_rank(&first.host));
        let matching = self.routes.iter().filter(|route| route.host.matches(host.name()));
        matching.filter(move |route| Some(host_rank(&route.host)) == rank)
    }

    /// Returns the strictest signals mode among the session routes of a host.
    pub fn strictest_signals_mode(&self, host: &Host) -> SignalsMode {
        let session_routes = self.for_host(host).filter(|route| match route.access {
            Access::Session(_) => true,
            Access::Public => false,
        });
        session_routes.map(|route| route.policy.signals).max().unwrap_or(SignalsMode::Off)
    }

    /// Returns whether an ambiguous path may be forwarded. `is_reserved` returns true for the gateway's
    /// own paths, which no interpretation may be.
    ///
    /// Computes interpretations only if a route of the host allows them.
    pub fn allows_ambiguous(
        &self,
        host: &Host,
        path: &AmbiguousPath<'_>,
        is_reserved: impl Fn(&str) -> bool,
    ) -> bool {
        let is_possible = match path.ambiguity {
            Ambiguity::Delimiter => true,
            Ambiguity::Segments => self.for_host(host).any(|route| route.allows_ambiguous_paths()),
        };
        is_possible
            && path.interpret().is_some_and(|read| {
                !read.paths.iter().any(|path| is_reserved(path)) && self.agrees(host, &read)
            })
    }

    /// Returns whether all interpretations lead to the same route, or a request could bypass the rules
    /// of another route. If the segments are ambiguous, that route must also allow such paths.
    fn agrees(&self, host: &Host, interpretations: &Interpretations) -> bool {
        let routes: Vec<_> = self.for_host(host).collect();
        let find = |path: &String| routes.iter().find(|route| route.path.covers(path)).copied();
        let mut found = interpretations.paths.iter().map(find);
        let Some(first) = found.next() else { return false };
        let same_route = found.all(|other| match (first, other) {
            (Some(first), Some(other)) => Arc::ptr_eq(first, other),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        });
        let shadows = first.is_some_and(|found| {
            interpretations.paths.iter().any(|path| self.shadows_stricter_route(found, path))
        });
        same_route
            && !shadows
            && match interpretations.ambiguity {
                Ambiguity::Delimiter => true,
                Ambiguity::Segments => first.is_some_and(|route| route.allows_ambiguous_paths()),
            }
    }

    /// Returns whether a lenient upstream resolves the path to one of a stricter route. For example
    /// `/ADMIN` or `/admin.json` on the route `/`, beside a stricter route `/admin`.
    ///
    /// Costs nothing if no route is stricter than one with a shorter path.
    pub fn shadows_stricter_route(&self, found: &Route, path: &str) -> bool {
        let mut stricter =
            self.shadowable.iter().zip(&self.routes).filter_map(|(shadowable, route)| {
                let shadowable = shadowable.as_ref()?;
                (route.has_longer_path_than(found) && route.is_stricter_than(found))
                    .then_some(shadowable)
            });
        let Some(first) = stricter.next() else { return false };
        let path = FoldedPath::new(path, self.fold_limits);
        std::iter::once(first).chain(stricter).any(|prefix| prefix.covers(&path))
    }

    /// Returns whether any route serves the host. The gateway's own pages exist only on such hosts.
    pub fn serves_host(&self, host: &Host) -> bool {
        self.routes.iter().any(|route| route.host.matches(host.name()))
    }

    /// Reads the files of `set_header_files`.
    ///
    /// # Errors
    /// The first error of `read`.
    pub fn read_header_files<E>(
        &mut self,
        read: impl Fn(&Path) -> Result<HeaderValue, E>,
    ) -> Result<(), E> {
        self.routes.iter_mut().try_for_each(|route| Arc::make_mut(route).headers.read_files(&read))
    }

    /// Returns whether both tables are copies of one table.
    pub fn is_copy_of(&self, other: &RouteTable) -> bool {
        Arc::ptr_eq(&self.origin, &other.origin)
    }

    /// Returns the route of this table for the requests that `route` of the table `before` served. `None`
    /// if it was removed, or if a route that `before` lacks may serve some of them.
    pub fn successor(&self, before: &RouteTable, route: &Route) -> Option<&Arc<Route>> {
        let is_new = |it: &&Arc<Route>| !before.iter().any(|old| old.has_place_of(it));
        let mut new = self.iter().filter(is_new);
        match new.any(|it| it.takes_precedence_over(route)) {
            true => None,
            false => self.iter().find(|it| it.has_place_of(route)),
        }
    }

    /// Returns the routes in matching order.
    pub fn iter(&self) -> std::slice::Iter<'_, Arc<Route>> {
        self.routes.iter()
    }
}

/// Derives the reserved headers of each route. A header that one route sets is reserved on all routes to
/// the same upstream, which would trust it from there too.
fn reserve_headers(routes: &mut [Route]) {
    let rules: Vec<_> = routes.iter().map(|route| header_rules(route, routes)).collect();
    for (route, rules) in routes.iter_mut().zip(rules) {
        route.headers.reserve(&rules);
    }
}

fn header_rules(route: &Route, routes: &[Route]) -> HeaderRules {
    let neighbours = || routes.iter().filter(|other| shares_upstream(route, other));
    let identity = neighbours().flat_map(|route| &route.identity.headers);
    let set = neighbours().flat_map(|route| route.headers.names_set());
    HeaderRules {
        identity: identity.map(|header| header.name.clone()).collect(),
        removed: set.chain(&route.headers.strip).cloned().collect(),
        passed: route.headers.pass.clone(),
    }
}

/// Whether both routes lead to one endpoint, by any protocol. A route always does to itself.
fn shares_upstream(route: &Route, other: &Route) -> bool {
    let is_shared = |endpoint: &Endpoint| {
        let mut others = other.upstreams.iter();
        others.any(|other| (other.host(), other.port()) == (endpoint.host(), endpoint.port()))
    };
    std::ptr::eq(route, other) || route.upstreams.iter().any(is_shared)
}

/// Copies the routes too: workers on different cores must not share the reference count of a route.
impl Clone for RouteTable {
    fn clone(&self) -> RouteTable {
        let routes = self.iter().map(|route| Arc::new(Route::clone(route))).collect();
        let origin = Arc::clone(&self.origin);
        let shadowable = self.shadowable.clone();
        RouteTable { routes, origin, shadowable, fold_limits: self.fold_limits }
    }
}

/// Orders exact names before wildcards, longer wildcards before shorter ones, and `*` last.
fn host_rank(host: &HostPattern) -> (u8, std::cmp::Reverse<usize>) {
    match host {
        HostPattern::Exact(_) => (0, std::cmp::Reverse(0)),
        HostPattern::Subdomain(suffix) => (1, std::cmp::Reverse(suffix.len())),
        HostPattern::Any => (2, std::cmp::Reverse(0)),
    }
}

fn find_conflicts(routes: &[Route]) -> Vec<RouteConflict> {
    let mut out = Vec::new();
    for (second, route) in routes.iter().enumerate() {
        let same = |other: &Route| other.host == route.host && other.path == route.path;
        if let Some(first) = routes[..second].iter().position(same) {
            out.push(RouteConflict { first, second });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(host: &str, path: &str) -> Route {
        Route {
            host: HostPattern::parse(host).expect("a host"),
            path: PathPrefix::parse(path).expect("a path"),
            upstreams: vec![],
            access: Access::Session(AccessRule::default()),
            accepts_app_credentials: false,
            identity: IdentityHeaders::standard(),
            headers: RouteHeaders::default(),
            policy: RoutePolicy::default(),
            auth_age_methods: Methods::All,
            limits: BodyLimits::default(),
            cross_origin: CrossOriginPolicy::default(),
            ambiguous_paths: AmbiguousPaths::Refuse,
            rotation: true,
            response_timeout: Duration::from_secs(60),
            max_connection_age: None,
            serve_stale_for: None,
            activity: Activity::default(),
            session_control: SessionControlRules::default(),
            upstream_options: UpstreamOptions::default(),
            requires_close_notify: true,
            buffer_requests: None,
        }
    }

    fn found(table: &RouteTable, host: &str, path: &str) -> Option<String> {
        table.find(&Host::parse(host).expect("a host"), path).map(|route| route.label())
    }

    #[test]
    fn the_most_specific_host_then_the_longest_prefix_wins() {
        let table = RouteTable::new(vec![
            route("*", "/"),
            route("*.example.com", "/long/prefix"),
            route("*.example.com", "/"),
            route("wiki.example.com", "/"),
            route("wiki.example.com", "/admin"),
        ])
        .expect("no conflict");
        assert_eq!(
            found(&table, "WIKI.example.com", "/admin/x").as_deref(),
            Some("wiki.example.com/admin")
        );
        assert_eq!(
            found(&table, "wiki.example.com", "/administrator").as_deref(),
            Some("wiki.example.com/")
        );
        assert_eq!(
            found(&table, "a.example.com", "/long/prefix").as_deref(),
            Some("*.example.com/long/prefix")
        );
        assert_eq!(found(&table, "other.test", "/").as_deref(), Some("*/"));
    }

    #[test]
    fn an_unserved_path_of_a_host_does_not_match_a_wider_host() {
        let table =
            RouteTable::new(vec![route("a.test", "/app"), route("*", "/")]).expect("no conflict");
        assert_eq!(found(&table, "a.test", "/other"), None);
    }

    #[test]
    fn own_pages_use_the_strictest_signals_mode_of_the_host() {
        let route_with = |host, path, signals| Route {
            policy: RoutePolicy { signals, ..RoutePolicy::default() },
            ..route(host, path)
        };
        let public =
            Route { access: Access::Public, ..route_with("b.test", "/", SignalsMode::Enforce) };
        let table = RouteTable::new(vec![
            route_with("a.test", "/", SignalsMode::Monitor),
            route_with("a.test", "/admin", SignalsMode::Enforce),
            route_with("a.test", "/feed", SignalsMode::Off),
            route_with("b.test", "/app", SignalsMode::Monitor),
            public,
            route_with("*", "/", SignalsMode::Off),
        ])
        .expect("no conflict");
        for (host, mode) in [
            ("a.test", SignalsMode::Enforce),
            ("b.test", SignalsMode::Monitor),
            ("c.test", SignalsMode::Off),
        ] {
            let host = Host::parse(host).expect("a host");
            assert_eq!(table.strictest_signals_mode(&host), mode, "{host}");
        }
    }

    fn interpretations(ambiguity: Ambiguity, paths: &[&str]) -> Interpretations {
        Interpretations { ambiguity, paths: paths.iter().map(|path| (*path).to_owned()).collect() }
    }

    /// Hypothesis 17 in `docs/proxy-vulnerabilities.md`.
    #[test]
    fn an_ambiguous_path_passes_if_all_interpretations_agree() {
        let allowing = |path, access| Route {
            access,
            ambiguous_paths: AmbiguousPaths::RequireSession,
            ..route("a.test", path)
        };
        let session = || Access::Session(AccessRule::default());
        let table = RouteTable::new(vec![
            allowing("/git", session()),
            allowing("/git/admin", session()),
            allowing("/open", Access::Public),
            route("a.test", "/plain"),
        ])
        .expect("no conflict");
        let host = Host::parse("a.test").expect("a host");
        let allows =
            |paths: &[&str]| table.agrees(&host, &interpretations(Ambiguity::Segments, paths));
        assert!(allows(&["/git/a%2Fb", "/git/a/b"]));
        assert!(
            !allows(&["/git/x", "/git/admin/x"]),
            "one interpretation leads to a stricter route"
        );
        assert!(!allows(&["/git/x", "/plain/x"]) && !allows(&["/git/x", "/elsewhere"]));
        assert!(!allows(&["/open/a", "/open/b"]), "never public");
        assert!(!allows(&["/plain/a", "/plain/b"]), "not allowed by the route");
        assert!(!allows(&["/elsewhere"]) && !allows(&[]));
    }

    /// CVE-2026-32811.
    #[test]
    fn an_encoded_delimiter_passes_within_one_route() {
        let table = RouteTable::new(vec![route("a.test", "/"), route("a.test", "/admin")]);
        let (table, host) = (table.expect("no conflict"), Host::parse("a.test").expect("a host"));
        let allows =
            |paths: &[&str]| table.agrees(&host, &interpretations(Ambiguity::Delimiter, paths));
        assert!(allows(&["/tags/C#", "/tags/C"]) && allows(&["/admin/a?", "/admin/a"]));
        assert!(!allows(&["/admin?x", "/admin"]));
    }

    /// Hypothesis 17 in `docs/proxy-vulnerabilities.md`.
    #[test]
    fn a_path_that_shadows_a_stricter_route_is_found() {
        let public = |path| Route { access: Access::Public, ..route("a.test", path) };
        let staff = Access::Session(AccessRule { groups: vec!["staff".into()], users: vec![] });
        let table = RouteTable::new(vec![
            public("/"),
            public("/admin/open"),
            route("a.test", "/admin"),
            Route { access: staff, ..route("a.test", "/admin/Staff") },
            route("b.test", "/admin"),
            route("b.test", "/"),
        ])
        .expect("no conflict");
        let shadows = |host: &str, path: &str| {
            let found = table.find(&Host::parse(host).expect("a host"), path);
            table.shadows_stricter_route(found.expect("a route"), path)
        };
        for path in ["/ADMIN", "/Admin/x", "/admin.", "/admin /x", "/admin::$DATA", "/ADMIN/open"] {
            assert!(shadows("a.test", path), "{path}");
        }
        assert!(shadows("a.test", "/admin/staff/x") && shadows("a.test", "/admin/STAFF."));
        for path in
            ["/admin", "/admin/x", "/admin/open/X", "/Administrator", "/x/ADMIN", "/admin/Staff"]
        {
            assert!(!shadows("a.test", path), "{path}");
        }
        assert!(!shadows("b.test", "/ADMIN"), "its route is not stricter");
    }

    /// Hypothesis 17 in `docs/proxy-vulnerabilities.md`.
    #[test]
    fn no_interpretation_may_shadow_a_stricter_route() {
        let table = RouteTable::new(vec![
            Route { ambiguous_paths: AmbiguousPaths::RequireSession, ..route("a.test", "/") },
            Route {
                access: Access::Session(AccessRule { users: vec!["bob".into()], groups: vec![] }),
                ..route("a.test", "/admin")
            },
        ]);
        let (table, host) = (table.expect("no conflict"), Host::parse("a.test").expect("a host"));
        let allows =
            |paths: &[&str]| table.agrees(&host, &interpretations(Ambiguity::Segments, paths));
        assert!(allows(&["/x%2Fb", "/x/b"]) && !allows(&["/ADMIN%2Fb", "/ADMIN/b"]));
    }

    #[test]
    fn two_routes_with_the_same_host_and_path_conflict() {
        let conflicts = RouteTable::new(vec![route("a.test", "/x"), route("A.test", "/x/")])
            .expect_err("a conflict");
        assert_eq!(conflicts, [RouteConflict { first: 0, second: 1 }]);
    }

    #[test]
    fn an_access_rule_admits_listed_users_or_groups() {
        let alice =
            Identity { user: "alice".into(), groups: vec!["staff".into()], ..Identity::default() };
        let allows = |users: &[&str], groups: &[&str]| {
            let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            AccessRule { users: list(users), groups: list(groups) }.allows(&alice)
        };
        assert!(allows(&[], &[]) && allows(&["alice"], &[]) && allows(&["bob"], &["staff"]));
        assert!(!allows(&["bob"], &[]) && !allows(&[], &["admin"]));
    }

    #[test]
    fn a_successor_serves_all_requests_of_the_route_before() {
        let table = |routes: &[(&str, &str)]| {
            let routes = routes.iter().map(|(host, path)| route(host, path)).collect();
            RouteTable::new(routes).expect("no conflict")
        };
        let before = table(&[("*.a.test", "/x"), ("b.test", "/"), ("b.test", "/old")]);
        let served = |after: &RouteTable, host: &str, path: &str| {
            let host = HostPattern::parse(host).expect("a host");
            let same = |it: &&Arc<Route>| it.host == host && it.path.as_str() == path;
            let old = before.iter().find(same).expect("a route");
            after.successor(&before, old).is_some()
        };
        let copy = before.clone();
        assert!(copy.is_copy_of(&before) && !table(&[]).is_copy_of(&before));
        let same = table(&[("b.test", "/old"), ("*.a.test", "/x"), ("b.test", "/")]);
        assert!(served(&same, "*.a.test", "/x") && served(&same, "b.test", "/"));
        let removed = table(&[("*.a.test", "/x"), ("b.test", "/")]);
        assert!(!served(&removed, "b.test", "/old") && served(&removed, "b.test", "/"));
        for (host, path) in [("w.a.test", "/"), ("*.w.a.test", "/x"), ("*.a.test", "/x/y")] {
            let split = table(&[("*.a.test", "/x"), ("b.test", "/"), (host, path)]);
            assert!(!served(&split, "*.a.test", "/x"), "{host}{path} takes over");
            assert!(served(&split, "b.test", "/"), "{host}{path} is elsewhere");
        }
        for (host, path) in [("*.a.test", "/y"), ("*", "/x"), ("c.test", "/x"), ("*.a.test", "/")] {
            let beside = table(&[("*.a.test", "/x"), (host, path)]);
            assert!(served(&beside, "*.a.test", "/x"), "{host}{path} is beside");
        }
    }
}
