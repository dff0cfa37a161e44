//! `[[route]]`: upstream and access rule of a host and path.

use std::time::Duration;

use super::diagnostics::KeyDefault::{Required, Value};
use super::diagnostics::Span;
use super::identity::Passes;
use super::outage::{self, Outage};
use super::programs::{Programs, RouteKind};
use super::reader::{Field, Reader, TextOrSection, non_empty};
use super::values::path_prefix;
use super::{
    duration, identity, limits, presets, programs, route_headers, session_control, size, upstream,
};
use crate::message::host::HostError;
use crate::message::{CrossOriginPolicy, Endpoint, HostPattern, Origin};
use crate::route::{
    Access, AccessRule, Activity, AmbiguousPaths, BodyLimits, Methods, Route, SessionControlRules,
    UpstreamOptions,
};
use crate::session::{RoutePolicy, SessionPolicy, SignalsMode};

/// A session, or credentials that the app checks itself.
const SESSION_OR_PUBLIC: &str = "session-or-public";

/// A route with the locations that cross checks need.
pub(super) struct RouteSection {
    pub route: Route,
    /// Location of the `[[route]]` line.
    pub span: Span,
    pub host: Span,
    pub access: Span,
}

/// Defaults that routes inherit from other sections.
pub(super) struct RouteDefaults {
    pub bodies: BodyLimits,
    /// None if it is invalid.
    pub outage: Option<Outage>,
}

/// The `access` key: the access rule, and the maximum age of the login.
struct AccessConfig {
    access: Access,
    max_auth_age: Option<Duration>,
    auth_age_methods: Methods,
    accepts_app_credentials: bool,
    span: Span,
}

