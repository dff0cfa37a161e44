//! Renders session rules and effects.

use crate::explain::{ActivityRules, SessionEffects, SessionRules};

/// Renders the session settings of a route.
pub(super) fn render_route(rules: &SessionRules, row: &mut impl FnMut(&str, &str)) {
    let activity = activity(&rules.activity);
    if !activity.is_empty() {
        row("activity", &activity.join("; "));
    }
    let lists = [("rotate_on", &rules.rotate_on), ("logout", &rules.logout_paths)];
    for (name, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
        row(name, &list.join(", "));
    }
    if !rules.upstream_control.is_empty() {
        row("accepts", &format!("Doorward-Session: {}", rules.upstream_control.join(", ")));
    }
}

fn activity(rules: &ActivityRules) -> Vec<String> {
    let mut parts = Vec::new();
    if !rules.except.is_empty() {
        parts.push(format!("not {}", rules.except.join(", ")));
    }
    if !rules.methods.is_empty() {
        parts.push(format!("only {}", rules.methods.join(", ")));
    }
    if rules.navigations_only {
        parts.push("only navigations".to_owned());
    }
    if rules.websocket != "none" {
        parts.push(format!("WebSocket frames: {}", rules.websocket));
    }
    parts
}

/// Renders the effects of a permitted request.
pub(super) fn render_request(effects: SessionEffects, row: &mut impl FnMut(&str, &str)) {
    let counts = match (effects.page_counts, effects.fetch_counts) {
        (true, true) => "is activity",
        (true, false) => "is activity as a navigation, not as a fetch",
        (false, true) => "is activity as a fetch, not as a navigation",
        (false, false) => "is no activity",
    };
    row("request", counts);
    if effects.logs_out {
        row("request", "is a logout path: the response ends the session");
    }
    if effects.rotates {
        row("request", "rotates the token after a 2xx or 3xx response");
    }
}
