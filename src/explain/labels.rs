//! Text for the parts of an explanation.

use std::time::Duration;

use http::header::HeaderValue;
use http::{Method, StatusCode};

use crate::proxy::UpstreamHead;
use crate::route::{Access, AccessRule, Methods, Route};

use super::ResponseExplanation;

pub(super) fn access(access: &Access) -> String {
    match access {
        Access::Public => "all clients".to_owned(),
        Access::Session(rule) => users(rule) + &logins(rule) + second_factor(rule),
    }
}

/// The credentials with which programs are admitted.
pub(super) fn programs(route: &Route) -> String {
    let mut text = String::new();
    if route.accepts_tokens {
        text += ", or a personal access token";
    }
    if !route.bearer.is_empty() {
        text += &format!(", or an access token of {}", route.bearer.join(" or "));
    }
    if route.accepts_certificates {
        text += ", or a client certificate";
    }
    text
}

fn users(AccessRule { users, groups, .. }: &AccessRule) -> String {
    match (&users[..], &groups[..]) {
        ([], []) => "every user with a session".to_owned(),
        (users, []) => format!("the users {}", users.join(", ")),
        ([], groups) => format!("the groups {}", groups.join(", ")),
        (users, groups) => {
            format!("the users {} and the groups {}", users.join(", "), groups.join(", "))
        }
    }
}

fn second_factor(rule: &AccessRule) -> &'static str {
    if rule.second_factor { ", with a second factor" } else { "" }
}

fn logins(AccessRule { logins, acr, .. }: &AccessRule) -> String {
    let list = |what: &str, names: &[String]| match names {
        [] => String::new(),
        names => format!(", {what} {}", names.join(" or ")),
    };
    list("after a login with", logins) + &list("with acr", acr)
}

pub(super) fn stricter(own: Option<Duration>, session: Duration) -> String {
    match own {
        Some(own) if own < session => format!("{} (this route)", humanize(own)),
        Some(_) | None => humanize(session),
    }
}

/// The methods that a limit applies to; empty for all.
pub(super) fn of_methods(methods: &Methods) -> String {
    match methods {
        Methods::All => String::new(),
        Methods::Only(named) => {
            let named: Vec<&str> = named.iter().map(Method::as_str).collect();
            format!(" for {} and WebSockets", named.join(", "))
        }
    }
}

/// Formats a duration as in the configuration.
pub(super) fn humanize(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [("d", 86_400), ("h", 3_600), ("m", 60)];
    let whole = units.into_iter().find(|(_, unit)| seconds > 0 && seconds.is_multiple_of(*unit));
    match whole {
        Some((name, unit)) => format!("{}{name}", seconds / unit),
        None => format!("{seconds}s"),
    }
}

pub(super) fn response(
    to: &'static str,
    status: StatusCode,
    location: Option<&HeaderValue>,
) -> ResponseExplanation {
    // The return URL in the query is sealed and differs each time.
    let location = location.and_then(|value| value.to_str().ok());
    let location = location.map(|text| text.split('?').next().unwrap_or(text).to_owned());
    ResponseExplanation { to, status: status.as_u16(), location }
}

/// The headers that the upstream receives; first the path, as `:path`, if the route maps it.
pub(super) fn upstream_headers(head: UpstreamHead, route: &Route) -> Vec<(String, String)> {
    let request = head.into_request(());
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let path = route.upstream_options.path_mapping.as_ref();
    let path = path.map(|_| (":path".to_owned(), request.uri().to_string()));
    let headers = request.headers().iter().map(|(name, value)| (name.to_string(), text(value)));
    path.into_iter().chain(headers).collect()
}
