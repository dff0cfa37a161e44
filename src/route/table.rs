//! The route table: selects the route of a request.
//!
//! A route matches by host and by the longest path prefix at segment boundaries. Only the canonical path
//! is used: query, fragment and headers have no effect (CVE-2025-54576, CVE-2026-34457,
//! CVE-2026-40575).

use std::path::Path;
use std::sync::Arc;

use http::HeaderValue;

use crate::message::{Ambiguity, AmbiguousPath, Endpoint, HeaderRules, Host, Interpretations};
use crate::session::SignalsMode;

use super::disguise::{FoldLimits, FoldedPath, FoldedPrefix};
use super::{Access, Route};

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
        routes.sort_by_key(|route| (route.host.rank(), std::cmp::Reverse(route.path.length())));
        routes.iter_mut().enumerate().for_each(|(index, route)| route.index = index);
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
        let rank = all.next().map(|first| first.host.rank());
        let matching = self.routes.iter().filter(|route| route.host.matches(host.name()));
        matching.filter(move |route| Some(route.host.rank()) == rank)
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

    /// Reads the files of `set_header_files` and of passwords.
    ///
    /// # Errors
    /// The first error of `read`.
    pub fn read_header_files<E>(
        &mut self,
        read: impl Fn(&Path) -> Result<HeaderValue, E>,
    ) -> Result<(), E> {
        self.routes.iter_mut().map(Arc::make_mut).try_for_each(|route| {
            route.identity.read_files(&read)?;
            route.headers.read_files(&read)
        })
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
        others.any(|other| place(other) == place(endpoint))
    };
    std::ptr::eq(route, other) || route.upstreams.iter().any(is_shared)
}

/// Returns where an endpoint listens.
fn place(endpoint: &Endpoint) -> (&str, u16, Option<&Path>) {
    (endpoint.host(), endpoint.port(), endpoint.socket())
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
    use std::time::Duration;

    use crate::message::{CrossOriginPolicy, HostPattern, IdentityHeaders, PathPrefix};
    use crate::route::{
        AccessRule, Activity, AmbiguousPaths, BodyLimits, Methods, RouteHeaders,
        SessionControlRules, UpstreamOptions,
    };
    use crate::session::RoutePolicy;

    use super::*;

    fn route(host: &str, path: &str) -> Route {
        Route {
            index: 0,
            host: HostPattern::parse(host).expect("a host"),
            path: PathPrefix::parse(path).expect("a path"),
            upstreams: vec![],
            access: Access::Session(AccessRule::default()),
            accepts_app_credentials: false,
            accepts_tokens: false,
            token_header: None,
            bearer: Vec::new(),
            accepts_certificates: false,
            identity: IdentityHeaders::standard(),
            assertion: false,
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
        let staff =
            Access::Session(AccessRule { groups: vec!["staff".into()], ..AccessRule::default() });
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
                access: Access::Session(AccessRule {
                    users: vec!["bob".into()],
                    ..AccessRule::default()
                }),
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