pub(super) fn route(
    mut section: Reader<'_>,
    session: Option<&SessionPolicy>,
    defaults: &RouteDefaults,
) -> Option<RouteSection> {
    let preset = section.optional("preset", r#""grafana""#, presets::parse);
    if let Some(Some(preset)) = preset {
        section.use_preset(preset.value);
    }
    let host = section.text("host", Required(r#""wiki.example.com""#), pattern);
    let path = section.text("path", Value(r#""/""#), path_prefix);
    let upstreams =
        section.one_or_more("upstream", Required(r#""http://127.0.0.1:3000""#), Endpoint::parse);
    let rule = rule(&mut section);
    let identity = identity::headers(&mut section);
    let assertion = section.flag("assertion", Value("false"));
    let programs = programs::programs(&mut section, rule.as_ref().map(kind));
    let headers = route_headers::headers(&mut section, identity.as_ref(), programs.as_ref());
    let cross_origin = cross_origin(&mut section, rule.as_ref());
    let ambiguous = ambiguous(&mut section, rule.as_ref());
    let rotation = section.flag("rotation", Value("true"));
    let signals = section.text("signals", Value(r#""monitor""#), signals_mode);
    let response_timeout =
        section.quantity("response_timeout", Value(r#""60s""#), duration::parse_positive);
    let max_age =
        section.optional_quantity("max_connection_age", r#""4h""#, duration::parse_positive);
    let on_outage = outage::for_route(&mut section);
    let sticky = section.flag("sticky", Value("false"));
    let options = upstream::options(
        &mut section,
        path.as_ref(),
        upstreams.as_ref().map(|all| all.value.as_slice()),
    );
    let close_notify = section.flag("require_close_notify", Value("true"));
    let buffer = section.optional_quantity("buffer_requests", r#""1MiB""#, buffer_size);
    let own_session = section.section("session", "route.session");
    let own_session = own_session.and_then(|section| route_session(section, session));
    let limits = section.section("limits", "route.limits");
    let limits = limits.and_then(|section| limits::for_route(section, &defaults.bodies));
    if let Some(rotation) = &rotation {
        let signals = signals.as_ref().map_or(SignalsMode::Off, |signals| signals.value);
        warn_no_rotation(&section, rotation, signals);
    }
    if let Some(rule) = &rule {
        let passes =
            Passes { user: !is_public(rule), app_credentials: rule.accepts_app_credentials };
        identity::check(&section, identity.as_ref(), assertion.as_ref(), passes);
        if let Some(sticky) = sticky.as_ref().filter(|sticky| sticky.value && !passes.user) {
            section.diagnostics.error(
                &sticky.span,
                "`sticky` has no effect on a public route",
                "write access = \"session\", or leave `sticky` out",
            );
        }
    }
    if let Some(upstreams) = &upstreams {
        let proves_itself = assertion.as_ref().is_some_and(|assertion| assertion.value)
            || headers.as_ref().is_some_and(|headers| !headers.set_files.is_empty());
        let warn = |it| upstream::warn_clear_text(&section, it, proves_itself);
        upstreams.value.iter().for_each(warn);
        check_close_notify(&section, &upstreams.value, close_notify.as_ref()?);
    }
    let (host, rule, on_outage) = (host?, rule?, on_outage?);
    let Programs { tokens, token_header, bearer, client_certificates } = programs?;
    let RouteSession { times, activity, session_control } = own_session?;
    let upstreams = upstreams?.value.into_iter().map(|upstream| upstream.value);
    Some(RouteSection {
        span: section.span.clone(),
        host: host.span,
        access: rule.span,
        route: Route {
            // Set by the table.
            index: 0,
            host: host.value,
            path: path?.value,
            upstreams: upstreams.collect(),
            access: rule.access,
            accepts_app_credentials: rule.accepts_app_credentials,
            accepts_tokens: tokens,
            token_header,
            bearer,
            accepts_certificates: client_certificates,
            identity: identity?,
            assertion: assertion?.value,
            headers: headers?,
            cross_origin: cross_origin?,
            ambiguous_paths: ambiguous?,
            policy: RoutePolicy {
                max_auth_age: rule.max_auth_age,
                signals: signals?.value,
                ..times
            },
            auth_age_methods: rule.auth_age_methods,
            limits: limits?,
            rotation: rotation?.value,
            response_timeout: response_timeout?.value,
            serve_stale_for: defaults.outage.and_then(|outage| outage.on_route(on_outage)),
            max_connection_age: max_age?.map(|age| age.value),
            activity,
            session_control,
            upstream_options: UpstreamOptions { sticky: sticky?.value, ..options? },
            requires_close_notify: close_notify?.value,
            buffer_requests: buffer?.map(|size| size.value),
        },
    })
}

/// Largest `buffer_requests` in bytes. Each request of unknown length may occupy as much memory.
const MAX_BUFFER: u64 = 64 * 1024 * 1024;

fn buffer_size(text: &str) -> Result<usize, String> {
    let bytes = size::parse(text).map_err(|error| error.to_string())?;
    let fits = usize::try_from(bytes).ok().filter(|_| bytes <= MAX_BUFFER);
    fits.ok_or_else(|| format!("`{text}` must be at most 64MiB; write \"1MiB\""))
}

fn pattern(text: &str) -> Result<HostPattern, String> {
    if let Some((_, rest)) = text.split_once("://") {
        let name = rest.split(['/', ':']).next().unwrap_or_default();
        return Err(format!("`{text}` is a URL; write only the name, \"{name}\""));
    }
    HostPattern::parse(text).map_err(|error| match error {
        HostError::Port => {
            format!("`{text}` has a port, but a route applies to all ports; write the name")
        }
        HostError::Empty | HostError::Character => {
            format!("{error}; write \"wiki.example.com\", \"*.example.com\" or \"*\"")
        }
    })
}

fn is_public(rule: &AccessConfig) -> bool {
    rule.access == Access::Public
}

fn rule(section: &mut Reader<'_>) -> Option<AccessConfig> {
    match section.text_or_section("access", "route.access", Required(r#""session""#)) {
        TextOrSection::Text(text) => rule_from_text(section, text),
        TextOrSection::Section(table) => rule_from_table(table),
        TextOrSection::Invalid => None,
        TextOrSection::Missing => {
            section.diagnostics.error(
                &section.span,
                "a route without `access` does not load",
                "write access = \"session\", or \"public\" to allow access without login",
            );
            None
        }
    }
}

fn rule_from_text(section: &Reader<'_>, text: Field<String>) -> Option<AccessConfig> {
    let access = match text.value.as_str() {
        "public" => Access::Public,
        "session" | SESSION_OR_PUBLIC => Access::Session(AccessRule::default()),
        other => {
            section.diagnostics.error(
                &text.span,
                format!("`access`: `{other}` is unknown"),
                "write \"session\", \"session-or-public\", \"public\", or { groups = [\"staff\"] }",
            );
            return None;
        }
    };
    let auth_age_methods = Methods::All;
    Some(AccessConfig {
        access,
        max_auth_age: None,
        auth_age_methods,
        accepts_app_credentials: text.value == SESSION_OR_PUBLIC,
        span: text.span,
    })
}

/// Rejects an empty table: it would admit every user, which is rarely intended.
fn rule_from_table(mut section: Reader<'_>) -> Option<AccessConfig> {
    let name = |text: &str| non_empty(text).map(str::to_owned);
    let users = section.list("users", Value("[]"), name);
    let groups = section.list("groups", Value("[]"), name);
    let max_auth_age =
        section.optional_quantity("max_auth_age", r#""5m""#, duration::parse_positive);
    let methods = session_control::methods(&mut section, "auth_age_methods");
    let logins = section.list("logins", Value("[]"), name);
    let acr = section.list("acr", Value("[]"), name);
    let factors = section.number("factors", Value("1"), 1..=2);
    let (users, groups, max_auth_age, methods) = (users?, groups?, max_auth_age?, methods?);
    let (logins, acr, factors) = (logins?, acr?, factors?);
    let second_factor = factors.value == 2;
    if methods.is_set && max_auth_age.is_none() {
        section.diagnostics.error(
            &methods.span,
            "`auth_age_methods` has no effect without `max_auth_age`",
            "write max_auth_age = \"5m\" too, or leave it out",
        );
        return None;
    }
    let is_set = users.is_set || groups.is_set;
    let is_empty = users.value.is_empty() && groups.value.is_empty();
    let restricts_login = !logins.value.is_empty() || !acr.value.is_empty() || second_factor;
    if is_empty && (is_set || (max_auth_age.is_none() && !restricts_login)) {
        section.diagnostics.error(
            &section.span,
            "`access` without users and groups admits every logged-in user",
            "write users or groups, or access = \"session\" if this is intended",
        );
        return None;
    }
    let names =
        |list: Field<Vec<Field<String>>>| list.value.into_iter().map(|item| item.value).collect();
    let rule = AccessRule {
        users: names(users),
        groups: names(groups),
        logins: names(logins),
        acr: names(acr),
        second_factor,
    };
    Some(AccessConfig {
        access: Access::Session(rule),
        max_auth_age: max_auth_age.map(|age| age.value),
        auth_age_methods: methods.value,
        accepts_app_credentials: false,
        span: section.span.clone(),
    })
}

/// Reads `csrf` and `origins`.
fn cross_origin(
    section: &mut Reader<'_>,
    rule: Option<&AccessConfig>,
) -> Option<CrossOriginPolicy> {
    let enabled = section.text("csrf", Value(r#""on""#), super::values::on_or_off);
    let allowed = section.list("origins", Value("[]"), origin);
    let (enabled, allowed) = (enabled?, allowed?);
    let is_public = rule.is_some_and(is_public);
    let is_unused = !enabled.value || is_public;
    if is_unused && let Some(first) = allowed.value.first() {
        section.diagnostics.warning(
            &first.span,
            "`origins` has no effect here: every site may send requests to this route",
            "leave it out, or write access = \"session\" and csrf = \"on\"",
        );
    }
    if !enabled.value && !is_public {
        section.diagnostics.warning(
            &enabled.span,
            "any site that a user visits can act in the user's name on this route",
            "write origins = [\"https://trusted.example.com\"] instead",
        );
    }
    let allowed = allowed.value.into_iter().map(|origin| origin.value).collect();
    Some(CrossOriginPolicy { enabled: enabled.value, allowed })
}

fn origin(text: &str) -> Result<Origin, String> {
    Origin::parse(text)
        .map_err(|error| format!("`{text}`: {error}; write \"https://app.example.com\""))
}

fn ambiguous(section: &mut Reader<'_>, rule: Option<&AccessConfig>) -> Option<AmbiguousPaths> {
    let paths = section.text("ambiguous_paths", Value(r#""refuse""#), |text| match text {
        "refuse" => Ok(AmbiguousPaths::Refuse),
        "require-session" => Ok(AmbiguousPaths::RequireSession),
        "allow" => Ok(AmbiguousPaths::Allow),
        other => Err(super::unknown::unknown_value(other, &["refuse", "require-session", "allow"])),
    })?;
    let is_public = rule.is_some_and(is_public);
    let (message, help) = match (paths.value, is_public) {
        (AmbiguousPaths::Refuse, _)
        | (AmbiguousPaths::RequireSession, false)
        | (AmbiguousPaths::Allow, true) => return Some(paths.value),
        (AmbiguousPaths::RequireSession, true) => (
            "\"require-session\" needs a session, and this route is public",
            "write \"allow\", or access = \"session\"",
        ),
        (AmbiguousPaths::Allow, false) => (
            "\"allow\" is for public routes, and this route requires a session",
            "write \"require-session\"",
        ),
    };
    section.diagnostics.error(&paths.span, message, help);
    None
}

fn kind(rule: &AccessConfig) -> RouteKind {
    RouteKind { is_public: is_public(rule), passes_app_credentials: rule.accepts_app_credentials }
}

/// `[route.session]`.
struct RouteSession {
    times: RoutePolicy,
    activity: Activity,
    session_control: SessionControlRules,
}

fn route_session(mut section: Reader<'_>, session: Option<&SessionPolicy>) -> Option<RouteSession> {
    let times = times(&mut section, session);
    let activity = session_control::activity(&mut section);
    let session_control = session_control::session_control(&mut section);
    Some(RouteSession { times: times?, activity: activity?, session_control: session_control? })
}

/// Reads the times of the route, which must not exceed those of `[session]`.
fn times(section: &mut Reader<'_>, session: Option<&SessionPolicy>) -> Option<RoutePolicy> {
    let idle = section.optional_quantity("idle_timeout", r#""15m""#, duration::parse_positive);
    let absolute =
        section.optional_quantity("absolute_timeout", r#""8h""#, duration::parse_positive);
    let (idle, absolute) = (idle?, absolute?);
    if let Some(session) = session {
        require_stricter(section, "idle_timeout", idle.as_ref(), session.idle());
        require_stricter(section, "absolute_timeout", absolute.as_ref(), session.absolute());
    }
    Some(RoutePolicy {
        idle: idle.map(|time| time.value),
        absolute: absolute.map(|time| time.value),
        max_auth_age: None,
        signals: SignalsMode::default(),
    })
}

/// Rejects a longer time: the session would end first, by `[session]`.
fn require_stricter(
    section: &Reader<'_>,
    key: &str,
    time: Option<&Field<Duration>>,
    session: Duration,
) {
    if let Some(time) = time.filter(|time| time.value > session) {
        section.diagnostics.error(
            &time.span,
            format!(
                "`{key}` of a route is longer than that of [session], \
                 which ends the session first"
            ),
            "make it shorter, or that of [session] longer",
        );
    }
}

fn signals_mode(text: &str) -> Result<SignalsMode, String> {
    let known = SignalsMode::ALL.into_iter().find(|(_, name)| *name == text);
    let names = SignalsMode::ALL.map(|(_, name)| name);
    known.map(|(mode, _)| mode).ok_or_else(|| super::unknown::unknown_value(text, &names))
}

fn check_close_notify(section: &Reader<'_>, upstreams: &[Field<Endpoint>], field: &Field<bool>) {
    if !field.value && !upstreams.iter().any(upstream::is_tls) {
        section.diagnostics.error(
            &field.span,
            "`require_close_notify` has no effect without an https upstream",
            "write an https:// upstream, or leave require_close_notify out",
        );
    }
}

fn warn_no_rotation(section: &Reader<'_>, rotation: &Field<bool>, signals: SignalsMode) {
    if rotation.value {
        return;
    }
    section.diagnostics.warning(
        &rotation.span,
        "a stolen token stays valid on this route until the session ends",
        "leave `rotation` out, unless the clients of this route cannot store a new cookie",
    );
    if signals == SignalsMode::Enforce {
        section.diagnostics.warning(
            &rotation.span,
            "a score of signals.rotate_at or more rotates the token only at the session's next request on a route with rotation",
            "leave `rotation` out, or lower signals.login_at if sessions use this route only",
        );
    }
}
