//! What a route and a request do to a session, in words.

use crate::proxy::{ActivityRules, Effects, SessionRules};

/// What the route says of sessions, where it says anything.
pub(super) fn of_route(rules: &SessionRules, say: &mut impl FnMut(&str, &str)) {
    let activity = activity(&rules.activity);
    if !activity.is_empty() {
        say("activity", &activity.join("; "));
    }
    let lists = [("rotate_on", &rules.rotate_on), ("logout", &rules.logout_paths)];
    for (name, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
        say(name, &list.join(", "));
    }
    if !rules.obey_upstream.is_empty() {
        say("obeys", &format!("Doorward-Session: {}", rules.obey_upstream.join(", ")));
    }
}

fn activity(rules: &ActivityRules) -> Vec<String> {
    let mut said = Vec::new();
    if !rules.except.is_empty() {
        said.push(format!("not {}", rules.except.join(", ")));
    }
    if !rules.methods.is_empty() {
        said.push(format!("only {}", rules.methods.join(", ")));
    }
    if rules.navigations_only {
        said.push("only pages that a person opens".to_owned());
    }
    if rules.websocket != "none" {
        said.push(format!("of WebSockets {}", rules.websocket));
    }
    said
}

/// What the request does, once it is let through.
pub(super) fn of_request(effects: Effects, say: &mut impl FnMut(&str, &str)) {
    let counts = match (effects.page_counts, effects.fetch_counts) {
        (true, true) => "is activity",
        (true, false) => {
            "is activity where a person opens a page by it, and not where a page fetches"
        }
        (false, true) => "is activity where a page fetches, and not where a person opens it",
        (false, false) => "is no activity: the session idles on",
    };
    say("request", counts);
    if effects.logs_out {
        say("request", "is the app's logout: the session ends with the answer");
    }
    if effects.rotates {
        say("request", "renews the token once the app said that it is done (2xx or 3xx)");
    }
}
