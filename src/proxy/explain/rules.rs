//! What a route does to the session of a request that it lets through.

use http::Method;
use serde::Serialize;

use crate::message::{InboundHead, Intent, PathPrefix};
use crate::route::{Access, Action, Methods, Route};

/// `[route.session]`, as the configuration writes it. Empty lists say nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SessionRules {
    pub activity: ActivityRules,
    pub rotate_on: Vec<String>,
    pub logout_paths: Vec<String>,
    pub obey_upstream: Vec<&'static str>,
}

/// `[route.session.activity]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ActivityRules {
    pub except: Vec<String>,
    pub methods: Vec<String>,
    pub navigations_only: bool,
    pub websocket: &'static str,
}

/// What this request does to the session, once it is let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Effects {
    /// Whether it is activity where a person opens a page by it.
    pub page_counts: bool,
    /// The same where a page or a program fetches by it.
    pub fetch_counts: bool,
    /// Whether the token is renewed once the app said that it is done.
    pub rotates: bool,
    /// Whether it is the app's logout.
    pub logs_out: bool,
}

impl SessionRules {
    /// `None` where everybody may come: there is no session.
    pub(super) fn of(route: &Route) -> Option<SessionRules> {
        let (activity, steering) = (&route.activity, &route.steering);
        let rules = SessionRules {
            activity: ActivityRules {
                except: paths(&activity.except),
                methods: match &activity.methods {
                    Methods::All => Vec::new(),
                    Methods::These(named) => named.iter().map(Method::to_string).collect(),
                },
                navigations_only: activity.navigations_only,
                websocket: activity.websocket.word(),
            },
            rotate_on: steering.rotate.iter().map(spoken).collect(),
            logout_paths: paths(&steering.logout),
            obey_upstream: steering.obeyed.iter().map(|command| command.word()).collect(),
        };
        (route.access != Access::Public).then_some(rules)
    }
}

impl Effects {
    pub(super) fn of(head: &InboundHead, route: &Route) -> Option<Effects> {
        let path = head.target.path();
        let counts = |intent| route.activity.counts(&head.method, path, intent);
        let effects = Effects {
            page_counts: counts(Intent::Navigation),
            fetch_counts: counts(Intent::Fetch),
            rotates: route.steering.rotates(&head.method, path),
            logs_out: route.steering.logs_out(path),
        };
        (route.access != Access::Public).then_some(effects)
    }
}

fn paths(prefixes: &[PathPrefix]) -> Vec<String> {
    prefixes.iter().map(|prefix| prefix.as_str().to_owned()).collect()
}

fn spoken(action: &Action) -> String {
    format!("{} {}", action.method, action.path.as_str())
}
