//! Which upstream a request is for, and who may reach it. Pure.
//!
//! A route is found by host and longest path prefix on segment borders, on the canonical path alone:
//! no query, no fragment, no header takes part (CVE-2025-54576, CVE-2026-34457, CVE-2026-40575).

mod activity;
mod methods;
mod steering;

pub use activity::{Activity, Frames};
pub use methods::Methods;
pub use steering::{Action, Command, Steering, says_done};

use std::borrow::Cow;
use std::path::PathBuf;
use std::time::Duration;

use http::Method;

use crate::message::readings::as_files_are_found;
use crate::message::{
    Doubt, Endpoint, Host, HostPattern, IdentityFields, Origins, PathPrefix, Readings,
};
use crate::session::{Identity, RoutePolicy, Watch};

/// One `[[route]]`, checked.
#[derive(Clone, Debug)]
pub struct Route {
    pub host: HostPattern,
    pub path: PathPrefix,
    /// At least one; balanced.
    pub upstreams: Vec<Endpoint>,
    pub access: Access,
    pub identity: IdentityFields,
    pub policy: RoutePolicy,
    /// Whose requests `max_auth_age` is asked of.
    pub auth_age_methods: Methods,
    pub limits: BodyLimits,
    /// Whose pages may act here.
    pub origins: Origins,
    pub ambiguous: AmbiguousPaths,
    /// Whether tokens are renewed on this route.
    pub renewal: bool,
    /// To the first byte of the upstream's answer.
    pub response_timeout: Duration,
    /// For how long a session that was seen alive may read while the store is away; nobody when absent.
    pub serve_known_for: Option<Duration>,
    /// How long a WebSocket, a stream or a large body may go on.
    pub max_connection_age: Option<Duration>,
    pub activity: Activity,
    pub steering: Steering,
    /// The authority that vouches for https upstreams; the system's when absent.
    pub upstream_ca: Option<PathBuf>,
}

impl Route {
    fn bears_ambiguity(&self) -> bool {
        match (&self.access, self.ambiguous) {
            (Access::Session(_), AmbiguousPaths::RequireSession) => true,
            (Access::Public, _) | (Access::Session(_), AmbiguousPaths::Refuse) => false,
        }
    }

    /// What is asked of the session behind a request.
    pub fn policy_for(&self, method: &Method, websocket: bool) -> Cow<'_, RoutePolicy> {
        if self.policy.max_auth_age.is_none() || self.auth_age_methods.hold(method, websocket) {
            return Cow::Borrowed(&self.policy);
        }
        Cow::Owned(RoutePolicy { max_auth_age: None, ..self.policy.clone() })
    }

    fn is_deeper_than(&self, other: &Route) -> bool {
        self.host == other.host && self.path.length() > other.path.length()
    }

    /// Whether somebody may be let pass there and not here. Two sets of rules that cannot be compared
    /// count as one asking for more than the other, and the other way round.
    fn asks_more_than(&self, other: &Route) -> bool {
        match (&self.access, &other.access) {
            (Access::Public, Access::Public | Access::Session(_)) => false,
            (Access::Session(_), Access::Public) => true,
            (Access::Session(here), Access::Session(there)) => {
                let asks_nobody = *here == Requirement::default();
                !(asks_nobody || here == there)
                    || self.policy != other.policy
                    || self.auth_age_methods != other.auth_age_methods
                    || self.origins != other.origins
            }
        }
    }

    /// How logs and metrics name the route.
    pub fn label(&self) -> String {
        format!("{}{}", self.host, self.path.as_str())
    }
}

/// What bodies may take on a route. A zero is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BodyLimits {
    /// Longest silence of a client in the middle of its body.
    pub timeout: Duration,
    /// Bytes in a second, on average, while a client is waited for; both ways.
    pub min_rate: u64,
    /// Bytes of a request's body.
    pub max: u64,
    /// Longest silence of an upstream in the middle of its answer.
    pub upstream_idle: Duration,
    /// From a request's head to the last of its answer. WebSockets and event streams are left out.
    pub request: Duration,
    /// Longest silence of a WebSocket's both sides.
    pub tunnel_idle: Duration,
}

/// What becomes of paths that two programs can read in two ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AmbiguousPaths {
    #[default]
    Refuse,
    /// Forwarded for who has a session, if every reading leads to this route. Never on a public one.
    RequireSession,
}

