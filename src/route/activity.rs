//! Which traffic counts as activity. A page that polls must not prevent the idle timeout.

use http::Method;

use super::Methods;
use crate::message::{Intent, PathPrefix};

/// What counts as activity on one route. By default every request, the transfer of its bodies, and the WebSocket
/// frames of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activity {
    /// Requests below these paths do not count.
    pub except: Vec<PathPrefix>,
    /// Only requests with these methods count.
    pub methods: Methods,
    /// Whether only navigations count, that is, opened or reloaded pages.
    pub navigations_only: bool,
    /// Whether the transfer of the bodies of a request counts, if the request does. Event streams never do.
    pub transfers: bool,
    pub websocket: ActivityFrames,
}

impl Default for Activity {
    fn default() -> Activity {
        Activity {
            except: Vec::new(),
            methods: Methods::default(),
            navigations_only: false,
            transfers: true,
            websocket: ActivityFrames::default(),
        }
    }
}

/// Which WebSocket data frames count as activity. Control frames never do, because programs send them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ActivityFrames {
    /// No frame. The handshake counts like any request.
    None,
    /// Frames from the client, except those that a timer sends.
    #[default]
    Irregular,
    /// Frames from the client.
    Client,
    /// Frames from either side.
    Any,
}

impl ActivityFrames {
    /// Returns the configuration value.
    pub fn as_str(self) -> &'static str {
        match self {
            ActivityFrames::None => "none",
            ActivityFrames::Irregular => "irregular",
            ActivityFrames::Client => "client-frames",
            ActivityFrames::Any => "any",
        }
    }
}

impl Activity {
    /// Returns whether a request counts as activity.
    pub fn counts(&self, method: &Method, path: &str, intent: Intent) -> bool {
        let is_navigation = intent == Intent::Navigation;
        (is_navigation || !self.navigations_only)
            && self.methods.contains(method)
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
    fn by_default_requests_and_frames_of_users_count() {
        let activity = Activity::default();
        assert!(counts(&activity, "/", Intent::Fetch));
        assert!(counts(&activity, "/", Intent::Navigation));
        assert_eq!(activity.websocket, ActivityFrames::Irregular);
    }

    #[test]
    fn excepted_paths_and_non_navigations_do_not_count() {
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
    fn only_the_listed_methods_count() {
        let methods = Methods::Only(vec![Method::POST]);
        let activity = Activity { methods, ..Activity::default() };
        assert!(activity.counts(&Method::POST, "/", Intent::Fetch));
        assert!(!activity.counts(&Method::GET, "/", Intent::Navigation));
        let activity = Activity { navigations_only: true, ..activity };
        assert!(!activity.counts(&Method::POST, "/", Intent::Fetch), "every condition must hold");
    }
}
