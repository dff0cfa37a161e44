//! Which traffic keeps a session from idling out. A page that polls must not do it for ever.

use http::Method;

use super::Methods;
use crate::message::{Intent, PathPrefix};

/// What counts on one route. By default every request does, and no WebSocket frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Paths whose requests do not count.
    pub except: Vec<PathPrefix>,
    /// Whose requests alone count.
    pub methods: Methods,
    /// Whether only navigations count: a person opened or reloaded a page.
    pub navigations_only: bool,
    pub websocket: Frames,
}

/// Which data frames of a WebSocket count. Pings, pongs and closes never do: programs send them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Frames {
    /// None; the handshake counts as the request that it is.
    #[default]
    None,
    /// What the client sends: a person types.
    Client,
    /// What either side sends.
    Any,
}

impl Frames {
    /// The word for configuration.
    pub fn word(self) -> &'static str {
        match self {
            Frames::None => "none",
            Frames::Client => "client-frames",
            Frames::Any => "any",
        }
    }
}

impl Activity {
    /// Whether a request counts.
    pub fn counts(&self, method: &Method, path: &str, intent: Intent) -> bool {
        let is_navigation = intent == Intent::Navigation;
        (is_navigation || !self.navigations_only)
            && self.methods.name(method)
            && !self.except.iter().any(|prefix| prefix.covers(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(activity: &Activity, path: &str, intent: Intent) -> bool {
        activity.counts(&Method::GET, path, intent)
    }

    #[test]
    fn by_default_every_request_counts_and_no_frame() {
        let activity = Activity::default();
        assert!(counts(&activity, "/", Intent::Fetch));
        assert!(counts(&activity, "/", Intent::Navigation));
        assert_eq!(activity.websocket, Frames::None);
    }

    #[test]
    fn excepted_paths_and_below_and_fetches_where_only_navigations_count_do_not() {
        let except = vec![PathPrefix::parse("/api/poll").expect("a path")];
        let activity = Activity { except, ..Activity::default() };
        assert!(!counts(&activity, "/api/poll", Intent::Navigation));
        assert!(!counts(&activity, "/api/poll/now", Intent::Fetch));
        assert!(counts(&activity, "/api/polls", Intent::Fetch));
        let activity = Activity { navigations_only: true, ..Activity::default() };
        assert!(!counts(&activity, "/", Intent::Fetch));
        assert!(counts(&activity, "/", Intent::Navigation));
    }

    #[test]
    fn where_methods_are_named_no_other_counts() {
        let methods = Methods::These(vec![Method::POST]);
        let activity = Activity { methods, ..Activity::default() };
        assert!(activity.counts(&Method::POST, "/", Intent::Fetch));
        assert!(!activity.counts(&Method::GET, "/", Intent::Navigation));
        let activity = Activity { navigations_only: true, ..activity };
        assert!(!activity.counts(&Method::POST, "/", Intent::Fetch), "each rule is asked");
    }
}