/// Who may use a route. There is no default: a route without a rule does not load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    Public,
    Session(Requirement),
}

/// What a live session must be beyond live. Empty lists ask nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirement {
    pub users: Vec<String>,
    pub groups: Vec<String>,
}

impl Requirement {
    /// Whether this user may. Where both lists are given, being in either is enough.
    pub fn allows(&self, identity: &Identity) -> bool {
        (self.users.is_empty() && self.groups.is_empty())
            || self.users.contains(&identity.user)
            || identity.groups.iter().any(|group| self.groups.contains(group))
    }
}

/// All routes.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    routes: Vec<Route>,
    /// Of each route its path as a lenient file system finds it; absent where it asks for no more than
    /// shorter paths do.
    guarded: Vec<Option<String>>,
}

/// Two routes that claim the same place: indices into the list given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clash {
    pub first: usize,
    pub second: usize,
}

impl RouteTable {
    /// Orders the routes so that the first match is the right one, or names those that clash.
    pub fn new(mut routes: Vec<Route>) -> Result<RouteTable, Vec<Clash>> {
        let clashes = clashes(&routes);
        if !clashes.is_empty() {
            return Err(clashes);
        }
        routes
            .sort_by_key(|route| (host_rank(&route.host), std::cmp::Reverse(route.path.length())));
        let guarded = routes.iter().map(|route| {
            let mut others = routes.iter().filter(|other| route.is_deeper_than(other));
            let is_guarded = others.any(|other| route.asks_more_than(other));
            let name = is_guarded.then(|| as_files_are_found(route.path.as_str()))?;
            // A name of dots alone is every name.
            Some(name).filter(|name| !name.is_empty())
        });
        let guarded = guarded.collect();
        Ok(RouteTable { routes, guarded })
    }

    /// The route for a host and a canonical path. The most exact host that has any route decides;
    /// within it the longest prefix.
    pub fn find(&self, host: &Host, path: &str) -> Option<&Route> {
        self.of(host).find(|route| route.path.covers(path))
    }

    /// The routes of the most exact host that has any.
    fn of(&self, host: &Host) -> impl Iterator<Item = &Route> {
        let mut all = self.routes.iter().filter(|route| route.host.matches(host.name()));
        let rank = all.next().map(|first| host_rank(&first.host));
        let matching = self.routes.iter().filter(|route| route.host.matches(host.name()));
        matching.filter(move |route| Some(host_rank(&route.host)) == rank)
    }

    /// What the strictest of a host's session routes does with signals.
    pub fn strictest_watch(&self, host: &Host) -> Watch {
        let asks = self.of(host).filter(|route| match route.access {
            Access::Session(_) => true,
            Access::Public => false,
        });
        asks.map(|route| route.policy.signals).max().unwrap_or(Watch::Off)
    }

    /// Whether a path in doubt may pass: all its readings lead to one place, so that no rule of another
    /// route is passed by; and where the doubt is about segments, that route asks for a session and
    /// its operator wants such paths.
    pub fn bears(&self, host: &Host, readings: &Readings) -> bool {
        let mut found = readings.paths.iter().map(|path| self.find(host, path));
        let Some(first) = found.next() else { return false };
        let all_one = found.all(|other| match (first, other) {
            (Some(first), Some(other)) => std::ptr::eq(first, other),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        });
        let disguised = first
            .is_some_and(|found| readings.paths.iter().any(|path| self.is_disguised(found, path)));
        all_one
            && !disguised
            && match readings.doubt {
                Doubt::Mark => true,
                Doubt::Shape => first.is_some_and(Route::bears_ambiguity),
            }
    }

