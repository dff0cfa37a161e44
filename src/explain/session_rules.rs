//! Session settings of a route, and their effect on a permitted request.

use http::Method;
use serde::Serialize;

use crate::message::{InboundHead, Intent, PathPrefix};
use crate::route::{Access, Methods, Route, SensitiveAction};

/// `[route.session]` as configured. Empty lists are unset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SessionRules {
    pub activity: ActivityRules,
    pub rotate_on: Vec<String>,
    pub logout_paths: Vec<String>,
    pub upstream_control: Vec<&'static str>,
}

/// `[route.session.activity]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ActivityRules {
    pub except: Vec<String>,
    pub methods: Vec<String>,
    pub navigations_only: bool,
    pub websocket: &'static str,
}

/// Effects of a permitted request on its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SessionEffects {
    /// Whether it counts as activity if a user navigates with it.
    pub page_counts: bool,
    /// Whether it counts as activity if a page or program fetches with it.
    pub fetch_counts: bool,
    /// Whether a successful response rotates the token.
    pub rotates: bool,
    /// Whether it is a logout path of the upstream.
    pub logs_out: bool,
}

impl SessionRules {
    /// `None` on a public route, which has no session.
    pub(super) fn for_route(route: &Route) -> Option<SessionRules> {
        let (activity, steering) = (&route.activity, &route.session_control);
        let rules = SessionRules {
            activity: ActivityRules {
                except: paths(&activity.except),
                methods: match &activity.methods {
                    Methods::All => Vec::new(),
                    Methods::Only(named) => named.iter().map(Method::to_string).collect(),
                },
                navigations_only: activity.navigations_only,
                websocket: activity.websocket.as_str(),
            },
            rotate_on: steering.rotate.iter().map(action_text).collect(),
            logout_paths: steering.logout.iter().map(ToString::to_string).collect(),
            upstream_control: steering
                .upstream_commands
                .iter()
                .map(|command| command.as_str())
                .collect(),
        };
        (route.access != Access::Public).then_some(rules)
    }
}

impl SessionEffects {
    pub(super) fn for_request(head: &InboundHead, route: &Route) -> Option<SessionEffects> {
        let path = head.target.path();
        let counts = |intent| route.activity.counts(&head.method, path, intent);
        let effects = SessionEffects {
            page_counts: counts(Intent::Navigation),
            fetch_counts: counts(Intent::Fetch),
            rotates: route.session_control.is_sensitive_action(head.methods(), path),
            logs_out: route.session_control.is_logout(path, head.target.query()),
        };
        (route.access != Access::Public).then_some(effects)
    }
}

fn paths(prefixes: &[PathPrefix]) -> Vec<String> {
    prefixes.iter().map(|prefix| prefix.as_str().to_owned()).collect()
}

fn action_text(action: &SensitiveAction) -> String {
    format!("{} {}", action.method, action.path.as_str())
}