    /// Whether the path of a request to the route `found` is, in the eyes of an app that finds names as
    /// lenient file systems do, one of another route that asks for more: `/ADMIN` on `/`, beside a
    /// `/admin`. Costs nothing where no route asks for more than one above it.
    pub fn is_disguised(&self, found: &Route, path: &str) -> bool {
        let mut stricter = self.guarded.iter().zip(&self.routes).filter_map(|(guarded, route)| {
            let guarded = guarded.as_deref()?;
            (route.is_deeper_than(found) && route.asks_more_than(found)).then_some(guarded)
        });
        let Some(first) = stricter.next() else { return false };
        let name = as_files_are_found(path);
        let mut all = std::iter::once(first).chain(stricter);
        all.any(|prefix| {
            name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    /// Whether any route serves the host: our own pages answer only there.
    pub fn knows(&self, host: &Host) -> bool {
        self.routes.iter().any(|route| route.host.matches(host.name()))
    }

    /// The routes in the order in which they are tried.
    pub fn iter(&self) -> std::slice::Iter<'_, Route> {
        self.routes.iter()
    }
}

/// Exact names first, then the longest wildcard, then any.
fn host_rank(host: &HostPattern) -> (u8, std::cmp::Reverse<usize>) {
    match host {
        HostPattern::Exact(_) => (0, std::cmp::Reverse(0)),
        HostPattern::Below(suffix) => (1, std::cmp::Reverse(suffix.len())),
        HostPattern::Any => (2, std::cmp::Reverse(0)),
    }
}

fn clashes(routes: &[Route]) -> Vec<Clash> {
    let mut out = Vec::new();
    for (second, route) in routes.iter().enumerate() {
        let same = |other: &Route| other.host == route.host && other.path == route.path;
        if let Some(first) = routes[..second].iter().position(same) {
            out.push(Clash { first, second });
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
            access: Access::Session(Requirement::default()),
            identity: IdentityFields::standard(),
            policy: RoutePolicy::default(),
            auth_age_methods: Methods::All,
            limits: BodyLimits::default(),
            origins: Origins::default(),
            ambiguous: AmbiguousPaths::Refuse,
            renewal: true,
            response_timeout: Duration::from_secs(60),
            max_connection_age: None,
            serve_known_for: None,
            activity: Activity::default(),
            steering: Steering::default(),
            upstream_ca: None,
        }
    }

    fn found(table: &RouteTable, host: &str, path: &str) -> Option<String> {
        table.find(&Host::parse(host).expect("a host"), path).map(Route::label)
    }

    #[test]
    fn the_most_exact_host_then_the_longest_prefix_wins() {
        let table = RouteTable::new(vec![
            route("*", "/"),
            route("*.example.com", "/long/prefix"),
            route("*.example.com", "/"),
            route("wiki.example.com", "/"),
            route("wiki.example.com", "/admin"),
        ])
        .expect("no clash");
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
    fn a_path_that_an_exact_host_does_not_serve_falls_to_no_wider_host() {
        let table =
            RouteTable::new(vec![route("a.test", "/app"), route("*", "/")]).expect("no clash");
        assert_eq!(found(&table, "a.test", "/other"), None);
    }

    #[test]
    fn the_strictest_session_route_of_a_host_says_how_its_own_pages_watch() {
        let watching = |host, path, signals| Route {
            policy: RoutePolicy { signals, ..RoutePolicy::default() },
            ..route(host, path)
        };
        let public = Route { access: Access::Public, ..watching("b.test", "/", Watch::Enforce) };
        let table = RouteTable::new(vec![
            watching("a.test", "/", Watch::Monitor),
            watching("a.test", "/admin", Watch::Enforce),
            watching("a.test", "/feed", Watch::Off),
            watching("b.test", "/app", Watch::Monitor),
            public,
            watching("*", "/", Watch::Off),
        ])
        .expect("no clash");
        for (host, watch) in
            [("a.test", Watch::Enforce), ("b.test", Watch::Monitor), ("c.test", Watch::Off)]
        {
            let host = Host::parse(host).expect("a host");
            assert_eq!(table.strictest_watch(&host), watch, "{host}");
        }
    }

    fn readings(doubt: Doubt, paths: &[&str]) -> Readings {
        Readings { doubt, paths: paths.iter().map(|path| (*path).to_owned()).collect() }
    }

    #[test]
    fn hyp_17_a_path_in_doubt_passes_only_where_all_readings_lead_to_one_route_that_bears_it() {
        let bearing = |path, access| Route {
            access,
            ambiguous: AmbiguousPaths::RequireSession,
            ..route("a.test", path)
        };
        let session = || Access::Session(Requirement::default());
        let table = RouteTable::new(vec![
            bearing("/git", session()),
            bearing("/git/admin", session()),
            bearing("/open", Access::Public),
            route("a.test", "/plain"),
        ])
        .expect("no clash");
        let host = Host::parse("a.test").expect("a host");
        let bears = |paths: &[&str]| table.bears(&host, &readings(Doubt::Shape, paths));
        assert!(bears(&["/git/a%2Fb", "/git/a/b"]));
        assert!(!bears(&["/git/x", "/git/admin/x"]), "a stricter route in one reading");
        assert!(!bears(&["/git/x", "/plain/x"]) && !bears(&["/git/x", "/elsewhere"]));
        assert!(!bears(&["/open/a", "/open/b"]), "never public");
        assert!(!bears(&["/plain/a", "/plain/b"]), "not asked for");
        assert!(!bears(&["/elsewhere"]) && !bears(&[]));
    }

    #[test]
    fn cve_2026_32811_an_encoded_mark_passes_where_it_cuts_off_nothing_but_a_name() {
        let table = RouteTable::new(vec![route("a.test", "/"), route("a.test", "/admin")]);
        let (table, host) = (table.expect("no clash"), Host::parse("a.test").expect("a host"));
        let bears = |paths: &[&str]| table.bears(&host, &readings(Doubt::Mark, paths));
        assert!(bears(&["/tags/C#", "/tags/C"]) && bears(&["/admin/a?", "/admin/a"]));
        assert!(!bears(&["/admin?x", "/admin"]));
    }

    #[test]
    fn hyp_17_a_path_that_lenient_file_systems_find_behind_a_stricter_rule_is_disguised() {
        let public = |path| Route { access: Access::Public, ..route("a.test", path) };
        let staff = Access::Session(Requirement { groups: vec!["staff".into()], users: vec![] });
        let table = RouteTable::new(vec![
            public("/"),
            public("/admin/open"),
            route("a.test", "/admin"),
            Route { access: staff, ..route("a.test", "/admin/Staff") },
            route("b.test", "/admin"),
            route("b.test", "/"),
        ])
        .expect("no clash");
        let disguised = |host: &str, path: &str| {
            let found = table.find(&Host::parse(host).expect("a host"), path);
            table.is_disguised(found.expect("a route"), path)
        };
        for path in ["/ADMIN", "/Admin/x", "/admin.", "/admin /x", "/admin::$DATA", "/ADMIN/open"] {
            assert!(disguised("a.test", path), "{path}");
        }
        assert!(disguised("a.test", "/admin/staff/x") && disguised("a.test", "/admin/STAFF."));
        for path in
            ["/admin", "/admin/x", "/admin/open/X", "/Administrator", "/x/ADMIN", "/admin/Staff"]
        {
            assert!(!disguised("a.test", path), "{path}");
        }
        assert!(!disguised("b.test", "/ADMIN"), "nothing more is asked there");
    }

    #[test]
    fn hyp_17_no_reading_of_a_path_in_doubt_is_disguised() {
        let table = RouteTable::new(vec![
            Route { ambiguous: AmbiguousPaths::RequireSession, ..route("a.test", "/") },
            Route {
                access: Access::Session(Requirement { users: vec!["bob".into()], groups: vec![] }),
                ..route("a.test", "/admin")
            },
        ]);
        let (table, host) = (table.expect("no clash"), Host::parse("a.test").expect("a host"));
        let bears = |paths: &[&str]| table.bears(&host, &readings(Doubt::Shape, paths));
        assert!(bears(&["/x%2Fb", "/x/b"]) && !bears(&["/ADMIN%2Fb", "/ADMIN/b"]));
    }

    #[test]
    fn two_routes_for_one_place_are_named() {
        let clash = RouteTable::new(vec![route("a.test", "/x"), route("A.test", "/x/")])
            .expect_err("a clash");
        assert_eq!(clash, [Clash { first: 0, second: 1 }]);
    }

    #[test]
    fn a_requirement_asks_for_one_of_the_users_or_groups() {
        let alice =
            Identity { user: "alice".into(), groups: vec!["staff".into()], ..Identity::default() };
        let allows = |users: &[&str], groups: &[&str]| {
            let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            Requirement { users: list(users), groups: list(groups) }.allows(&alice)
        };
        assert!(allows(&[], &[]) && allows(&["alice"], &[]) && allows(&["bob"], &["staff"]));
        assert!(!allows(&["bob"], &[]) && !allows(&[], &["admin"]));
    }
}
